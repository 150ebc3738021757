"""Bytes that were a request once, at a real socket."""

import asyncio
import logging
import queue
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.settings import Http, Limits, Settings
from tests.integration.api.conftest import serve

READ_SECONDS = 0.5
PATIENCE = 20.0

BODY = b'{"event":"a.b","data":{"x":1}}'
HEAD = b"Host: x\r\nx-api-key: KEY\r\ncommet-version: 2026-08-27\r\n"
REQUESTS = (
    b"GET /webhooks?limit=2 HTTP/1.1\r\n" + HEAD + b"\r\n",
    b"POST /events HTTP/1.1\r\n" + HEAD + b"Content-Type: application/json\r\nContent-Length: 30\r\n\r\n" + BODY,
    b"POST /events HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n1e;a=b\r\n" + BODY + b"\r\n0\r\nx: y\r\n\r\n",
    b"POST /webhooks HTTP/1.1\r\n" + HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /health/ready HTTP/1.1\r\n" + HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"PUT /api/v1/webhooks/wh_x HTTP/1.1\r\n" + HEAD + b"Idempotency-Key: k\r\nContent-Length: 0\r\n\r\n",
)
PARTS = (
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"\xff", b"HTTP/1.0", b"HTTP/2.0", b"%", b"//", b"?", b"#", b"*"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Content-Encoding: gzip\r\n"),
    *(b"ffffffffffffffff\r\n", b"0\r\n\r\n", b"-1", b"CONNECT ", b"PRI * ", b"x" * 9_000, b"a: b\r\n" * 130),
)


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """One request or two, changed in some places, in pieces."""
    data = b"".join(draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=2)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        data = (
            data[:start]
            + draw(st.one_of(st.sampled_from(PARTS), st.binary(max_size=6), st.just(data[start:end] * 2)))
            + data[end:]
        )
    cut = draw(st.integers(0, len(data)))
    return [data[:cut], data[cut:]] if draw(st.booleans()) else [data]


class Gateway:
    """The API, in a thread and a loop of its own, so that Hypothesis need not know of either."""

    def __init__(self, port: int, key: bytes) -> None:
        self._port = port
        self._key = key

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)

    def answer_to(self, pieces: list[bytes], *, hangs_up: bool) -> bytes:
        """What comes first in answer to *pieces*; nothing when the connection is closed."""
        with self.connect() as client:
            try:
                for piece in pieces:
                    client.sendall(piece.replace(b"KEY", self._key))
                if hangs_up:
                    client.shutdown(socket.SHUT_WR)
                return client.recv(65_536)
            except TimeoutError:  # neither an answer nor an end
                raise
            except OSError:
                return b""


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    found: queue.Queue[Gateway] = queue.Queue()
    stop: queue.Queue[None] = queue.Queue()

    async def run() -> None:
        limits = Limits(bad_keys_per_minute=0)
        async with serve(tmp_path, Settings(http=Http(read_seconds=READ_SECONDS), limits=limits)) as api:
            assert api.client.port is not None
            found.put(Gateway(api.client.port, api.key.encode()))
            await asyncio.to_thread(stop.get)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    yield found.get(timeout=PATIENCE)
    stop.put(None)
    thread.join()


def test_whatever_comes_is_answered_or_ended(gateway: Gateway, caplog: pytest.LogCaptureFixture):
    """Within `http.read_seconds`, with HTTP that tells of no fault of the gateway's; and the next request is served."""
    with capture_logs() as logs, gateway.connect() as steady:

        @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
        @given(pieces=mutated(), hangs_up=st.sampled_from([True, True, True, False]))
        @example(pieces=[REQUESTS[2][:-9], b"nonsense\r\n\r\n"], hangs_up=False)
        @example(pieces=[REQUESTS[1][:-1]], hangs_up=False)
        def check(pieces: list[bytes], hangs_up: bool) -> None:  # noqa: FBT001 - Hypothesis names it
            answer = gateway.answer_to(pieces, hangs_up=hangs_up)
            if answer:
                assert re.match(rb"HTTP/1\.[01] (100|2\d\d|4\d\d) ", answer), answer
                assert b"x-request-id: " in answer or answer.startswith(b"HTTP/1.1 100 ")
            steady.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert steady.recv(65_536).startswith(b"HTTP/1.1 200 ")

        check()
    assert [log for log in logs if log["log_level"] != "debug"] == []
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []
