"""Ids: a prefix and 24 letters and digits, the first of which tell the time of making, so that ids sort by age.

8 characters hold milliseconds, 3 a counter within the millisecond, 13 are random (77 bits)."""

import itertools
import os
import string

from gateway.clock import Clock, Timestamp

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase  # in ASCII order, so text sorts as numbers do
_BASE = len(_ALPHABET)
_TIME_LENGTH = 8
_TIME_LIMIT = _BASE**_TIME_LENGTH
_COUNTER_LENGTH = 3
_COUNTER_LIMIT = _BASE**_COUNTER_LENGTH
_RANDOM_LENGTH = 24 - _TIME_LENGTH - _COUNTER_LENGTH
# 256 is no multiple of 62, so the first eight characters come up a little more often: 0.03 bit less for each.
_TO_ALPHABET = bytes(_ALPHABET[byte % _BASE].encode()[0] for byte in range(256))

EVENT = "whev_"
ENDPOINT = "wh_"
DELIVERY = "whdl_"
API_KEY = "key_"
RETRY = "whrt_"
NODE = "node_"
AUDIT_ENTRY = "audit_"

_serial = itertools.count()


def _encode(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, _BASE)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def floor(prefix: str, at: Timestamp) -> str:
    """The smallest id with *prefix* that can be made at *at*: everything made earlier sorts before it. No id tells a time before
    1970, or after the year 8888: bounds beyond are those."""
    return prefix + _encode(min(max(0, at), _TIME_LIMIT - 1), _TIME_LENGTH)


def of(prefix: str, at: Timestamp) -> str:
    """A new id that tells *at*, for what has a time of its own. Of those that a process makes for one millisecond, later ones are
    greater (but for one in 238,328)."""
    chance = os.urandom(_RANDOM_LENGTH).translate(_TO_ALPHABET).decode()
    return f"{floor(prefix, at)}{_encode(next(_serial) % _COUNTER_LIMIT, _COUNTER_LENGTH)}{chance}"


class IdMaker:
    """Makes ids that grow with every call, also when the clock is set back."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at: Timestamp = -1
        self._counter = 0
        self._time_text = ""

    def next(self, prefix: str) -> str:
        """A new id."""
        return self.next_with_time(prefix)[0]

    def next_with_time(self, prefix: str) -> tuple[str, Timestamp]:
        """A new id and the time that it tells."""
        now = self._clock.now()
        self._counter += 1
        if self._counter == _COUNTER_LIMIT:
            now = max(now, self._at + 1)
        if now > self._at:
            self._at = now
            self._time_text = _encode(now, _TIME_LENGTH)
            self._counter = 0
        counter = self._counter
        text = (
            f"{prefix}{self._time_text}{_ALPHABET[counter // 3844]}{_ALPHABET[counter // 62 % 62]}{_ALPHABET[counter % 62]}"
            f"{os.urandom(_RANDOM_LENGTH).translate(_TO_ALPHABET).decode()}"
        )
        return text, self._at
