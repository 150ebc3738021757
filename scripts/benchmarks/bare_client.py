"""An HTTP client that costs next to nothing, so that the publisher's process takes no CPU from the gateway's."""

import asyncio
from typing import cast

from scripts.benchmarks.http_message import find_message


class Refused(Exception):
    """The gateway answered something else than it should."""


class Connection(asyncio.Protocol):
    """One kept-alive connection with one request at a time."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self.head = b""  # of the last answer
        self._pending = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, port: int) -> "Connection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Sends *request*, a whole HTTP/1.1 message; returns status and body of the answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not asyncio's by class, only by what they do.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        data = self._pending + data
        found = find_message(data, 0)
        if found is None:
            self._pending = data
            return
        body, end = found
        self._pending = data[end:]
        self.head = data[:body]
        if self._answer is not None:
            self._answer.set_result((int(data[9:12]), data[body:end]))
            self._answer = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Refused(f"the connection was closed before the answer ({exc or 'by the peer'})"))


def post_request(path: str, body: bytes, *, api_key: str = "") -> bytes:
    """A whole POST of JSON."""
    key = f"x-api-key: {api_key}\r\n" if api_key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
