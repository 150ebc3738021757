"""When the next attempt is made. Pure: time and chance come in as arguments."""

from collections.abc import Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from random import Random

import msgspec

from gateway.clock import SECOND, Timestamp

_MAX_DIGITS = 12


class RetrySchedule(msgspec.Struct, frozen=True):
    """Delays between attempts, from the end of one to the start of the next."""

    delays: Sequence[float]  # seconds; one attempt more than there are delays
    jitter: float  # each delay is made longer or shorter by up to this share
    max_retry_after: float  # seconds that Retry-After may add to the schedule

    def next_attempt_at(
        self, attempt: int, now: Timestamp, chance: Random, *, retry_after_until: Timestamp | None = None
    ) -> Timestamp | None:
        """The time of attempt *attempt* + 1, or None when *attempt* was the last.

        *retry_after_until* is a floor that comes after the jitter; it never brings an attempt forward, and delays it by
        no more than `max_retry_after`.
        """
        if attempt > len(self.delays):
            return None
        spread = 1 + self.jitter * (2 * chance.random() - 1)
        scheduled_at = now + round(self.delays[attempt - 1] * spread * SECOND)
        if retry_after_until is None:
            return scheduled_at
        latest = scheduled_at + round(self.max_retry_after * SECOND)
        return max(scheduled_at, min(retry_after_until, latest))


def retry_after_ms(value: str | None, wall_now: Timestamp) -> int | None:
    """How many milliseconds from now a `Retry-After` header asks for; None when it is absent, past or makes no sense.

    Source: RFC 9110, section 10.2.3: seconds, or an HTTP date.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return int(value[:_MAX_DIGITS]) * SECOND or None
    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)  # an HTTP date is in UTC, also in the form that does not say so
        delay = round(date.timestamp() * SECOND) - wall_now
    except (ValueError, OverflowError, TypeError, IndexError, OSError):
        return None
    return delay if delay > 0 else None
