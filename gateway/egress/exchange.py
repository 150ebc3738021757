"""One request and its answer over a connection of aiohttp's: its connector dials, pools and secures, its parser reads.

`ClientSession.post` would do the same at twice the cost: it makes anew for each request what never changes for an endpoint,
and carries cookies, redirects, proxies and middlewares that a delivery has no use for (docs/decisions/0006).
"""

import asyncio
from collections.abc import Mapping

import aiohttp
import msgspec
from aiohttp import StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_parser import RawResponseMessage
from multidict import CIMultiDictProxy
from yarl import URL

from gateway.egress.connector import AnswerHandler, Exchange, GuardedConnector

KEPT_BODY_BYTES = 16 * 1024

_UPGRADED = 101


class _DialRequest(aiohttp.ClientRequest):
    # Only tells the connector where to dial, so that it needs no headers.
    DEFAULT_HEADERS: Mapping[str, str] = {}  # type: ignore[assignment]


class Target:
    """Where requests for one URL go, and what their heads begin with."""

    def __init__(self, url: URL, *, user_agent: str) -> None:
        # Certificates name a host without the dot at its end.
        name = (url.raw_host or "").rstrip(".")
        self.dial = _DialRequest("POST", url, loop=asyncio.get_running_loop(), ssl=True, server_hostname=name)
        self.head = f"POST {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\nUser-Agent: {user_agent}\r\n"


class Head(msgspec.Struct, frozen=True):
    """The head of an answer, and as much of its body as is kept."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


def render(target: Target, headers: Mapping[str, str], body: bytes) -> bytes:
    """The request as it goes over the wire. Raises ValueError when a header would break out of its line."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header has a line break in it")
    return b"%s%sContent-Length: %d\r\n\r\n%s" % (target.head.encode(), lines.encode(), len(body), body)


async def exchange(connector: GuardedConnector, target: Target, request: bytes, *, state: Exchange, deadline: float) -> Head:
    """Sends *request* and reads what comes back, until *deadline* (of the loop's clock). *state* learns how far it came.

    Raises TimeoutError and aiohttp's errors when no head of an answer came. After one came nothing is raised: status and
    headers decide, whatever becomes of the body.
    """
    connection = await connector.idle(target.dial)
    if connection is None:
        async with asyncio.timeout_at(deadline):
            connection = await connector.dial(target.dial, state)
    try:
        message, content = await _send(connection.protocol, request, state, deadline)
    except BaseException:
        connection.close()
        raise
    return Head(message.code, message.headers, await _read_body(connection, message, content, deadline))


async def _send(
    protocol: ResponseHandler | None, request: bytes, state: Exchange, deadline: float
) -> tuple[RawResponseMessage, StreamReader]:
    if not isinstance(protocol, AnswerHandler) or protocol.transport is None:
        raise aiohttp.ServerDisconnectedError
    protocol.begin(state)
    protocol.transport.write(request)
    # A timer that wakes the reader, at a fifth of what `asyncio.timeout` costs.
    timer = asyncio.get_running_loop().call_at(deadline, protocol.set_exception, TimeoutError())
    try:
        while True:
            message, content = await protocol.read()
            if message.code >= 200 or message.code == _UPGRADED:
                return message, content
    finally:
        timer.cancel()


async def _read_body(connection: Connection, message: RawResponseMessage, content: StreamReader, deadline: float) -> bytes:
    """The first bytes of the body. The connection goes back to the pool when that was all of it, else it is closed."""
    kept = bytearray()
    is_complete = False
    try:
        if content.is_eof():  # nearly always: it came along with the head
            kept += content.read_nowait(-1)
        else:
            async with asyncio.timeout_at(deadline):
                while not content.at_eof() and len(kept) < KEPT_BODY_BYTES:
                    kept += await content.readany()
        is_complete = content.at_eof()
    except (aiohttp.ClientError, OSError):  # of which TimeoutError is one
        pass
    finally:
        # What is left unread would stand before the next answer.
        if is_complete and message.code != _UPGRADED:
            connection.release()
        else:
            connection.close()
    return bytes(kept[:KEPT_BODY_BYTES])
