"""Waiting at the pace of real time.

Leases are measured on the monotonic clock. `Clock.wait` follows `steady()`, which may stand still while it closes a gap to
the database's time: a renewal that waited for it could come too late.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

Pause = Callable[[asyncio.Event, float], Awaitable[None]]
"""Returns when the event is set, or after so many seconds."""


async def pause(event: asyncio.Event, seconds: float) -> None:
    """See `Pause`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
