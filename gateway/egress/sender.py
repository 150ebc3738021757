"""Sends one signed body to one URL, and says in one struct what came of it. aiohttp's errors end here."""

import asyncio
import functools
import math
import os
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp
import msgspec
import structlog
from yarl import URL

from gateway.egress.addresses import AddressGuard
from gateway.egress.connector import (
    EXCHANGE,
    MAX_HEAD_BYTES,
    MAX_INTERIM_ANSWERS,
    Exchange,
    GuardedConnector,
    HeadTooLong,
    tls_context,
)
from gateway.egress.resolver import ORGANIZATION, ForbiddenAddress, GuardedResolver
from gateway.model import AttemptError
from gateway.settings import Egress
from gateway.version import VERSION

USER_AGENT = f"webhook-gateway/{VERSION}"
KEPT_BODY_BYTES = 16 * 1024
_READ_BUFFER_BYTES = 16 * 1024
_MAX_LINE_BYTES = 8190
_MAX_HEADERS = 100
_MAX_URLS = 4096

log = structlog.get_logger()


class Answer(msgspec.Struct, frozen=True):
    """What came of one request."""

    status: int | None
    error: AttemptError | None  # None for a plain status, 2xx or not; REDIRECT for 3xx, whose status is kept too
    error_message: str | None  # a sentence for people: no secret, and no address that the caller did not give
    headers: list[tuple[str, str]] | None
    body: bytes | None  # its first 16 KiB, or what of them arrived
    retry_after: str | None  # as the header has it
    resent: bool  # a stale keep-alive connection made it be sent again on a fresh one


class _Request(aiohttp.ClientRequest):
    # Nothing is sent that the caller did not ask for. Cheaper than `skip_auto_headers`, which copies all headers each time.
    DEFAULT_HEADERS = {}  # noqa: RUF012 - as aiohttp declares it


class _UnusableUrl(Exception):
    """The URL is not one that can be sent to."""


