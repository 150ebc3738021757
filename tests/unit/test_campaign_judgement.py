"""What a crash campaign calls lost, sent twice, and in flight."""

from collections import Counter

import pytest

from gateway.publishing.event_types import is_event_type
from gateway.publishing.matching import Matcher
from scripts.campaigns.arrival import Arrival
from scripts.campaigns.judgement import WANTED, Sent, Verdict, judge, paths_of
from scripts.campaigns.publishers import TYPES, Accepted

TYPE = "other.thing"  # which /quick alone wants


def arrival(number: int = 1, *, life: int = 1, status: int | None = 200, path: str = "/quick", event_id: str = "") -> Arrival:
    return Arrival(path, event_id or f"event {number}", number, life, 0.0, status)


def recorded(*arrivals: Arrival) -> Counter[Sent]:
    return Counter((each.path, each.event_id, each.life) for each in arrivals)


def judged(*arrivals: Arrival, accepted: int = 1, on_record: tuple[Arrival, ...] = (), killed: tuple[int, ...] = (1,)) -> Verdict:
    """The verdict on these arrivals, when the numbers up to *accepted* were accepted."""
    numbers = range(1, accepted + 1)
    return judge(
        {number: Accepted(f"event {number}", TYPE) for number in numbers},
        dict.fromkeys(numbers, TYPE),
        arrivals,
        recorded(*on_record),
        killed,
    )


@pytest.mark.parametrize("event_type", TYPES)
def test_the_endpoints_of_a_type(event_type: str):
    """They are those that the gateway's own matching has, read another way."""
    assert is_event_type(event_type)
    assert set(paths_of(event_type)) == set(Matcher((path, events, path) for path, events in WANTED.items()).match(event_type))


def test_nothing_wrong():
    """Everything arrived once and is on record."""
    one = arrival()
    verdict = judged(one, on_record=(one,))
    assert verdict.faults == []
    assert (verdict.kills[0].in_flight, verdict.kills[0].repeated) == (0, 0)


@pytest.mark.parametrize("status", [None, 503])
def test_what_was_never_taken_is_lost(status: int | None):
    """A request that was refused, or met a dying gateway, is no delivery."""
    assert judged(arrival(status=status)).lost == 1
    assert judged(arrival(status=status), arrival(life=2)).lost == 0


def test_what_was_in_flight_may_come_twice():
    """Open at the kill, or answered and not yet on record: sent again by the next life."""
    for status in (None, 200):
        verdict = judged(arrival(status=status), arrival(life=2))
        assert verdict.faults == []
        assert (verdict.kills[0].in_flight, verdict.kills[0].repeated) == (1, 1)


def test_what_is_on_record_may_not():
    """It had been committed before the kill."""
    first = arrival()
    assert judged(first, arrival(life=2), on_record=(first,)).repeated_though_on_record == 1


def test_a_repeat_without_a_kill():
    """One process sends what was taken once."""
    assert judged(arrival(), arrival()).repeated_without_a_kill == 1
    assert judged(arrival(), arrival(life=2), killed=()).repeated_without_a_kill == 1


def test_what_was_refused_may_come_again():
    """It is a retry, and no repeat."""
    refused, taken = arrival(status=503), arrival()
    assert judged(refused, taken, on_record=(refused, taken)).faults == []


def test_one_number_is_one_event():
    """Another event of the same number, or another than the publisher was told, was accepted twice."""
    assert judged(arrival(), arrival(event_id="another event")).doubled == 1
    assert judged(arrival(event_id="another event")).doubled == 1


def test_strays():
    """Nobody published that number, or the endpoint did not want the event."""
    assert judged(arrival(), arrival(2)).strays == 1
    assert judged(arrival(), arrival(path="/slow")).strays == 1
