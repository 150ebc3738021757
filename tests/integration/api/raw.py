"""Talking to the API in bytes, as no client library would."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.integration.api.conftest import Api


@asynccontextmanager
async def connected(api: Api) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the API."""
    assert api.client.port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def raw(api: Api, *pieces: bytes) -> bytes:
    """All that the server sends in answer to these very bytes, until it closes."""
    async with connected(api) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await reader.read()


async def answer(reader: asyncio.StreamReader) -> bytes:
    """The next answer: its head and its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
    return head + await reader.readexactly(int(length.partition(b":")[2]))


async def until(claim: Callable[[], object]) -> None:
    """Returns when *claim* holds."""
    async with asyncio.timeout(20):
        while not claim():  # noqa: ASYNC110 - what is claimed is no event of anybody's
            await asyncio.sleep(0.001)
