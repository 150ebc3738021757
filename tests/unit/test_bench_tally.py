"""The benchmark's counters and its histogram of latencies."""

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.benchmarks.tally import Tally, bucket_end, bucket_of, quantile_ms

HOUR_US = 3_600_000_000


@pytest.fixture
def tally() -> Iterator[Tally]:
    made = Tally.create(2)
    yield made
    os.close(made.fd)


@given(st.integers(min_value=0, max_value=HOUR_US))
def test_a_latency_lies_below_the_end_of_its_bucket_and_within_four_percent_of_it(microseconds):
    """What a quantile says is never better than the truth, and at most 4 % (or a microsecond) worse."""
    end = bucket_end(bucket_of(microseconds))
    assert microseconds < end <= microseconds * 1.04 + 1


@given(st.integers(min_value=0, max_value=HOUR_US))
def test_a_longer_latency_is_never_counted_in_an_earlier_bucket(microseconds):
    """Buckets are in the order of what they hold, without a gap."""
    assert bucket_of(microseconds + 1) - bucket_of(microseconds) in {0, 1}


def test_a_quantile_is_the_end_of_the_bucket_that_holds_it():
    """Of 90 fast and 10 slow ones the median is fast and the 99th percentile slow; of none there is no quantile."""
    buckets = [0] * 200
    buckets[bucket_of(50)] = 90
    buckets[bucket_of(900)] = 10
    assert quantile_ms(buckets, 0.5) == bucket_end(bucket_of(50)) / 1_000
    assert quantile_ms(buckets, 0.99) == bucket_end(bucket_of(900)) / 1_000
    assert quantile_ms([0] * 200, 0.5) is None


def test_the_blocks_of_all_receivers_add_up(tally):
    """Each receiver counts for itself; who reads sees the sum, also through another mapping of the same memory."""
    sent_at = time.monotonic_ns()
    tally.block(0).record(sent_at)
    tally.block(1).record(sent_at + 1)
    tally.block(1).record(None)
    arrivals = Tally(tally.fd).read()
    assert tally.count() == arrivals.count == 3
    assert arrivals.checksum == (2 * sent_at + 1) % (1 << 64)
    assert arrivals.unstamped == 1
    assert sum(arrivals.buckets) == 2


def test_a_difference_holds_only_what_arrived_in_between(tally):
    """A phase is measured as the difference of two readings."""
    block = tally.block(0)
    block.record(time.monotonic_ns())
    before = tally.read()
    sent_at = time.monotonic_ns()
    block.record(sent_at)
    since = tally.read().since(before)
    assert (since.count, since.checksum, sum(since.buckets)) == (1, sent_at, 1)
