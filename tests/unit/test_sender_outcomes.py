"""What the sender makes of each answer and each of aiohttp's errors, as a table. The wire is in integration/test_sender.py."""

import errno
import os
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http_exceptions import BadHttpMessage
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.egress.connector import Exchange, ForbiddenPort, HeadTooLong
from gateway.egress.exchange import Head
from gateway.egress.proxy import ProxyFailed
from gateway.egress.resolver import ForbiddenAddress, NameNotResolved
from gateway.egress.sender import explain, judge
from gateway.model import AttemptError

KEY = ConnectionKey("endpoint.example", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)


def head(status: int, **headers: str) -> Head:
    return Head(status, CIMultiDictProxy(CIMultiDict(headers)), b"why")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        *((code, None) for code in (200, 202, 204, 226, 400, 404, 408, 410, 418, 429, 499, 500, 502, 503, 504)),
        *((code, AttemptError.REDIRECT) for code in (300, 301, 302, 303, 304, 305, 307, 308, 399)),
    ],
)
def test_statuses(code: int, error: AttemptError | None):
    """A plain status is no error; a redirect is one, since it is not followed. What came along is kept."""
    answer = judge(head(code, **{"Content-Type": "text/plain", "Retry-After": "7"}), resent=False)
    assert answer.status == code
    assert answer.error is error
    assert (answer.error_message is None) is (error is None)
    assert answer.body == b"why"
    assert answer.retry_after == "7"
    assert answer.headers == [("Content-Type", "text/plain"), ("Retry-After", "7")]
    assert answer.resent is False


@pytest.mark.parametrize("retry_after", ["120", "Wed, 21 Oct 2026 07:28:00 GMT", "soon", ""])
def test_retry_after_is_handed_on_as_it_came(retry_after: str):
    """Whoever decides reads it; the sender does not."""
    assert judge(head(503, **{"Retry-After": retry_after}), resent=False).retry_after == retry_after


def unconnected(error: OSError) -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(KEY, error)


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def not_http() -> BadHttpMessage:
    return BadHttpMessage("Invalid\n  ^")


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:1006)")
    error.reason = reason
    return error


