"""What comes in over HTTP, counted for whoever watches from outside."""

import math
from collections import Counter


class Traffic:
    """The connections that are open, and the requests that were refused, by reason: the code of the answer, or a finer one."""

    def __init__(self) -> None:
        self.connections = 0
        self.refused: Counter[str] = Counter()


class Seldom:
    """Lets a log tell of something at most *most* times a minute, and of how often it was left out since. Time in seconds."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._since = -math.inf
        self._told = 0
        self._left_out = 0

    def told(self, now: float) -> int | None:
        """None: say nothing. Else how often nothing was said since the last time."""
        if now - self._since >= 60:
            self._since, self._told = now, 0
        if self._told >= self._most:
            self._left_out += 1
            return None
        self._told += 1
        left_out, self._left_out = self._left_out, 0
        return left_out
