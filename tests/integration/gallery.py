"""A gallery of receivers that misbehave: what each does, and what has to be on record of it."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.model import AttemptError
from tests.receiver import (
    Certificate,
    Step,
    big_headers,
    close,
    close_after_answer,
    cut_body,
    endless_body,
    flood,
    half_close,
    hang,
    interim_answers,
    ok,
    raw,
    redirect,
    reset,
    status,
    two_answers,
)

TIMEOUT, RESET, INVALID = AttemptError.TIMEOUT, AttemptError.CONNECTION_RESET, AttemptError.INVALID_RESPONSE
TLS, REDIRECT = AttemptError.TLS_FAILED, AttemptError.REDIRECT

_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
_MIB = 1024 * 1024
_HTTP_2_SETTINGS = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"
_TLS_GARBAGE = b"\x16\x03\x03\x00\x40" + b"\xff" * 64


@dataclass(frozen=True)
class Exhibit:
    """A receiver."""

    name: str
    expected: int | AttemptError | tuple[int, AttemptError]
    step: Step | Sequence[Step] = ()  # how it answers requests
    greeting: Step | None = None  # what it does with a connection in place of that
    certificate: Certificate | None = None  # with one it speaks TLS
    is_trusted: bool = False
    is_https: bool = False  # the URL says so, whatever it speaks
    reads: bool = True
    body_bytes: int = 100  # of the request
    requests: int = 1  # one after another, of which the last is looked at

    @property
    def outcome(self) -> tuple[int | None, AttemptError | None]:
        """The status and the error on record."""
        match self.expected:
            case int() as code:
                return code, None
            case AttemptError() as error:
                return None, error
            case code, error:
                return code, error


GALLERY = [
    # It takes its time
    Exhibit("accepts, and says nothing", TIMEOUT, hang()),
    Exhibit("one byte of the head after another", TIMEOUT, flood(_OK + b"x: ", b"1", seconds=0.02)),
    Exhibit("one header after another", TIMEOUT, flood(_OK, b"x-drip: 1\r\n", seconds=0.02)),
    Exhibit("one byte of the body after another", 200, flood(_OK + b"Content-Length: 1000\r\n\r\n", b"1", seconds=0.02)),
    Exhibit("one chunk after another", 200, flood(_CHUNKED, b"1\r\nx\r\n", seconds=0.02)),
    Exhibit("one interim answer after another", TIMEOUT, interim_answers(seconds=0.1)),
    Exhibit("a handshake that never ends", TIMEOUT, greeting=hang(), is_https=True),
    Exhibit("never reads the request", TIMEOUT, reads=False, body_bytes=4 * _MIB),
    # It has no end
    Exhibit("endless headers", INVALID, flood(_OK, b"x-flood: " + b"x" * 1000 + b"\r\n")),
    Exhibit("an endless header", INVALID, flood(_OK + b"x-flood: ", b"x" * 4096)),
    Exhibit("an endless status line", INVALID, flood(b"HTTP/1.1 200 ", b"O" * 4096)),
    Exhibit("an endless body", 200, endless_body()),
    Exhibit("an endless body without a length", 200, flood(_OK + b"\r\n", b"x" * 4096)),
    Exhibit("an endless chunk extension", 200, flood(_CHUNKED + b"5;", b"x" * 4096)),
    Exhibit("huge chunk extensions", 200, flood(_CHUNKED, b"1;" + b"x" * 8_000 + b"\r\nx\r\n")),
    Exhibit("an endless chunk size", 200, flood(_CHUNKED, b"0" * 4096)),
    Exhibit("endless trailers", 200, flood(_CHUNKED + b"0\r\n", b"x-trailer: " + b"x" * 1000 + b"\r\n")),
    Exhibit("interim answers without end", INVALID, interim_answers()),
    Exhibit("10,000 headers", INVALID, big_headers(bytes_each=10, count=10_000)),
    Exhibit("a header of 1 MiB", INVALID, big_headers(bytes_each=_MIB, count=1)),
    Exhibit("a body of 100 MiB", 200, raw(_OK + b"Content-Length: 104857600\r\n\r\n", *[b"x" * _MIB] * 100)),
    Exhibit(
        "a gzip bomb",
        200,
        ok(body=gzip.compress(bytes(16 * _MIB)), headers={"Content-Encoding": "gzip", "Content-Type": "application/json"}),
    ),
    # It lies about lengths
    Exhibit("a body that is shorter than it says", 200, cut_body()),
    Exhibit("a body that is longer than it says", 200, raw(_OK + b"Content-Length: 2\r\n\r\nok and more"), requests=2),
    Exhibit("a negative length", INVALID, raw(_OK + b"Content-Length: -1\r\n\r\n")),
    Exhibit("a length that is no number", INVALID, raw(_OK + b"Content-Length: many\r\n\r\n")),
    Exhibit("a length beyond all bounds", INVALID, raw(_OK + b"Content-Length: " + b"9" * 100 + b"\r\n\r\n")),
    Exhibit("two lengths", INVALID, raw(_OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx")),
    Exhibit("a length and chunks", INVALID, raw(_OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
    Exhibit("a chunk size that is no number", 200, raw(_CHUNKED + b"zz\r\nx\r\n")),
    Exhibit("a 204 with a body", 204, raw(b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody"), requests=2),
    Exhibit("two answers", 200, two_answers(), requests=2),
    # It breaks off
    Exhibit("resets as it accepts", RESET, greeting=reset()),
    Exhibit("closes as it accepts", RESET, greeting=close()),
    Exhibit("resets in the middle of the request", RESET, greeting=reset(), body_bytes=4 * _MIB),
    Exhibit("resets after the request", RESET, reset()),
    Exhibit("closes after the request", RESET, close()),
    Exhibit("resets in the middle of the head", RESET, raw(_OK + b"Content-Le", then=reset(), seconds=0.02)),
    Exhibit("closes in the middle of the head", RESET, raw(_OK + b"Content-Le")),
    Exhibit("resets in the middle of the body", 200, raw(_OK + b"Content-Length: 100\r\n\r\nhalf", then=reset(), seconds=0.02)),
    Exhibit("half-closes in place of an answer", RESET, half_close()),
    Exhibit("half-closes in the middle of the head", RESET, raw(_OK, then=half_close())),
    Exhibit("closes between two requests", 200, close_after_answer(), requests=2),
    Exhibit("resets the second request of each connection", 200, [ok(), reset(), ok()], requests=2),
    Exhibit("answers before it has read the request", 413, greeting=raw(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")),
    # It speaks something else
    Exhibit("garbage", INVALID, raw(b"\x00\xff\x15\x03" * 100)),
    Exhibit("HTTP/0.9", INVALID, raw(b"<html>hello</html>\r\n")),
    Exhibit("HTTP/1.0", 200, raw(b"HTTP/1.0 200 OK\r\n\r\nhello"), requests=2),
    Exhibit("HTTP/2", INVALID, raw(_HTTP_2_SETTINGS)),
    Exhibit("HTTP/2, as soon as it accepts", INVALID, greeting=raw(_HTTP_2_SETTINGS, then=hang())),
    Exhibit(
        "switches protocols",
        101,
        raw(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n" + _HTTP_2_SETTINGS),
    ),
    Exhibit("SSH", INVALID, greeting=raw(b"SSH-2.0-OpenSSH_9.2p1\r\n", then=hang())),
    # Its head is broken
    Exhibit("no status", INVALID, raw(b"HTTP/1.1\r\n\r\n")),
    Exhibit("a status that is no number", INVALID, raw(b"HTTP/1.1 abc OK\r\n\r\n")),
    Exhibit("a status of four digits", INVALID, raw(b"HTTP/1.1 1000 OK\r\n\r\n")),
    Exhibit("a negative status", INVALID, raw(b"HTTP/1.1 -20 OK\r\n\r\n")),
    Exhibit("status 0", INVALID, raw(b"HTTP/1.1 0 OK\r\n\r\n")),
    Exhibit("status 000", INVALID, raw(b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n")),
    Exhibit("status 99", INVALID, raw(b"HTTP/1.1 99 OK\r\nContent-Length: 0\r\n\r\n")),
    Exhibit("status 600", 600, status(600)),
    Exhibit("status 999", 999, status(999)),
    Exhibit("NUL in a header's value", INVALID, raw(_OK + b"x: a\x00b\r\nContent-Length: 0\r\n\r\n")),
    Exhibit("NUL in a header's name", INVALID, raw(_OK + b"x\x00y: a\r\nContent-Length: 0\r\n\r\n")),
    Exhibit("a header without a name", INVALID, raw(_OK + b": a\r\nContent-Length: 0\r\n\r\n")),
    Exhibit("a header without a colon", INVALID, raw(_OK + b"no colon\r\n\r\n")),
    Exhibit("bytes that are not text", 200, ok(headers={"x": "\xff\xfe"})),
    # Its TLS is broken
    Exhibit("TLS garbage", TLS, greeting=raw(_TLS_GARBAGE, then=hang()), is_https=True),
    Exhibit("closes in the handshake", RESET, greeting=close(), is_https=True),
    Exhibit("no TLS", TLS, ok(), is_https=True),
    Exhibit("an expired certificate", TLS, ok(), certificate=Certificate(is_expired=True), is_trusted=True),
    Exhibit("a certificate for another host", TLS, ok(), certificate=Certificate("other.example"), is_trusted=True),
    Exhibit("a certificate that it has signed itself", TLS, ok(), certificate=Certificate()),
    Exhibit("resets after the request, over TLS", RESET, reset(), certificate=Certificate(), is_trusted=True),
    Exhibit("an endless body over TLS", 200, endless_body(), certificate=Certificate(), is_trusted=True),
    # It sends elsewhere
    Exhibit("a redirect to itself", (302, REDIRECT), redirect("/")),
    Exhibit("a redirect to metadata", (307, REDIRECT), redirect("http://169.254.169.254/latest/meta-data/", code=307)),
    Exhibit("a redirect to a file", (301, REDIRECT), redirect("file:///etc/passwd", code=301)),
    Exhibit("a redirect to nowhere", (308, REDIRECT), status(308)),
    # It asks for pauses
    *(
        Exhibit(f"Retry-After: {value or 'nothing'}", 503, status(503, headers={"Retry-After": value}))
        for value in (
            "",
            "-1",
            "0",
            "1000000000",
            "9" * 1_000,
            "1e9",
            "soon",
            "\xff",
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "Fri, 99 Foo 99999 99:99:99 GMT",
        )
    ),
]
"""What is not here is in other tests: ports and hosts where nobody is, and names that do not resolve."""
