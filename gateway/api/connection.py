"""A client's connection: aiohttp's own, but with limits of time and size, and what is no HTTP is refused as all else is."""

import math
import re
from asyncio import AbstractEventLoop, BaseTransport, TimerHandle, Transport
from collections.abc import Awaitable, Callable
from typing import Any, cast

import structlog
from aiohttp import HttpVersion10, hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import (
    BadHttpMessage,
    BadHttpMethod,
    BadStatusLine,
    HttpProcessingError,
    InvalidHeader,
    InvalidURLError,
    LineTooLong,
)
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo
from yarl import URL

from gateway.api import problems
from gateway.api.boundary import Boundary, method_not_allowed
from gateway.api.problems import Problem
from gateway.api.request_body import BodyBroken, BodyTooSlow

log = structlog.get_logger()

MAX_URL_BYTES = 8_190
MAX_HEADER_BYTES = 8_192  # of one; another number than that of the URL, since the parser's error tells no more than the limit
MAX_HEADERS = 128
MAX_HEAD_BYTES = 65_536  # of all headers and the request line

_LINGERING_SECONDS = 10.0  # for which the rest of a body that nobody wants is taken, so that its sender gets to read why
_HELD_UP_SECONDS = 1.0  # a timer that is so late was held up by this process: its client is not to blame

_SENTENCES: tuple[tuple[type[HttpProcessingError], str], ...] = (
    (BadHttpMethod, "does not begin with a method of HTTP"),
    (BadStatusLine, "does not begin with a request line of HTTP/1.1"),
    (InvalidURLError, "has no valid URL in its first line"),
    (InvalidHeader, "has a header that is not valid"),
)
_LINE = re.compile(r"\n +b'(?P<method>[!#$%&*+.^_`|~0-9A-Za-z-]+) (?P<path>/(?!/)[!-&(-\[\]-~]*) HTTP/1\.[01]'\n")


