"""How many requests a lane may have open: growth, halving, and the single probe."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.lane_limit import LaneLimit
from gateway.delivery.outcome import Strain


def learn(limit: LaneLimit, strain: Strain, times: int = 1) -> int:
    for _ in range(times):
        limit.learn(strain)
    return limit.open_requests


def test_a_new_lane_starts_at_two():
    """A new lane sends two at once, and is not counted as probing."""
    limit = LaneLimit(32)
    assert (limit.open_requests, limit.is_probing) == (2, False)


def test_a_lane_grows_by_one_for_each_success_at_first():
    """A lane that never met resistance is at its most after as many successes as that takes."""
    limit = LaneLimit(32)
    assert learn(limit, Strain.EASE, 5) == 7
    assert learn(limit, Strain.EASE, 100) == 32


def test_strain_halves():
    """Each sign that it is too much halves the limit, down to one."""
    limit = LaneLimit(32)
    learn(limit, Strain.EASE, 30)
    assert [learn(limit, Strain.STRAIN) for _ in range(7)] == [16, 8, 4, 2, 1, 1, 1]
    assert limit.is_probing


def test_growth_is_slow_after_resistance():
    """A lane that met resistance at 16 grows by one for each round of successes, not for each success."""
    limit = LaneLimit(32)
    learn(limit, Strain.EASE, 30)
    learn(limit, Strain.STRAIN)
    assert learn(limit, Strain.EASE, 15) == 16
    assert learn(limit, Strain.EASE, 2) == 17
    assert learn(limit, Strain.EASE, 10) == 17


def test_a_probe_that_succeeds_ends_the_probing():
    """One success makes a lane that was down to one probe an ordinary lane of two."""
    limit = LaneLimit(32)
    learn(limit, Strain.STRAIN, 5)
    assert limit.is_probing
    assert learn(limit, Strain.EASE) == 2
    assert not limit.is_probing


def test_refusals_change_nothing():
    """An answer that is neither a success nor strain leaves the limit, and the probing, as they are."""
    limit = LaneLimit(32)
    assert learn(limit, Strain.NONE, 10) == 2
    learn(limit, Strain.STRAIN)
    assert (learn(limit, Strain.NONE), limit.is_probing) == (1, True)


def test_a_limit_of_one_is_no_probe():
    """A lane that is set to one request at a time is not probing for that alone, and never grows."""
    limit = LaneLimit(1)
    assert (limit.open_requests, limit.is_probing) == (1, False)
    assert learn(limit, Strain.EASE, 10) == 1
    assert not limit.is_probing


@given(most=st.integers(1, 64), strains=st.lists(st.sampled_from(Strain), max_size=200))
def test_the_limit_stays_in_its_bounds(most: int, strains: list[Strain]):
    """Whatever happens, at least one request may be open and never more than the most."""
    limit = LaneLimit(most)
    for strain in strains:
        limit.learn(strain)
        assert 1 <= limit.open_requests <= most
        assert not limit.is_probing or limit.open_requests == 1
