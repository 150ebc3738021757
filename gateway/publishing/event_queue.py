"""The bounded queue between the doors and the writer. What is in it has been answered to nobody yet.

Organizations take turns: one that publishes much at once does not stand before the others."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence

from gateway.errors import QueueFull
from gateway.model import AcceptedEvent, IdempotentAnswer
from gateway.settings import Intake

Seal = Callable[[Sequence[AcceptedEvent]], IdempotentAnswer]
"""Makes the record of an idempotent request from its outcome, within the commit."""


class Publication:
    """Events that one publisher waits for together."""

    def __init__(self, events: Sequence[AcceptedEvent], seal: Seal | None) -> None:
        self.events = events
        self.outcomes: list[AcceptedEvent] = list(events)  # in place; a repeat becomes the first event
        self.seal = seal
        self.waiting = len(events)  # those not committed yet
        self.done: asyncio.Future[Sequence[AcceptedEvent]] = asyncio.get_running_loop().create_future()

    def committed(self) -> None:
        """One more of the events is safe."""
        self.waiting -= 1
        if self.waiting == 0 and not self.done.done():
            self.done.set_result(self.outcomes)

    def failed(self, error: Exception) -> None:
        """An event could not be committed; the publisher hears of it at once."""
        if not self.done.done():
            self.done.set_exception(error)


Entry = tuple[Publication, int]
"""An event of a publication, by its place."""


class EventQueue:
    """Bounded in events and in bytes, no organization holding more than half. An event counts until it is committed.

    *refuses* says whether, with so many events waiting, no more should be taken since delivering is behind."""

    def __init__(self, settings: Intake, *, refuses: Callable[[int], bool] = lambda _: False) -> None:
        self._settings = settings
        self._refuses = refuses
        self._lines: OrderedDict[str, deque[Entry]] = OrderedDict()  # an organization's, the next one's turn first
        self.waiting = 0  # events that nobody has taken yet
        self._count = 0
        self._bytes = 0
        self._counts: Counter[str] = Counter()
        self._bytes_of: Counter[str] = Counter()

    def __bool__(self) -> bool:
        """Whether somebody waits."""
        return bool(self._lines)

    @property
    def depth(self) -> int:
        """Events that are waiting or being committed."""
        return self._count

    def ensure_room(self) -> None:
        """Raises QueueFull when not a single event would be taken."""
        if self._count >= self._settings.max_queue:
            raise QueueFull(f"{self._count} events are waiting to be committed; try again in a moment")
        if self._refuses(self._count):
            raise QueueFull("more waits to be delivered than can be in good time; try again in a moment")

    def put(self, publication: Publication) -> None:
        """Takes all of *publication* or nothing. Raises QueueFull."""
        self.ensure_room()
        counts: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for event in publication.events:
            organization_id = event.tenant.organization_id
            counts[organization_id] = counts.get(organization_id, 0) + 1
            sizes[organization_id] = sizes.get(organization_id, 0) + len(event.data)
        size = sum(sizes.values())
        most, most_bytes = self._settings.max_queue, self._settings.max_queue_bytes
        if self._count + len(publication.events) > most or self._bytes + size > most_bytes:
            raise QueueFull(f"{self._count} events are waiting to be committed; try again in a moment")
        for organization_id, count in counts.items():
            if (
                self._counts[organization_id] + count > max(1, most // 2)
                or self._bytes_of[organization_id] + sizes[organization_id] > most_bytes // 2
            ):
                raise QueueFull("the organization has its share of the event queue waiting; try again in a moment")
        self.waiting += len(publication.events)
        self._count += len(publication.events)
        self._bytes += size
        for organization_id, count in counts.items():
            self._counts[organization_id] += count
            self._bytes_of[organization_id] += sizes[organization_id]
        for place, event in enumerate(publication.events):
            organization_id = event.tenant.organization_id
            line = self._lines.get(organization_id)
            if line is None:
                line = self._lines[organization_id] = deque()
            line.append((publication, place))

    def take(self, *, only_unsealed: bool = False) -> Entry | None:
        """The oldest entry, whose publisher still waits, of the organization whose turn it is; None when there is none.
        With *only_unsealed*, an organization whose oldest entry's publication has a seal is passed over."""
        while (organization_id := self._whose_turn(only_unsealed=only_unsealed)) is not None:
            line = self._lines[organization_id]
            entry = line.popleft()
            self.waiting -= 1
            if line:
                self._lines.move_to_end(organization_id)
            else:
                del self._lines[organization_id]
            if not entry[0].done.done():
                return entry
            self.release(entry)
        return None

    def _whose_turn(self, *, only_unsealed: bool) -> str | None:
        if not only_unsealed:
            return next(iter(self._lines), None)
        return next((organization_id for organization_id, line in self._lines.items() if line[0][0].seal is None), None)

    def release(self, entry: Entry) -> None:
        """The event of *entry* is committed or given up: it no longer counts."""
        event = entry[0].events[entry[1]]
        organization_id, size = event.tenant.organization_id, len(event.data)
        self._count -= 1
        self._bytes -= size
        if self._counts[organization_id] == 1:
            del self._counts[organization_id], self._bytes_of[organization_id]
        else:
            self._counts[organization_id] -= 1
            self._bytes_of[organization_id] -= size
