"""Connections: each dialled address is judged, what arrives before an answer's body is capped, and each request learns
whether its connection was fresh and whether anything came back."""

import asyncio
import functools
import re
import socket
import ssl
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any, cast

from aiohttp import AddrInfoType, ClientConnectorError, ClientPayloadError, ClientRequest, ClientTimeout, TCPConnector
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import NEEDS_CLEANUP_CLOSED, Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader
from aiohttp.tracing import Trace

from gateway.egress.addresses import AddressGuard
from gateway.egress.resolver import ForbiddenAddress, GuardedResolver
from gateway.errors import SettingsError

MAX_HEAD_BYTES = 32 * 1024
MAX_INTERIM_ANSWERS = 16
KEEPALIVE_SECONDS = 15.0
CONNECTION_SECONDS = 300.0
"""A connection that is older is not used again, however busy: a name that leads elsewhere by now is looked up anew."""

MOST_CONNECTIONS = 512
_HAPPY_EYEBALLS_SECONDS = 0.25
NO_TIMEOUT = ClientTimeout(total=None)  # the deadline of the exchange is round all of it
_END_OF_HEAD = b"\r\n\r\n"
_IS_FINAL = re.compile(rb"HTTP/1\.\d (?!204|304)[2-9]").match  # those two have no body, whatever they say
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})(?:\r|$)", re.IGNORECASE).search
_READ_BUFFER_BYTES = 16 * 1024
_MAX_LINE_BYTES = 8190
_MAX_HEADERS = 100


class Exchange:
    """What is known of one request and its answer while they are under way."""

    __slots__ = ("answered", "awaits_proxy", "reused")

    def __init__(self) -> None:
        self.reused = False  # its connection had served an earlier request
        self.answered = False  # at least one byte of the answer has arrived
        self.awaits_proxy = False  # the egress proxy has not connected it yet


DIALLING: ContextVar[Exchange] = ContextVar("dialling")
"""The exchange that a connection is being made for."""


class ForbiddenPort(OSError):
    """The port is not one that the gateway may reach."""

    def __init__(self) -> None:
        super().__init__("the port is not one that the gateway may reach")


class HeadTooLong(HttpProcessingError):
    """More than MAX_HEAD_BYTES or MAX_INTERIM_ANSWERS (1xx) came before an answer's body."""


