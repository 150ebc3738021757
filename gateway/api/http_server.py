"""The HTTP server. aiohttp's own, but that what is no HTTP is refused as everything else is: as a problem, with a request
id, and without a word of the client's in the log."""

import functools
import re
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import hdrs, web
from aiohttp.http_exceptions import (
    BadHttpMessage,
    BadHttpMethod,
    BadStatusLine,
    HttpProcessingError,
    InvalidHeader,
    InvalidURLError,
    LineTooLong,
)
from aiohttp.web_protocol import _ErrInfo
from yarl import URL

from gateway.api import problems
from gateway.api.boundary import BOUNDARY, Boundary
from gateway.api.problems import Problem

log = structlog.get_logger()

_SENTENCES: tuple[tuple[type[HttpProcessingError], str], ...] = (
    (LineTooLong, "has a URL or a header of more than 8,190 bytes"),
    (BadHttpMethod, "does not begin with a method of HTTP"),
    (BadStatusLine, "does not begin with a request line of HTTP/1.1"),
    (InvalidURLError, "has no valid URL in its first line"),
    (InvalidHeader, "has a header that is not valid"),
)
_LINE = re.compile(r"\n +b'(?P<method>[!#$%&*+.^_`|~0-9A-Za-z-]+) (?P<path>/(?!/)[!-&(-\[\]-~]*) HTTP/1\.[01]'\n")


class ApiRunner(web.AppRunner):
    """Runs an application of `build_application`, which gets bodies as they were sent."""

    def __init__(self, application: web.Application, **settings: Any) -> None:
        # Unpacking is for who knows the limit of the body, and whether it is wanted at all.
        super().__init__(application, auto_decompress=False, **settings)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made, self.app[BOUNDARY])


class _Server(web.Server):
    """As *made*, but with the boundary round every request, and with connections of our own."""

    def __init__(self, made: web.Server, boundary: Boundary) -> None:
        super().__init__(
            functools.partial(boundary.answer, handler=made.request_handler),
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,  # noqa: SLF001 - aiohttp has no other way to a protocol of one's own
        )
        self._boundary = boundary

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, boundary=self._boundary, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    """Only what goes wrong before the application has its turn, or after, differs from aiohttp's."""

    __slots__ = ("_boundary",)

    def __init__(self, manager: web.Server, *, boundary: Boundary, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._boundary = boundary

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - holds the client's own words
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc  # the client is gone
        if isinstance(exc, HttpProcessingError):
            problem = _problem(exc)
        else:
            log.error("connection.crashed", status=status, exc_info=exc)
            problem = problems.internal()
        if request.writer.output_size > 0:
            raise ConnectionError("a part of another answer is sent already")
        return self._boundary.refuse_unread(problem)

    def _make_error_handler(self, err_info: _ErrInfo) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            line = _unknown_method(err_info.exc)
            if line is None or self._request_handler is None:
                return self.handle_error(request, err_info.status, err_info.exc)
            method, url = line
            return await self._request_handler(request.clone(method=method, rel_url=url))

        return handle


def _unknown_method(error: BaseException) -> tuple[str, URL] | None:
    """The method and the URL of a request whose method alone is wrong: the application has a 404 or 405 for it."""
    found = _LINE.search(error.message) if isinstance(error, BadHttpMethod) else None
    # Where bytes came before those that the parser quotes, a method may seem to be another one. A known one never is.
    if found is None or found["method"] in hdrs.METH_ALL:
        return None
    path, _, query = found["path"].partition("#")[0].partition("?")
    return found["method"], URL.build(path=path, query_string=query, encoded=True)


def _problem(error: HttpProcessingError) -> Problem:
    sentence = next((text for kind, text in _SENTENCES if isinstance(error, kind)), "is not valid HTTP")
    if type(error) is BadHttpMessage:  # its first line quotes nothing of the request
        sentence += f": {error.message.partition(chr(10))[0].rstrip(':. ')}"
    return problems.invalid([("request", sentence)])
