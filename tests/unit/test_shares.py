"""How the buckets are shared out."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.cluster.shares import fair_shares, shortfall, surplus
from gateway.model import BUCKETS

node_ids = st.sets(st.text(min_size=1, max_size=8), min_size=1, max_size=BUCKETS + 10)


@given(node_ids)
def test_shares_are_everything_and_equal(nodes: set[str]):
    """The shares add up to all buckets, and no two differ by more than one."""
    shares = fair_shares(nodes)
    assert shares.keys() == nodes
    assert sum(shares.values()) == BUCKETS
    assert max(shares.values()) - min(shares.values()) <= 1


def test_what_does_not_come_out_even_goes_to_the_first():
    """Of three nodes the first by id has one more, in whatever order they are named."""
    assert fair_shares(["c", "a", "b"]) == {"a": 22, "b": 21, "c": 21}


def test_nobody_has_no_shares():
    """Without nodes there is nothing to share out."""
    assert fair_shares([]) == {}


def test_the_highest_buckets_are_given_back():
    """A node that comes down to its share keeps its lowest buckets."""
    assert list(surplus({9, 1, 5, 3}, 2)) == [5, 9]
    assert list(surplus({1, 3}, 2)) == []


@given(held=st.integers(0, 64), share=st.integers(0, 64), free=st.integers(0, 64))
def test_nobody_takes_more_than_is_free_or_than_its_share(held: int, share: int, free: int):
    """A node takes what is free up to its share, and nothing when it has that."""
    taken = shortfall(held, share, free)
    assert 0 <= taken <= free
    assert held + taken <= max(held, share)
    assert taken == free or held + taken >= share


@given(st.data(), st.integers(1, 12))
def test_any_distribution_becomes_fair(data: st.DataObject, count: int):
    """From wherever it starts, once each has given back and each has taken, all have their share, and no bucket has moved
    but those that somebody had too many of and those that were free."""
    nodes = [f"node{number:02}" for number in range(count)]
    owners = data.draw(st.lists(st.sampled_from([None, *nodes]), min_size=BUCKETS, max_size=BUCKETS))
    before = {node: {bucket for bucket, owner in enumerate(owners) if owner == node} for node in nodes}
    free = {bucket for bucket, owner in enumerate(owners) if owner is None}
    shares = fair_shares(nodes)
    after: dict[str, set[int]] = {}
    for node in nodes:
        gone = set(surplus(before[node], shares[node]))
        after[node] = before[node] - gone
        free |= gone
    for node in data.draw(st.permutations(nodes)):
        taken = set(sorted(free)[: shortfall(len(after[node]), shares[node], len(free))])
        after[node] |= taken
        free -= taken
    assert {node: len(held) for node, held in after.items()} == shares
    assert all(len(after[node] & before[node]) == min(len(before[node]), shares[node]) for node in nodes)
