"""The edge around every request: it gets its id, and whatever goes wrong becomes an answer."""

import asyncio
import re
from collections.abc import Sequence

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from multidict import CIMultiDict

from gateway.api import problems
from gateway.api.dialects import Answer, Dialect, Dialects
from gateway.api.problems import Problem
from gateway.api.traffic import Seldom, Traffic
from gateway.clock import Clock
from gateway.ids import IdMaker

log = structlog.get_logger()

REQUEST_ID = "x-request-id"

REQUEST_ID_KEY = web.RequestKey("request_id", str)
"""Where a request keeps its id, for handlers that send headers themselves."""

DIALECT = web.RequestKey[Dialect]("dialect")
"""Where a request keeps the dialect of its answers, once it is known who asks."""

ACTOR = web.RequestKey("actor", str)
"""Where a request keeps who asks."""

_UNAVAILABLE_A_MINUTE = 60  # 503s that are logged, with how many there were in between

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HEADERS: CIMultiDict[str] = CIMultiDict(
    {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Server": "gateway",
    }
)


class UnderWay:
    """The requests that are being answered, so that a stop can wait for them."""

    def __init__(self) -> None:
        self.count = 0
        self.is_closing = False
        self._ended = asyncio.Event()

    def end(self) -> None:
        """One of them is answered."""
        self.count -= 1
        self._ended.set()

    async def finish(self) -> None:
        """Returns when there is none left. Connections close from now on, each after the request that it is at."""
        self.is_closing = True
        while self.count:
            self._ended.clear()
            await self._ended.wait()


class Boundary:
    """Every request passes here, also those of other parts and those that find no route.

    A client's own `x-request-id` is kept when it is 1 to 128 letters, digits, `.`, `_` and `-`.
    """

    def __init__(self, *, dialects: Dialects, ids: IdMaker, clock: Clock, traffic: Traffic, logs_each: bool) -> None:
        self.under_way = UnderWay()
        self.traffic = traffic
        self._dialects = dialects
        self._ids = ids
        self._clock = clock
        self._logs_each = logs_each
        self._unavailable = Seldom(_UNAVAILABLE_A_MINUTE)

    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What *handler* answers, or the answer to what it raised."""
        under_way = self.under_way
        under_way.count += 1
        try:
            response = await self._answer(request, handler)
        finally:
            under_way.end()
        if under_way.is_closing:
            response.force_close()
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        started = self._clock.monotonic()
        given = request.headers.get(REQUEST_ID)
        request_id = given if given is not None and _SANE_REQUEST_ID.fullmatch(given) else self._ids.next("req_")
        request[REQUEST_ID_KEY] = request_id
        try:
            response = await handler(request)
        except web.HTTPException as exception:
            if not _is_miss(request):
                # Another part's own answer: a redirect of the console, say.
                _mark(exception, request_id)
                raise
            response = self._refuse(request, _of_miss(request, exception))
        except Exception as error:
            if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
                raise  # the client has gone, and nobody is there to be answered
            problem = problems.of_error(error)
            if problem is None:
                # A bug in one request must not leave its client without an answer.
                log.exception("request.crashed", request_id=request_id)
                problem = problems.internal()
            response = self._refuse(request, problem)
        _mark(response, request_id)
        if self._logs_each:
            self._tell(request, response.status, started)
        elif response.status >= 500:
            # Overload is told of now and then: telling of each refusal would add to it.
            left_out = self._unavailable.told(started) if response.status == 503 else 0
            if left_out is not None:
                self._tell(request, response.status, started, left_out)
        return response

    def refuse_unread(self, problem: Problem) -> web.Response:
        """The answer to what could not be read as a request, and closes the connection."""
        request_id = self._ids.next("req_")
        self.traffic.refused["unreadable" if problem.kind is problems.INVALID else problem.kind.code] += 1
        log.debug("request.unreadable", reason=problem.message, status=problem.kind.status, request_id=request_id)
        response = respond(self._dialects.pick(None, None).error(problem))
        _mark(response, request_id)
        response.force_close()
        return response

    def _refuse(self, request: web.Request, problem: Problem) -> web.Response:
        self.traffic.refused[problem.reason or problem.kind.code] += 1
        dialect = request.get(DIALECT)
        if dialect is None:
            dialect = self._dialects.pick(request.headers.get("commet-version"), None)
        return respond(dialect.error(problem))

    def _tell(self, request: web.Request, status: int, started: float, left_out: int = 0) -> None:
        (log.info if status >= 500 else log.debug)(
            "request.finished",
            method=request.method,
            path=request.path,
            status=status,
            duration_ms=round((self._clock.monotonic() - started) * 1_000),
            actor=request.get(ACTOR),
            request_id=request[REQUEST_ID_KEY],
            **({"left_out": left_out} if left_out else {}),
        )


BOUNDARY = web.AppKey("boundary", Boundary)
"""Where an application keeps its own."""


async def expect_nothing(_: web.Request) -> None:
    """An expectation is let pass, rather than refused in aiohttp's own words; `read_body` says "go on" when it wants the body."""


def respond_with(body: bytes, content_type: str) -> web.Response:
    """An answer that is no JSON."""
    headers = _HEADERS.copy()
    headers["Content-Type"] = content_type
    return web.Response(body=body, headers=headers)


def respond(answer: Answer, headers: Sequence[tuple[str, str]] = ()) -> web.Response:
    """*answer* as aiohttp sends it."""
    all_headers = _HEADERS.copy()
    for name, value in (*answer.headers, *headers):
        all_headers[name] = value
    return web.Response(status=answer.status, body=answer.body, headers=all_headers)


def method_not_allowed(method: str, allowed: Sequence[str]) -> Problem:
    """The path is right, its method is not."""
    names = ", ".join(allowed)
    return Problem(
        problems.METHOD_NOT_ALLOWED,
        f"{method} is not allowed here; {names} {'is' if len(allowed) == 1 else 'are'}",
        headers=[("Allow", names)],
    )


def _mark(response: web.StreamResponse, request_id: str) -> None:
    if not response.prepared:
        response.headers[REQUEST_ID] = request_id
        response.headers.setdefault("X-Content-Type-Options", "nosniff")


def _is_miss(request: web.Request) -> bool:
    """Whether the router found nothing, as against a handler that raises an HTTP error of its own."""
    return request.match_info.http_exception is not None


def _of_miss(request: web.Request, exception: web.HTTPException) -> Problem:
    if isinstance(exception, web.HTTPMethodNotAllowed):
        return method_not_allowed(request.method, sorted(exception.allowed_methods))
    return Problem(problems.NOT_FOUND, "there is nothing at this path")
