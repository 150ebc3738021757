"""When the next attempt is made: the contract's schedule, its jitter, and what Retry-After adds."""

import os
import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import HOUR, MINUTE, SECOND
from gateway.delivery.retry import RetrySchedule, retry_after_ms
from gateway.settings import Delivery
from tests.fakes import START, Dice

DEFAULTS = Delivery()
SCHEDULE = RetrySchedule(DEFAULTS.retry_delays, DEFAULTS.jitter, DEFAULTS.max_retry_after)
MIDDLE = Dice(0.5)
DELAYS = [1 * MINUTE, 5 * MINUTE, 15 * MINUTE, 30 * MINUTE, 1 * HOUR, 1 * HOUR, 1 * HOUR]


def test_the_schedule_of_the_contract():
    """8 attempts: after 1 min, 5 min, 15 min, 30 min, 1 h, 1 h, 1 h, and none after that."""
    delays = [SCHEDULE.next_attempt_at(attempt, START, MIDDLE) for attempt in range(1, 9)]
    assert delays == [*(START + delay for delay in DELAYS), None]


@given(chance=st.floats(0, 1), attempt=st.integers(1, 7))
def test_jitter_is_at_most_a_tenth_either_way(chance: float, attempt: int):
    """Every delay is up to 10 % longer or shorter, and no more."""
    at = SCHEDULE.next_attempt_at(attempt, START, Dice(chance))
    assert at is not None
    assert 0.9 * DELAYS[attempt - 1] <= at - START <= 1.1 * DELAYS[attempt - 1]


def test_jitter_spreads_over_the_whole_tenth():
    """Attempts that failed together are not repeated together: delays come from all of the range."""
    chance = random.Random(7)
    delays = [(SCHEDULE.next_attempt_at(1, 0, chance) or 0) / MINUTE for _ in range(2_000)]
    assert min(delays) < 0.91
    assert max(delays) > 1.09
    assert 0.99 < sum(delays) / len(delays) < 1.01


@given(until=st.integers(-HOUR, 10 * HOUR), attempt=st.integers(1, 7), chance=st.floats(0, 1))
def test_retry_after_is_a_floor(until: int, attempt: int, chance: float):
    """Retry-After never brings an attempt forward, and puts it off by one hour at most."""
    dice = Dice(chance)
    plain = SCHEDULE.next_attempt_at(attempt, START, dice)
    asked = SCHEDULE.next_attempt_at(attempt, START, dice, retry_after_until=START + until)
    assert plain is not None
    assert asked == max(plain, min(START + until, plain + HOUR))


def test_retry_after_gives_no_ninth_attempt():
    """After the last attempt there is no other, whatever the endpoint asks for."""
    assert SCHEDULE.next_attempt_at(8, START, MIDDLE, retry_after_until=START + MINUTE) is None


@pytest.mark.parametrize(
    ("value", "delay_ms"),
    [
        (None, None),
        ("", None),
        ("0", None),
        ("120", 120 * SECOND),
        (" 120 ", 120 * SECOND),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("1000000000", 10**9 * SECOND),
        ("9" * 5_000, (10**12 - 1) * SECOND),  # cut, so that it stays a number that one can count with
        ("soon", None),
        ("٣", None),  # a digit, but not one of HTTP's
        ("²", None),
        ("Wed, 25 Mar 2026 14:31:00 GMT", MINUTE),
        ("Wednesday, 25-Mar-26 14:31:00 GMT", MINUTE),  # RFC 850, as HTTP still allows
        ("Wed Mar 25 14:31:00 2026", MINUTE),  # asctime, as HTTP still allows
        ("Wed, 25 Mar 2026 15:31:00 +0100", MINUTE),
        ("Wed, 25 Mar 2026 14:30:00 GMT", None),  # now
        ("Wed, 25 Mar 2026 14:29:00 GMT", None),  # past
        ("Wed, 31 Feb 2026 14:31:00 GMT", None),
        ("Wed, 25 Mar 99999 14:31:00 GMT", None),
        ("Wed, 25 Mar 2026 14:31:00 +9999999999", None),
    ],
)
def test_retry_after(value: str | None, delay_ms: int | None):
    """Seconds and dates are understood; what is absent, past or senseless asks for nothing, and nothing raises."""
    assert retry_after_ms(value, START) == delay_ms


@given(value=st.text())
def test_no_header_can_break_it(value: str):
    """Whatever a receiver sends as Retry-After is either a wait or nothing."""
    delay_ms = retry_after_ms(value, START)
    assert delay_ms is None or delay_ms > 0


@pytest.fixture
def _in_tokyo() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("_in_tokyo")
def test_dates_are_in_utc_wherever_the_gateway_runs():
    """A date without a zone is in UTC, as every HTTP date is, also on a machine that keeps another time."""
    assert retry_after_ms("Wed Mar 25 14:31:00 2026", START) == MINUTE
