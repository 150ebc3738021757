"""`GET /metrics`, for Prometheus. At the root only, and with a service key: it tells about everybody's traffic."""

from collections.abc import Callable

from aiohttp import web

from gateway.api.boundary import expect_nothing, method_not_allowed, respond_with
from gateway.api.pipeline import Pipeline


class MetricsPage:
    """Shows a node's metrics."""

    def __init__(self, pipeline: Pipeline, render: Callable[[], bytes], content_type: str) -> None:
        self._pipeline = pipeline
        self._render = render
        self._content_type = content_type

    def register(self, application: web.Application) -> None:
        """Adds the route."""
        application.router.add_route("*", "/metrics", self.show, expect_handler=expect_nothing)

    async def show(self, request: web.Request) -> web.Response:
        if request.method not in {"GET", "HEAD"}:
            raise method_not_allowed(request.method, ("GET", "HEAD"))
        await self._pipeline.admit_service(request)
        return respond_with(self._render(), self._content_type)
