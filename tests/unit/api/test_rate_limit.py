"""Token buckets."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.api.rate_limit import RateLimiter


def test_a_bucket_holds_a_second_and_fills_at_its_rate():
    """Three at once, then one every third of a second; each key has its own."""
    limiter = RateLimiter(3)
    assert [limiter.take("a", 0.0).remaining for _ in range(3)] == [2, 1, 0]
    refused = limiter.take("a", 0.0)
    assert not refused.allowed
    assert dict(refused.headers()) == {
        "RateLimit-Limit": "3",
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": "1",
        "Retry-After": "1",
    }
    assert limiter.take("b", 0.0).allowed
    assert limiter.take("a", 0.34).allowed
    assert not limiter.take("a", 0.34).allowed


def test_a_slow_rate_still_lets_one_through():
    """One request every ten seconds, and the time to wait is told in whole seconds."""
    limiter = RateLimiter(0.1)
    assert limiter.take("a", 0.0).allowed
    assert limiter.take("a", 0.5).retry_after_seconds == 10
    assert limiter.take("a", 10.0).allowed


def test_a_clock_set_back_gives_nothing():
    """Time that goes backwards neither fills nor empties."""
    limiter = RateLimiter(1)
    assert limiter.take("a", 100.0).allowed
    assert not limiter.take("a", 50.0).allowed
    assert not limiter.take("a", 100.5).allowed
    assert limiter.take("a", 101.0).allowed


@given(rate=st.floats(0.1, 1000), times=st.lists(st.floats(0, 60), max_size=200))
def test_no_more_pass_than_the_rate_allows(rate: float, times: list[float]):
    """At most a full bucket and what came in since; who waits as told is let in."""
    limiter = RateLimiter(rate)
    now = 0.0
    passed = 0
    for now in sorted(times):
        standing = limiter.take("a", now)
        passed += standing.allowed
        if not standing.allowed:
            assert standing.retry_after_seconds >= 1
    assert passed <= max(1.0, rate) + now * rate + 1e-6
    refused = limiter.take("a", now)
    if not refused.allowed:
        assert limiter.take("a", now + refused.retry_after_seconds + 1e-6).allowed
