"""How many deliveries, of how many bytes, a claim may still take. Pure."""

from collections.abc import Sequence
from typing import Any


class ClaimBudget:
    """Spent row by row; the last column of a row is the size of its event's data."""

    def __init__(self, limit: int, max_bytes: int) -> None:
        self.limit = limit
        self._bytes_left = max_bytes

    def spend(self, found: Sequence[Any]) -> list[Any]:
        """The first rows of *found* that the budget pays for; the one that passes the bytes is the last."""
        taken = []
        for row in found:
            if self.limit <= 0 or self._bytes_left <= 0:
                break
            taken.append(row)
            self.limit -= 1
            self._bytes_left -= row[-1]
        return taken
