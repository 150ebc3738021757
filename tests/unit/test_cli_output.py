"""Tables that fit, and cells that say nothing to a terminal."""

import pytest

from gateway.cli.output import cell, table

COLUMNS = (("ID", "id"), ("URL", "url"), ("EVENTS", "events"))
ITEMS = [
    {"id": "wh_000000000000000000000001", "url": "https://example.com/a/rather/long/path/to/a/receiver", "events": ["a.b"]},
    {"id": "wh_000000000000000000000002", "url": "https://example.com/", "events": ["invoice.created", "invoice.voided"]},
]


def test_a_table_that_goes_to_a_file_is_not_cut():
    lines = table(ITEMS, COLUMNS, width=None)
    assert lines[1].split() == ["wh_000000000000000000000001", "https://example.com/a/rather/long/path/to/a/receiver", "a.b"]
    assert lines[0].index("URL") == lines[1].index("https") == lines[2].index("https")


@pytest.mark.parametrize("width", [80, 60, 50])
def test_a_table_fits_the_terminal_and_ids_stay_whole(width):
    lines = table(ITEMS, COLUMNS, width=width)
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines[1:]] == [item["id"] for item in ITEMS]
    assert "…" in lines[1]


def test_a_terminal_that_is_too_narrow_gets_what_is_least():
    assert [len(line) for line in table(ITEMS, COLUMNS, width=10)][1:] == [27 + 2 + 6 + 2 + 3, 27 + 2 + 6 + 2 + 6]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        ([], "-"),
        (["a", None], "a, -"),
        (12, "12"),
        ({"a": 1}, '{"a":1}'),
        ("a\x1b[31mb\r\nc\x9bd\u202ee", "a·[31mb··c·d·e"),
    ],
)
def test_a_cell_is_one_line_of_plain_text(value, shown):
    assert cell(value) == shown
