"""Receivers that misbehave, for `isolation`: one process for one way of misbehaving. It ends when its standard input does."""

import asyncio
import contextlib
import socket
import struct
import sys
from typing import cast

import uvloop

ENDLESS, DRIPPING, RESETTING, NAMES = "endless", "dripping", "resetting", "names"

_DRIP_SECONDS = 1.0
_PIECE = b"%x\r\n%b\r\n" % (4096, b"x" * 4096)
_HEALTHY_NAME = b"healthy"
_IPV4 = 1


class Villain(asyncio.Protocol):
    """One connection."""

    _transport: asyncio.Transport

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._answering: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not asyncio's by class, only by what they do.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, _: bytes) -> None:
        if self._kind == RESETTING:
            plain = self._transport.get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        elif self._answering is None:
            self._answering = asyncio.ensure_future(self._endless() if self._kind == ENDLESS else self._drip())

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def connection_lost(self, _: Exception | None) -> None:
        if self._answering is not None:
            self._answering.cancel()

    async def _endless(self) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await self._room.wait()
            self._transport.write(_PIECE)
            await asyncio.sleep(0)

    async def _drip(self) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nx: ")
        while True:
            self._transport.write(b"x")
            await asyncio.sleep(_DRIP_SECONDS)


class NameServer(asyncio.DatagramProtocol):
    """Knows healthy names as 127.0.0.1, and says nothing about any other."""

    _transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.index(b"\0", 12) + 5  # behind the question's name, type and class
        if _HEALTHY_NAME not in data[12:end]:
            return
        (kind,) = struct.unpack_from("!H", data, end - 4)
        record = b"\xc0\x0c" + struct.pack("!HHIH4B", _IPV4, 1, 1, 4, 127, 0, 0, 1) if kind == _IPV4 else b""
        head = data[:2] + struct.pack("!HHHHH", 0x8180, 1, bool(record), 0, 0)
        self._transport.sendto(head + data[12:end] + record, addr)


async def misbehave(kind: str, listener: socket.socket) -> None:
    """Does so on *listener* until standard input ends."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    async with contextlib.AsyncExitStack() as stack:
        if kind == NAMES:
            transport, _ = await loop.create_datagram_endpoint(NameServer, sock=listener)
            stack.callback(transport.close)
        else:
            await stack.enter_async_context(await loop.create_server(lambda: Villain(kind), sock=listener))
        await ended.wait()
    loop.remove_reader(sys.stdin.fileno())


if __name__ == "__main__":
    uvloop.run(misbehave(sys.argv[1], socket.socket(fileno=int(sys.argv[2]))))
