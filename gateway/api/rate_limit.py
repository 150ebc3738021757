"""How often one key may ask: a token bucket for each. Pure: time comes in as an argument.

Nodes that share a store share the limit, too: each tells the others what is asked of it with a key, and fills its bucket at the
pace that they leave it. What is asked for does not depend on what is let pass, so all of them come to the same division at once.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

_TOLD_FOR_SECONDS = 5.0
"""For how long what the others told holds. Then this process has the whole limit for itself."""

_LITTLE = 0.01
"""Of the limit: who asks for less is not worth telling the others of."""


def fair_pace(limit: float, others: Sequence[float]) -> float:
    """What one process may let pass of *limit*, when others are asked for so much each: an equal part, and what is left of the
    parts of those who need less than theirs."""
    left = limit
    for place, asked in enumerate(sorted(others)):
        part = left / (len(others) - place + 1)
        if asked >= part:
            return part
        left -= asked
    return left


class Standing(msgspec.Struct, frozen=True, gc=False):
    """Where a key stands after a request."""

    allowed: bool
    limit: int  # requests that a full bucket holds
    remaining: int
    reset_seconds: int  # until the bucket is full again
    retry_after_seconds: int  # until the next request may come; 0 when it may now

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The `RateLimit-*` headers, and `Retry-After` on a refusal."""
        told = (
            ("RateLimit-Limit", str(self.limit)),
            ("RateLimit-Remaining", str(self.remaining)),
            ("RateLimit-Reset", str(self.reset_seconds)),
        )
        return told if self.allowed else (*told, ("Retry-After", str(self.retry_after_seconds)))


class Bucket:
    """Holds so many requests, each of which takes a token, and is filled as time goes by."""

    __slots__ = ("at", "tokens")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens = tokens
        self.at = at

    def take(self, now: float, *, pace: float, capacity: float, limit: int) -> Standing:
        """Counts a request at *now*, or refuses it, which costs nothing. *pace* is what comes in a second, *limit* what is
        told of the capacity."""
        elapsed = max(0.0, now - self.at)
        self.tokens = min(capacity, self.tokens + elapsed * pace)
        self.at = max(now, self.at)
        allowed = self.tokens >= 1
        if allowed:
            self.tokens -= 1
        return Standing(
            allowed=allowed,
            limit=limit,
            remaining=math.floor(self.tokens),
            reset_seconds=math.ceil((capacity - self.tokens) / pace),
            retry_after_seconds=0 if allowed else max(1, math.ceil((1 - self.tokens) / pace)),
        )


class RateLimiter:
    """A bucket for each key, filled at *per_second*, or as much of it as the others leave, and holding what one second brings
    (at least one request)."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._limit = math.floor(max(1.0, per_second))
        self._buckets: dict[str, Bucket] = {}
        self._asked: Counter[str] = Counter()  # requests since the last measurement
        self._measured_at: float | None = None
        self._memory_seconds = max(1.0, 1 / per_second)  # a request that comes every ten seconds is no ten requests a second
        self._demand: dict[str, float] = {}
        self._paces: dict[str, float] = {}  # of the keys that others are asked with, too
        self._paces_until = -math.inf

    def take(self, key: str, now: float) -> Standing:
        """Counts a request of *key* at *now* (in seconds), or refuses it, which costs nothing."""
        self._asked[key] += 1
        pace = self._paces.get(key, self._per_second) if now < self._paces_until else self._per_second
        capacity = max(1.0, pace)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(capacity, now)
        return bucket.take(now, pace=pace, capacity=capacity, limit=self._limit)

    # Among others

    def demand(self, now: float) -> Mapping[str, float]:
        """How many requests a second came with each key of late, refused ones included, up to the limit; measured from one call
        to the next."""
        asked, self._asked = self._asked, Counter()
        measured_at, self._measured_at = self._measured_at, now
        if measured_at is None or now <= measured_at:
            return self._demand
        elapsed = now - measured_at
        weight = 1 - math.exp(-elapsed / self._memory_seconds)
        demand: dict[str, float] = {}
        for key in {*self._demand, *asked}:
            before = self._demand.get(key, 0.0)
            per_second = min(self._per_second, before + weight * (asked[key] / elapsed - before))
            if per_second > self._per_second * _LITTLE:
                demand[key] = per_second
        self._demand = demand
        return demand

    def told(self, others: Mapping[str, Sequence[float]], now: float) -> None:
        """What the others are asked for with each key, as of *now*; one that is not named they are not asked with."""
        self._paces = {key: fair_pace(self._per_second, asked) for key, asked in others.items()}
        self._paces_until = now + _TOLD_FOR_SECONDS
