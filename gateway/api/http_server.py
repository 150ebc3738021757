"""The HTTP server: aiohttp's own, round connections that have limits, with the boundary round every request."""

import functools
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

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made, self.app[BOUNDARY], self.app[HTTP].read_seconds)


class _Server(web.Server):
    """As *made*, but with the boundary round every request, and with connections of our own."""

    def __init__(self, made: web.Server, boundary: Boundary, read_seconds: float) -> None:
        super().__init__(
            functools.partial(boundary.answer, handler=made.request_handler),
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **made._kwargs,  # noqa: SLF001 - aiohttp has no other way to a protocol of one's own
        )
        self._boundary = boundary
        self._read_seconds = read_seconds

    def __call__(self) -> web.RequestHandler:
        return Connection(self, boundary=self._boundary, read_seconds=self._read_seconds, loop=self._loop, **self._kwargs)
