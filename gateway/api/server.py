"""The API as an aiohttp application.

It relies on the server's default of never cancelling a handler whose client has gone (`handler_cancellation=False`): what a
request has begun to commit is committed and answered, heard or not.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import hdrs, web

from gateway.api.audit_log import AuditLog
from gateway.api.auth import Principal
from gateway.api.backups import Backups
from gateway.api.boundary import BOUNDARY, Boundary, expect_nothing, method_not_allowed
from gateway.api.deliveries import Deliveries
from gateway.api.dialects import Dialects
from gateway.api.event_types import EventTypes
from gateway.api.events import Events
from gateway.api.health import Health
from gateway.api.http_server import HTTP
from gateway.api.keys import Keys
from gateway.api.metrics import MetricsPage
from gateway.api.nodes import Nodes
from gateway.api.openapi import OpenApiPage
from gateway.api.operations import PREFIXES, Operation
from gateway.api.organizations import Organizations
from gateway.api.parts import ApiParts
from gateway.api.pipeline import Pipeline
from gateway.api.reencryption import Reencryption
from gateway.api.webhooks import Webhooks
from gateway.telemetry.metrics import CONTENT_TYPE

__all__ = ["ApiParts", "build_application", "operations"]


def operations(parts: ApiParts) -> list[Operation]:
    """All that the API can do."""
    nouns = (Webhooks, Events, Deliveries, EventTypes, Keys, Organizations, AuditLog, Nodes, Backups, Reencryption)
    return [operation for noun in nouns for operation in noun(parts).operations()]


def build_application(parts: ApiParts, *, authority: Principal | None) -> web.Application:
    """The application. With an *authority* every request has it and no key is asked for: the operators' socket."""
    dialects = Dialects(parts.settings.api.versions, parts.pinned)
    boundary = Boundary(
        dialects=dialects,
        ids=parts.ids,
        clock=parts.clock,
        traffic=parts.traffic,
        logs_each=parts.settings.log.level == "debug",
    )
    pipeline = Pipeline(parts, dialects=dialects, authority=authority)
    application = web.Application()
    application[BOUNDARY] = boundary  # `http_server` puts it round the application: a middleware costs more
    application[HTTP] = parts.settings.http
    by_path: defaultdict[str, dict[str, Operation]] = defaultdict(dict)
    known = operations(parts)
    for operation in known:
        by_path[operation.path][operation.method] = operation
    for path, methods in by_path.items():
        handler = _handler(methods, pipeline)
        for prefix in PREFIXES:
            application.router.add_route("*", prefix + path, handler, expect_handler=expect_nothing)
    document = OpenApiPage()
    pages = [
        *Health(parts.readiness, parts.standing).pages(),
        MetricsPage(pipeline, parts.metrics, CONTENT_TYPE).page(),
        document.page(),
    ]
    document.tell(known, pages, parts.settings)
    for page in pages:
        page.register(application)
    return application


def _handler(methods: Mapping[str, Operation], pipeline: Pipeline) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Answers all requests for one path."""
    known = dict(methods)
    if hdrs.METH_GET in known:
        known[hdrs.METH_HEAD] = known[hdrs.METH_GET]  # aiohttp leaves the body out
    allowed = tuple(known)

    async def handle(request: web.Request) -> web.StreamResponse:
        operation = known.get(request.method)
        if operation is None:
            raise method_not_allowed(request.method, allowed)
        return await pipeline.run(operation, request)

    return handle
