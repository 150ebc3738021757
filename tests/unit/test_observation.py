"""What a node concludes of the others: who is dead, and who is on the way out."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from gateway.cluster.observation import PARTING_LEASES, Conclusion, Observation
from gateway.model import BUCKETS, Lease, Node
from gateway.store.protocol import ClusterView
from tests.fakes import START

LEASE = 15.0


def view_of(renewals: Mapping[str, int], held: Mapping[str, int] | None = None) -> ClusterView:
    """Nodes with their counts of renewals, and how many buckets each holds, from the first on."""
    owners = [node for node, count in (held or {}).items() for _ in range(count)]
    owners_or_none = [*owners, *[None] * (BUCKETS - len(owners))]
    return ClusterView(
        now=START,
        nodes=[Node(node, node, "1", START, count) for node, count in sorted(renewals.items())],
        leases=[Lease(bucket, owner, 1) for bucket, owner in enumerate(owners_or_none)],
    )


def look(observation: Observation, at: float, view: ClusterView, *, took: float = 0.0) -> Conclusion:
    return observation.look(view, me="me", asked_at=at, answered_at=at + took)


def overdue(conclusion: Conclusion) -> list[str]:
    return [node.id for node in conclusion.overdue]


def test_a_node_that_stands_still_is_overdue_after_the_lease():
    """A node whose count does not change is overdue when the lease's length has passed, and not a moment before."""
    observation = Observation(LEASE)
    for second in range(15):
        assert overdue(look(observation, 100.0 + second, view_of({"me": second, "other": 7}))) == []
    assert overdue(look(observation, 114.999, view_of({"me": 15, "other": 7}))) == []
    assert overdue(look(observation, 115.0, view_of({"me": 16, "other": 7}))) == ["other"]


def test_a_node_is_judged_by_its_own_lease():
    """Nodes may have leases of different lengths: each is waited for as long as it counts on itself."""
    observation = Observation(LEASE)
    short, long = (Node(name, name, "1", START, 7, lease_seconds=lease) for name, lease in (("short", 5.0), ("long", 60.0)))
    found: dict[str, float] = {}
    for second in range(70):
        view = view_of({"me": second})
        seen = look(observation, float(second), ClusterView(view.now, [*view.nodes, short, long], view.leases))
        for node_id in overdue(seen):
            found.setdefault(node_id, float(second))
    assert found == {"short": 5.0, "long": 60.0}


def test_a_node_that_renews_has_its_whole_time_again():
    """Each change of the count begins the time anew."""
    observation = Observation(LEASE)
    for second in range(100):
        assert overdue(look(observation, float(second), view_of({"me": 0, "other": second // 14}))) == []


def test_the_time_counts_from_the_answer_to_the_question():
    """How long the store took is never counted against a node: from the first answer until the last question was sent."""
    observation = Observation(LEASE)
    look(observation, 0.0, view_of({"me": 0, "other": 7}), took=1.0)
    for second in range(4, 16, 4):
        look(observation, float(second), view_of({"me": 0, "other": 7}))
    assert overdue(look(observation, 15.9, view_of({"me": 0, "other": 7}), took=1.0)) == []
    assert overdue(look(observation, 16.9, view_of({"me": 0, "other": 7}))) == ["other"]


def test_after_a_gap_everybody_has_the_whole_time_again():
    """When there was no look for more than a third of the lease, nobody is overdue before another whole lease."""
    observation = Observation(LEASE)
    for second in range(10):
        look(observation, float(second), view_of({"me": 0, "other": 7}))
    for second in range(15, 30):
        assert overdue(look(observation, float(second), view_of({"me": 0, "other": 7}))) == []
    assert overdue(look(observation, 30.0, view_of({"me": 0, "other": 7}))) == ["other"]


def test_no_node_judges_itself():
    """A node whose own count stands still in what it sees concludes nothing from that."""
    observation = Observation(LEASE)
    assert all(overdue(look(observation, float(second), view_of({"me": 7}))) == [] for second in range(60))


def test_an_id_that_comes_back_begins_anew():
    """A node that was gone and is there again is not held to what was seen of it before."""
    observation = Observation(LEASE)
    for second in range(14):
        look(observation, float(second), view_of({"me": 0, "other": 7}))
    look(observation, 14.0, view_of({"me": 0}))
    assert overdue(look(observation, 15.0, view_of({"me": 0, "other": 7}))) == []


@given(st.lists(st.tuples(st.floats(0.01, 30.0), st.booleans()), max_size=60))
def test_nobody_is_overdue_who_renewed_within_the_lease(steps: list[tuple[float, bool]]):
    """Whenever the looks are: whoever has renewed since the look the lease's length ago is not overdue."""
    observation = Observation(LEASE)
    at, renewals, renewed_at = 0.0, 0, 0.0
    for seconds, renews in steps:
        at += seconds
        if renews:
            renewals, renewed_at = renewals + 1, at
        found = overdue(look(observation, at, view_of({"me": 0, "other": renewals})))
        assert not found or at - renewed_at >= LEASE


# On the way out


def test_all_who_live_share():
    """Nodes that hold what they should, or not yet, share."""
    observation = Observation(LEASE)
    staying = look(observation, 0.0, view_of({"me": 0, "a": 0, "b": 0}, {"me": 32, "a": 32})).staying
    assert staying == {"me", "a", "b"}


def test_giving_back_what_is_too_much_is_no_parting():
    """A node that comes down to its share because another has joined stays."""
    observation = Observation(LEASE)
    look(observation, 0.0, view_of({"a": 0, "me": 0}, {"a": 64}))
    assert look(observation, 1.0, view_of({"a": 0, "me": 0}, {"a": 40})).staying == {"a", "me"}
    assert look(observation, 2.0, view_of({"a": 0, "me": 0}, {"a": 32})).staying == {"a", "me"}


def test_who_gives_back_its_share_is_on_its_way_out():
    """A node that gives back what it should have is not counted on any more, until it takes something again."""
    observation = Observation(LEASE)
    look(observation, 0.0, view_of({"a": 0, "me": 0}, {"a": 32, "me": 32}))
    assert look(observation, 1.0, view_of({"a": 1, "me": 0}, {"a": 30, "me": 30})).staying == {"me"}
    assert look(observation, 2.0, view_of({"a": 2, "me": 0}, {"a": 30, "me": 30})).staying == {"me"}
    assert look(observation, 3.0, view_of({"a": 3, "me": 0}, {"a": 31, "me": 30})).staying == {"a", "me"}


def test_a_mistaken_parting_is_forgotten():
    """A node that was wrongly taken to be on its way out is counted on again in the end."""
    observation = Observation(LEASE)
    look(observation, 0.0, view_of({"a": 0, "me": 0}, {"a": 32, "me": 32}))
    look(observation, 1.0, view_of({"a": 1, "me": 0}, {"a": 30, "me": 32}))
    staying = frozenset[str]()
    for second in range(2, int(PARTING_LEASES * LEASE) + 3):
        staying = look(observation, float(second), view_of({"a": second, "me": 0}, {"a": 30, "me": 32})).staying
    assert staying == {"a", "me"}


def test_the_node_itself_always_shares():
    """Whatever a node sees of its own leases, it counts on itself."""
    observation = Observation(LEASE)
    look(observation, 0.0, view_of({"a": 0, "me": 0}, {"a": 32, "me": 32}))
    assert look(observation, 1.0, view_of({"a": 1, "me": 0}, {"a": 32})).staying == {"a", "me"}
