"""When publishers are refused since the node does not keep up, and when not."""

from gateway.delivery.lanes import Lane
from gateway.delivery.outcome import Strain
from gateway.delivery.pressure import Pressure, backlog
from tests.fakes import FakeClock, due, endpoint

BUSY, IDLE = [0.05] * 10, [0.001] * 10
MOST_SECONDS = 2.0


def pressure(most_seconds: float = MOST_SECONDS) -> Pressure:
    return Pressure(clock=FakeClock(), max_backlog_seconds=most_seconds)


def lane(waiting: int, *, seconds: float = 0.1, strain: Strain = Strain.EASE) -> Lane:
    """A lane in front of which *waiting* deliveries wait, whose endpoint has answered so lately."""
    made = Lane(endpoint(), most_open=32)
    for _ in range(10):
        made.limit.learn(strain, seconds)
    for _ in range(waiting):
        made.offer(due(endpoint_id=made.endpoint.id))
    assert made.waiting == waiting
    return made


def sampled(lanes: dict[Lane, int], *, lags: list[float] = BUSY, is_held_up: bool = False, most_seconds: float = 2.0) -> Pressure:
    """After a second in which so many attempts of *lanes* were started."""
    found = pressure(most_seconds)
    for each, started in lanes.items():
        for _ in range(started):
            found.started(each)
    found.sample(lags, is_held_up=is_held_up, seconds=1.0)
    return found


def test_a_node_that_is_busy_takes_two_seconds_worth():
    """Beyond that, publishers are refused."""
    assert not sampled({lane(3_900): 2_000}).refuses(0)
    assert sampled({lane(4_100): 2_000}).refuses(0)


def test_what_waits_for_its_commit_counts():
    """As many deliveries for each event as events have had lately."""
    found = sampled({lane(0): 2_000})
    for _ in range(100):
        found.made(10, 1)
    assert not found.refuses(200)
    assert found.refuses(400)


def test_what_is_committed_counts_at_once():
    """And not only from the next sample on."""
    found = sampled({lane(0): 2_000})
    found.made(4_100, 4_100)
    assert found.refuses(0)


def test_waiting_for_slots_or_commits_counts_like_a_busy_loop():
    """Whatever the loop has to do meanwhile."""
    assert sampled({lane(5_000): 2_000}, lags=IDLE, is_held_up=True).refuses(0)


def test_a_node_that_keeps_up_refuses_nothing():
    """However much waits: it waits for endpoints, then."""
    assert not sampled({lane(5_000): 10}, lags=IDLE).refuses(0)


def test_a_burst_is_bounded():
    """More than a node could judge between two samples is not taken at once."""
    found = sampled({lane(0): 10}, lags=IDLE)
    found.made(9_900, 9_900)
    assert not found.refuses(0)
    found.made(200, 200)
    assert found.refuses(0)
    found.sample(IDLE, is_held_up=False, seconds=0.5)
    assert not found.refuses(0)


def test_endpoints_that_are_slow_or_strained_make_nobody_refuse():
    """On a busy node, too, whatever waits for them counts for nothing."""
    slow, dead = lane(5_000, seconds=3.0), lane(5_000, strain=Strain.STRAIN)
    assert not sampled({lane(0): 2_000, slow: 10, dead: 1}).refuses(0)


def test_a_lane_counts_for_no_more_than_it_gets_done():
    """A backlog that would take its lane long waits for the endpoint's pace, and makes nobody else be refused."""
    assert backlog([(1_000_000, 100.0)], most_seconds=2.0) == 400
    assert not sampled({lane(0): 2_000, lane(5_000): 100}).refuses(0)


def test_a_node_that_has_had_little_to_do_takes_a_burst():
    """It does not know yet how fast it is."""
    assert not sampled({lane(1_500): 10}).refuses(0)
    assert not pressure().refuses(1_000_000)


def test_zero_turns_it_off():
    """Then everything is taken that the queue has room for."""
    assert not sampled({lane(5_000): 2_000}, most_seconds=0).refuses(0)


def test_it_ends_with_the_load():
    """The first sample in which the node keeps up ends it."""
    found = sampled({lane(5_000): 2_000})
    assert found.refuses(0)
    found.sample(IDLE, is_held_up=False, seconds=0.5)
    assert not found.refuses(0)
