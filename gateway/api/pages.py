"""What the gateway serves at the root only, beside the API."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from gateway.api.boundary import expect_nothing, method_not_allowed


class PageAnswer(msgspec.Struct, frozen=True):
    """An answer that a page gives."""

    status: int
    means: str
    content_type: str = "application/json"
    view: Any = None  # the struct, where it is JSON of one
    headers: tuple[str, ...] = ()


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A page for GET and HEAD; what it says of itself stands in the API's description."""

    name: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.Response]]
    summary: str
    answers: tuple[PageAnswer, ...]
    takes_service_key: bool = False  # else it takes none

    def register(self, application: web.Application) -> None:
        """Adds the route."""
        application.router.add_route("*", self.path, self._show, expect_handler=expect_nothing)

    async def _show(self, request: web.Request) -> web.Response:
        if request.method not in {"GET", "HEAD"}:
            raise method_not_allowed(request.method, ("GET", "HEAD"))
        return await self.handler(request)
