"""Clients that take their time: each costs a connection for a while, and nobody else anything."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.settings import Http, Settings
from tests.integration.api.conftest import Api, serve
from tests.integration.api.raw import answer, connected

SECONDS = 0.4
PATIENCE = 10.0  # that a test has for what ends after SECONDS


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[Api]:
    """An API that gives a request SECONDS."""
    async with serve(tmp_path, Settings(http=Http(read_seconds=SECONDS))) as api, asyncio.timeout(PATIENCE):
        yield api


def head(api: Api, line: str = "POST /events", **headers: str) -> bytes:
    named = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"{line} HTTP/1.1\r\nHost: x\r\nx-api-key: {api.key}\r\ncommet-version: 2026-08-27\r\n{named}".encode()


async def drip(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Sends *piece* again and again, until nobody takes it any more."""
    while not writer.is_closing():
        writer.write(piece)
        await asyncio.sleep(SECONDS / 20)


STARTS = {
    "its first line": ("POST /", b"x"),
    "blank lines": ("\r\n", b"\r\n"),
    "its headers": ("GET /webhooks HTTP/1.1\r\nHost: x\r\nx-", b"a"),
    "many headers": ("GET /webhooks HTTP/1.1\r\nHost: x\r\n", b"a: b\r\n"),
}


@pytest.mark.parametrize("name", STARTS)
async def test_who_drips_the_head_of_a_request_is_told_so_and_cut_off(hasty: Api, name: str, caplog: pytest.LogCaptureFixture):
    """After `http.read_seconds`, however many bytes came meanwhile; and others are answered all the while."""
    begin, piece = STARTS[name]
    with capture_logs() as logs:
        async with connected(hasty) as (reader, writer), asyncio.TaskGroup() as tasks:
            began = asyncio.get_running_loop().time()
            writer.write(begin.encode())
            dripping = tasks.create_task(drip(writer, piece))
            await hasty.json("GET", "/webhooks")
            response = await answer(reader)
            took = asyncio.get_running_loop().time() - began
            await closed(reader)
            dripping.cancel()
    assert response.startswith(b"HTTP/1.0 408 ")
    assert b"x-request-id: req_" in response
    assert json.loads(response.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    assert took >= SECONDS
    assert [log for log in logs if log["log_level"] != "debug"] == []
    assert caplog.records == []


async def closed(reader: asyncio.StreamReader) -> bytes:
    """What is left to be read, until the server has closed, in whatever way."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@pytest.mark.parametrize("framing", [{"Content_Length": "100000"}, {"Transfer_Encoding": "chunked"}])
async def test_who_drips_a_body_is_told_so_and_cut_off(hasty: Api, framing: dict[str, str], caplog: pytest.LogCaptureFixture):
    """In the shape and with the id that the request has asked for. The time counts from its first byte."""
    caplog.set_level(logging.DEBUG)
    piece = b"1\r\n{\r\n" if "Transfer_Encoding" in framing else b"{"
    async with connected(hasty) as (reader, writer), asyncio.TaskGroup() as tasks:
        writer.write(head(hasty, x_request_id="mine", **framing) + b"\r\n")
        dripping = tasks.create_task(drip(writer, piece))
        response = await answer(reader)
        await closed(reader)
        dripping.cancel()
    assert response.startswith(b"HTTP/1.1 408 ")
    assert b"x-request-id: mine\r\n" in response
    assert b"Connection: close\r\n" in response
    assert json.loads(response.partition(b"\r\n\r\n")[2])["error"] == {
        "type": "validation_error",
        "code": "request_timeout",
        "message": "the request did not come to its end in time; send it again, faster",
        "param": None,
        "details": None,
        "doc_url": None,
    }
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []
    assert (await hasty.json("GET", "/events"))["data"] == []


async def test_who_is_refused_is_not_waited_for(hasty: Api):
    """A client without a key has its answer at once, and its connection no longer than another."""
    async with connected(hasty) as (reader, writer):
        writer.write(b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert (await answer(reader)).startswith(b"HTTP/1.1 401 ")
        assert await closed(reader) == b""


async def test_a_connection_that_says_nothing_is_closed(hasty: Api):
    """Without a word."""
    async with connected(hasty) as (reader, _):
        assert await closed(reader) == b""


async def test_time_between_requests_is_not_counted(hasty: Api):
    """A connection that is kept alive may rest longer than a request may take, and each request has its own time."""
    body = b'{"event":"a.b","data":{}}'
    async with connected(hasty) as (reader, writer):
        for _ in range(3):
            whole = head(hasty, Content_Length=str(len(body))) + b"\r\n" + body
            for piece in (whole[:10], whole[10:-5], whole[-5:]):
                writer.write(piece)
                await asyncio.sleep(SECONDS / 8)
            assert (await answer(reader)).startswith(b"HTTP/1.1 202 ")
            await asyncio.sleep(SECONDS * 1.5)


async def test_a_slow_store_is_not_the_clients_fault(hasty: Api):
    """A request that came in time is answered, however long that takes."""
    hasty.publisher.open.clear()
    body = b'{"event":"a.b","data":{}}'
    async with connected(hasty) as (reader, writer):
        writer.write(head(hasty, Content_Length=str(len(body))) + b"\r\n" + body)
        await hasty.publisher.reached.wait()
        await asyncio.sleep(SECONDS * 2)
        hasty.publisher.open.set()
        assert (await answer(reader)).startswith(b"HTTP/1.1 202 ")


async def ask_on(client: socket.socket, request: bytes) -> None:
    """Sends *request* again and again, and reads nothing. Raises ConnectionError when the other side does not want any more."""
    while True:
        await asyncio.get_running_loop().sock_sendall(client, request)


async def test_who_never_reads_its_answers_is_cut_off(hasty: Api):
    """More is asked than the network holds of answers; then no more is taken from the client, and in the end it is gone."""
    assert hasty.client.port is not None
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.settimeout(0)
        await loop.sock_connect(client, ("127.0.0.1", hasty.client.port))
        request = head(hasty, "GET /event-types") + b"x-pad: " + b"x" * 4_000 + b"\r\n\r\n"
        with pytest.raises(ConnectionError):
            await ask_on(client, request)
    await hasty.json("GET", "/webhooks")


async def test_broken_chunks_after_a_while_end_the_request_at_once(hasty: Api, caplog: pytest.LogCaptureFixture):
    """Whoever waits for the rest of the body learns that it will never come."""
    async with connected(hasty) as (reader, writer):
        writer.write(head(hasty, Transfer_Encoding="chunked") + b"\r\n5\r\n")
        await asyncio.sleep(SECONDS / 8)
        writer.write(b"nonsense, and no end of a chunk\r\n")
        assert (await answer(reader)).startswith(b"HTTP/1.1 400 ")
        assert await closed(reader) == b""
    assert caplog.records == []
