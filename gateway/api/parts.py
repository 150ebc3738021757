"""What the API is made of: its settings and collaborators, each a small protocol of what is asked of it."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from gateway.api.auth import Authenticator
from gateway.api.bad_keys import BadKeys
from gateway.api.dialects import PinnedVersions
from gateway.api.rate_limit import RateLimiter
from gateway.api.traffic import Traffic
from gateway.clock import Clock, Timestamp
from gateway.egress.addresses import AddressGuard
from gateway.ids import IdMaker
from gateway.model import AcceptedEvent, Endpoint, Event, IdempotentAnswer, NodeStanding
from gateway.publishing.event_types import Catalogue
from gateway.registry.reencryption import Reencrypted
from gateway.settings import Settings
from gateway.store.protocol import Change, Changer, Log


class Publisher(Protocol):
    """Takes events."""

    def ensure_room(self) -> None:
        """Raises QueueFull or StoreUnavailable when no event would be taken, whatever it is."""

    def accept(self, event: Event) -> AcceptedEvent:
        """*event* with its id, checked; nothing is kept yet. Raises InvalidEvent."""

    async def publish(
        self, events: Sequence[AcceptedEvent], *, seal: Callable[[Sequence[AcceptedEvent]], IdempotentAnswer] | None = None
    ) -> Sequence[AcceptedEvent]:
        """The events in place, once they are committed; a repeat of an external id is the first event. Raises QueueFull
        and StoreUnavailable. What *seal* makes of the outcome is kept in the same commit."""


class TestOutcome(Protocol):
    """How a test went."""

    @property
    def delivery_id(self) -> str:
        """The delivery that the test is on record as."""

    @property
    def success(self) -> bool:
        """Whether the endpoint answered 2xx."""

    @property
    def finished_at(self) -> Timestamp:
        """The end of the attempt."""


class Tester(Protocol):
    """Tests endpoints."""

    async def run(self, endpoint: Endpoint, pinned_version: str | None) -> Change[TestOutcome]:
        """Sends one event to *endpoint*, now; the change stores the result and returns it."""


async def _nobody() -> Sequence[NodeStanding]:
    return ()


class ApiParts(msgspec.Struct, frozen=True, kw_only=True):
    """The API's collaborators."""

    settings: Settings
    clock: Clock
    ids: IdMaker
    log: Log
    writer: Changer
    publisher: Publisher
    tester: Tester
    catalogue: Catalogue | None
    guard: AddressGuard
    cursor_key: bytes
    keys: Authenticator  # to be loaded, and told of each change
    pinned: PinnedVersions = msgspec.field(default_factory=PinnedVersions)  # likewise
    limiter: RateLimiter | None = None  # one for all listeners; None: no key has a limit
    bad_keys: BadKeys | None = None  # likewise; None: no address has a limit
    traffic: Traffic = msgspec.field(default_factory=Traffic)  # likewise one for all listeners
    readiness: Callable[[], str | None]  # None: ready; else a sentence why not
    standing: Callable[[], dict[str, object] | None] = lambda: None  # of this node among those that share the store
    look_for_news: Callable[[], Awaitable[None]] | None = None  # hears of what other nodes have committed
    metrics: Callable[[], bytes]  # in Prometheus's text format
    nodes: Callable[[], Awaitable[Sequence[NodeStanding]]] = _nobody  # those that share the store, by id
    reencrypt: Callable[[], Awaitable[Reencrypted]]  # with the key that encrypts now
    backup: Callable[[Path], Awaitable[int]] | None = None  # copies the store into a new file, of so many bytes; None: cannot
