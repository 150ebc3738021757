"""What the sender makes of each answer and each of aiohttp's errors, as a table. The wire is in integration/test_sender.py."""

import errno
import os
import ssl
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from aioresponses import aioresponses
from structlog.testing import capture_logs
from yarl import URL

from gateway.egress.connector import HeadTooLong
from gateway.egress.resolver import ForbiddenAddress, NameNotResolved
from gateway.egress.sender import Answer, Sender
from gateway.model import AttemptError
from gateway.settings import Egress

ENDPOINT = "https://endpoint.example/hook"
KEY = ConnectionKey("endpoint.example", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)


class _Response(aiohttp.ClientResponse):
    # aioresponses 0.7.9 does not know of the argument that aiohttp 3.14 asks for.
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, stream_writer=Mock(output_size=0), **kwargs)


async def send(**outcome: Any) -> Answer:
    """The answer when aiohttp comes to *outcome*."""
    async with Sender(Egress(), timeout_seconds=10) as sender:
        with aioresponses() as exchanges:
            exchanges.post(ENDPOINT, response_class=_Response, **outcome)
            return await sender.send(ENDPOINT, {}, b"{}", organization_id="org")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        *((code, None) for code in (200, 202, 204, 226, 400, 404, 408, 410, 418, 429, 499, 500, 502, 503, 504)),
        *((code, AttemptError.REDIRECT) for code in (300, 301, 302, 303, 304, 305, 307, 308, 399)),
    ],
)
async def test_statuses(code: int, error: AttemptError | None):
    answer = await send(status=code, body=b"why", headers={"Retry-After": "7"})
    assert answer.status == code
    assert answer.error is error
    assert (answer.error_message is None) is (error is None)
    assert answer.body == b"why"
    assert answer.retry_after == "7"
    assert answer.headers == [("Content-Type", "application/json"), ("Retry-After", "7")]
    assert answer.resent is False


@pytest.mark.parametrize("retry_after", ["120", "Wed, 21 Oct 2026 07:28:00 GMT", "soon", ""])
async def test_retry_after_is_handed_on_as_it_came(retry_after: str):
    assert (await send(status=503, headers={"Retry-After": retry_after})).retry_after == retry_after


def unconnected(error: OSError) -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(KEY, error)


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def response_error() -> aiohttp.ClientResponseError:
    return aiohttp.ClientResponseError(Mock(real_url=URL(ENDPOINT)), (), status=400, message="Invalid\n  ^")


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
            response_error(),
            AttemptError.INVALID_RESPONSE,
            "The answer is not HTTP, or its headers are over the limits.",
        ),
        (
            caused(response_error(), HeadTooLong(message="")),
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
async def test_errors_that_are_to_be_expected(error: Exception, reason: AttemptError, sentence: str):
    """Each has a name and a sentence, which gives away no address and is no log entry."""
    with capture_logs() as logs:
        answer = await send(exception=error)
    assert answer == Answer(
        status=None, error=reason, error_message=sentence, headers=None, body=None, retry_after=None, resent=False
    )
    assert not logs


@pytest.mark.parametrize("error", [RuntimeError("whsec_secret"), ValueError(), KeyError("x"), AssertionError()])
async def test_a_fault_of_the_gateway_itself_is_logged(error: Exception):
    with capture_logs() as logs:
        answer = await send(exception=error)
    assert answer.error is AttemptError.CRASHED
    assert answer.error_message == "The gateway failed to make this attempt; its log says more."
    assert [entry["event"] for entry in logs] == ["attempt.crashed"]
