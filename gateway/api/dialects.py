"""The shapes of answers by API version. Errors, single objects and pages each have one shape in each dialect."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from gateway.api import problems
from gateway.api.problems import ErrorView, Problem
from gateway.api.vocabulary import No, Yes
from gateway.model import Organization

PLAIN_SINCE = "2026-07-24"
"""The first version that answers without the `success` envelope."""

DEFAULT_VERSION = "2026-07-11"
"""What an absent `commet-version` means where no organization is pinned."""

_encoder = msgspec.json.Encoder()


class Answer(msgspec.Struct, frozen=True):
    """What is sent back: a status, a JSON body, and the headers that not every answer has."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Dialect(Protocol):
    """One way to shape answers."""

    def one(self, view: msgspec.Struct, status: int = 200) -> Answer:
        """A single object."""

    def page(self, views: Sequence[msgspec.Struct], next_cursor: str | None = None, status: int = 200) -> Answer:
        """A page of a list; no *next_cursor* on the last one."""

    def error(self, problem: Problem) -> Answer:
        """A refusal or failure."""


class EnvelopedOne(msgspec.Struct, frozen=True, kw_only=True):
    """A single object, before 2026-07-24."""

    success: Yes = True
    data: msgspec.Struct


class EnvelopedPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A page, before 2026-07-24."""

    success: Yes = True
    data: Sequence[msgspec.Struct]
    has_more: bool
    next_cursor: str | None


class EnvelopedError(msgspec.Struct, frozen=True, kw_only=True):
    """An error, before 2026-07-24."""

    success: No = False
    error: ErrorView


class Enveloped:
    """Before 2026-07-24: everything bears `success`."""

    def one(self, view: msgspec.Struct, status: int = 200) -> Answer:
        return Answer(status, _encoder.encode(EnvelopedOne(data=view)))

    def page(self, views: Sequence[msgspec.Struct], next_cursor: str | None = None, status: int = 200) -> Answer:
        return Answer(
            status, _encoder.encode(EnvelopedPage(data=views, has_more=next_cursor is not None, next_cursor=next_cursor))
        )

    def error(self, problem: Problem) -> Answer:
        return Answer(problem.kind.status, _encoder.encode(EnvelopedError(error=problems.view(problem))), problem.headers)


class PlainPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A page, from 2026-07-24."""

    object: Literal["list"] = "list"
    data: Sequence[msgspec.Struct]
    has_more: bool
    next_cursor: str | UnsetType = UNSET


class PlainError(msgspec.Struct, frozen=True):
    """An error, from 2026-07-24."""

    error: ErrorView


class Plain:
    """From 2026-07-24: objects as they are, and lists that say so."""

    def one(self, view: msgspec.Struct, status: int = 200) -> Answer:
        return Answer(status, _encoder.encode(view))

    def page(self, views: Sequence[msgspec.Struct], next_cursor: str | None = None, status: int = 200) -> Answer:
        following = UNSET if next_cursor is None else next_cursor
        return Answer(status, _encoder.encode(PlainPage(data=views, has_more=next_cursor is not None, next_cursor=following)))

    def error(self, problem: Problem) -> Answer:
        return Answer(problem.kind.status, _encoder.encode(PlainError(problems.view(problem))), problem.headers)


ENVELOPED: Dialect = Enveloped()
PLAIN: Dialect = Plain()


def spoken_in(version: str) -> Dialect:
    """The dialect of an API version. Versions are dates, which sort as text."""
    return ENVELOPED if version < PLAIN_SINCE else PLAIN


class PinnedVersions:
    """What organizations are pinned to, in memory: loaded at start, and told of each change."""

    def __init__(self) -> None:
        self._versions: dict[str, str] = {}

    def load(self, organizations: Iterable[Organization]) -> None:
        """Forgets what it knew for *organizations*."""
        self._versions = {
            organization.id: organization.api_version for organization in organizations if organization.api_version is not None
        }

    def changed(self, organization: Organization) -> None:
        """*organization* was pinned or unpinned."""
        if organization.api_version is None:
            self._versions.pop(organization.id, None)
        else:
            self._versions[organization.id] = organization.api_version

    def get(self, organization_id: str) -> str | None:
        """What the organization is pinned to."""
        return self._versions.get(organization_id)


class Dialects:
    """Picks the dialect of an answer."""

    def __init__(self, versions: Sequence[str], pinned: PinnedVersions) -> None:
        self._known: Mapping[str, Dialect] = {version: spoken_in(version) for version in versions}
        self._current = spoken_in(versions[-1])
        self._default = spoken_in(DEFAULT_VERSION)
        self._pinned = pinned

    def pick(self, header: str | None, organization_id: str | None) -> Dialect:
        """By the `commet-version` header (an unknown one means the current version), else by what the organization
        is pinned to, else the default: also while it is not known yet who asks."""
        if header is not None:
            return self._known.get(header, self._current)
        version = None if organization_id is None else self._pinned.get(organization_id)
        return self._default if version is None else spoken_in(version)
