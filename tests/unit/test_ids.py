"""Ids: how they look, that they sort by age, and that none comes twice."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import ids
from gateway.ids import IdMaker
from tests.fakes import START, FakeClock

PREFIXES = (ids.EVENT, ids.ENDPOINT, ids.DELIVERY, ids.API_KEY, ids.RETRY)
TIMES = st.integers(min_value=0, max_value=62**8 - 1)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_id_is_its_prefix_and_24_letters_and_digits(prefix: str):
    """Every id has the shape that the contract promises for `whev_` ids."""
    maker = IdMaker(FakeClock())
    for _ in range(100):
        assert re.fullmatch(prefix + "[0-9A-Za-z]{24}", maker.next(prefix))


def test_ids_grow_within_a_millisecond():
    """Ids that are made while the clock stands still sort in the order of their making, and none comes twice."""
    maker = IdMaker(FakeClock())
    made = [maker.next(ids.EVENT) for _ in range(10_000)]
    assert made == sorted(set(made))


def test_ids_of_a_time_sort_by_it():
    """Those of what brings its own time: by that, and within a millisecond in the order of their making."""
    made = [ids.of(ids.AUDIT_ENTRY, at) for at in (START, START, START + 1) for _ in range(1_000)]
    assert made == sorted(set(made))
    assert ids.floor(ids.AUDIT_ENTRY, START) <= made[0] < made[1_999] < ids.floor(ids.AUDIT_ENTRY, START + 1) <= made[-1]
    assert all(re.fullmatch("audit_[0-9A-Za-z]{24}", each) for each in made)


def test_ids_grow_when_the_clock_is_set_back():
    """A clock that is set back an hour makes no id sort before an earlier one."""
    clock = FakeClock()
    maker = IdMaker(clock)
    before = [maker.next(ids.EVENT) for _ in range(3)]
    clock.set_wall(START - 3_600_000)
    after = [maker.next(ids.EVENT) for _ in range(3)]
    assert [*before, *after] == sorted({*before, *after})


def test_ids_grow_past_the_end_of_the_counter():
    """More ids in one millisecond than the counter holds borrow from the next millisecond, and still grow."""
    maker = IdMaker(FakeClock())
    made = [maker.next_with_time(ids.EVENT) for _ in range(62**3 + 10)]
    assert all(earlier[0] < later[0] for earlier, later in itertools.pairwise(made))
    assert made[62**3 - 1][1] == START
    assert made[-1][1] == START + 1


def test_an_id_tells_the_time_of_its_making():
    """The time that comes with an id is the clock's, and bounds by `floor` tell it from what was made before and after."""
    clock = FakeClock()
    maker = IdMaker(clock)
    made, at = maker.next_with_time(ids.DELIVERY)
    assert at == START
    assert ids.floor(ids.DELIVERY, START) < made < ids.floor(ids.DELIVERY, START + 1)
    clock.advance(1)
    assert maker.next_with_time(ids.DELIVERY)[1] == START + 1


@given(one=TIMES, other=TIMES)
def test_floors_sort_as_their_times_do(one: int, other: int):
    """Bounds of ids compare as text in the order of the times they stand for."""
    assert (ids.floor(ids.EVENT, one) < ids.floor(ids.EVENT, other)) is (one < other)


def test_the_floor_of_a_time_after_the_last_that_an_id_tells_is_the_highest():
    """A filter up to the year 9999, of which eight characters know nothing, leaves out nothing that can be made before."""
    assert (
        ids.floor(ids.EVENT, 253_402_300_799_999)
        == ids.floor(ids.EVENT, 62**8)
        == ids.floor(ids.EVENT, 62**8 - 1)
        == "whev_zzzzzzzz"
    )


def test_the_floor_of_a_time_before_1970_is_the_lowest():
    """A bound before the epoch does not fail: it lies below every id."""
    assert ids.floor(ids.EVENT, -5) == ids.floor(ids.EVENT, 0)


def test_ids_are_not_to_be_guessed():
    """Ids of the same moment differ in the 13 characters that are random."""
    tails = {IdMaker(FakeClock()).next(ids.EVENT)[-13:] for _ in range(1_000)}
    assert len(tails) == 1_000
