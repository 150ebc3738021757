"""How many requests a lane may have open. Pure.

It grows with successes, by one for each until it first meets resistance and then by one for each round of them, and
halves when the endpoint does not keep up, down to one probe at a time: additive increase, multiplicative decrease, as
TCP does it (RFC 5681, section 3.1)."""

from gateway.delivery.outcome import Strain

INITIAL = 2


class LaneLimit:
    """The limit of one lane."""

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._limit = float(min(INITIAL, most))
        self._threshold = self._most  # below this it grows by one for each success
        self._is_strained = False

    @property
    def open_requests(self) -> int:
        """How many requests may be open; at least 1."""
        return int(self._limit)

    @property
    def is_probing(self) -> bool:
        """Whether resistance has brought it down to one probe at a time."""
        return self._is_strained and self.open_requests == 1

    def learn(self, strain: Strain) -> None:
        """Takes in what one answer said."""
        if strain is Strain.STRAIN:
            self._is_strained = True
            self._threshold = self._limit = max(1.0, self._limit / 2)
        elif strain is Strain.EASE:
            self._is_strained = False
            step = 1.0 if self._limit < self._threshold else 1.0 / self._limit
            self._limit = min(self._most, self._limit + step)
