"""The closed window: publishers go on only while few deliveries are on their way, so that latency is not mere queueing."""

import asyncio
from collections.abc import Callable

_LOOK_SECONDS = 0.002


class Window:
    """At most *size* publications on their way at once; each is over when *deliveries_each* more have arrived."""

    def __init__(self, size: int, *, deliveries_each: int, arrived: Callable[[], int]) -> None:
        self._room = asyncio.Semaphore(size)
        self._deliveries_each = deliveries_each
        self._arrived = arrived
        self._arrived_before = arrived()
        self._released = 0

    async def admit(self) -> None:
        """Returns when one more may be published."""
        await self._room.acquire()

    def look(self) -> None:
        """Makes room for as many as have arrived."""
        over = (self._arrived() - self._arrived_before) // self._deliveries_each
        for _ in range(over - self._released):
            self._room.release()
        self._released = over

    def open(self, publishers: int) -> None:
        """Lets that many go on whatever has arrived, so that they see that it is over."""
        for _ in range(publishers):
            self._room.release()

    async def follow(self) -> None:
        """Looks, again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.look()
