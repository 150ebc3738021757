"""`GET /metrics`, for Prometheus. At the root only, and with a service key: it tells about everybody's traffic."""

from collections.abc import Callable

from aiohttp import web

from gateway.api.boundary import respond_with
from gateway.api.pages import Page, PageAnswer
from gateway.api.pipeline import Pipeline


class MetricsPage:
    """Shows a node's metrics."""

    def __init__(self, pipeline: Pipeline, render: Callable[[], bytes], content_type: str) -> None:
        self._pipeline = pipeline
        self._render = render
        self._content_type = content_type

    def page(self) -> Page:
        """What can be asked."""
        return Page(
            name="get_metrics",
            path="/metrics",
            handler=self.show,
            summary="Get the node's metrics, for Prometheus",
            answers=(PageAnswer(200, "In Prometheus's text format.", content_type=self._content_type),),
            takes_service_key=True,
        )

    async def show(self, request: web.Request) -> web.Response:
        await self._pipeline.admit_service(request)
        return respond_with(self._render(), self._content_type)