class Connection(web.RequestHandler):
    """Differs from aiohttp's before the application has its turn, and after.

    A request has *read_seconds* from its first byte to its last, an answer as long to be taken, and so has a new connection for
    its first byte. One timer for the connection looks after all that, so that a request costs none.
    """

    __slots__ = (
        "_body",
        "_boundary",
        "_head_bytes",
        "_is_refused",
        "_look_at",
        "_read_by",
        "_seconds",
        "_timer",
        "_wire",
        "_write_by",
    )

    def __init__(
        self, manager: web.Server, *, boundary: Boundary, read_seconds: float, loop: AbstractEventLoop, **settings: Any
    ) -> None:
        super().__init__(
            manager,
            loop=loop,
            max_line_size=MAX_URL_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            lingering_time=min(_LINGERING_SECONDS, read_seconds),
            **settings,
        )
        self._boundary = boundary
        self._seconds = read_seconds
        self._wire: Transport
        self._timer: TimerHandle
        self._look_at = math.inf
        self._read_by = math.inf  # when the request that is being read must be whole
        self._write_by = math.inf  # when what is being written must be taken
        self._head_bytes = 0  # of a head that is not whole
        self._body: StreamReader | None = None  # that is not whole
        self._is_refused = False  # whatever comes now is not looked at

    # Time

    def connection_made(self, transport: BaseTransport) -> None:
        self._wire = cast("Transport", transport)
        self._read_by = self._loop.time() + self._seconds
        self._look_again(self._read_by)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._write_by = self._loop.time() + self._seconds
        super().pause_writing()

    def resume_writing(self) -> None:
        self._write_by = math.inf
        super().resume_writing()

    def _look_again(self, at: float) -> None:
        self._look_at = at
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        """Ends what has taken too long. Nothing that begins later can end before the next look."""
        now = self._loop.time()
        late = now - self._look_at
        if late > _HELD_UP_SECONDS:
            self._read_by += late
            self._write_by += late
        if self._wire.is_closing():  # and something is left that its client does not take
            self._write_by = min(self._write_by, now + self._seconds)
        if now >= self._write_by:
            self._wire.abort()
            return
        if now >= self._read_by:
            self._end_reading()
        self._look_again(min(self._read_by, self._write_by, now + self._seconds))

    def _end_reading(self) -> None:
        self._read_by = math.inf
        if self._body is not None:
            self._body.set_exception(BodyTooSlow())  # for who waits for it, if only to forget it
        elif self._head_bytes:
            self._refuse(problems.too_slow())
        else:
            self.force_close()  # nothing was asked

    def _process_keepalive(self) -> None:
        if self._read_by == math.inf:
            super()._process_keepalive()
        else:
            self._keepalive_handle = None  # a request has begun in time; what is left for it is another matter

    # What comes in

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        before, body = self._request_count, self._body
        super().data_received(data)
        if self._request_count != before:
            self._begun(self._request_count - before, body, len(data))
        elif body is not None:
            if body.is_eof():
                self._body, self._read_by = None, math.inf
        elif data:
            self._head_goes_on(len(data))

    def _begun(self, count: int, previous: StreamReader | None, size: int) -> None:
        """*count* heads came to their end in the last *size* bytes, in which the body *previous* should have ended, too."""
        message, body = self._messages[-1]
        if previous is not None and not previous.is_eof():
            # It is broken. Who waits for it answers, and nothing more is understood of this connection.
            self._messages.pop()
            previous.set_exception(BodyBroken())
            self._body, self._read_by, self._is_refused = None, math.inf, True
            return
        is_large = self._head_bytes + size > MAX_HEAD_BYTES
        if body.is_eof():
            self._body, self._read_by = None, math.inf
        else:
            self._body = body
            if not self._head_bytes:
                self._read_by = self._loop.time() + self._seconds
        self._head_bytes = 0
        if count > 1 or is_large or isinstance(message, _ErrInfo) or _is_unusual(message):  # hardly ever
            self._judge(count)

    def _judge(self, count: int) -> None:
        """Refuses the first of the last *count* messages that is no request to be answered. What follows it is forgotten."""
        for place in range(len(self._messages) - count, len(self._messages)):
            message = self._messages[place][0]
            if isinstance(message, _ErrInfo):
                self._is_refused = True  # it says so itself, and is the last
                return
            problem = _fault(message)
            if problem is not None:
                while len(self._messages) > place:
                    self._messages.pop()
                self._refuse(problem)
                return

    def _head_goes_on(self, size: int) -> None:
        if not self._head_bytes:
            self._read_by = self._loop.time() + self._seconds
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_too_large_a_head())

    def _refuse(self, problem: Problem) -> None:
        """Answers *problem*, after what was asked before, and closes."""
        self._is_refused = True
        self._body, self._read_by, self._head_bytes = None, math.inf, 0
        self._messages.append((_ErrInfo(problem.kind.status, problem, ""), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What goes wrong

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - holds the client's own words
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc  # the client is gone
        if isinstance(exc, Problem):
            problem = exc
        elif isinstance(exc, HttpProcessingError):
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


def _is_unusual(message: RawRequestMessage) -> bool:
    """Whether `_fault` has to be asked about a request whose head is not large."""
    return message.chunked or message.upgrade or message.version < HttpVersion10


def _fault(message: RawRequestMessage) -> Problem | None:
    """Why a request that the parser lets pass is refused, and its connection closed."""
    head_bytes = len(message.path) + sum(len(name) + len(value) + 4 for name, value in message.raw_headers)
    if head_bytes > MAX_HEAD_BYTES:
        return _too_large_a_head()
    if message.version < HttpVersion10:
        return _invalid("does not begin with a request line of HTTP/1.1")
    if message.method == hdrs.METH_CONNECT:
        return method_not_allowed(hdrs.METH_CONNECT, ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"))
    if message.chunked and message.version == HttpVersion10:
        return _invalid("is of HTTP/1.0, which has no Transfer-Encoding")
    if message.chunked and [value.lower() for value in message.headers.getall(hdrs.TRANSFER_ENCODING)] != ["chunked"]:
        return _invalid("has a Transfer-Encoding other than `chunked`")
    return None


def _too_large_a_head() -> Problem:
    return problems.headers_too_large(f"more than {MAX_HEAD_BYTES:,} bytes of headers")


def _invalid(sentence: str) -> Problem:
    return problems.invalid([("request", sentence)])


def _unknown_method(error: BaseException) -> tuple[str, URL] | None:
    """The method and the URL of a request whose method alone is wrong: the application has a 404 or 405 for it."""
    found = _LINE.search(error.message) if isinstance(error, BadHttpMethod) else None
    # Where bytes came before those that the parser quotes, a method may seem to be another one. A known one never is.
    if found is None or found["method"] in hdrs.METH_ALL:
        return None
    path, _, query = found["path"].partition("#")[0].partition("?")
    return found["method"], URL.build(path=path, query_string=query, encoded=True)


def _problem(error: HttpProcessingError) -> Problem:
    if isinstance(error, LineTooLong):
        if error.args[1] == MAX_URL_BYTES:
            return problems.url_too_long(MAX_URL_BYTES)
        return problems.headers_too_large(f"a header of more than {MAX_HEADER_BYTES:,} bytes")
    if error.message == "Too many headers received":  # aiohttp's own words, which a test holds it to
        return problems.headers_too_large(f"more than {MAX_HEADERS} headers")
    sentence = next((text for kind, text in _SENTENCES if isinstance(error, kind)), "is not valid HTTP")
    if type(error) is BadHttpMessage:  # its first line quotes nothing of the request
        sentence += f": {error.message.partition(chr(10))[0].rstrip(':. ')}"
    return _invalid(sentence)
