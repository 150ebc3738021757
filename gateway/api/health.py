"""Whether the gateway lives, and whether it takes work. At the root only, and without a key."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from gateway.api.boundary import respond
from gateway.api.dialects import Answer
from gateway.api.pages import Page, PageAnswer


class LivenessView(msgspec.Struct, frozen=True):
    """That it lives."""

    status: Literal["ok"] = "ok"


class ReadinessView(msgspec.Struct, frozen=True):
    """Whether it takes work."""

    status: Literal["ok", "unavailable"]
    reason: Annotated[str, Meta(description="why it does not")] | UnsetType = UNSET
    node: Annotated[dict[str, Any], Meta(description="this node among those that share the store")] | UnsetType = UNSET


_ALIVE = Answer(200, msgspec.json.encode(LivenessView()))


class Health:
    """Answers those who watch over the process."""

    def __init__(self, readiness: Callable[[], str | None], standing: Callable[[], dict[str, object] | None]) -> None:
        self._readiness = readiness
        self._standing = standing

    def pages(self) -> list[Page]:
        """What can be asked."""
        return [
            Page(
                name="get_liveness",
                path="/health/live",
                handler=self.live,
                summary="Ask whether the process lives",
                answers=(PageAnswer(200, "It does.", view=LivenessView),),
            ),
            Page(
                name="get_readiness",
                path="/health/ready",
                handler=self.ready,
                summary="Ask whether the gateway takes work",
                answers=(
                    PageAnswer(200, "It does.", view=ReadinessView),
                    PageAnswer(503, "It does not, and says why.", view=ReadinessView),
                ),
            ),
        ]

    async def live(self, _request: web.Request) -> web.Response:
        return respond(_ALIVE)

    async def ready(self, _request: web.Request) -> web.Response:
        reason = self._readiness()
        status = ReadinessView(
            status="ok" if reason is None else "unavailable",
            reason=UNSET if reason is None else reason,
            node=UNSET if (standing := self._standing()) is None else standing,
        )
        return respond(Answer(200 if reason is None else 503, msgspec.json.encode(status)))
