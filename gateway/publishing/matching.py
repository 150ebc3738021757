"""Which endpoints want an event. In memory, for one tenant as of one revision. Pure."""

from collections import defaultdict
from collections.abc import Sequence

from gateway.model import Endpoint
from gateway.publishing.event_types import ANY
from gateway.store.protocol import ActiveEndpoints

_REMEMBERED_TYPES = 1_000


class TenantIndex:
    """A tenant's active endpoints, by what they want."""

    def __init__(self, active: ActiveEndpoints) -> None:
        self.revision = active.revision
        self.pinned_version = active.pinned_version
        self._exact: defaultdict[str, list[Endpoint]] = defaultdict(list)
        self._below: defaultdict[str, list[Endpoint]] = defaultdict(list)
        self._any: list[Endpoint] = []
        self._known: dict[str, Sequence[Endpoint]] = {}
        for endpoint in active.endpoints:
            for pattern in endpoint.events:
                if pattern == ANY:
                    self._any.append(endpoint)
                elif pattern.endswith(".*"):
                    self._below[pattern[:-2]].append(endpoint)
                else:
                    self._exact[pattern].append(endpoint)

    def match(self, event_type: str) -> Sequence[Endpoint]:
        """The endpoints that want events of *event_type*, each once."""
        known = self._known.get(event_type)
        if known is None:
            if len(self._known) >= _REMEMBERED_TYPES:
                self._known.clear()
            known = self._known[event_type] = self._search(event_type)
        return known

    def _search(self, event_type: str) -> Sequence[Endpoint]:
        found = {endpoint.id: endpoint for endpoint in self._any}
        parts = event_type.split(".")
        for length in range(1, len(parts)):
            found.update((endpoint.id, endpoint) for endpoint in self._below.get(".".join(parts[:length]), ()))
        found.update((endpoint.id, endpoint) for endpoint in self._exact.get(event_type, ()))
        return tuple(found.values())
