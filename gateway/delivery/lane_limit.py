"""How many requests a lane may have open, and what its endpoint is known to be like. Pure.

The limit grows with successes, by one for each until it first meets resistance and then by one for each round of them, and
halves when the endpoint does not keep up, down to one probe at a time: additive increase, multiplicative decrease, as
TCP does it (RFC 5681, section 3.1)."""

from enum import Enum

from gateway.delivery.outcome import Strain

INITIAL = 2
PROMPT_SECONDS = 1.0
"""An endpoint that answers within this is prompt."""


class Standing(Enum):
    """What a lane's endpoint is known to be like: how long it may hold a request open."""

    PROMPT = "prompt"  # its last answer, whatever it said, came within a second
    DOUBTFUL = "doubtful"  # it has not answered yet, or took long
    PROBING = "probing"  # resistance has brought it down to one probe at a time


class LaneLimit:
    """The limit of one lane."""

    def __init__(self, most: int) -> None:
        self._most = float(most)
        self._limit = float(min(INITIAL, most))
        self._threshold = self._most  # below this it grows by one for each success
        self._is_strained = False
        self._is_prompt = False
        self._is_untried = True

    @property
    def open_requests(self) -> int:
        """How many requests may be open; at least 1."""
        return int(self._limit)

    @property
    def standing(self) -> Standing:
        """What the endpoint is like as far as is known."""
        if self._is_strained and self.open_requests == 1:
            return Standing.PROBING
        return Standing.PROMPT if self._is_prompt else Standing.DOUBTFUL

    def learn(self, strain: Strain, seconds: float) -> None:
        """Takes in what one answer said, and how long the attempt took."""
        self._is_untried = False
        self._is_prompt = seconds < PROMPT_SECONDS
        if strain is Strain.STRAIN:
            self._is_strained = True
            self._threshold = self._limit = max(1.0, self._limit / 2)
        elif strain is Strain.EASE:
            self._is_strained = False
            step = 1.0 if self._limit < self._threshold else 1.0 / self._limit
            self._limit = min(self._most, self._limit + step)

    def suspect(self) -> None:
        """Begins with one probe, unless the endpoint has been tried: others' attempts at it have failed."""
        if self._is_untried:
            self._is_strained = True
            self._threshold = self._limit = 1.0