class Sender:
    """Sends requests, each within *timeout_seconds* for everything: name, connection, TLS and answer.

    Use as an async context manager. *tls* is for tests that trust a certificate of their own.
    """

    def __init__(
        self, egress: Egress, *, timeout_seconds: float, user_agent: str = USER_AGENT, tls: ssl.SSLContext | None = None
    ) -> None:
        self._guard = AddressGuard(egress.allow, egress.deny)
        self._timeout_seconds = timeout_seconds
        self._user_agent = user_agent
        self._tls = tls
        schemes = ("https",) if egress.require_https else ("http", "https")
        self._target = functools.lru_cache(_MAX_URLS)(functools.partial(_target, schemes=schemes))

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._resolver = GuardedResolver(self._guard)
        tls = self._tls or tls_context()
        self._pooled = self._session(GuardedConnector(guard=self._guard, resolver=self._resolver, tls=tls))
        self._fresh = self._session(GuardedConnector(guard=self._guard, resolver=self._resolver, tls=tls, keeps_alive=False))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes every connection; requests under way fail."""
        await self._pooled.close()
        await self._fresh.close()
        await self._resolver.close()

    def _session(self, connector: GuardedConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            request_class=_Request,
            headers={"User-Agent": self._user_agent},
            timeout=self._timeout(self._timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_READ_BUFFER_BYTES,
            max_line_size=_MAX_LINE_BYTES,
            max_field_size=_MAX_LINE_BYTES,
            max_headers=_MAX_HEADERS,
        )

    def _timeout(self, seconds: float) -> aiohttp.ClientTimeout:
        # Without the threshold, timeouts of 5 s and more would be rounded up to a whole second of the loop's clock.
        return aiohttp.ClientTimeout(total=seconds, ceil_threshold=math.inf)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes, *, organization_id: str) -> Answer:
        """POSTs *body* to *url*. Whatever goes wrong is in the answer: nothing is raised but CancelledError."""
        exchange = Exchange()
        EXCHANGE.set(exchange)
        ORGANIZATION.set(organization_id)
        deadline = self._loop.time() + self._timeout_seconds
        resent = False
        try:
            target = self._target(url)
            try:
                response = await self._pooled.post(target, data=body, headers=headers, allow_redirects=False)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError):
                if not exchange.reused or exchange.answered:
                    raise
                # The receiver closed an idle connection just as it was used again: that is not the endpoint's failure.
                resent = True
                left = self._timeout(max(deadline - self._loop.time(), 0.001))
                response = await self._fresh.post(target, data=body, headers=headers, allow_redirects=False, timeout=left)
            return await _read(response, resent=resent)
        except Exception as error:
            # The boundary: what has no name in `explain` is a fault of the gateway itself.
            reason, message = explain(error, answered=exchange.answered, timeout_seconds=self._timeout_seconds)
            if reason is AttemptError.CRASHED:
                log.exception("attempt.crashed")
            return Answer(
                status=None, error=reason, error_message=message, headers=None, body=None, retry_after=None, resent=resent
            )


def _target(url: str, *, schemes: tuple[str, ...]) -> URL:
    try:
        target = URL(url)
    except ValueError as error:
        raise _UnusableUrl(f"The URL cannot be used: {error}.") from error
    if target.scheme not in schemes:
        raise _UnusableUrl(f"The URL must begin with {' or '.join(scheme + '://' for scheme in schemes)}.")
    host = target.raw_host or ""
    if not host or host.startswith(".") or ".." in host:
        raise _UnusableUrl("The URL has no host that could be looked up.")
    return target


async def _read(response: aiohttp.ClientResponse, *, resent: bool) -> Answer:
    status = response.status
    headers = [(name, _text(value)) for name, value in response.headers.items()]
    retry_after = response.headers.get("Retry-After")
    is_redirect = 300 <= status < 400
    return Answer(
        status=status,
        error=AttemptError.REDIRECT if is_redirect else None,
        error_message=f"The endpoint answered with a redirect ({status}); redirects are not followed." if is_redirect else None,
        headers=headers,
        body=await _read_body(response),
        retry_after=None if retry_after is None else _text(retry_after),
        resent=resent,
    )


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """The first bytes of the body. Status and headers have decided by now, so whatever becomes of it is no error."""
    content = response.content
    body = b""
    is_complete = False
    try:
        body = await content.readany()
        while not content.at_eof() and len(body) < KEPT_BODY_BYTES:
            body += await content.readany()
        is_complete = content.at_eof()
    except (aiohttp.ClientError, OSError):  # of which TimeoutError is one
        pass
    finally:
        # At its end the connection has gone back to the pool by itself; anything else would have to be read up to there.
        if not is_complete or response.status == HTTPStatus.SWITCHING_PROTOCOLS:
            response.close()
    return body[:KEPT_BODY_BYTES]


def _text(value: str) -> str:
    """*value* without the surrogates that aiohttp has in the place of bytes that are not UTF-8."""
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def explain(  # noqa: C901, PLR0911 - a table of cases, as flat as can be
    error: Exception, *, answered: bool, timeout_seconds: float
) -> tuple[AttemptError, str]:
    """What *error* means for the attempt, and a sentence about it. *answered* says whether a part of an answer had arrived."""
    match error:
        case TimeoutError():
            return AttemptError.TIMEOUT, f"The endpoint did not answer within {timeout_seconds:g} s."
        case _UnusableUrl():
            return AttemptError.CONNECTION_FAILED, str(error)
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return AttemptError.CONNECTION_FAILED, "The URL's host is not spelled in a way that can be connected to."
        case aiohttp.ClientConnectorCertificateError():
            return AttemptError.TLS_FAILED, f"The endpoint's certificate does not hold: {_certificate_fault(error)}."
        case aiohttp.ClientConnectorError():
            return _explain_unconnected(error)
        case aiohttp.ClientResponseError(__cause__=HeadTooLong()):
            return (
                AttemptError.INVALID_RESPONSE,
                f"The endpoint sent more than {MAX_HEAD_BYTES // 1024} KiB of headers, or {MAX_INTERIM_ANSWERS} interim answers.",
            )
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return AttemptError.INVALID_RESPONSE, "The answer is not HTTP, or its headers are over the limits."
        case aiohttp.ClientOSError(__cause__=ssl.SSLError() as fault):
            return AttemptError.TLS_FAILED, f"TLS failed: {_tls_fault(fault)}."
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | aiohttp.ClientConnectionResetError():
            how = "in the middle of" if answered else "before"
            return AttemptError.CONNECTION_RESET, f"The endpoint closed the connection {how} its answer."
        case aiohttp.ClientConnectionError() | OSError():
            return AttemptError.CONNECTION_FAILED, "The connection failed."
        case _:
            return AttemptError.CRASHED, "The gateway failed to make this attempt; its log says more."


def _explain_unconnected(  # noqa: PLR0911 - as above
    error: aiohttp.ClientConnectorError,
) -> tuple[AttemptError, str]:
    match error.os_error:
        case ForbiddenAddress():
            return AttemptError.ADDRESS_FORBIDDEN, "The host's address is not one that the gateway may reach."
        case OSError() as cause if isinstance(error, aiohttp.ClientConnectorDNSError):
            return AttemptError.DNS_FAILED, f"The host's name could not be resolved: {cause}."
        case ssl.SSLError() as cause:
            return AttemptError.TLS_FAILED, f"TLS failed: {_tls_fault(cause)}."
        case ConnectionRefusedError():
            return AttemptError.CONNECTION_REFUSED, "The endpoint refused the connection."
        case ConnectionResetError() | BrokenPipeError():
            return AttemptError.CONNECTION_RESET, "The endpoint closed the connection before it was established."
        case OSError(errno=int() as number) if number > 0:
            return AttemptError.CONNECTION_FAILED, f"The connection failed: {os.strerror(number).lower()}."
    return AttemptError.CONNECTION_FAILED, "The connection failed."


def _certificate_fault(error: aiohttp.ClientConnectorCertificateError) -> str:
    fault = error.certificate_error
    return fault.verify_message.rstrip(".") if isinstance(fault, ssl.SSLCertVerificationError) else "it was not accepted"


def _tls_fault(error: ssl.SSLError) -> str:
    # OpenSSL's errors have a reason; those that Python makes itself may lack even the attribute.
    reason: str | None = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if reason else "the endpoint did not complete the handshake"
