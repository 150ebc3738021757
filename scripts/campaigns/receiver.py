"""The endpoints of a campaign, as a process of their own: they answer in different ways, and remember every request.

A GET is no delivery: `/state` tells how far things are, `/arrivals?after=N` what arrived after the first N requests. It ends when
its standard input does: with whoever started it."""

import asyncio
import re
import socket
import sys
import time
from typing import cast
from urllib.parse import parse_qs, urlsplit

import msgspec

from scripts.benchmarks.http_message import find_message
from scripts.campaigns.arrival import Arrival, State

_SENT_BY = re.compile(rb"\r\nX-Life-(\d+)-Event-Id: *(\S+)\r", re.IGNORECASE)
_NUMBER = re.compile(rb'"number": ?(\d+)')

_DELAYS = {"/slow": 0.02, "/moody": 0.005}
_REFUSED_OF_MOODY = 5
"""That endpoint refuses one request of so many."""


class Receiver:
    """What the endpoints remember."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.connections: set[Connection] = set()
        self._first: dict[int, float] = {}
        self._moods = 0

    def arrived(self, path: str, message: bytes) -> tuple[Arrival, int, float]:
        """What to answer to a delivery, and after how many seconds."""
        sent_by, number = _SENT_BY.search(message), _NUMBER.search(message)
        if sent_by is None or number is None:
            raise ValueError(f"no delivery of a campaign: {message[:500]!r}")
        arrival = Arrival(path, sent_by[2].decode(), int(number[1]), int(sent_by[1]), time.monotonic())
        self._first.setdefault(arrival.life, arrival.at)
        self.arrivals.append(arrival)
        self._moods += path == "/moody"
        is_refused = path == "/moody" and self._moods % _REFUSED_OF_MOODY == 0
        return arrival, 503 if is_refused else 200, _DELAYS.get(path, 0.0)

    def told(self, target: str) -> bytes:
        """The answer to a GET."""
        parts = urlsplit(target)
        if parts.path == "/state":
            connections = sum(not connection.asks for connection in self.connections)
            return msgspec.json.encode(State(len(self.arrivals), connections, self._first))
        return msgspec.json.encode(self.arrivals[int(parse_qs(parts.query)["after"][0]) :])


class Connection(asyncio.Protocol):
    """One of the gateway's, with a request at a time; or of somebody who asks."""

    _transport: asyncio.Transport

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._received = b""
        self.asks = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._receiver.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._receiver.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        method, _, rest = self._received.partition(b" ")
        target = rest.partition(b" ")[0].decode()
        if method == b"GET" and self._received.endswith(b"\r\n\r\n"):
            self.asks, self._received = True, b""
            self._answer(200, self._receiver.told(target))
        elif method == b"POST" and (found := find_message(self._received, 0)) is not None:
            message, self._received = self._received[: found[1]], self._received[found[1] :]
            arrival, status, seconds = self._receiver.arrived(target, message)
            if seconds:
                asyncio.get_running_loop().call_later(seconds, self._answer_to, arrival, status)
            else:
                self._answer_to(arrival, status)

    def _answer_to(self, arrival: Arrival, status: int) -> None:
        if not self._transport.is_closing():
            arrival.status = status
            self._answer(status, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self._transport.write(b"HTTP/1.1 %d Answer\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))


async def receive(listener: socket.socket) -> None:
    """Answers on *listener* until standard input ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    receiver = Receiver()
    server = await loop.create_server(lambda: Connection(receiver), sock=listener)
    loop.add_reader(sys.stdin.fileno(), ended.set)
    async with server:
        await ended.wait()
    loop.remove_reader(sys.stdin.fileno())


if __name__ == "__main__":
    asyncio.run(receive(socket.socket(fileno=int(sys.argv[1]))))
