"""How many requests a lane may have open: growth, halving, and the single probe; and what its endpoint is known to be like."""

from math import ceil, log2

from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.lane_limit import PROMPT_SECONDS, LaneLimit, Standing
from gateway.delivery.outcome import Strain

QUICK, SLOW = 0.1, PROMPT_SECONDS


def learn(limit: LaneLimit, strain: Strain, times: int = 1, *, seconds: float = QUICK) -> int:
    for _ in range(times):
        limit.learn(strain, seconds)
    return limit.open_requests


def test_a_new_lane_starts_at_two():
    """A new lane sends two at once, and nobody knows what its endpoint is like."""
    limit = LaneLimit(32)
    assert (limit.open_requests, limit.standing) == (2, Standing.DOUBTFUL)


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
    assert limit.standing is Standing.PROBING


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
    assert limit.standing is Standing.PROBING
    assert (learn(limit, Strain.EASE), limit.standing) == (2, Standing.PROMPT)


def test_refusals_change_nothing():
    """An answer that is neither a success nor strain leaves the limit, and the probing, as they are."""
    limit = LaneLimit(32)
    assert learn(limit, Strain.NONE, 10) == 2
    learn(limit, Strain.STRAIN)
    assert (learn(limit, Strain.NONE), limit.standing) == (1, Standing.PROBING)


def test_a_limit_of_one_is_no_probe():
    """A lane that is set to one request at a time is not probing for that alone, and never grows."""
    limit = LaneLimit(1)
    assert (limit.open_requests, limit.standing) == (1, Standing.DOUBTFUL)
    assert learn(limit, Strain.EASE, 10) == 1
    assert limit.standing is Standing.PROMPT


def test_an_endpoint_is_as_prompt_as_its_last_answer():
    """What counts is how long the last attempt took, not what was answered; a slow success makes the limit grow all the same."""
    limit = LaneLimit(32)
    assert learn(limit, Strain.EASE, 3, seconds=SLOW) == 5
    assert limit.standing is Standing.DOUBTFUL
    assert (learn(limit, Strain.NONE), limit.standing) == (5, Standing.PROMPT)
    assert (learn(limit, Strain.EASE, seconds=SLOW), limit.standing) == (6, Standing.DOUBTFUL)


def test_a_suspect_begins_with_one_probe():
    """A lane whose endpoint failed others' attempts begins with one probe; one that has been tried here knows better."""
    suspect, tried = LaneLimit(32), LaneLimit(32)
    suspect.suspect()
    assert (suspect.open_requests, suspect.standing) == (1, Standing.PROBING)
    assert (learn(suspect, Strain.EASE), suspect.standing) == (2, Standing.PROMPT)
    learn(tried, Strain.EASE)
    tried.suspect()
    assert (tried.open_requests, tried.standing) == (3, Standing.PROMPT)


strains = st.lists(st.tuples(st.sampled_from(Strain), st.sampled_from([QUICK, SLOW])), max_size=200)


@given(most=st.integers(1, 64), strains=strains)
def test_the_limit_stays_in_its_bounds(most: int, strains: list[tuple[Strain, float]]):
    """Whatever happens, at least one request may be open and never more than the most."""
    limit = LaneLimit(most)
    for strain, seconds in strains:
        limit.learn(strain, seconds)
        assert 1 <= limit.open_requests <= most
        assert limit.standing is not Standing.PROBING or limit.open_requests == 1


@given(most=st.integers(1, 1024), strains=strains)
def test_a_dead_endpoint_is_down_to_one_probe_after_a_few_failures(most: int, strains: list[tuple[Strain, float]]):
    """Whatever came before, it takes no more failures in a row than the most can be halved; and no others' answers change
    that it is at its most again after enough successes."""
    limit = LaneLimit(most)
    for strain, seconds in strains:
        limit.learn(strain, seconds)
    assert learn(limit, Strain.STRAIN, max(1, ceil(log2(most)))) == 1
    assert limit.standing is Standing.PROBING
    before = limit.open_requests
    while limit.open_requests < min(most, 8):
        now = learn(limit, Strain.EASE, before + 1)  # a round of successes
        assert now > before
        before = now
