"""What a query may say. Like a body it is read name by name, so that everything wrong with it is told in one answer. Pure."""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta
from multidict import MultiMapping

from gateway.api.cursors import Cursors
from gateway.api.problems import Fault
from gateway.api.validation import read_timestamp
from gateway.api.vocabulary import EventType, GivenTime
from gateway.clock import Timestamp
from gateway.publishing.event_types import is_event_type

E = TypeVar("E", bound=StrEnum)

DEFAULT_LIMIT = 20
MAX_TEXT = 255

_LIMIT = re.compile(r"[1-9][0-9]?|100")
ID_PATTERN = "^[A-Za-z0-9_-]{1,64}$"
_ID = re.compile(ID_PATTERN)


Id = Annotated[str, Meta(pattern=ID_PATTERN)]
Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT, pattern=r"^[^\u0000]+$")]


class Parameter(msgspec.Struct, frozen=True):
    """What a query may have, for the API's description: its name, its type and what it means."""

    name: str
    kind: Any
    means: str


LIMIT = Parameter(
    "limit", Annotated[int, Meta(ge=1, le=100, extra_json_schema={"default": DEFAULT_LIMIT})], "how many a page holds"
)
CURSOR = Parameter("cursor", str, "the `nextCursor` of the page before, of the same list with the same filters")
SINCE = Parameter("since", GivenTime, "only those with `createdAt` at or after this")
UNTIL = Parameter("until", GivenTime, "only those with `createdAt` before this")
EVENT = Parameter("event", EventType, "only those of this event type")


def is_id(text: str) -> bool:
    """Whether *text* could be the id of anything."""
    return _ID.fullmatch(text) is not None


class Parameters:
    """A query. Each method reads one parameter and adds what is wrong with it to *faults*; None is an absent one."""

    def __init__(self, given: MultiMapping[str], faults: list[Fault]) -> None:
        self._given = given
        self._faults = faults

    def one(self, name: str) -> str | None:
        """The parameter as it came."""
        values = self._given.getall(name, ())
        if len(values) > 1:
            self._faults.append((name, "must not be repeated"))
        return values[0] if len(values) == 1 else None

    def limit(self) -> int:
        text = self.one("limit")
        if text is None:
            return DEFAULT_LIMIT
        if not _LIMIT.fullmatch(text):
            self._faults.append(("limit", "must be a whole number from 1 to 100"))
            return DEFAULT_LIMIT
        return int(text)

    def cursor(self, cursors: Cursors, scope: bytes) -> str | None:
        """The id to go on below. Only to be asked once all that *scope* holds is known to be right."""
        text = self.one("cursor")
        if text is None:
            return None
        try:
            return cursors.open(scope, text)
        except ValueError:
            self._faults.append(("cursor", "must be the `nextCursor` of a page of this very list"))
            return None

    def text(self, name: str) -> str | None:
        return self._checked(
            name,
            lambda text: 1 <= len(text) <= MAX_TEXT and "\0" not in text and _is_text(text),
            f"must have 1 to {MAX_TEXT} characters, none of them NUL",
        )

    def id(self, name: str) -> str | None:
        return self._checked(name, is_id, "must be an id")

    def event_type(self, name: str) -> str | None:
        return self._checked(name, is_event_type, "must be an event type such as `invoice.paid`")

    def member(self, name: str, enum: type[E]) -> E | None:
        text = self._checked(name, lambda text: text in set(enum), f"must be one of {', '.join(enum)}")
        return None if text is None else enum(text)

    def timestamp(self, name: str) -> Timestamp | None:
        text = self.one(name)
        if text is None:
            return None
        # A plus sign in a query is a space: `+02:00` that nobody escaped comes as ` 02:00`.
        at = read_timestamp(re.sub(r" (?=\d\d:?\d\d$)", "+", text) if "T" in text.upper() else text)
        if at is None:
            self._faults.append((name, "must be a date and time in ISO 8601, such as 2026-03-25T14:30:00Z"))
        return at

    def _checked(self, name: str, is_right: Callable[[str], bool], message: str) -> str | None:
        text = self.one(name)
        if text is None or is_right(text):
            return text
        self._faults.append((name, message))
        return None


def _is_text(text: str) -> bool:
    """Whether *text* can be written as UTF-8, which lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
