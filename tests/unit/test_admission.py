"""Who may start a request: the shares of the node's open requests."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.admission import Admission
from gateway.delivery.lane_limit import Standing
from gateway.delivery.lanes import Lane
from gateway.delivery.outcome import Strain
from tests.fakes import endpoint

MOST = 64


def lanes(count: int, strain: Strain | None = None, *, seconds: float = 0.0, times: int = 40) -> list[Lane]:
    """Lanes whose endpoints have answered so, always."""
    made = [Lane(endpoint(), most_open=32) for _ in range(count)]
    for lane in made:
        for _ in range(times if strain else 0):
            lane.limit.learn(strain or Strain.NONE, seconds)
    return made


def fill(admission: Admission, greedy: Sequence[Lane]) -> int:
    """Starts as many requests as *greedy* may have, in turns; how many that are."""
    count, before = 0, -1
    while count > before:
        before = count
        for lane in greedy:
            if not admission.is_full and lane.open_requests < lane.limit.open_requests and admission.admits(lane):
                admission.started(lane)
                count += 1
    return count


def test_probes_hold_a_quarter():
    """Lanes that are down to one probe, however many."""
    assert fill(Admission(MOST), lanes(200, Strain.STRAIN)) == MOST // 4


def test_those_that_are_not_known_or_slow_hold_half():
    """New lanes and lanes that answer slowly, together and however many."""
    assert fill(Admission(MOST), lanes(200) + lanes(200, Strain.EASE, seconds=5.0)) == MOST // 2


def test_a_quarter_is_left_whatever_the_others_do():
    """With both of them full, a lane that answers promptly still has room."""
    admission = Admission(MOST)
    assert fill(admission, lanes(200) + lanes(200, Strain.STRAIN)) == MOST * 3 // 4
    assert fill(admission, lanes(1, Strain.EASE)) > 1


def test_greedy_lanes_leave_some_free():
    """Lanes that may take much more than the node has do not fill it, as long as they are fewer than it has requests."""
    admission = Admission(512)
    fill(admission, lanes(50, Strain.EASE))
    assert fill(admission, lanes(1, Strain.EASE)) >= 4


def test_one_lane_may_have_its_most():
    """Alone on a node with default settings, a lane is held to its own limit by nothing else."""
    assert fill(Admission(512), lanes(1, Strain.EASE)) == 32


def test_requests_move_with_their_lanes_standing():
    """When a lane with open requests becomes another kind, those count there from then on, and leave room where they were."""
    admission, [lane], others = Admission(MOST), lanes(1, Strain.EASE), lanes(200)
    fill(admission, [lane])
    assert fill(admission, others) == MOST // 2
    done, waiting = others[0], others[MOST // 2]
    admission.ended(done)
    done.limit.learn(Strain.EASE, 0.0)
    admission.learned(done, Standing.DOUBTFUL)
    assert next(iter(admission.let_in())) is waiting


@given(
    most=st.integers(1, 64),
    steps=st.lists(st.tuples(st.integers(0, 9), st.sampled_from([None, *Strain]), st.booleans()), max_size=300),
)
def test_what_is_counted_is_what_is_open(most: int, steps: list[tuple[int, Strain | None, bool]]):
    """Whatever starts, ends and is learnt: no more is open than the node may have, what each kind holds is what its lanes have
    open, and a lane without open requests is admitted or parked unless the node is full."""
    admission, all_lanes = Admission(most), lanes(10)
    for number, strain, is_slow in steps:
        lane = all_lanes[number]
        if strain is None:
            if not admission.is_full and lane.open_requests < lane.limit.open_requests:
                if admission.admits(lane):
                    admission.started(lane)
                else:
                    assert lane.open_requests or admission.is_parked(lane)
        elif lane.open_requests:
            admission.ended(lane)
            earlier = lane.limit.standing
            lane.limit.learn(strain, 2.0 if is_slow else 0.0)
            admission.learned(lane, earlier)
        assert sum(lane.open_requests for lane in all_lanes) <= most
        for standing in Standing:
            of_kind = sum(lane.open_requests for lane in all_lanes if lane.limit.standing is standing)
            assert admission._open_of[standing] == of_kind
