"""All that is on record, read forwards, a page at a time, by one who proves that it agrees with itself.

Unlike the log it shows rows as they are stored: what it is there to find would not go into the gateway's own structs."""

from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import Protocol

import msgspec

from gateway.clock import Timestamp
from gateway.model import Revision, Tenant


class RecordedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as it is stored."""

    id: str
    type: str
    created_at: Timestamp
    revision: int  # that it was matched against
    external_id: str | None
    is_found_by_it: bool  # whether a repeat of the external id would find it; True when it has none


class RecordedDelivery(msgspec.Struct, frozen=True, gc=False):
    """A delivery as it is stored, whatever became of its endpoint since."""

    id: str
    endpoint_id: str
    event_id: str
    state: str
    reason: str | None
    trigger: str
    activation: int
    attempt_count: int
    scheduled_count: int
    due_at: Timestamp | None
    last_status: int | None
    last_error: str | None
    finished_at: Timestamp | None


class RecordedAttempt(msgspec.Struct, frozen=True, gc=False):
    """An attempt as it is stored, as far as it tells what its delivery should be."""

    delivery_id: str
    number: int
    trigger: str
    status: int | None
    error: str | None
    fenced: bool


class QueuedDelivery(msgspec.Struct, frozen=True, gc=False):
    """What the queue of due work says of a delivery, where that is a table of its own."""

    delivery_id: str
    bucket: int | None
    endpoint_id: str
    event_id: str
    activation: int
    attempt_count: int
    scheduled_count: int
    due_at: Timestamp


class RecordedEndpoint(msgspec.Struct, frozen=True, gc=False):
    """An endpoint as it is stored, deleted ones included."""

    id: str
    events: tuple[str, ...]
    is_active: bool
    is_deleted: bool
    activation: int


class EventPage(msgspec.Struct, frozen=True):
    """Some events of a tenant, oldest first, with everything that belongs to them, all as of one moment."""

    events: Sequence[RecordedEvent]
    deliveries: Sequence[RecordedDelivery]  # of these events
    attempts: Sequence[RecordedAttempt]  # of these deliveries, by number
    queue: Mapping[str, QueuedDelivery] | None  # by delivery; None: the deliveries themselves are the queue
    endpoints: Mapping[str, RecordedEndpoint]  # of these deliveries, by id, those of this tenant
    revisions: Sequence[Revision]  # of the tenant, those above the number that was asked for


class EndpointPage(msgspec.Struct, frozen=True):
    """Some endpoints of a tenant as of one moment."""

    endpoints: Mapping[str, RecordedEndpoint]  # by id
    revisions: Sequence[Revision]  # of the tenant, those above the number that was asked for
    last_number: int | None  # that the next revision is counted from; None: the highest there is


class Link(Enum):
    """Rows that belong to others, each with the statement that looks for those."""

    DELIVERY_OF_ATTEMPT = "links_of_attempts"
    DELIVERY_OF_RETRY = "links_of_retries"
    DELIVERY_OF_QUEUE = "links_of_due"  # a pending one
    EVENT_OF_EXTERNAL_ID = "links_of_external_ids"


Key = tuple[str, ...]
"""The place of a row in its order."""


class Linked(msgspec.Struct, frozen=True, gc=False):
    """A row that belongs to another."""

    key: Key
    tenant: Tenant
    id: str
    owner_id: str
    has_owner: bool


class Span(msgspec.Struct, frozen=True):
    """What is looked at: made at or after `since` and before `until`, as ids tell."""

    since: Timestamp
    until: Timestamp


class Record(Protocol):
    """The store, read beside whoever works on it. Each call is a moment of its own. Raises StoreUnavailable."""

    links: Sequence[Link]  # that can be broken here; the others hold by the way things are stored
    now: Timestamp  # when it was opened, by the clock that those who share the store go by

    async def next_tenant(self, organization_id: str, mode: str) -> Tenant | None:
        """The first tenant after this one that has anything on record."""

    async def revisions(self, tenant: Tenant, *, above: int, limit: int) -> Sequence[Revision]:
        """Revisions with numbers above *above*, in order."""

    async def endpoints(self, tenant: Tenant, endpoint_ids: Collection[str], *, above: int) -> EndpointPage:
        """The endpoints of these ids, and the revisions above the number *above*."""

    async def events(self, tenant: Tenant, span: Span, *, after: str, above: int, limit: int) -> EventPage:
        """Events with ids above *after*, and the revisions above the number *above*."""

    async def deliveries(self, tenant: Tenant, span: Span, *, after: str, limit: int) -> Sequence[Linked]:
        """Deliveries with ids above *after*, in order, and whether their events are there."""

    async def linked(self, link: Link, span: Span, *, after: Key, limit: int) -> Sequence[Linked]:
        """Rows of all tenants that come after *after*, in order; `()` comes before all of them."""
