"""What is no HTTP, what is HTTP of a doubtful kind, and what is too large: each is refused as everything else is."""

import json
import logging

import pytest
from structlog.testing import capture_logs

from gateway.api.connection import MAX_HEAD_BYTES, MAX_HEADERS
from tests.integration.api.conftest import Api
from tests.integration.api.raw import answer, connected, raw

HOST = b" HTTP/1.1\r\nHost: x\r\nx-api-key: ck_live_secret\r\n"
POST = b"POST /events" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
NO_HTTP = {
    "no URL": b"GET http://x:bad/secret" + HOST + b"\r\n",
    "no path": b"GET secret" + HOST + b"\r\n",
    "a NUL": b"GET /webhooks" + HOST + b"x-nul: secret\0\r\n\r\n",
    "a NUL in a name": b"GET /webhooks" + HOST + b"x\0secret: 1\r\n\r\n",
    "a NUL in the URL": b"GET /web\0secret" + HOST + b"\r\n",
    "a space in a name": b"GET /webhooks" + HOST + b"x secret: 1\r\n\r\n",
    "a space before the colon": b"GET /webhooks HTTP/1.1\r\nHost : secret\r\n\r\n",
    "no colon": b"GET /webhooks" + HOST + b"secret\r\n\r\n",
    "no name": b"GET /webhooks" + HOST + b": secret\r\n\r\n",
    "a folded header": b"GET /webhooks" + HOST + b" secret\r\n\r\n",
    "a folded value": b"GET /webhooks" + HOST + b"x: a\r\n\tsecret\r\n\r\n",
    "a header of old websockets": b"GET /webhooks" + HOST + b"Sec-WebSocket-Key1: secret\r\n\r\n",
    "no host": b"GET /webhooks HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /webhooks" + HOST + b"Host: secret\r\n\r\n",
    "another version": b"GET /webhooks HTTP/9.9\r\nHost: secret\r\n\r\n",
    "HTTP/0.9": b"GET /webhooks?secret\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no method": b'"secret" /webhooks' + HOST + b"\r\n",
    "a known method after nonsense": b"POGET /webhooks",
    "a space first": b" GET /webhooks" + HOST + b"\r\n",
    "tabs": b"GET\t/webhooks\tHTTP/1.1\r\nHost: secret\r\n\r\n",
    "a bare LF": b"GET /webhooks HTTP/1.1\nHost: secret\n\n",
    "a bare LF after a header": b"GET /webhooks" + HOST + b"x: secret\ny: z\r\n\r\n",
    "a bare CR": b"GET /webhooks" + HOST + b"x: secret\ry: z\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "twice the same length": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a length with a sign": POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "a length in hex": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "a length without end": POST + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "a length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": CHUNKED + b"Content-Length: 2\r\n\r\n0\r\n\r\n",
    "chunks of another kind": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks with a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks that are not the last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunks twice": CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks of gzip": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /events HTTP/1.0\r\nHost: secret\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a broken chunk": CHUNKED + b"\r\nsecret\r\n",
    "a chunk without end": CHUNKED + b"\r\nfffffffffffffffff\r\n{",
    "a chunk's bare LF": CHUNKED + b"\r\n2\n{}\n0\n\n",
    "a chunk's space": CHUNKED + b"\r\n2 \r\n{}\r\n0\r\n\r\n",
    "a length in a trailer": CHUNKED + b"\r\n2\r\n{}\r\n0\r\nContent-Length: 3\r\n\r\n",
    "after a good one": b"GET /webhooks HTTP/1.1\r\nHost: x\r\n\r\nGET secret" + HOST + b"\r\n",
}


