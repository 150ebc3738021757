"""The egress proxy: deliveries go through it, to addresses that the gateway itself has looked up and judged.

Every request has a tunnel (CONNECT), those to http:// as well: a proxy that was given `POST http://192.0.2.1/` would have to
put that address in the place of the host's name (RFC 9112, section 3.2.2), and the receiver would not know whom it is for.
"""

import asyncio
import base64
import contextlib
import os
import re
import socket
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import msgspec
from aiohttp import AddrInfoType, ClientConnectorDNSError, ClientConnectorError, ClientRequest
from aiohttp.abc import ResolveResult
from aiohttp.client_proto import ResponseHandler

from gateway.egress.addresses import AddressGuard
from gateway.egress.connector import DIALLING, NO_TIMEOUT, GuardedConnector
from gateway.egress.resolver import ForbiddenAddress, GuardedResolver, NameNotResolved

EVERYWHERE = AddressGuard(["0.0.0.0/0", "::/0"], [])
"""What the name of the proxy may lead to: its operator has named it."""

_MAX_HEAD_BYTES = 16 * 1024
_END_OF_HEAD = b"\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?\r\n")


class ProxyFailed(OSError):
    """The proxy did not connect to the endpoint; the message is a sentence about why, without anything secret."""


class Proxy(msgspec.Struct, frozen=True):
    """Where the proxy is, and what it is told to let the gateway in."""

    host: str
    port: int
    authorization: str | None = None  # the value of Proxy-Authorization

    def __repr__(self) -> str:
        return f"Proxy({self.host!r}, {self.port})"


def read_proxy(url: str) -> Proxy | None:
    """The proxy of the setting `egress.proxy`, which has been checked; None when there is none."""
    if not url:
        return None
    parts = urlsplit(url)
    authorization = None
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(credentials.encode()).decode()}"
    return Proxy(parts.hostname or "", parts.port or 0, authorization)


class ProxiedConnector(GuardedConnector):
    """Judges a target's addresses, and has *proxy* connect to them. Dials the proxy and nothing else."""

    def __init__(self, *, proxy: Proxy, proxy_resolver: GuardedResolver, **how: Any) -> None:
        super().__init__(**how)
        self._proxy = proxy
        self._proxy_resolver = proxy_resolver
        self._proxy_addresses: set[str] = set()  # the last that were found

    async def _reach(self, req: ClientRequest) -> ResponseHandler:
        addresses = await self._judged_addresses(req)
        exchange = DIALLING.get()
        exchange.awaits_proxy = True
        transport = await self._connect_one(addresses, req)
        exchange.awaits_proxy = False
        if req.is_ssl():
            _, secured = await self._start_tls_connection(transport, req, NO_TIMEOUT)
            return secured
        handler = self._factory()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        transport.resume_reading()
        return handler

    async def _judged_addresses(self, req: ClientRequest) -> list[str]:
        """Those of the target. Raises ClientConnectorDNSError when one of them is forbidden, or when it has none."""
        try:
            found = [each["host"] for each in await self._resolve_host(req.url.raw_host or "", req.port or 0)]
            # Literals pass the resolver by.
            if not all(self._guard.allows(address) for address in found):
                raise ForbiddenAddress
        except OSError as error:
            raise ClientConnectorDNSError(req.connection_key, error) from error
        return found

    async def _connect_one(self, addresses: list[str], req: ClientRequest) -> asyncio.Transport:
        """A tunnel to the first of *addresses* that the proxy connects to. Raises ProxyFailed."""
        *others, last = addresses
        for address in others:
            with contextlib.suppress(_NotConnected):
                return await self._connect(address, req)
        return await self._connect(last, req)

    async def _connect(self, address: str, req: ClientRequest) -> asyncio.Transport:
        authority = f"[{address}]:{req.port}" if ":" in address else f"{address}:{req.port}"
        head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
        if self._proxy.authorization is not None:
            head += f"Proxy-Authorization: {self._proxy.authorization}\r\n"
        transport, tunnel = await self._dial_proxy(req)
        try:
            transport.write(f"{head}\r\n".encode())
            await tunnel.opened()
        except BaseException:
            transport.abort()
            raise
        return transport

    async def _dial_proxy(self, req: ClientRequest) -> "tuple[asyncio.Transport, _Tunnel]":
        infos = self._convert_hosts_to_addr_infos(await self._find_proxy())
        self._proxy_addresses = {str(info[4][0]) for info in infos}
        try:
            transport, tunnel = await self._wrap_create_connection(
                lambda: _Tunnel(self._loop), addr_infos=infos, req=req, timeout=NO_TIMEOUT
            )
        except ClientConnectorError as error:
            number = error.os_error.errno
            why = f": {os.strerror(number).lower()}" if number is not None and number > 0 else ""
            raise ProxyFailed(f"The egress proxy cannot be reached{why}.") from error
        return transport, cast(_Tunnel, tunnel)

    async def _find_proxy(self) -> list[ResolveResult]:
        try:
            address = str(ip_address(self._proxy.host))
        except ValueError:
            try:
                return await self._proxy_resolver.resolve(self._proxy.host, self._proxy.port)
            except (NameNotResolved, ForbiddenAddress) as error:
                raise ProxyFailed(f"The egress proxy's name could not be resolved: {error}.") from error
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [ResolveResult(hostname=address, host=address, port=self._proxy.port, family=family, proto=0, flags=0)]

    def _make_socket(self, address: AddrInfoType) -> socket.socket:
        to = address[4]
        if str(to[0]) not in self._proxy_addresses or to[1] != self._proxy.port:
            raise ForbiddenAddress
        return self._open_socket(address)


class _NotConnected(ProxyFailed):
    """The proxy did not connect to this address; perhaps it does to another of the same host."""


_CLOSED = "The egress proxy closed the connection before its answer."


def _refused(status: int) -> ProxyFailed:
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return ProxyFailed(f"The egress proxy asks for another user name and password than it was given ({status}).")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _NotConnected(f"The egress proxy could not connect to the endpoint ({status}).")
    return _NotConnected(f"The egress proxy refused to connect to the endpoint ({status}).")


class _Tunnel(asyncio.Protocol):
    """A connection to the proxy until its answer has come; what follows is for another protocol."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._status: asyncio.Future[int] = loop.create_future()
        self._received = b""

    async def opened(self) -> None:
        """Returns when the proxy has connected. Raises ProxyFailed."""
        status = await self._status
        if not 200 <= status < 300:
            raise _refused(status)
        if self._transport.is_closing():
            raise ProxyFailed(_CLOSED)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end_of_head, rest = self._received.partition(_END_OF_HEAD)
        if not end_of_head and len(head) <= _MAX_HEAD_BYTES:
            return
        self._transport.pause_reading()  # until the next protocol is there
        answer = _STATUS.match(head + b"\r\n")
        if self._status.done():
            return
        # The endpoint says nothing before it is spoken to, so that more than a head is a body, or a trick.
        if answer is None or not end_of_head or (rest and answer[1].startswith(b"2")):
            self._status.set_exception(ProxyFailed("The egress proxy's answer is not HTTP."))
        else:
            self._status.set_result(int(answer[1]))

    def connection_lost(self, _: Exception | None) -> None:
        if not self._status.done():
            self._status.set_exception(ProxyFailed(_CLOSED))
