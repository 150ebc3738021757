"""Queries."""

import pytest
from multidict import MultiDict

from gateway.api.parameters import Parameters
from gateway.api.problems import Fault
from gateway.model import DeliveryState


def parameters(*given: tuple[str, str]) -> tuple[Parameters, list[Fault]]:
    faults: list[Fault] = []
    return Parameters(MultiDict(given), faults), faults


@pytest.mark.parametrize(("text", "limit"), [("1", 1), ("20", 20), ("100", 100)])
def test_limit_is_1_to_100(text: str, limit: int):
    """As written in digits."""
    query, faults = parameters(("limit", text))
    assert (query.limit(), faults) == (limit, [])
    assert parameters()[0].limit() == 20


@pytest.mark.parametrize("text", ["0", "101", "-1", "+1", " 1", "1.0", "1e1", "", "٣", "9" * 5_000, "01"])
def test_any_other_limit_is_refused(text: str):
    """Whatever `int` would make of it."""
    query, faults = parameters(("limit", text))
    query.limit()
    assert [field for field, _ in faults] == ["limit"]


def test_a_repeat_is_refused():
    """Of what is asked for; what nobody asks for is ignored."""
    query, faults = parameters(("state", "failed"), ("state", "failed"), ("other", "1"), ("other", "2"))
    assert query.member("state", DeliveryState) is None
    assert faults == [("state", "must not be repeated")]


@pytest.mark.parametrize(
    ("text", "at"), [("1970-01-01T00:00:01Z", 1_000), ("1970-01-01T02:00:01 02:00", 1_000), ("1970-01-01T02:00:01+02:00", 1_000)]
)
def test_an_offset_may_have_lost_its_plus(text: str, at: int):
    """A plus that nobody escaped arrives as a space."""
    query, faults = parameters(("since", text))
    assert (query.timestamp("since"), faults) == (at, [])


def test_texts_can_be_stored():
    """1 to 255 characters, no NUL, no lone surrogate."""
    for text in ("", "x" * 256, "a\x00", "\ud800"):
        query, faults = parameters(("externalId", text))
        assert query.text("externalId") is None
        assert len(faults) == 1
