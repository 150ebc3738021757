"""Token buckets."""

from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.rate_limit import RateLimiter, fair_pace


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


# Among others


@pytest.mark.parametrize(
    ("others", "pace"),
    [
        ([], 12),  # alone
        ([12, 12], 4),  # equal parts
        ([100], 6),  # more than the limit is no more than a part of it
        ([1, 12], 5.5),  # what one does not need of its part the others divide
        ([1, 2, 3], 6),
        ([0.0], 12),
    ],
)
def test_fair_pace(others: list[float], pace: float):
    """Everybody gets an equal part, and those who need more divide what others leave of theirs."""
    assert fair_pace(12, others) == pace


@given(limit=st.floats(0.1, 1e6), asked=st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_fair_paces_come_to_the_limit(limit: float, asked: list[float]):
    """However much each is asked for, together they let pass the limit, or all when that is less; nobody gets less than an
    equal part."""
    paces = [fair_pace(limit, asked[:place] + asked[place + 1 :]) for place in range(len(asked))]
    passed = sum(map(min, asked, paces))
    assert passed == pytest.approx(min(limit, sum(asked)))
    assert min(paces) >= limit / len(asked) * (1 - 1e-9)


def use(limiter: RateLimiter, key: str, now: float, count: int) -> int:
    """How many of so many requests pass."""
    return sum(limiter.take(key, now).allowed for _ in range(count))


def test_demand():
    """What is asked for of late, refused or not, up to the limit; what was once asked for is soon forgotten."""
    limiter = RateLimiter(10)
    assert limiter.demand(100.0) == {}
    use(limiter, "some", 100.5, 4)
    use(limiter, "much", 100.5, 1_000)
    assert limiter.demand(101.0) == {"some": pytest.approx(4 * 0.632, rel=0.01), "much": 10}
    assert limiter.demand(102.0) == {"some": pytest.approx(0.93, rel=0.01), "much": pytest.approx(3.68, rel=0.01)}
    assert limiter.demand(103.0)["much"] == pytest.approx(1.35, rel=0.01)
    for now in range(104, 108):
        limiter.demand(float(now))
    assert limiter.demand(108.0) == {}


def test_steady_demand_is_measured_as_what_it_is():
    """Also when there are many looks between two requests: on the average."""
    limiter = RateLimiter(0.1)
    measured = []
    for now in range(200):
        if now % 20 == 0:
            limiter.take("a", float(now))
        measured.append(limiter.demand(now + 0.5).get("a", 0.0))
    assert mean(measured[100:]) == pytest.approx(0.05, rel=0.1)


def test_others_leave_a_part():
    """A bucket fills at the pace that the others leave and holds a second of that; other keys have everything."""
    limiter = RateLimiter(10)
    limiter.told({"a": [10.0]}, 100.0)
    assert use(limiter, "a", 100.0, 20) == 5
    assert use(limiter, "a", 100.5, 20) == 2
    refused = limiter.take("a", 100.5)
    assert (refused.limit, refused.remaining, refused.reset_seconds, refused.retry_after_seconds) == (10, 0, 1, 1)
    assert use(limiter, "b", 100.5, 20) == 10


def test_what_others_told_lapses():
    """Who hears nothing more for five seconds, or that the others have stopped, has the whole limit again."""
    limiter = RateLimiter(10)
    limiter.told({"a": [10.0]}, 100.0)
    assert use(limiter, "a", 104.9, 20) == 5
    assert use(limiter, "a", 106.0, 20) == 10
    limiter.told({"a": [10.0]}, 107.0)
    limiter.told({}, 108.0)
    assert use(limiter, "a", 109.0, 20) == 10
