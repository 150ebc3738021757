"""Which endpoints want an event: exact names, prefixes, everything."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Endpoint
from gateway.publishing.matching import TenantIndex
from gateway.store.protocol import ActiveEndpoints
from tests.fakes import endpoint

PARTS = st.sampled_from(["a", "b", "ab"])
TYPES = st.lists(PARTS, min_size=2, max_size=4).map(".".join)
PATTERNS = st.one_of(TYPES, st.just("*"), st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: ".".join(parts) + ".*"))


def index(*endpoints: Endpoint, revision: int = 1) -> TenantIndex:
    return TenantIndex(ActiveEndpoints(revision, endpoints, None))


def wants(patterns: Sequence[str], event_type: str) -> bool:
    """What the contract says, read literally."""
    return any(
        pattern in {"*", event_type} or (pattern.endswith(".*") and event_type.startswith(pattern[:-1])) for pattern in patterns
    )


@pytest.mark.parametrize(
    ("pattern", "event_type", "is_wanted"),
    [
        ("invoice.paid", "invoice.paid", True),
        ("invoice.paid", "invoice.paid.late", False),
        ("invoice.*", "invoice.paid", True),
        ("invoice.*", "invoice.paid.late", True),  # any depth below the prefix
        ("invoice.paid.*", "invoice.paid", False),
        ("invoice.*", "invoices.paid", False),
        ("*", "invoice.paid", True),
        ("customer.*", "invoice.paid", False),
    ],
)
def test_patterns(pattern: str, event_type: str, is_wanted: bool):  # noqa: FBT001 - a column of the table
    """An endpoint gets what it names, what lies below its prefix at any depth, or everything."""
    wanting = endpoint(events=(pattern,))
    assert list(index(wanting).match(event_type)) == ([wanting] if is_wanted else [])


@given(
    wanted=st.lists(st.lists(PATTERNS, min_size=1, max_size=4), max_size=5), event_types=st.lists(TYPES, min_size=1, max_size=5)
)
def test_the_index_agrees_with_the_contract(wanted: list[list[str]], event_types: list[str]):
    """Whatever endpoints there are, each that wants an event is found once, also when it is asked for again."""
    endpoints = [endpoint(events=tuple(patterns)) for patterns in wanted]
    tenant_index = index(*endpoints)
    for event_type in [*event_types, *event_types]:
        found = [matched.id for matched in tenant_index.match(event_type)]
        assert sorted(found) == sorted(subject.id for subject in endpoints if wants(subject.events, event_type))


def test_an_endpoint_that_matches_thrice_is_found_once():
    """An endpoint whose patterns overlap gets one delivery."""
    wanting = endpoint(events=("*", "invoice.*", "invoice.paid"))
    assert list(index(wanting).match("invoice.paid")) == [wanting]


def test_the_memory_of_types_is_bounded():
    """Publishers that make up types do not make the index grow without end, and matching stays right."""
    wanting = endpoint(events=("made.*",))
    tenant_index = index(wanting)
    for number in range(2_500):
        assert list(tenant_index.match(f"made.up_{number}")) == [wanting]
    assert len(tenant_index._known) <= 1_000


def test_the_index_tells_its_revision():
    """The index names the revision and the pinned version that it was made from."""
    made = TenantIndex(ActiveEndpoints(7, (), "2026-07-11"))
    assert (made.revision, made.pinned_version) == (7, "2026-07-11")
