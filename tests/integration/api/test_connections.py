"""How many connections are taken at once, and what becomes of the others."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from structlog.testing import capture_logs

from gateway.api.listener import bind_tcp, listening
from gateway.api.server import build_application
from gateway.settings import Http, Settings
from tests.integration.api.conftest import Api
from tests.integration.api.raw import answer, until

LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def listens(api: Api, http: Http) -> AsyncIterator[int]:
    """The API of *api*, on a listener of the gateway's own with other settings; its port."""
    parts = msgspec.structs.replace(api.parts, settings=Settings(http=http))
    application = build_application(parts, authority=None)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20), listening(application, bind_tcp("127.0.0.1", 0), stop_by=lambda: loop.time() + 1) as port:
        yield port


async def ask(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that has asked."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(LIVE)
    return reader, writer


async def test_connections_over_the_limit_wait_for_their_turn(api: Api):
    """They are not refused: each is answered when another one has ended. The log says so once."""
    before = api.parts.traffic.connections
    with capture_logs() as logs:
        async with listens(api, Http(max_connections=3)) as port:
            taken = [await ask(port) for _ in range(3)]
            for reader, _ in taken:
                await answer(reader)
            waiting = [await ask(port) for _ in range(2)]
            answers = [asyncio.ensure_future(answer(reader)) for reader, _ in waiting]
            for reader, writer in taken:
                writer.write(LIVE)
                await answer(reader)
            assert [done.done() for done in answers] == [False, False]
            assert api.parts.traffic.connections == before + 3
            taken[0][1].close()
            done, _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
            assert len(done) == 1
            taken[1][1].close()
            assert all(response.startswith(b"HTTP/1.1 200 ") for response in await asyncio.gather(*answers))
            for _, writer in (*taken, *waiting):
                writer.transport.abort()
    assert [(log["event"], log["most"]) for log in logs if log["log_level"] == "warning"] == [("connections.full", 3)]


async def test_a_flood_of_connections_that_say_nothing_passes(api: Api):
    """Each holds its place for `http.read_seconds` and no longer, so that whoever has a request has his turn."""
    async with listens(api, Http(max_connections=5, read_seconds=0.2)) as port:
        flood = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        reader, writer = await ask(port)
        assert (await answer(reader)).startswith(b"HTTP/1.1 200 ")
        for _, other in flood:
            other.transport.abort()
        writer.transport.abort()


async def test_without_descriptors_connections_wait(api: Api):
    """Nothing is dropped, no processor time is burnt and nothing crashes: who waits is answered once there are some again."""
    loop = asyncio.get_running_loop()
    async with listens(api, Http()) as port:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.create_connection(("127.0.0.1", port)) as client, capture_logs() as logs:
            client.settimeout(0)
            await loop.sock_sendall(client, LIVE)
            with socket.socket() as next_free:
                highest = next_free.fileno()
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
            try:
                await until(lambda: logs)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert (await loop.sock_recv(client, 12)) == b"HTTP/1.1 200"
    assert [log["event"] for log in logs] == ["connections.refused_by_system"]


async def test_connections_are_counted_until_they_are_gone(api: Api):
    """However they end."""
    before = api.parts.traffic.connections
    async with listens(api, Http()) as port:
        for way in ("close", "abort"):
            reader, writer = await ask(port)
            await answer(reader)
            assert api.parts.traffic.connections == before + 1
            getattr(writer.transport, way)()
            await until(lambda: api.parts.traffic.connections == before)