class AnswerHandler(ResponseHandler):
    """The protocol of one connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, idle: "dict[AnswerHandler, None]") -> None:
        super().__init__(loop)
        self.opened_at = loop.time()
        self._idle = idle  # of its connector
        self._exchange = Exchange()
        self._was_used = False
        self._awaits_head = False
        self._head_bytes_left = 0
        self._interim_answers_left = 0

    def begin(self, exchange: Exchange) -> None:
        """A request is about to be written; *exchange* learns how far its answer comes."""
        self._exchange = exchange
        exchange.reused = self._was_used
        self._awaits_head = True
        self._head_bytes_left = MAX_HEAD_BYTES
        self._interim_answers_left = MAX_INTERIM_ANSWERS
        if not self._was_used:
            # The parser is made here. It serves the whole connection: one whose last answer was not read to its end, or was
            # not HTTP, is never used again.
            self._was_used = True
            self.set_response_params(
                read_until_eof=True,
                auto_decompress=False,
                read_bufsize=_READ_BUFFER_BYTES,
                max_line_size=_MAX_LINE_BYTES,
                max_field_size=_MAX_LINE_BYTES,
                max_headers=_MAX_HEADERS,
            )

    def data_received(self, data: bytes) -> None:
        """Counts what comes before the body."""
        if not self._awaits_head:
            super().data_received(data)
            return
        self._exchange.answered = True
        head, end_of_head, body = data.partition(_END_OF_HEAD)
        if (
            end_of_head
            and len(head) + len(end_of_head) <= self._head_bytes_left
            and _IS_FINAL(head)
            and (found := _LENGTH(head)) is not None
            and int(found[1]) == len(body)
        ):
            # The usual answer: a final head in one piece, and as much of a body as it says.
            self._head_bytes_left -= len(head) + len(end_of_head)
            super().data_received(data)
        else:
            self._receive_heads(data)

    def _receive_heads(self, data: bytes) -> None:
        # The parser gets each head apart from what follows it. After an error in a body, or bytes that are no part of one,
        # aiohttp would else lose the head that came along with them, though that has decided the attempt by then.
        start = 0
        while start < len(data) and self._exception is None:
            if not self._awaits_head:
                super().data_received(data[start:])
                return
            if not self._head_bytes_left:
                self._refuse_head()
                return
            found = data.find(_END_OF_HEAD, start)
            end = min(found + len(_END_OF_HEAD) if found >= 0 else len(data), start + self._head_bytes_left)
            self._head_bytes_left -= end - start
            super().data_received(data[start:end])
            start = end

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Takes a parsed head from the parser, by way of `data_received`."""
        code = data[0].code
        if code < HTTPStatus.CONTINUE:
            self._refuse(HttpProcessingError(message="no status is so low"))
            return
        is_interim = 100 <= code < 200 and code != HTTPStatus.SWITCHING_PROTOCOLS
        if not self._awaits_head:
            # An answer to no request must not be taken for the answer to the next one.
            self._drop()
        elif is_interim:
            # aiohttp would read these without end; nobody here has a use for any.
            self._interim_answers_left -= 1
            if self._interim_answers_left < 0:
                self._refuse_head()
        else:
            self._awaits_head = False
            super().feed_data(data, size)

    def _refuse_head(self) -> None:
        self._refuse(HeadTooLong(message="too much came before the body"))

    def _refuse(self, error: HttpProcessingError) -> None:
        self._drop()
        self.set_exception(error)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Ends the answer with an error, and its body too: aiohttp would leave a reader of that waiting for the timeout."""
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(ClientPayloadError("the answer broke off"))
        if exc_cause is None:
            super().set_exception(exc)
        else:
            super().set_exception(exc, exc_cause)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Nobody can use it again."""
        self._idle.pop(self, None)
        super().connection_lost(exc)

    def close(self) -> None:
        """Closes at once: a peer that never reads would otherwise keep the socket, and what is not sent, for ever."""
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.abort()
        else:
            super().close()

    def _drop(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.close()


@functools.cache
def tls_context(ca_file: str = "") -> ssl.SSLContext:
    """The context of all connections: TLS 1.2 or later, the system's authorities and those of *ca_file* (PEM). The first call
    reads files. Raises SettingsError when *ca_file* is of no use."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except ssl.SSLError as error:
            raise SettingsError(f"egress.ca_file: {ca_file} holds no certificates in PEM, or a broken one") from error
        except OSError as error:
            raise SettingsError(f"egress.ca_file: {ca_file} cannot be read: {error.strerror}") from error
    return context


class GuardedConnector(TCPConnector):
    """Dials what *guard* allows and nothing else: names, literals and every other way to an address pass by here.

    Limits are off, since the lanes admit requests and aiohttp shuffles all waiters at each release. But connections that are
    open and idle ones are together never more than *most_connections*, as long as those that are open are not: a connection that
    is made takes the place of the one that has been idle for longest. With *keeps_alive* False every request gets a fresh one.
    """

    def __init__(
        self,
        *,
        guard: AddressGuard,
        resolver: GuardedResolver,
        tls: ssl.SSLContext,
        keeps_alive: bool = True,
        connection_seconds: float = CONNECTION_SECONDS,
        most_connections: int = MOST_CONNECTIONS,
    ) -> None:
        lifetime: dict[str, Any] = {"keepalive_timeout": KEEPALIVE_SECONDS} if keeps_alive else {"force_close": True}
        super().__init__(
            resolver=resolver,
            use_dns_cache=False,  # the resolver has its own
            socket_factory=self._make_socket,
            ssl=tls,
            limit=0,
            limit_per_host=0,
            happy_eyeballs_delay=_HAPPY_EYEBALLS_SECONDS,
            enable_cleanup_closed=NEEDS_CLEANUP_CLOSED,
            **lifetime,
        )
        self._guard = guard
        self._connection_seconds = connection_seconds
        self._most_connections = most_connections
        self._idle: dict[AnswerHandler, None] = {}  # those in the pool, longest idle first
        self._factory = cast("functools.partial[ResponseHandler]", functools.partial(AnswerHandler, self._loop, self._idle))

    async def idle(self, dial: ClientRequest) -> Connection | None:
        """A connection that an earlier request has left, at once; None when there is none."""
        return await self._get(dial.connection_key, [])

    async def dial(self, dial: ClientRequest, exchange: Exchange) -> Connection:
        """A connection that is made for *exchange*."""
        DIALLING.set(exchange)
        return await self.connect(dial, [], NO_TIMEOUT)

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            handler = cast(AnswerHandler, connection.protocol)
            self._idle.pop(handler, None)
            if self._loop.time() - handler.opened_at <= self._connection_seconds:
                return connection
            connection.close()
        return None

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        if protocol.is_connected() and not self.closed:
            self._idle[cast(AnswerHandler, protocol)] = None

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109 - as aiohttp has it
    ) -> ResponseHandler:
        del traces, timeout  # there are none
        if not self._guard.allows_port(req.port):
            raise ClientConnectorError(req.connection_key, ForbiddenPort())
        if self._idle and len(self._acquired) + len(self._idle) > self._most_connections:
            longest_idle = next(iter(self._idle))
            del self._idle[longest_idle]
            longest_idle.abort()
        return await self._reach(req)

    async def _reach(self, req: ClientRequest) -> ResponseHandler:
        """A connection to the target of *req*, secured if it is to be."""
        return await super()._create_connection(req, [], NO_TIMEOUT)

    def _make_socket(self, address: AddrInfoType) -> socket.socket:
        to = address[4]
        if not self._guard.allows(str(to[0])):
            raise ForbiddenAddress
        if not self._guard.allows_port(int(to[1])):
            raise ForbiddenPort
        return self._open_socket(address)

    def _open_socket(self, address: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        dialled = socket.socket(family, kind, protocol)
        dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return dialled
