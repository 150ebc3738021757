"""Time: the steady clock that follows the wall clock without jumping, waiting, and timestamps as text."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import HOUR, SECOND, SystemClock, isoformat, parse_timestamp
from tests.fakes import START, FakeClock

END = 253_402_300_799_999  # the last millisecond of the year 9999
TIMES = st.integers(min_value=0, max_value=END)


class Sources:
    """The two clocks of a machine, in seconds."""

    def __init__(self) -> None:
        self.wall = START / 1_000
        self.monotonic = 1_000.0

    def clock(self) -> SystemClock:
        return SystemClock(wall=lambda: self.wall, monotonic=lambda: self.monotonic)

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def test_the_steady_clock_agrees_with_the_wall_clock():
    """As long as nobody sets the wall clock, both go alike."""
    sources = Sources()
    clock = sources.clock()
    assert (clock.now(), clock.steady()) == (START, START)
    sources.advance(12.5)
    assert clock.now() == START + 12_500
    assert abs(clock.steady() - (START + 12_500)) <= 1
    assert clock.monotonic() == 1_012.5


def test_a_wall_clock_that_jumps_ahead_is_followed_at_one_second_a_second():
    """After a jump of an hour ahead, due times are not all there at once: the steady clock gains a second each second."""
    sources = Sources()
    clock = sources.clock()
    sources.wall += 3_600
    assert clock.steady() == START
    sources.advance(10)
    assert abs(clock.steady() - (START + 20 * SECOND)) <= 1
    for _ in range(360):
        sources.advance(10)
        clock.steady()
    assert abs(clock.steady() - clock.now()) <= 1  # the gap is closed
    sources.advance(10)
    assert abs(clock.steady() - clock.now()) <= 1  # and stays so


def test_a_wall_clock_that_is_set_back_is_waited_for():
    """After a jump of an hour back the steady clock stands still, and never goes back, until the wall clock has caught up."""
    sources = Sources()
    clock = sources.clock()
    sources.wall -= 3_600
    for _ in range(360):
        sources.advance(9)
        assert abs(clock.steady() - START) <= 1
    sources.advance(360)
    sources.advance(100)
    assert abs(clock.steady() - clock.now()) <= 1


@given(moves=st.lists(st.tuples(st.floats(0, 100), st.floats(-1_000, 1_000)), max_size=20))
def test_the_steady_clock_never_jumps(moves: list[tuple[float, float]]):
    """Whatever becomes of the wall clock, the steady one moves by no less than nothing and no more than twice real time."""
    sources = Sources()
    clock = sources.clock()
    before = clock.steady()
    for seconds, jump in moves:
        sources.advance(seconds)
        sources.wall += jump
        after = clock.steady()
        assert -1 <= after - before <= 2 * seconds * SECOND + 1
        before = after


async def test_waiting_ends_with_the_event():
    """A wait without a time, and one with a time far ahead, return when the event is set."""
    clock = SystemClock()
    for until in (None, clock.steady() + HOUR):
        event = asyncio.Event()
        waiting = asyncio.ensure_future(clock.wait(event, until))
        event.set()
        await asyncio.wait_for(waiting, 5)


async def test_waiting_ends_at_the_time():
    """A wait returns when the steady clock has reached its time, not before, and at once when it is past."""
    clock = SystemClock()
    await clock.wait(asyncio.Event(), clock.steady() - 1)
    until = clock.steady() + 30
    await clock.wait(asyncio.Event(), until)
    assert clock.steady() >= until


async def test_waiting_lasts_while_the_steady_clock_stands_still():
    """A wait that began before the wall clock was set back does not end before the steady clock has reached its time."""
    loop = asyncio.get_running_loop()
    set_back = 0.0
    clock = SystemClock(wall=lambda: loop.time() - set_back, monotonic=loop.time)
    until = clock.steady() + 20
    set_back = 0.05
    await clock.wait(asyncio.Event(), until)
    assert clock.steady() >= until


async def test_the_fake_clock_wakes_whoever_waits():
    """The clock of the tests keeps the same promises: it wakes at the time and not before, and by the event."""
    clock = FakeClock()
    event = asyncio.Event()
    waiting = [asyncio.ensure_future(clock.wait(event, START + ms)) for ms in (10, 20, HOUR)]
    await asyncio.sleep(0)
    clock.advance(10)
    await waiting[0]
    assert not waiting[1].done()
    clock.advance(10)
    await waiting[1]
    event.set()
    await waiting[2]
    clock.set_wall(START)
    assert (clock.now(), clock.steady(), clock.monotonic()) == (START, START + 20, 0.02)


def test_isoformat():
    """ISO 8601 in UTC with milliseconds and `Z`, as the contract writes times."""
    assert isoformat(START) == "2026-03-25T14:30:00.000Z"
    assert isoformat(START + 7) == "2026-03-25T14:30:00.007Z"
    assert isoformat(0) == "1970-01-01T00:00:00.000Z"
    assert isoformat(END) == "9999-12-31T23:59:59.999Z"


@given(at=TIMES)
def test_timestamps_survive_as_text(at: int):
    """What `isoformat` writes, `parse_timestamp` reads back, whatever was written before."""
    assert parse_timestamp(isoformat(at)) == at


@given(times=st.lists(TIMES, min_size=2, max_size=5))
def test_text_sorts_as_times_do(times: list[int]):
    """Timestamps as text sort as the times do."""
    assert [isoformat(at) for at in sorted(times)] == sorted(isoformat(at) for at in times)


@given(at=st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9999, 12, 30)), hours=st.integers(-23, 23))  # noqa: DTZ001 - given a zone below
def test_offsets_are_taken_into_account(at: datetime, hours: int):
    """Text with an offset names the same moment as in UTC; without one it is in UTC."""
    local = at.replace(tzinfo=timezone(timedelta(hours=hours)))
    in_utc = local.astimezone(UTC)
    assert parse_timestamp(local.isoformat()) == parse_timestamp(in_utc.isoformat())
    assert parse_timestamp(at.isoformat()) == parse_timestamp(at.isoformat() + "Z")


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-03-25T14:30:00Z", START),
        ("2026-03-25T14:30:00.0009Z", START),  # rounded down to the millisecond
        ("2026-03-25 14:30:00", START),
        ("2026-03-25T15:30:00+01:00", START),
        ("20260325T143000Z", START),
    ],
)
def test_what_is_read(text: str, at: int):
    """The forms of ISO 8601 that clients send are read."""
    assert parse_timestamp(text) == at


@pytest.mark.parametrize(
    "text",
    [
        *("", "soon", "2026-03-25", "14:30:00", "1774449000", "2026-02-30T00:00:00Z", "2026-03-25T25:00:00Z"),
        *("1969-12-31T23:59:59Z", "1970-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "10000-01-01T00:00:00Z"),
    ],
)
def test_what_is_no_timestamp(text: str):
    """A date without a time, what no calendar has, and years that cannot be written again are refused."""
    with pytest.raises(ValueError):
        parse_timestamp(text)


def test_the_memory_of_the_last_second_does_not_leak():
    """Writing times of different seconds in turn gives each its own text."""
    times = [START, START + 1_500, START, START + 1_999]
    texts = [isoformat(at) for at in itertools.chain(times, times)]
    assert texts[:4] == texts[4:]
    assert [text[-7:] for text in texts[:4]] == ["00.000Z", "01.500Z", "00.000Z", "01.999Z"]
