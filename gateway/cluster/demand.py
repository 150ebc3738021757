"""Shares the limit of each API key with the other nodes: about once a second they tell each other what they are asked for.

No request waits for that. While the store cannot be reached each node limits by itself.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from gateway.clock import Clock
from gateway.cluster.pause import Pause, pause
from gateway.errors import StoreUnavailable
from gateway.store.protocol import Cluster

log = structlog.get_logger()

SHARE_SECONDS = 1.0


class Limiter(Protocol):
    """Who limits here. Times are of the monotonic clock, in seconds."""

    def demand(self, now: float) -> Mapping[str, float]:
        """How many requests a second came with each key of late."""

    def told(self, others: Mapping[str, Sequence[float]], now: float) -> None:
        """What the others are asked for with each key, as of *now*."""


class DemandSharing:
    """See the module."""

    def __init__(self, *, cluster: Cluster, limiter: Limiter, clock: Clock, pause: Pause = pause) -> None:
        self._cluster = cluster
        self._limiter = limiter
        self._clock = clock
        self._pause = pause
        self._is_alone = False  # the store has not answered

    async def run(self) -> None:
        """Shares, again and again."""
        never = asyncio.Event()
        while True:
            try:
                await self._share()
            except StoreUnavailable as error:
                if not self._is_alone:
                    log.warning("demand.unshared", error=str(error))
                self._is_alone = True
            except Exception:
                # Whatever it was, the limits hold on this node, and the next time may do better.
                log.exception("demand.crashed")
            await self._pause(never, SHARE_SECONDS)

    async def _share(self) -> None:
        """Tells and hears of the keys that were used here of late, if there are any."""
        now = self._clock.monotonic()
        if demand := self._limiter.demand(now):
            self._limiter.told(await self._cluster.share_demand(demand), now)
            self._is_alone = False
