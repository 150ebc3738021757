"""Time, as a collaborator that tests can replace. Timestamps are integers: milliseconds since the Unix epoch, UTC."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

Timestamp = int
"""Milliseconds since the Unix epoch, UTC."""

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

MAX_TIMESTAMP: Timestamp = 253_402_300_799_999
"""The end of the year 9999: ISO 8601 has four digits for a year."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_STEP_SECONDS = 60.0


class Clock(Protocol):
    """What the gateway asks of time."""

    def now(self) -> Timestamp:
        """Wall time: for signatures, logs and the record."""

    def steady(self) -> Timestamp:
        """The time that due times are measured in: it never jumps, and follows wall time at no more than 1 s a second. Where
        nodes share a database, its time takes the place of wall time, so that they agree."""

    def monotonic(self) -> float:
        """Seconds since some moment, at the pace of real time: for durations."""

    async def wait(self, event: asyncio.Event, until: Timestamp | None) -> None:
        """Returns when *event* is set, or when `steady()` reaches *until*, whichever comes first."""


_RESOLUTION_SECONDS = 0.0005  # `steady` is read several times for each delivery


class SharedTime:
    """The time of a machine elsewhere, which tells it now and then; in between it goes on at this machine's pace. Wall time
    until it is told for the first time. Seconds since the Unix epoch, when called."""

    def __init__(self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._ahead = wall() - monotonic()  # of the monotonic clock

    def __call__(self) -> float:
        return self._monotonic() + self._ahead

    def tell(self, at: Timestamp) -> None:
        """It is *at* there."""
        self._ahead = at / 1_000 - self._monotonic()


class SystemClock:
    """The machine's clocks, both in seconds. `steady` follows *reference*, or wall time without one."""

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        reference: Callable[[], float] | None = None,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._reference = reference or wall
        self._steady = self._reference()
        self._read_at = monotonic()

    def now(self) -> Timestamp:
        return int(self._wall() * 1_000)

    def steady(self) -> Timestamp:
        read_at = self._monotonic()
        elapsed = read_at - self._read_at
        if elapsed < _RESOLUTION_SECONDS:
            return int(self._steady * 1_000)
        self._read_at = read_at
        gap = self._reference() - (self._steady + elapsed)
        self._steady += elapsed + max(-elapsed, min(gap, elapsed))
        return int(self._steady * 1_000)

    def monotonic(self) -> float:
        return self._monotonic()

    async def wait(self, event: asyncio.Event, until: Timestamp | None) -> None:
        if until is None:
            await event.wait()
            return
        while not event.is_set() and (remaining := until - self.steady()) > 0:
            # In steps, since `steady()` may run at another pace by then. A millisecond is added since it rounds down.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min((remaining + 1) / 1_000, _LONGEST_STEP_SECONDS)):
                    await event.wait()


@functools.lru_cache(maxsize=1_024)
def isoformat(at: Timestamp) -> str:
    """*at* as ISO 8601 in UTC with milliseconds and `Z`: `2026-03-25T14:30:00.000Z`."""
    return (_EPOCH + timedelta(milliseconds=at)).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def parse_timestamp(text: str) -> Timestamp:
    """The timestamp that ISO 8601 *text* names; without an offset it is UTC.

    Raises ValueError when *text* is not a date with a time, or lies outside the years 1970 to 9999.
    """
    if "T" not in text.upper() and " " not in text:
        raise ValueError(text)
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    milliseconds = (at - _EPOCH) // timedelta(milliseconds=1)
    if not 0 <= milliseconds <= MAX_TIMESTAMP:
        raise ValueError(text)
    return milliseconds
