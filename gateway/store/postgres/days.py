"""Which day (UTC, counted from the epoch) an id belongs to. Pure."""

import string
from collections.abc import Collection

from gateway import ids
from gateway.clock import DAY

_DIGITS = {digit: value for value, digit in enumerate(string.digits + string.ascii_uppercase + string.ascii_lowercase)}
_TIME_LENGTH = 8


def day_of(id: str) -> int:
    """The day of an id; day 0 when it tells no time."""
    _, _, rest = id.rpartition("_")
    at = 0
    for digit in rest[:_TIME_LENGTH]:
        at = at * len(_DIGITS) + _DIGITS.get(digit, 0)
    return at // DAY


def whole_days(of: Collection[str]) -> tuple[str, str]:
    """The span of ids of the days that *of*, of which there is one at least, belong to.

    Whole days, because the planner would take a narrow span of new ids for empty, lying beyond all that it has statistics of,
    and begin with it."""
    lowest, highest = min(of), max(of)
    prefix = lowest[: lowest.rfind("_") + 1]
    return (
        min(lowest, ids.floor(prefix, day_of(lowest) * DAY)),
        max(highest, ids.floor(prefix, (day_of(highest) + 1) * DAY)),
    )
