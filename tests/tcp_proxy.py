"""A network that can fail: a TCP proxy on loopback, before a server, in the test's own event loop."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

from tests.postgres import by_way_of, free_port

_CHUNK = 2**16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class TcpProxy:
    """It passes on what it gets, until told otherwise. What it is told holds for the connections there are and for new ones."""

    def __init__(self, port_behind: int) -> None:
        self._port_behind = port_behind
        self._requests = asyncio.Event()
        self._answers = asyncio.Event()
        self._listener: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = free_port()
        self.accepted = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, port_behind: int) -> AsyncIterator[Self]:
        """A proxy before *port_behind* of loopback, until the context is left."""
        proxy = cls(port_behind)
        await proxy.pass_on()
        try:
            yield proxy
        finally:
            await proxy.refuse()
            proxy.cut()
            if proxy._tasks:
                await asyncio.wait(proxy._tasks)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def by_way_of(self, url: str) -> str:
        """*url* of a database of the server behind, reached through this."""
        return by_way_of(self.port, url)

    async def pass_on(self) -> None:
        """Accepts, and passes on everything, what was held back first. A connection that was not cut goes on where it was."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self._requests.set()
        self._answers.set()

    def go_silent(self) -> None:
        """Accepts and keeps connections and passes nothing on in either direction, not even their end, but loses nothing.

        Afterwards `pass_on` lets them go on; `cut` before it ends them.
        """
        self._requests.clear()
        self._answers.clear()

    def hold_answers(self) -> None:
        """Passes on what clients send, so that the server does it, and nothing of what it answers."""
        self._requests.set()
        self._answers.clear()

    async def refuse(self) -> None:
        """Refuses new connections. Those that there are stay; `cut` ends them."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
            await asyncio.sleep(0)  # uvloop closes in its next turn

    def cut(self) -> None:
        """Resets every connection, on both sides, with what it held back."""
        for connection in self._connections:
            connection.reset()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = _Connection(_Side(reader, writer))
        self._connections.add(connection)
        task = connection.task = asyncio.create_task(self._serve(connection), name="a connection through the proxy")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: "_Connection") -> None:
        try:
            await self._requests.wait()
            # A server that is down resets here, where it would refuse.
            with contextlib.suppress(ConnectionError):
                connection.server = _Side(*await asyncio.open_connection("127.0.0.1", self._port_behind))
                await connection.carry(self._requests, self._answers)
        finally:
            connection.reset()
            self._connections.discard(connection)


@dataclass(eq=False)
class _Side:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def carry_to(self, other: "_Side", gate: asyncio.Event) -> None:
        while data := await self.reader.read(_CHUNK):
            await gate.wait()
            other.writer.write(data)
            await other.writer.drain()
        await gate.wait()
        try:
            other.writer.write_eof()
        except OSError as error:  # it has been reset in this very moment
            raise ConnectionError(str(error)) from error

    def reset(self) -> None:
        """Ends it with RST, unless it has ended."""
        transport = self.writer.transport
        if not transport.is_closing():
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()


@dataclass(eq=False)
class _Connection:
    client: _Side
    server: _Side | None = None
    task: asyncio.Task[None] | None = None

    async def carry(self, requests: asyncio.Event, answers: asyncio.Event) -> None:
        """Returns when both sides have said all; raises ConnectionError when one of them broke off."""
        assert self.server is not None
        there = asyncio.create_task(self.client.carry_to(self.server, requests), name="requests through the proxy")
        back = asyncio.create_task(self.server.carry_to(self.client, answers), name="answers through the proxy")
        try:
            await asyncio.gather(there, back)
            for side in (self.client, self.server):
                side.writer.close()
        finally:
            there.cancel()
            back.cancel()
            await asyncio.gather(there, back, return_exceptions=True)

    def reset(self) -> None:
        for side in (self.client, self.server):
            if side is not None:
                side.reset()
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()
