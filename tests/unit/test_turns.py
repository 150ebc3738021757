"""Whose turn it is: organizations in rotation, and within each its lanes."""

from collections.abc import Iterator

from gateway.delivery.lanes import Lane, Turns
from gateway.model import Mode
from tests.fakes import endpoint, tenant


def lane(organization_id: str) -> Lane:
    return Lane(endpoint(tenant=tenant(organization_id)), most_open=4)


def rotate(turns: Turns) -> Iterator[Lane]:
    """Lanes as they come up, each of which goes back to the end."""
    while turns:
        found = turns.next(next(turns.organizations()))
        yield found
        turns.add(found)


def test_organizations_alternate():
    """An organization with many lanes gets no more turns than one with a single lane."""
    turns = Turns()
    many, one = [lane("many") for _ in range(3)], lane("one")
    for waiting in (*many, one):
        turns.add(waiting)
    seen = [found for _, found in zip(range(8), rotate(turns), strict=False)]
    assert seen == [many[0], one, many[1], one, many[2], one, many[0], one]


def test_a_lane_waits_once():
    """A lane that is added again while it waits has still one turn."""
    turns = Turns()
    only = lane("a")
    turns.add(only)
    turns.add(only)
    assert only.is_queued
    assert turns.next("a") is only
    assert not only.is_queued
    assert not turns


def test_an_organization_without_lanes_has_no_turn():
    """An organization leaves the rotation with its last lane, and comes back at the end."""
    turns = Turns()
    first, second = lane("a"), lane("b")
    turns.add(first)
    turns.add(second)
    assert list(turns.organizations()) == ["a", "b"]
    turns.next("a")
    assert list(turns.organizations()) == ["b"]
    turns.add(first)
    assert list(turns.organizations()) == ["b", "a"]
    assert len(turns) == 2


def test_an_organization_can_be_passed_over():
    """A turn may go to an organization that is not the first; the first keeps its place."""
    turns = Turns()
    waiting = {name: lane(name) for name in "abc"}
    for each in waiting.values():
        turns.add(each)
    assert turns.next("b") is waiting["b"]
    assert list(turns.organizations()) == ["a", "c"]


def test_modes_share_the_turns_of_their_organization():
    """Live and sandbox of one organization are one organization."""
    turns = Turns()
    live, sandbox = lane("a"), Lane(endpoint(tenant=tenant("a", Mode.SANDBOX)), most_open=1)
    turns.add(live)
    turns.add(sandbox)
    assert len(turns) == 1
    assert [turns.next("a"), turns.next("a")] == [live, sandbox]
