"""An even pace: publications at fixed times, however long each of them takes, so that a slow answer is not followed by a lull."""

import asyncio
import time
from collections.abc import Awaitable, Callable


class Pace:
    """Turns, as many a second as are wanted. When everybody is busy they fall behind, and are caught up with at once."""

    def __init__(
        self,
        per_second: float,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._interval = 1 / per_second
        self._now = now
        self._sleep = sleep
        self._next_at = now()

    async def turn(self) -> None:
        """Returns when the next turn, which is the caller's, has come."""
        at = self._next_at
        self._next_at += self._interval
        wait = at - self._now()
        if wait > 0:
            await self._sleep(wait)
