"""Event types: how they look, the patterns that endpoints name them by, and the catalogue that an operator may set."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec

from gateway.errors import SettingsError

ANY = "*"
MAX_LENGTH = 128
_TYPE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")
_PREFIX_PATTERN = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*\.\*")


def is_event_type(text: str) -> bool:
    """Whether *text* is two or more parts of `a-z 0-9 _` joined by dots, at most 128 characters."""
    return len(text) <= MAX_LENGTH and _TYPE.fullmatch(text) is not None


def is_event_pattern(text: str) -> bool:
    """Whether *text* is an event type, `*`, or `prefix.*` (any depth below the prefix)."""
    return text == ANY or is_event_type(text) or (len(text) <= MAX_LENGTH and _PREFIX_PATTERN.fullmatch(text) is not None)


class Catalogue(msgspec.Struct, frozen=True):
    """The event types that exist, with their descriptions."""

    types: Mapping[str, str]

    @classmethod
    def load(cls, path: Path) -> Self:
        """The catalogue in the TOML file *path*: a table `event_types` of names and descriptions.

        Raises SettingsError, naming the file and what is wrong in it.
        """
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"events.catalogue: {path} cannot be read ({error.strerror})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"events.catalogue: {path} is not TOML: {error}") from error
        try:
            types = msgspec.convert(content.get("event_types"), dict[str, str])
        except msgspec.ValidationError as error:
            raise SettingsError(
                f"events.catalogue: {path} has no table `[event_types]` of names and descriptions: {error}"
            ) from error
        for name in types:
            if not is_event_type(name):
                raise SettingsError(f"events.catalogue: {path}: {name!r} is not an event type, such as `invoice.paid`")
        return cls(types)

    def knows(self, event_type: str) -> bool:
        """Whether the catalogue has this event type."""
        return event_type in self.types

    def covers(self, pattern: str) -> bool:
        """Whether *pattern* matches at least one event type of the catalogue."""
        if pattern == ANY:
            return True
        if pattern.endswith(".*"):
            return any(name.startswith(pattern[:-1]) for name in self.types)
        return pattern in self.types