def certificate_error(message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = message
    return error


@pytest.mark.parametrize(
    ("error", "reason", "sentence"),
    [
        (TimeoutError(), AttemptError.TIMEOUT, "The endpoint did not answer within 10 s."),
        (aiohttp.ConnectionTimeoutError("10.0.0.1"), AttemptError.TIMEOUT, "The endpoint did not answer within 10 s."),
        (aiohttp.SocketTimeoutError(), AttemptError.TIMEOUT, "The endpoint did not answer within 10 s."),
        (
            aiohttp.ClientConnectorDNSError(KEY, NameNotResolved("Domain name not found")),
            AttemptError.DNS_FAILED,
            "The host's name could not be resolved: Domain name not found.",
        ),
        (
            aiohttp.ClientConnectorDNSError(KEY, ForbiddenAddress()),
            AttemptError.ADDRESS_FORBIDDEN,
            "The host's address is not one that the gateway may reach.",
        ),
        (
            unconnected(ForbiddenAddress()),
            AttemptError.ADDRESS_FORBIDDEN,
            "The host's address is not one that the gateway may reach.",
        ),
        (
            unconnected(ForbiddenPort()),
            AttemptError.ADDRESS_FORBIDDEN,
            "The URL's port is not one that the gateway may reach.",
        ),
        (
            ProxyFailed("The egress proxy could not connect to the endpoint (502)."),
            AttemptError.PROXY_FAILED,
            "The egress proxy could not connect to the endpoint (502).",
        ),
        (
            unconnected(OSError(errno.ECONNREFUSED, "Connect call failed ('10.0.0.1', 443)")),
            AttemptError.CONNECTION_REFUSED,
            "The endpoint refused the connection.",
        ),
        (
            unconnected(OSError(errno.ECONNREFUSED, "Multiple exceptions: …")),
            AttemptError.CONNECTION_REFUSED,
            "The endpoint refused the connection.",
        ),
        (
            unconnected(OSError(errno.ENETUNREACH, "('2606:4700::1', 443)")),
            AttemptError.CONNECTION_FAILED,
            f"The connection failed: {os.strerror(errno.ENETUNREACH).lower()}.",
        ),
        (
            unconnected(OSError(errno.EHOSTUNREACH, "")),
            AttemptError.CONNECTION_FAILED,
            f"The connection failed: {os.strerror(errno.EHOSTUNREACH).lower()}.",
        ),
        (unconnected(OSError("Multiple exceptions: 10.0.0.1")), AttemptError.CONNECTION_FAILED, "The connection failed."),
        (
            unconnected(ConnectionResetError()),
            AttemptError.CONNECTION_RESET,
            "The endpoint closed the connection before it was established.",
        ),
        (
            aiohttp.ClientConnectorSSLError(KEY, tls_error("WRONG_VERSION_NUMBER")),
            AttemptError.TLS_FAILED,
            "TLS failed: wrong version number.",
        ),
        (
            aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError()),
            AttemptError.TLS_FAILED,
            "TLS failed: the endpoint did not complete the handshake.",
        ),
        (
            aiohttp.ClientConnectorCertificateError(KEY, certificate_error("certificate has expired")),
            AttemptError.TLS_FAILED,
            "The endpoint's certificate does not hold: certificate has expired.",
        ),
        (
            caused(aiohttp.ClientOSError(1, ""), tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED")),
            AttemptError.TLS_FAILED,
            "TLS failed: tlsv13 alert certificate required.",
        ),
        (
            aiohttp.ServerDisconnectedError(),
            AttemptError.CONNECTION_RESET,
            "The endpoint closed the connection before its answer.",
        ),
        (
            aiohttp.ClientOSError(errno.ECONNRESET, "Connection reset by peer"),
            AttemptError.CONNECTION_RESET,
            "The endpoint closed the connection before its answer.",
        ),
        (
            aiohttp.ClientConnectionResetError("Cannot write to closing transport"),
            AttemptError.CONNECTION_RESET,
            "The endpoint closed the connection before its answer.",
        ),
        (
            not_http(),
            AttemptError.INVALID_RESPONSE,
            "The answer is not HTTP, or its headers are over the limits.",
        ),
        (
            caused(not_http(), HeadTooLong(message="")),
            AttemptError.INVALID_RESPONSE,
            "The endpoint sent more than 32 KiB of headers, or 16 interim answers.",
        ),
        (
            aiohttp.ClientPayloadError("x"),
            AttemptError.INVALID_RESPONSE,
            "The answer is not HTTP, or its headers are over the limits.",
        ),
        (
            aiohttp.InvalidUrlClientError("127.1", "is not a canonical IPv4 address"),
            AttemptError.CONNECTION_FAILED,
            "The URL's host is not spelled in a way that can be connected to.",
        ),
        (aiohttp.ClientConnectionError("Connector is closed"), AttemptError.CONNECTION_FAILED, "The connection failed."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_that_are_to_be_expected(error: Exception, reason: AttemptError, sentence: str):
    """Each has a name and a sentence, which gives away no address."""
    assert explain(error, Exchange(), timeout_seconds=10) == (reason, sentence)


def test_a_connection_closed_after_a_part_of_the_answer_is_told_apart():
    """Whether anything had arrived says where to look."""
    state = Exchange()
    state.answered = True
    _, sentence = explain(aiohttp.ServerDisconnectedError(), state, timeout_seconds=10)
    assert sentence == "The endpoint closed the connection in the middle of its answer."


def test_a_timeout_while_the_proxy_connects_is_told_apart():
    """It may be the proxy that is slow, and not the endpoint."""
    state = Exchange()
    state.awaits_proxy = True
    sentence = "The egress proxy did not connect to the endpoint within 10 s."
    assert explain(TimeoutError(), state, timeout_seconds=10) == (AttemptError.TIMEOUT, sentence)


@pytest.mark.parametrize("error", [RuntimeError("whsec_secret"), ValueError(), KeyError("x"), AssertionError()])
def test_anything_else_is_a_fault_of_the_gateway_itself(error: Exception):
    """Its sentence tells nothing of what went wrong inside."""
    assert explain(error, Exchange(), timeout_seconds=10) == (
        AttemptError.CRASHED,
        "The gateway failed to make this attempt; its log says more.",
    )
