"""The endpoint that everything is delivered to: answers 200 at once and tallies what arrives.

It parses no more than it must, so that it is never the limit. It ends when its standard input does: with whoever started it."""

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import cast

import uvloop

from scripts.benchmarks.http_message import find_message
from scripts.benchmarks.payload import find_sent_at
from scripts.benchmarks.tally import Tally

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


class Receiver(asyncio.Protocol):
    """One connection, kept alive for as long as the peer likes."""

    _transport: asyncio.Transport

    def __init__(self, record: Callable[[int | None], None]) -> None:
        self._record = record
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not asyncio's by class, only by what they do.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._pending:
            data = self._pending + data
        start = 0
        while start < len(data) and (found := find_message(data, start)) is not None:
            body, end = found
            self._record(find_sent_at(data, body, end))
            self._transport.write(_ANSWER)
            start = end
        self._pending = data[start:]


async def receive(listener: socket.socket, record: Callable[[int | None], None]) -> None:
    """Answers on *listener* until standard input ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    server = await loop.create_server(lambda: Receiver(record), sock=listener)
    loop.add_reader(sys.stdin.fileno(), ended.set)
    async with server:
        await ended.wait()
    loop.remove_reader(sys.stdin.fileno())


if __name__ == "__main__":
    listener_fd, tally_fd, receiver = map(int, sys.argv[1:])
    uvloop.run(receive(socket.socket(fileno=listener_fd), Tally(tally_fd).block(receiver).record))
