"""Which endpoints want an event. In memory, for one tenant as of one revision. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from gateway.model import Endpoint
from gateway.publishing.event_types import ANY
from gateway.store.protocol import ActiveEndpoints

_REMEMBERED_TYPES = 1_000

T = TypeVar("T")


class Matcher(Generic[T]):
    """Who wants which events."""

    def __init__(self, wishes: Iterable[tuple[str, Sequence[str], T]]) -> None:
        """Each of *wishes* is an endpoint's id, what it wants, and what a match answers for it."""
        self._exact: defaultdict[str, list[tuple[str, T]]] = defaultdict(list)
        self._below: defaultdict[str, list[tuple[str, T]]] = defaultdict(list)
        self._any: list[tuple[str, T]] = []
        self._known: dict[str, Sequence[T]] = {}
        for endpoint_id, patterns, whom in wishes:
            for pattern in patterns:
                if pattern == ANY:
                    self._any.append((endpoint_id, whom))
                elif pattern.endswith(".*"):
                    self._below[pattern[:-2]].append((endpoint_id, whom))
                else:
                    self._exact[pattern].append((endpoint_id, whom))

    def match(self, event_type: str) -> Sequence[T]:
        """Those that want events of *event_type*, each once."""
        known = self._known.get(event_type)
        if known is None:
            if len(self._known) >= _REMEMBERED_TYPES:
                self._known.clear()
            known = self._known[event_type] = self._search(event_type)
        return known

    def _search(self, event_type: str) -> Sequence[T]:
        found = dict(self._any)
        parts = event_type.split(".")
        for length in range(1, len(parts)):
            found.update(self._below.get(".".join(parts[:length]), ()))
        found.update(self._exact.get(event_type, ()))
        return tuple(found.values())


class TenantIndex(Matcher[Endpoint]):
    """A tenant's active endpoints, by what they want."""

    def __init__(self, active: ActiveEndpoints) -> None:
        super().__init__((endpoint.id, endpoint.events, endpoint) for endpoint in active.endpoints)
        self.revision = active.revision
        self.pinned_version = active.pinned_version
