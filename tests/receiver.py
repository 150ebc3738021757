"""A receiver that follows a script: a real server on loopback, raw enough to break every rule of HTTP.

    async with Receiver.open() as receiver:
        receiver.script("/hook", [status(503), hang(), ok()])
        ...  # deliver something to receiver.url("/hook")
        await receiver.wait_for(3)

Each request takes the next step of its path's script (else of the script for all paths); the last step stays. Without a
script everything is answered by ok().
"""

import asyncio
import contextlib
import functools
import socket
import ssl
import struct
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from ipaddress import IPv4Address
from typing import Self, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from multidict import CIMultiDict

PATIENCE_SECONDS = 5.0
_TLS_HANDSHAKE = b"\x16\x03"


@dataclass(frozen=True)
class Request:
    """A request as it arrived."""

    method: str
    path: str
    headers: CIMultiDict[str]
    body: bytes
    arrived_at: float  # `time.monotonic()`, seconds
    connection: int  # counts from 1


Step = Callable[["Connection"], Awaitable[None] | None]
"""Answers the request that is open on a connection. A step that is awaited is cancelled when the connection goes."""


class Connection(asyncio.Protocol):
    """One connection of the receiver: what steps write to."""

    transport: asyncio.Transport

    def __init__(self, receiver: "Receiver") -> None:
        self._receiver = receiver
        self._received = b""
        self._open: str | None = None  # the path of the request that is being answered
        self._step: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()
        self._drained.set()

    # What steps use

    def answer(self, code: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """A whole answer."""
        head = [f"HTTP/1.1 {code} {_phrase(code)}", *(f"{name}: {value}" for name, value in (headers or {}).items())]
        if code >= HTTPStatus.OK and code not in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
            head.append(f"Content-Length: {len(body)}")
        self.transport.write("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)

    async def write(self, data: bytes) -> None:
        """Some bytes, once those before them are mostly gone."""
        await self._drained.wait()
        if self.transport.is_closing():
            await asyncio.Event().wait()  # until the step is cancelled
        self.transport.write(data)

    def close(self) -> None:
        """Ends the connection, after what was written."""
        self.transport.close()

    def half_close(self) -> None:
        """Says that nothing more will be written, and goes on reading."""
        self.transport.write_eof()

    def reset(self) -> None:
        """Ends the connection at once, with a reset."""
        plain = self.transport.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.number = self._receiver._connected(self)
        if not self._receiver.reads:
            self.transport.pause_reading()
        if self._receiver.greeting is not None:
            answering = self._receiver.greeting(self)
            if answering is not None:
                self._step = asyncio.ensure_future(answering)

    def data_received(self, data: bytes) -> None:
        if not self._receiver.reads:
            self.transport.pause_reading()  # once more: uvloop starts to read after `connection_made`
            return
        if self._receiver.greeting is not None:
            return
        self._received += data
        if self._received.startswith(_TLS_HANDSHAKE):
            self.answer(HTTPStatus.BAD_REQUEST)
            self.close()
            return
        self._next_request()

    def eof_received(self) -> None:
        pass

    def connection_lost(self, exc: Exception | None) -> None:
        self._drained.set()
        if self._step is not None:
            self._step.cancel()
        self._receiver._disconnected(self, self._open)
        self._open = None

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def _next_request(self) -> None:
        while self._open is None and not self.transport.is_closing():
            head, separator, rest = self._received.partition(b"\r\n\r\n")
            if not separator:
                return
            start, *lines = head.decode("latin-1").split("\r\n")
            method, path, _ = start.split(" ", 2)
            headers = CIMultiDict(cast(tuple[str, str], tuple(line.split(": ", 1))) for line in lines)
            length = int(headers.get("Content-Length", "0"))
            if len(rest) < length:
                return
            self._received = rest[length:]
            self._open = path
            step = self._receiver._arrived(Request(method, path, headers, rest[:length], time.monotonic(), self.number))
            answering = step(self)
            if answering is not None:
                self._step = asyncio.ensure_future(self._follow(answering))
                return
            self._answered()

    async def _follow(self, answering: Awaitable[None]) -> None:
        await answering
        self._step = None
        self._answered()
        self._next_request()

    def _answered(self) -> None:
        if self._open is not None:
            self._receiver._closed(self._open)
            self._open = None


class Receiver:
    """The server, its scripts and its record."""

    def __init__(self, *, reads: bool, greeting: Step | None) -> None:
        self.requests: list[Request] = []
        self.connections = 0  # ever made
        self.reads = reads
        self.greeting = greeting
        self._tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
        self._live: set[Connection] = set()
        self._scripts: dict[str | None, list[Step]] = {}
        self._in_flight: Counter[str | None] = Counter()
        self._overlap: Counter[str | None] = Counter()
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        *,
        tls: bool = False,
        certificate: "Certificate | None" = None,
        reads: bool = True,
        greeting: Step | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> AsyncIterator[Self]:
        """A receiver on *host*. With *reads* False it accepts connections and never reads from them. *greeting* is what a
        connection gets as soon as it is made, in place of answers to requests. With *certificate* it speaks TLS, too."""
        receiver = cls(reads=reads, greeting=greeting)
        receiver.host = host
        if tls or certificate:
            receiver._tls = _tls_contexts(certificate or Certificate())
        loop = asyncio.get_running_loop()
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not reads:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that the kernel reads no more either
        listening.bind((host, port))
        receiver.port = listening.getsockname()[1]
        server = await loop.create_server(
            functools.partial(Connection, receiver),
            sock=listening,
            ssl=receiver._tls[0] if receiver._tls else None,
            backlog=1024,
        )
        try:
            yield receiver
        finally:
            server.close()
            for connection in receiver._live:
                connection.transport.abort()
            await receiver.wait_until(lambda: not receiver._live, "every connection is closed")
            await server.wait_closed()

    host: str
    port: int

    def url(self, path: str = "/", *, host: str | None = None) -> str:
        """The URL of *path* here; *host* may be another name or spelling of the same address."""
        return f"{'https' if self._tls else 'http'}://{host or self.host}:{self.port}{path}"

    @property
    def client_tls(self) -> ssl.SSLContext:
        """A client's context that trusts the receiver's certificate (for 127.0.0.1 and localhost)."""
        if self._tls is None:
            raise AssertionError("the receiver was opened without tls")
        return self._tls[1]

    @property
    def open_connections(self) -> int:
        return len(self._live)

    def script(self, path: str | None, steps: Sequence[Step]) -> None:
        """What the next requests for *path* are answered with; None is every path that has no script."""
        self._scripts[path] = list(steps)

    def overlap(self, path: str | None = None) -> int:
        """How many requests for *path* (all, when None) were open at once, at most."""
        return self._overlap[path]

    def requests_for(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    async def wait_for(self, count: int, path: str | None = None, *, seconds: float = PATIENCE_SECONDS) -> list[Request]:
        """Returns the requests (for *path*) when there are *count*. Fails the test when they do not come in time."""

        def arrived() -> list[Request]:
            return self.requests if path is None else self.requests_for(path)

        await self.wait_until(lambda: len(arrived()) >= count, f"{count} requests for {path or 'any path'}", seconds=seconds)
        return arrived()

    async def wait_until(self, claim: Callable[[], bool], words: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Returns when *claim* about the receiver holds. Fails the test, in *words*, when it does not in time."""
        if claim():
            return
        held = asyncio.get_running_loop().create_future()
        self._waiting.append((claim, held))
        try:
            async with asyncio.timeout(seconds):
                await held
        except TimeoutError:
            raise AssertionError(f"waited {seconds:g} s for: {words}; there were {len(self.requests)} requests") from None
        finally:
            self._waiting = [waiting for waiting in self._waiting if waiting[1] is not held]

    # What connections report

    def _connected(self, connection: Connection) -> int:
        self.connections += 1
        self._live.add(connection)
        self._changed()
        return self.connections

    def _disconnected(self, connection: Connection, open_path: str | None) -> None:
        self._live.discard(connection)
        if open_path is not None:
            self._closed(open_path)
        self._changed()

    def _arrived(self, request: Request) -> Step:
        self.requests.append(request)
        for path in (request.path, None):
            self._in_flight[path] += 1
            self._overlap[path] = max(self._overlap[path], self._in_flight[path])
        self._changed()
        steps = self._scripts.get(request.path) or self._scripts.get(None)
        if not steps:
            return _OK
        return steps.pop(0) if len(steps) > 1 else steps[0]

    def _closed(self, path: str) -> None:
        self._in_flight[path] -= 1
        self._in_flight[None] -= 1
        self._changed()

    def _changed(self) -> None:
        for claim, held in self._waiting:
            if not held.done() and claim():
                held.set_result(None)


# Steps


def status(code: int, *, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Step:
    """A whole answer with *code*."""
    return lambda connection: connection.answer(code, body, headers)


def ok(*, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Step:
    """200."""
    return status(200, body=body, headers=headers)


def redirect(url: str, *, code: int = 302) -> Step:
    """A redirect to *url*."""
    return status(code, headers={"Location": url})


def hang() -> Step:
    """No answer, for as long as the sender waits."""

    async def step(_: Connection) -> None:
        await asyncio.Event().wait()

    return step


def until(event: asyncio.Event, then: Step | None = None) -> Step:
    """*then* (ok() when None), once *event* is set."""

    async def step(connection: Connection) -> None:
        await event.wait()
        await _take(then or _OK, connection)

    return step


def after(seconds: float, then: Step | None = None) -> Step:
    """*then* (ok() when None), after *seconds*."""

    async def step(connection: Connection) -> None:
        await asyncio.sleep(seconds)
        await _take(then or _OK, connection)

    return step


def reset() -> Step:
    """A reset of the connection instead of an answer."""
    return lambda connection: connection.reset()


def close() -> Step:
    """The end of the connection instead of an answer."""
    return lambda connection: connection.close()


def close_after_answer() -> Step:
    """200, then the end of the connection, of which the answer says nothing."""

    def step(connection: Connection) -> None:
        connection.answer(200)
        connection.close()

    return step


def garbage(data: bytes = b"\x15\x03\x01 this is no HTTP\r\n\r\n") -> Step:
    """Bytes that are no answer, then the end."""

    def step(connection: Connection) -> None:
        connection.transport.write(data)
        connection.close()

    return step


def cut_body(*, code: int = 200, body: bytes = b"half of it", length: int = 1_000) -> Step:
    """An answer whose body ends before its Content-Length."""

    def step(connection: Connection) -> None:
        connection.transport.write(f"HTTP/1.1 {code} {_phrase(code)}\r\nContent-Length: {length}\r\n\r\n".encode() + body)
        connection.close()

    return step


def hanging_body(*, code: int = 200, body: bytes = b"the beginning") -> Step:
    """An answer whose body stops coming."""

    async def step(connection: Connection) -> None:
        await connection.write(f"HTTP/1.1 {code} {_phrase(code)}\r\nContent-Length: 1000\r\n\r\n".encode() + body)
        await asyncio.Event().wait()

    return step


def endless_body(*, code: int = 200, chunk: bytes = b"x" * 4096) -> Step:
    """An answer whose body never ends."""

    async def step(connection: Connection) -> None:
        await connection.write(f"HTTP/1.1 {code} {_phrase(code)}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        while True:
            await connection.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await asyncio.sleep(0)

    return step


def drip_headers(*, seconds: float = 0.02) -> Step:
    """An answer whose headers come one by one, without end."""

    async def step(connection: Connection) -> None:
        await connection.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            await connection.write(b"x-drip: 1\r\n")
            await asyncio.sleep(seconds)

    return step


def interim_answers(count: int | None = None, *, seconds: float = 0.0, then: Step | None = None) -> Step:
    """*count* 1xx answers (no end to them, when None), *seconds* apart, then *then* (ok() when None)."""

    async def step(connection: Connection) -> None:
        sent = 0
        while count is None or sent < count:
            await connection.write(b"HTTP/1.1 102 Processing\r\n\r\n")
            sent += 1
            if seconds or sent % 100 == 0:
                await asyncio.sleep(seconds)
        await _take(then or _OK, connection)

    return step


def big_headers(*, bytes_each: int, count: int) -> Step:
    """200 with *count* headers of *bytes_each* bytes."""
    return ok(headers={f"x-big-{number}": "x" * bytes_each for number in range(count)})


def raw(*parts: bytes, then: Step | None = None, seconds: float = 0.0) -> Step:
    """*parts*, *seconds* apart, and *then* (close() when None)."""

    async def step(connection: Connection) -> None:
        for part in parts:
            await connection.write(part)
            if seconds:
                await asyncio.sleep(seconds)
        await _take(then or close(), connection)

    return step


def flood(head: bytes, part: bytes, *, seconds: float = 0.0) -> Step:
    """*head*, and then *part* again and again, without end."""

    async def step(connection: Connection) -> None:
        await connection.write(head)
        while True:
            await connection.write(part)
            await asyncio.sleep(seconds)

    return step


def half_close() -> Step:
    """The end of what will be written, while the connection stays open for reading."""

    async def step(connection: Connection) -> None:
        connection.half_close()
        await asyncio.Event().wait()

    return step


def two_answers(event: asyncio.Event | None = None) -> Step:
    """200, and a 500 that nobody asked for: right behind it, or once *event* is set."""

    async def step(connection: Connection) -> None:
        connection.answer(200)
        if event is not None:
            await event.wait()
        connection.answer(500)

    return step


_OK = ok()


async def _take(step: Step, connection: Connection) -> None:
    answering = step(connection)
    if answering is not None:
        await answering


@functools.cache
def _phrase(code: int) -> str:
    return HTTPStatus(code).phrase if code in set(HTTPStatus) else "Unknown"


@dataclass(frozen=True)
class Certificate:
    """What a receiver's certificate says. Nobody vouches for it but the receiver's `client_tls`."""

    name: str = "localhost"
    is_expired: bool = False


@functools.cache
def _tls_contexts(wanted: Certificate) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The receiver's and a trusting client's context, over a certificate that is made once in a test run."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
    now = datetime.now(UTC)
    names: list[x509.GeneralName] = [x509.DNSName(wanted.name)]
    if wanted.name == "localhost":
        names.append(x509.IPAddress(IPv4Address("127.0.0.1")))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=-1 if wanted.is_expired else 1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, SHA256())
    )
    text = certificate.public_bytes(Encoding.PEM).decode()
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(text + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
        file.flush()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(file.name)
    return server, ssl.create_default_context(cadata=text)
