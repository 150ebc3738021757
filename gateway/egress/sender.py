"""Sends one signed body to one URL, and says in one struct what came of it. aiohttp's errors end here."""

import asyncio
import functools
import os
import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec
import structlog
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from gateway.egress.addresses import AddressGuard
from gateway.egress.connector import (
    CONNECTION_SECONDS,
    MAX_HEAD_BYTES,
    MAX_INTERIM_ANSWERS,
    MOST_CONNECTIONS,
    Exchange,
    ForbiddenPort,
    GuardedConnector,
    HeadTooLong,
    tls_context,
)
from gateway.egress.exchange import Head, Target, exchange, render
from gateway.egress.proxy import EVERYWHERE, ProxiedConnector, ProxyFailed, read_proxy
from gateway.egress.resolver import ORGANIZATION, ForbiddenAddress, GuardedResolver
from gateway.model import AttemptError
from gateway.settings import Egress
from gateway.version import VERSION

USER_AGENT = f"webhook-gateway/{VERSION}"
_MAX_TARGETS = 4096

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


class _UnusableUrl(Exception):
    """The URL is not one that can be sent to."""


class Sender:
    """Sends requests, each within *timeout_seconds* for everything: name, connection, TLS and answer.

    Use as an async context manager. It keeps at most *most_connections* connections, as long as no more requests are under way,
    and uses none of them for longer than *connection_seconds*. *tls* and *make_resolver* are for tests: a certificate that only
    they trust, and names that only they know.
    """

    def __init__(
        self,
        egress: Egress,
        *,
        timeout_seconds: float,
        user_agent: str = USER_AGENT,
        most_connections: int = MOST_CONNECTIONS,
        connection_seconds: float = CONNECTION_SECONDS,
        tls: ssl.SSLContext | None = None,
        make_resolver: Callable[[AddressGuard], GuardedResolver] | None = None,
    ) -> None:
        """Raises SettingsError when `egress.ca_file` is of no use."""
        self._guard = AddressGuard(egress.allow, egress.deny, ports=egress.allowed_ports)
        self._proxy = read_proxy(egress.proxy)
        self._timeout_seconds = timeout_seconds
        self._user_agent = user_agent
        self._most_connections = most_connections
        self._connection_seconds = connection_seconds
        self._tls = tls or tls_context(egress.ca_file)
        self._make_resolver = make_resolver or functools.partial(GuardedResolver, nameservers=egress.nameservers or None)
        self._make_proxy_resolver = (
            make_resolver or GuardedResolver
        )  # the proxy is the operator's own, and so are the system's names
        self._schemes = ("https",) if egress.require_https else ("http", "https")
        self._target = functools.lru_cache(_MAX_TARGETS)(self._make_target)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._resolver = self._make_resolver(self._guard)
        self._proxy_resolver = None if self._proxy is None else self._make_proxy_resolver(EVERYWHERE)
        self._pooled = self._make_connector(keeps_alive=True)
        self._fresh = self._make_connector(keeps_alive=False)
        return self

    def _make_connector(self, *, keeps_alive: bool) -> GuardedConnector:
        how: dict[str, Any] = {
            "guard": self._guard,
            "resolver": self._resolver,
            "tls": self._tls,
            "keeps_alive": keeps_alive,
            "connection_seconds": self._connection_seconds,
            "most_connections": self._most_connections,
        }
        if self._proxy is None or self._proxy_resolver is None:
            return GuardedConnector(**how)
        return ProxiedConnector(proxy=self._proxy, proxy_resolver=self._proxy_resolver, **how)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes every connection; requests under way fail."""
        await self._pooled.close()
        await self._fresh.close()
        await self._resolver.close()
        if self._proxy_resolver is not None:
            await self._proxy_resolver.close()

    def _make_target(self, text: str) -> Target:
        try:
            url = URL(text)
        except ValueError as error:
            raise _UnusableUrl(f"The URL cannot be used: {error}.") from error
        if url.scheme not in self._schemes:
            raise _UnusableUrl(f"The URL must begin with {' or '.join(scheme + '://' for scheme in self._schemes)}.")
        host = url.raw_host or ""
        if not host or host.startswith(".") or ".." in host:
            raise _UnusableUrl("The URL has no host that could be looked up.")
        return Target(url, user_agent=self._user_agent)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes, *, organization_id: str) -> Answer:
        """POSTs *body* to *url*. Whatever goes wrong is in the answer: nothing is raised but CancelledError."""
        state = Exchange()
        ORGANIZATION.set(organization_id)
        deadline = self._loop.time() + self._timeout_seconds
        resent = False
        try:
            target = self._target(url)
            request = render(target, headers, body)
            try:
                head = await exchange(self._pooled, target, request, state=state, deadline=deadline)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError):
                if not state.reused or state.answered:
                    raise
                # The receiver closed an idle connection just as it was used again: that is not the endpoint's failure.
                resent = True
                request = render(target, {**headers, "Connection": "close"}, body)
                head = await exchange(self._fresh, target, request, state=state, deadline=deadline)
            return judge(head, resent=resent)
        except Exception as error:
            # The boundary: what has no name in `explain` is a fault of the gateway itself.
            reason, message = explain(error, state, timeout_seconds=self._timeout_seconds)
            if reason is AttemptError.CRASHED:
                log.exception("exchange.crashed")
            return failure(reason, message, resent=resent)


def failure(error: AttemptError, message: str, *, resent: bool = False) -> Answer:
    """The answer that never came."""
    return Answer(status=None, error=error, error_message=message, headers=None, body=None, retry_after=None, resent=resent)


def judge(head: Head, *, resent: bool) -> Answer:
    """The answer whose head came. Pure."""
    status = head.status
    retry_after = head.headers.get("Retry-After")
    is_redirect = 300 <= status < 400
    return Answer(
        status=status,
        error=AttemptError.REDIRECT if is_redirect else None,
        error_message=f"The endpoint answered with a redirect ({status}); redirects are not followed." if is_redirect else None,
        headers=[(name, _text(value)) for name, value in head.headers.items()],
        body=head.body,
        retry_after=None if retry_after is None else _text(retry_after),
        resent=resent,
    )


def _text(value: str) -> str:
    """*value* without the surrogates that aiohttp has in the place of bytes that are not UTF-8."""
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def explain(  # noqa: C901, PLR0911 - a table of cases, as flat as can be
    error: Exception, state: Exchange, *, timeout_seconds: float
) -> tuple[AttemptError, str]:
    """What *error* means for the attempt, and a sentence about it. *state* is how far it had come."""
    match error:
        case TimeoutError():
            what = "The egress proxy did not connect to the endpoint" if state.awaits_proxy else "The endpoint did not answer"
            return AttemptError.TIMEOUT, f"{what} within {timeout_seconds:g} s."
        case ProxyFailed():
            return AttemptError.PROXY_FAILED, str(error)
        case _UnusableUrl():
            return AttemptError.CONNECTION_FAILED, str(error)
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return AttemptError.CONNECTION_FAILED, "The URL's host is not spelled in a way that can be connected to."
        case aiohttp.ClientConnectorCertificateError():
            return AttemptError.TLS_FAILED, f"The endpoint's certificate does not hold: {_certificate_fault(error)}."
        case aiohttp.ClientConnectorError():
            return _explain_unconnected(error)
        case HttpProcessingError(__cause__=HeadTooLong()) | HeadTooLong():
            return (
                AttemptError.INVALID_RESPONSE,
                f"The endpoint sent more than {MAX_HEAD_BYTES // 1024} KiB of headers, or {MAX_INTERIM_ANSWERS} interim answers.",
            )
        case HttpProcessingError() | aiohttp.ClientPayloadError():
            return AttemptError.INVALID_RESPONSE, "The answer is not HTTP, or its headers are over the limits."
        case aiohttp.ClientOSError(__cause__=ssl.SSLError() as fault):
            return AttemptError.TLS_FAILED, f"TLS failed: {_tls_fault(fault)}."
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | aiohttp.ClientConnectionResetError():
            how = "in the middle of" if state.answered else "before"
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
        case ForbiddenPort():
            return AttemptError.ADDRESS_FORBIDDEN, "The URL's port is not one that the gateway may reach."
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
