"""How many events in a row have failed. What is done about it is in integration/core/test_health.py."""

import pytest

from gateway.delivery.health import failures_after


@pytest.mark.parametrize(
    ("before", "ended", "most", "after", "reached"),
    [
        (0, "", 3, 0, False),
        (2, "", 3, 2, False),
        (0, "ff", 3, 2, False),
        (0, "fff", 3, 3, True),
        (2, "f", 3, 3, True),
        (2, "d", 3, 0, False),
        (2, "df", 3, 1, False),
        (1, "fdff", 3, 2, False),
        (1, "ffd", 3, 0, True),  # it was reached, although a success came after it
        (0, "fffff", 0, 5, False),  # 0 turns it off
        (0, "f", 1, 1, True),
        (7, "f", 3, 8, True),
    ],
)
def test_failures_in_a_row(before: int, ended: str, most: int, after: int, reached: bool):  # noqa: FBT001 - a column of the table
    """Failures add up, a success starts over, and the limit counts at the moment when it is reached."""
    assert failures_after(before, (letter == "d" for letter in ended), most) == (after, reached)
