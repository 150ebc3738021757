"""How often one key may ask: a token bucket for each. Pure: time comes in as an argument."""

import math

import msgspec


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


class _Bucket:
    __slots__ = ("at", "tokens")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens = tokens
        self.at = at


class RateLimiter:
    """A bucket for each key, filled at *per_second* and holding what one second brings (at least one request)."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._capacity = max(1.0, per_second)
        self._buckets: dict[str, _Bucket] = {}

    def take(self, key: str, now: float) -> Standing:
        """Counts a request of *key* at *now* (in seconds), or refuses it, which costs nothing."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._capacity, now)
        elapsed = max(0.0, now - bucket.at)
        bucket.tokens = min(self._capacity, bucket.tokens + elapsed * self._per_second)
        bucket.at = max(now, bucket.at)
        allowed = bucket.tokens >= 1
        if allowed:
            bucket.tokens -= 1
        return Standing(
            allowed=allowed,
            limit=math.floor(self._capacity),
            remaining=math.floor(bucket.tokens),
            reset_seconds=math.ceil((self._capacity - bucket.tokens) / self._per_second),
            retry_after_seconds=0 if allowed else max(1, math.ceil((1 - bucket.tokens) / self._per_second)),
        )
