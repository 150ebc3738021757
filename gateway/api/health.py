"""Whether the gateway lives, and whether it takes work. At the root only, and without a key."""

from collections.abc import Callable

import msgspec
from aiohttp import web

from gateway.api.boundary import expect_nothing, method_not_allowed, respond
from gateway.api.dialects import Answer

_OK = Answer(200, msgspec.json.encode({"status": "ok"}))


class Health:
    """Answers those who watch over the process."""

    def __init__(self, readiness: Callable[[], str | None], standing: Callable[[], dict[str, object] | None]) -> None:
        self._readiness = readiness
        self._standing = standing

    def register(self, application: web.Application) -> None:
        """Adds the routes."""
        application.router.add_route("*", "/health/live", self.live, expect_handler=expect_nothing)
        application.router.add_route("*", "/health/ready", self.ready, expect_handler=expect_nothing)

    async def live(self, request: web.Request) -> web.Response:
        _check_method(request)
        return respond(_OK)

    async def ready(self, request: web.Request) -> web.Response:
        _check_method(request)
        reason = self._readiness()
        status: dict[str, object] = {"status": "ok"} if reason is None else {"status": "unavailable", "reason": reason}
        standing = self._standing()
        if standing is not None:
            status["node"] = standing
        return respond(Answer(200 if reason is None else 503, msgspec.json.encode(status)))


def _check_method(request: web.Request) -> None:
    if request.method not in {"GET", "HEAD"}:
        raise method_not_allowed(request.method, ("GET", "HEAD"))
