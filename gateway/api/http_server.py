"""The HTTP server: aiohttp's own, round connections that have limits, with the boundary round every request."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from aiohttp import web

from gateway.api.boundary import BOUNDARY, Boundary
from gateway.api.connection import Connection
from gateway.settings import Http

HTTP = web.AppKey("http", Http)
"""Where an application keeps the settings of its server."""


class ApiRunner(web.AppRunner):
    """Runs an application of `build_application`, which gets bodies as they were sent."""

    def __init__(self, application: web.Application, **settings: Any) -> None:
        # Unpacking is for who knows the limit of the body, and whether it is wanted at all.
        super().__init__(application, auto_decompress=False, **settings)

    @property
    def api_server(self) -> "ApiServer":
        """The server, which `setup` makes."""
        assert isinstance(self.server, ApiServer)
        return self.server

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return ApiServer(made, self.app[BOUNDARY], self.app[HTTP].read_seconds)


class ApiServer(web.Server):
    """As *made*, but with the boundary round every request, and with connections of our own, which are counted."""

    def __init__(self, made: web.Server, boundary: Boundary, read_seconds: float) -> None:
        super().__init__(
            functools.partial(boundary.answer, handler=made.request_handler),
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,  # noqa: SLF001 - aiohttp has no other way to a protocol of one's own
        )
        self._boundary = boundary
        self._read_seconds = read_seconds
        self.open_connections = 0
        self.on_closed: Callable[[], None] = lambda: None

    def __call__(self) -> web.RequestHandler:
        return Connection(self, boundary=self._boundary, read_seconds=self._read_seconds, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self.open_connections += 1
        self._boundary.traffic.connections += 1
        super().connection_made(handler, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self.open_connections -= 1
        self._boundary.traffic.connections -= 1
        self.on_closed()
