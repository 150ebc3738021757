"""What an audit recomputes, and what it says. What it finds in a store is in tests/contract."""

from gateway.audit.audit import span_of
from gateway.audit.finding import Finding, Kind
from gateway.audit.matches import Matches
from gateway.clock import DAY, HOUR
from gateway.model import Revision, RevisionCause
from gateway.store.record import Span
from tests.fakes import START, tenant


def revision(number: int, endpoint_id: str, *events: str, is_active: bool = True) -> Revision:
    return Revision(tenant(), number, endpoint_id, events, is_active, RevisionCause.UPDATED, "operator", START)


def matches(*revisions: Revision) -> Matches:
    subject = Matches()
    subject.learn(revisions)
    return subject


def test_events_match_as_of_their_revision():
    """What an endpoint wanted then counts, whatever it wants now."""
    subject = matches(
        revision(1, "one", "*"),
        revision(2, "two", "invoice.*"),
        revision(3, "one", "*", is_active=False),
        revision(4, "two", "customer.created"),
        revision(5, "one", "invoice.paid"),
    )
    found = {number: set(subject.at(number, "invoice.paid")) for number in range(6)}
    assert found == {0: set(), 1: {"one"}, 2: {"one", "two"}, 3: {"two"}, 4: set(), 5: {"one"}}
    assert set(subject.at(4, "customer.created")) == {"two"}


def test_more_revisions_than_are_remembered():
    """Events of many revisions, in any order, all have theirs."""
    subject = matches(*(revision(number, f"endpoint {number}", "*") for number in range(1, 400)))
    for number in (399, 1, 200, 399, 2):
        assert len(subject.at(number, "invoice.paid")) == number


def test_revisions_are_learnt_once():
    """Pages may repeat what is known already."""
    subject = matches(revision(1, "one", "*"))
    subject.learn([revision(1, "one", "*"), revision(2, "one", "invoice.*")])
    assert subject.last == 2
    assert subject.latest("one").events == ("invoice.*",)


def test_a_gap_leaves_what_comes_after_it_untold():
    """Up to the first number that is passed over everything is known, and nothing afterwards."""
    subject = matches(revision(1, "one", "*"), revision(4, "two", "*"))
    assert subject.missing == [2, 3]
    assert [subject.can_tell(number) for number in range(6)] == [True, True, False, False, False, False]


def test_what_an_audit_can_tell_of():
    """No more than is kept, whatever is asked for; up to now and a little more, or as asked for."""
    kept_since = START - 3 * DAY
    assert span_of(START, retention_days=3, since=None, until=None) == Span(kept_since, START + HOUR)
    assert span_of(START, retention_days=3, since=START - HOUR, until=START) == Span(START - HOUR, START)
    assert span_of(START, retention_days=3, since=0, until=None).since == kept_since


def test_a_finding_is_one_line():
    """What, where, what was found, what it means, what to do."""
    for kind in Kind:
        sentence = Finding(kind, tenant(), "whev_1", "a detail").sentence
        assert sentence.startswith(f"{kind.word} whev_1 (acme/live): a detail; {kind.meaning}. To do: {kind.remedy}")
        assert "\n" not in sentence
