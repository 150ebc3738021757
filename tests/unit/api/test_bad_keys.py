"""Requests without a good key, by address."""

import pytest
from structlog.testing import capture_logs

from gateway.api.bad_keys import BadKeys, network_of
from gateway.api.problems import Problem


def refusals(keys: BadKeys, address: str, now: float, times: int) -> list[Problem]:
    """What *times* requests at *now* are refused with."""
    refused = []
    for _ in range(times):
        try:
            keys.count(address, now)
        except Problem as problem:
            refused.append(problem)
    return refused


def test_an_address_has_so_many_a_minute():
    """At once or one after another; the answer says when the next one is taken."""
    keys = BadKeys(6)
    (refused,) = refusals(keys, "192.0.2.1", 0.0, 7)
    assert (refused.kind.status, refused.kind.code, refused.reason) == (429, "rate_limited", "bad_keys")
    assert dict(refused.headers) == {
        "RateLimit-Limit": "6",
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": "60",
        "Retry-After": "10",
    }
    assert refusals(keys, "192.0.2.1", 10.0, 1) == []
    assert len(refusals(keys, "192.0.2.1", 10.0, 5)) == 5
    assert refusals(keys, "192.0.2.1", 100.0, 6) == []


def test_others_are_not_counted_with_it():
    """Each address has its own; of IPv6 whatever shares the first 64 bits is one."""
    keys = BadKeys(2)
    for number in range(1, 20):
        assert refusals(keys, f"192.0.2.{number}", 0.0, 2) == []
    assert refusals(keys, "2001:db8::1", 0.0, 1) == []
    assert len(refusals(keys, "2001:db8::ffff:1", 0.0, 2)) == 1
    assert refusals(keys, "2001:db8:0:1::1", 0.0, 1) == []


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
    ],
)
def test_what_counts_as_one_address(address: str, network: str):
    """An IPv4 address, and a /64 of IPv6."""
    assert network_of(address) == network


def test_any_number_of_addresses_takes_no_more_memory_than_the_table_holds():
    """The oldest are forgotten; one that goes on asking is not."""
    keys = BadKeys(2, most=1_000)
    refusals(keys, "192.0.2.1", 0.0, 2)
    for number in range(100_000):
        keys.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
        if number % 500 == 0:
            assert len(refusals(keys, "192.0.2.1", 0.0, 1)) == 1
    assert len(keys) == 1_000


def test_a_key_that_was_good_after_all_is_given_back():
    """As when another node had made it a moment ago."""
    keys = BadKeys(1)
    for _ in range(5):
        keys.count("192.0.2.1", 0.0)
        keys.forgive("192.0.2.1")
    keys.forgive("192.0.2.2")
    assert refusals(keys, "192.0.2.1", 0.0, 1) == []


def test_the_log_tells_of_an_address_once_a_minute():
    """With how often it was refused since, and of no more than 20 addresses a minute."""
    keys = BadKeys(1)
    with capture_logs() as logs:
        refusals(keys, "192.0.2.1", 0.0, 101)
        refusals(keys, "192.0.2.1", 59.0, 100)
        refusals(keys, "192.0.2.1", 61.0, 2)
    assert [(line["event"], line["address"], line["refused"]) for line in logs] == [
        ("keys.too_many_bad", "192.0.2.1", 1),
        ("keys.too_many_bad", "192.0.2.1", 200),
    ]
    with capture_logs() as logs:
        for number in range(100):
            refusals(keys, f"198.51.100.{number}", 200.0, 2)
        refusals(keys, "203.0.113.1", 261.0, 2)
    assert len(logs) == 21
    assert logs[-1]["other_addresses"] == 80
