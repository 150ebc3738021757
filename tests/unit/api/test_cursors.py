"""Cursors."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.cursors import Cursors, scope
from gateway.model import Mode, Tenant
from gateway.store.protocol import EventFilter

CURSORS = Cursors(b"k" * 32)
LIVE = Tenant("acme", Mode.LIVE)


@given(place=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
def test_a_cursor_opens_to_the_place_it_was_made_for(place: str):
    """Whatever the id looks like."""
    cursor = CURSORS.seal(b"list", place)
    assert cursor is not None
    assert CURSORS.open(b"list", cursor) == place


def test_the_last_page_has_no_cursor():
    """None goes through."""
    assert CURSORS.seal(b"list", None) is None


@pytest.mark.parametrize(
    "other",
    [
        scope("webhooks", LIVE, EventFilter(type="a.b")),
        scope("events", Tenant("acme", Mode.SANDBOX), EventFilter(type="a.b")),
        scope("events", None, EventFilter(type="a.b")),
        scope("events", LIVE, EventFilter(type="a.c")),
        scope("events", LIVE, EventFilter()),
        scope("events", LIVE),
    ],
)
def test_a_cursor_fits_one_list_alone(other: bytes):
    """The list's name, its tenant and its filters are all sealed."""
    cursor = CURSORS.seal(scope("events", LIVE, EventFilter(type="a.b")), "whev_1")
    assert cursor is not None
    with pytest.raises(ValueError, match="not a cursor of this list"):
        CURSORS.open(other, cursor)


@given(text=st.text(max_size=80))
def test_what_was_made_up_does_not_open(text: str):
    """Any text but a sealed one."""
    with pytest.raises(ValueError, match="not a cursor"):
        CURSORS.open(b"list", text)


@pytest.mark.parametrize("place", ["whev_1", "whev_12", "whev_123"])
def test_a_cursor_has_one_spelling(place: str):
    """Not padded, with no other last character, nor in the other alphabet of base64."""
    cursor = CURSORS.seal(b"list", place)
    assert cursor is not None
    alphabet = string.ascii_letters + string.digits + "-_+/"
    spellings = {cursor[:-1] + last for last in alphabet} | {cursor + "=" * count for count in range(1, 5)}
    for text in (spellings | {cursor.replace("-", "+").replace("_", "/") + "="}) - {cursor}:
        with pytest.raises(ValueError, match="not a cursor"):
            CURSORS.open(b"list", text)


def test_another_gateways_cursor_does_not_open():
    """The key decides."""
    cursor = Cursors(b"other").seal(b"list", "whev_1")
    assert cursor is not None
    for text in (cursor, cursor[:-2], cursor + "AA", "A" * 2_000):
        with pytest.raises(ValueError, match="not a cursor"):
            CURSORS.open(b"list", text)