@pytest.mark.parametrize("name", NO_HTTP)
async def test_what_is_no_http_is_refused_as_all_else_is(api: Api, name: str, caplog: pytest.LogCaptureFixture):
    """With a problem and a request id, and the connection ends. The log has one line of it for those who debug, and no word of
    the client's. What might be a second request, for somebody who reads the first one otherwise, is never answered."""
    caplog.set_level(logging.DEBUG, "aiohttp")
    with capture_logs() as logs:
        response = (await raw(api, NO_HTTP[name] + b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")).rpartition(b"HTTP/1.0 ")[2]
    head, _, body = response.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert head.startswith(b"400 ")
    assert b"content-type: application/json" in head.lower()
    assert error["code"] == "validation_error"
    assert error["details"] == [{"field": "request", "message": error["message"].removeprefix("request ")}]
    (line,) = [log for log in logs if log["event"] == "request.unreadable"]
    assert line["log_level"] == "debug"
    assert f"x-request-id: {line['request_id']}".encode() in head
    assert "secret" not in f"{error} {logs} {caplog.text}"
    assert "exc_info" not in line
    assert caplog.records == []
    assert api.parts.traffic.refused == {"unreadable": 1}


LARGE = {
    "a long URL": (b"GET /webhooks?x=secret" + b"x" * 8_190 + HOST + b"\r\n", 414, "url_too_long"),
    "a long header": (b"GET /webhooks" + HOST + b"x-long: secret" + b"x" * 8_192 + b"\r\n\r\n", 431, "headers_too_large"),
    "a long name": (b"GET /webhooks" + HOST + b"x-secret" * 1_100 + b": x\r\n\r\n", 431, "headers_too_large"),
    "many headers": (
        b"GET /webhooks" + HOST + b"".join(b"x-%d: secret\r\n" % number for number in range(MAX_HEADERS)) + b"\r\n",
        431,
        "headers_too_large",
    ),
    "large headers together": (
        b"GET /webhooks" + HOST + b"".join(b"x-%d: %s\r\n" % (number, b"x" * 8_000) for number in range(9)) + b"\r\n",
        431,
        "headers_too_large",
    ),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("pieces", [1, 40])
async def test_what_is_too_large_to_be_read_is_a_414_or_431(api: Api, name: str, pieces: int, caplog: pytest.LogCaptureFixture):
    """In one piece or in many; as soon as it is known, and without a word of the client's in the log."""
    request, status, code = LARGE[name]
    size = len(request) // pieces + 1
    with capture_logs() as logs:
        async with connected(api) as (reader, writer):
            for start in range(0, len(request), size):
                writer.write(request[start : start + size])
                await writer.drain()
            response = await answer(reader)
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 %d " % status)
    assert b"x-request-id: req_" in head
    error = json.loads(body)["error"]
    assert (error["type"], error["code"]) == ("validation_error", code)
    assert "secret" not in f"{error} {logs} {caplog.text}"
    assert caplog.records == []


async def test_trailers_without_end_are_refused(api: Api):
    """As headers are, or as a broken body when its request has begun."""
    start, trailers = CHUNKED + b"\r\n2\r\n{}\r\n0\r\n", b"x: y\r\n" * 200 + b"\r\n"
    assert (await raw(api, start + trailers)).startswith(b"HTTP/1.0 431 ")
    async with connected(api) as (reader, writer):
        writer.write(start.replace(b"ck_live_secret", api.key.encode()))
        await api.json("GET", "/webhooks")
        writer.write(trailers)
        assert (await answer(reader)).startswith(b"HTTP/1.1 400 ")


async def test_what_is_as_large_as_may_be_is_read(api: Api):
    """A URL, a header, their number, and all together."""
    key = f"x-api-key: {api.key}\r\n".encode()
    start = b"GET /webhooks"
    lines = {
        "URL": start + b"?organizationId=acme&x=" + b"x" * (8_190 - 36) + b" HTTP/1.1\r\nHost: x\r\n" + key,
        "header": start + b" HTTP/1.1\r\nHost: x\r\n" + key + b"x-long: " + b"x" * (8_192 - 6) + b"\r\n",
        "headers": start + b" HTTP/1.1\r\nHost: x\r\n" + key + b"x: y\r\n" * (MAX_HEADERS - 3),
        "together": start + b" HTTP/1.1\r\nHost: x\r\n" + key + (b"x: " + b"y" * 8_000 + b"\r\n") * (MAX_HEAD_BYTES // 8_100),
    }
    for name, lines_of_head in lines.items():
        response = await raw(api, lines_of_head + b"Connection: close\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 200 "), (name, response)


async def test_connect_is_a_405_that_ends_the_connection(api: Api):
    """This is no proxy, and what follows is no request."""
    response = await raw(api, b"CONNECT x:443" + HOST + b"\r\n\x16\x03\x01 secret")
    assert response.startswith(b"HTTP/1.0 405 ")
    assert b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE\r\n" in response


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.0"])
async def test_an_upgrade_is_left_alone(api: Api, protocol: str):
    """The request is answered in HTTP/1.1, and so is the next one."""
    async with connected(api) as (reader, writer):
        for line in (f"Connection: Upgrade\r\nUpgrade: {protocol}\r\n", ""):
            writer.write(f"GET /webhooks HTTP/1.1\r\nHost: x\r\nx-api-key: {api.key}\r\n{line}\r\n".encode())
            assert (await answer(reader)).startswith(b"HTTP/1.1 200 ")


async def test_an_absolute_target_is_read_by_its_path(api: Api):
    """As RFC 9112, section 3.2.2 has it, whatever host it names."""
    request = f"GET http://other:99/webhooks?limit=1 HTTP/1.1\r\nHost: x\r\nx-api-key: {api.key}\r\nConnection: close\r\n\r\n"
    assert (await raw(api, request.encode())).startswith(b"HTTP/1.1 200 ")


async def test_who_may_not_send_a_body_is_not_told_to_go_on(api: Api):
    """`Expect: 100-continue` is answered when the body is wanted: after the key, the type and the size are known to be right."""
    head = "POST /webhooks HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
    for lines, status in (
        ("Content-Length: 2\r\n", b"401"),
        (f"x-api-key: {api.key}\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n", b"415"),
        (f"x-api-key: {api.key}\r\nContent-Length: 999999999999\r\n", b"413"),
        (f"x-api-key: {api.key}\r\nContent-Length: 2\r\n", b"100"),
    ):
        async with connected(api) as (reader, writer):
            writer.write(f"{head}{lines}\r\n".encode())
            assert (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1] == status
            if status == b"100":
                writer.write(b"{}")
                assert (await answer(reader)).split(b" ")[1] == b"400"


@pytest.mark.parametrize("path", ["/nothing", "/health/live", "/metrics", "/webhooks"])
async def test_no_expectation_is_answered_in_other_words(api: Api, path: str):
    """Whatever is expected, and wherever: the answer is that of a request without it."""
    for expectation in ("100-continue", "the-impossible"):
        async with connected(api) as (reader, writer):
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nExpect: {expectation}\r\n\r\n".encode())
            response = await answer(reader)
            if response.startswith(b"HTTP/1.1 100 "):
                response = await answer(reader)
        assert response.split(b" ")[1] in {b"404", b"200", b"401"}
        assert b"Content-Type: application/json\r\n" in response


async def test_who_has_gone_is_no_crash(api: Api, caplog: pytest.LogCaptureFixture):
    """A connection that ended before "go on" could be said leaves nothing in the log."""
    with capture_logs() as logs:
        for path in (b"/nothing", b"/webhooks"):
            request = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
            async with connected(api) as (reader, writer):
                writer.write(request + f"x-api-key: {api.key}\r\n\r\n{{}}".encode())
                writer.write_eof()
                await reader.read()
        await api.json("GET", "/webhooks")
    assert [log for log in logs if log["log_level"] != "debug"] == []
    assert caplog.records == []
