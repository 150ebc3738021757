"""Time, as a collaborator that tests can replace. Timestamps are integers: milliseconds since the Unix epoch, UTC."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

Timestamp = int
"""Milliseconds since the Unix epoch, UTC."""

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """What the gateway asks of time."""

    def now(self) -> Timestamp:
        """Wall time: for signatures, logs and the record."""

    def steady(self) -> Timestamp:
        """The time that due times are measured in: it never jumps, and follows wall time at no more than 1 s a second."""

    def monotonic(self) -> float:
        """Seconds since some moment, at the pace of real time: for durations."""

    async def wait(self, event: asyncio.Event, until: Timestamp | None) -> None:
        """Returns when *event* is set, or when `steady()` reaches *until*, whichever comes first."""


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        self._steady = time.time()
        self._read_at = time.monotonic()

    def now(self) -> Timestamp:
        return time.time_ns() // 1_000_000

    def steady(self) -> Timestamp:
        read_at = time.monotonic()
        elapsed = read_at - self._read_at
        self._read_at = read_at
        gap = time.time() - (self._steady + elapsed)
        self._steady += elapsed + max(-elapsed, min(gap, elapsed))
        return int(self._steady * 1_000)

    def monotonic(self) -> float:
        return time.monotonic()

    async def wait(self, event: asyncio.Event, until: Timestamp | None) -> None:
        if until is None:
            await event.wait()
            return
        # A millisecond is added since `steady()` rounds down: waking before the time would only loop.
        delay = (until - self.steady() + 1) / 1_000
        if delay > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await event.wait()


def isoformat(at: Timestamp) -> str:
    """*at* as ISO 8601 in UTC with milliseconds and `Z`: `2026-03-25T14:30:00.000Z`."""
    seconds, milliseconds = divmod(at, 1_000)
    return f"{_second_text(seconds)}.{milliseconds:03d}Z"


_last_second: tuple[int, str] = (0, "1970-01-01T00:00:00")


def _second_text(seconds: int) -> str:
    """The part of the text up to the second, remembered: most timestamps of a moment share it."""
    global _last_second  # noqa: PLW0603 - a memo of one entry, on the path of every delivery
    known, text = _last_second
    if known != seconds:
        text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
        _last_second = (seconds, text)
    return text


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
    if milliseconds < 0:
        raise ValueError(text)
    return milliseconds
