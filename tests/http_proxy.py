"""An HTTP proxy that follows a script: on loopback, in the test's own event loop.

    async with HttpProxy.open() as proxy:
        proxy.script([refuse(502), connect()])
        ...  # deliver something with Egress(proxy=proxy.url)
        assert proxy.asked == ["127.0.0.1:443", "127.0.0.1:443"]

Each request takes the next step; the last one stays. Without a script it connects whatever it is asked for.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Self

from multidict import CIMultiDict

_CHUNK = 2**16

Step = Callable[["Client", str], Awaitable[None]]
"""Answers a client that has asked for an authority (`host:port`)."""


class Client:
    """A connection to the proxy: what steps write to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer


class HttpProxy:
    """The proxy, its script and its record."""

    def __init__(self) -> None:
        self.asked: list[str] = []  # the authorities, in order
        self.request_lines: list[str] = []
        self.headers: list[CIMultiDict[str]] = []
        self.connections = 0  # ever made
        self.port = 0
        self._steps: list[Step] = [connect()]
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, host: str = "127.0.0.1") -> AsyncIterator[Self]:
        proxy = cls()
        server = await asyncio.start_server(proxy._accept, host, 0)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            for task in proxy._tasks:
                task.cancel()
            await asyncio.gather(*proxy._tasks, return_exceptions=True)
            await server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def script(self, steps: Sequence[Step]) -> None:
        """What the next requests are answered with."""
        self._steps = list(steps)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(Client(reader, writer)), name="a client of the proxy")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: Client) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                head = (await client.reader.readuntil(b"\r\n\r\n")).decode()
                start, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
                authority = start.split(" ")[1]
                self.request_lines.append(start)
                self.headers.append(CIMultiDict((line.split(": ", 1)[0], line.split(": ", 1)[1]) for line in lines))
                self.asked.append(authority)
                step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
                await step(client, authority)
        finally:
            client.writer.transport.abort()


# Steps


def connect(answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> Step:
    """A tunnel to where the client wants to go."""

    async def step(client: Client, authority: str) -> None:
        host, _, port = authority.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        client.writer.write(answer)
        try:
            there = asyncio.create_task(_carry(client.reader, writer), name="to the endpoint")
            back = asyncio.create_task(_carry(reader, client.writer), name="from the endpoint")
            try:
                await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        finally:
            writer.transport.abort()

    return step


def refuse(status: int, *, body: bytes = b"no") -> Step:
    """An answer with *status* instead of a tunnel."""
    return say(b"HTTP/1.1 %d Because\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))


def say(data: bytes) -> Step:
    """Some bytes, then the end."""

    async def step(client: Client, _: str) -> None:
        client.writer.write(data)
        await client.writer.drain()
        client.writer.close()
        await client.writer.wait_closed()

    return step


def hang() -> Step:
    """No answer, for as long as the client waits."""

    async def step(client: Client, _: str) -> None:
        await client.reader.read()

    return step


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
