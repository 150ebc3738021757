"""What the rest of the gateway asks of a store: small protocols by role, each promising a guarantee.

`tests/contract` holds every promise as a test that runs on each backend. All methods raise `StoreUnavailable` when
the store cannot do it at the moment; a transaction that raised has changed nothing.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from gateway.clock import Timestamp
from gateway.model import (
    AcceptedEvent,
    ApiKey,
    Attempt,
    AuditAction,
    AuditEntry,
    Delivery,
    DeliveryState,
    DueDelivery,
    Endpoint,
    FailureNotice,
    IdempotentAnswer,
    Lease,
    Node,
    Organization,
    Reason,
    Reservation,
    Result,
    Revision,
    Tenant,
)
from gateway.store.sealing import Sealing

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

SCAN_LIMIT = 10_000
"""Rows that a filtered list walks for one page; the page then ends early, with a place to go on."""


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some rows of a list, newest first. `next_below` is the id to go on below; None on the last page."""

    items: Sequence[T]
    next_below: str | None


class EventFilter(msgspec.Struct, frozen=True):
    """Which events a list shows; None does not filter. `since` is inclusive, `until` exclusive, on `created_at`."""

    type: str | None = None
    external_id: str | None = None
    since: Timestamp | None = None
    until: Timestamp | None = None


class DeliveryFilter(msgspec.Struct, frozen=True):
    """Which deliveries a list shows; None does not filter. `since` is inclusive, `until` exclusive, on `created_at`."""

    endpoint_id: str | None = None
    event_id: str | None = None
    event_type: str | None = None
    state: DeliveryState | None = None
    since: Timestamp | None = None
    until: Timestamp | None = None


class AuditFilter(msgspec.Struct, frozen=True):
    """Which entries of the audit log a list shows; None does not filter. `since` is inclusive, `until` exclusive, on `at`."""

    actor: str | None = None  # an actor's id
    action: AuditAction | None = None
    target_id: str | None = None
    since: Timestamp | None = None
    until: Timestamp | None = None


class NewEvent(msgspec.Struct, frozen=True):
    """An event about to be stored, with the tenant's revision that it was matched against."""

    event: AcceptedEvent
    revision: int


class ActiveEndpoints(msgspec.Struct, frozen=True):
    """A tenant's active endpoints as of a revision, and the API version that its organization is pinned to."""

    revision: int
    endpoints: tuple[Endpoint, ...]
    pinned_version: str | None


class LaneWork(msgspec.Struct, frozen=True):
    """An endpoint that has work in the store."""

    endpoint: Endpoint
    has_first_attempts: bool
    next_retry_at: Timestamp | None
    has_manual: bool


class Claim(msgspec.Struct, frozen=True):
    """What a lane asks for: up to `limit` deliveries that are due at `now`, and none that is in `held`; retries by hand,
    which go before what the lane already has, may be of those that are not yet `under_way`."""

    endpoint: Endpoint  # deliveries of an earlier activation are not handed out
    now: Timestamp
    limit: int
    max_bytes: int  # of event data; the delivery that passes it is the last
    held: Collection[str]  # ids of deliveries
    under_way: Collection[str]  # those of `held` that are being attempted; the others may be retried by hand
    manual: bool = True  # which kinds to look for
    retries: bool = True
    first: bool = True


class Claimed(msgspec.Struct, frozen=True):
    """The answer to a claim."""

    manual: Sequence[DueDelivery] = ()  # retries by hand, oldest first
    retries: Sequence[DueDelivery] = ()  # later attempts, earliest due first
    first: Sequence[DueDelivery] = ()  # first attempts, oldest first
    more_first: bool = False  # first attempts were left behind
    more_manual: bool = False  # retries by hand were left behind for want of room
    blocked_manual: bool = False  # retries by hand were left behind because their delivery is being attempted
    next_retry_at: Timestamp | None = None  # of the earliest later attempt that was left behind


class Resealed(msgspec.Struct, frozen=True):
    """What a step of encrypting secrets anew has come to."""

    seen: int  # endpoints
    resealed: int  # those of them that were in clear, or encrypted with another key
    last: str | None  # the id of the endpoint to go on after; None: there are no more


class Effects(msgspec.Struct):
    """What a transaction did that others in the process hold in memory; acted on after its commit."""

    endpoints: list[Endpoint] = msgspec.field(default_factory=list)  # added or saved, as they are now
    retried_endpoints: list[Endpoint] = msgspec.field(default_factory=list)  # those with a new retry by hand
    new_work: list[Endpoint] = msgspec.field(default_factory=list)  # those with new deliveries besides the fresh ones
    disabled: list[Endpoint] = msgspec.field(default_factory=list)  # by the gateway itself, as they are now
    recovered: list[Endpoint] = msgspec.field(default_factory=list)  # enabled by the gateway itself
    keys: list[ApiKey] = msgspec.field(default_factory=list)  # added or revoked, as they are now
    organizations: list[Organization] = msgspec.field(default_factory=list)  # pinned
    audited: list[AuditEntry] = msgspec.field(default_factory=list)  # what somebody has done
    fenced: list[Result] = msgspec.field(default_factory=list)  # results that came after their lease had passed on


class Transaction(Protocol):
    """One atomic set of changes. What it reads includes what it has written."""

    effects: Effects

    # Endpoints

    async def endpoint(self, tenant: Tenant, endpoint_id: str) -> Endpoint | None:
        """The endpoint, unless it is deleted."""

    async def endpoint_by_id(self, endpoint_id: str) -> Endpoint | None:
        """The endpoint of any tenant, deleted ones included."""

    async def count_endpoints(self, organization_id: str) -> int:
        """How many endpoints the organization has in both modes, deleted ones left out."""

    async def endpoints_by_id(self, endpoint_ids: Collection[str]) -> dict[str, Endpoint]:
        """The endpoints of any tenants, deleted ones included. Nobody else changes them until the transaction ends."""

    async def active_endpoints(self, tenant: Tenant) -> ActiveEndpoints:
        """What events of the tenant are matched against."""

    async def outdated(self, known: Mapping[Tenant, tuple[int, str | None]]) -> Collection[Tenant]:
        """Those of *known* of which another process has changed an endpoint since the revision, or the pinned version."""

    async def add_endpoint(self, endpoint: Endpoint) -> None:
        """Stores a new endpoint."""

    async def save_endpoint(self, endpoint: Endpoint) -> None:
        """Stores all of an endpoint that exists."""

    async def add_revision(self, revision: Revision) -> int:
        """Numbers the change (whatever `revision.number` says) and stores it; the number."""

    async def reset_failures(self, endpoint_ids: Collection[str]) -> None:
        """Sets `failed_in_row` to 0."""

    async def pause_endpoints(self, pauses: Sequence[tuple[str, Timestamp]]) -> None:
        """Keeps, for each endpoint id, the later of the pause that it has and the one given."""

    async def reseal_endpoints(self, after: str, *, limit: int) -> Resealed:
        """Encrypts with the key that encrypts now what is stored otherwise of up to *limit* endpoints with ids above *after*,
        deleted ones included. Nothing else of them changes, so that nobody has to hear of it."""

    async def cancel_passed(self, endpoint: Endpoint, reason: Reason, at: Timestamp, *, limit: int) -> int:
        """Stores `canceled` for up to *limit* pending deliveries of earlier activations; how many it was."""

    async def mark_swept(self, endpoint: Endpoint) -> None:
        """Remembers that no delivery of an activation before this one waits any more."""

    async def schedule_probes(self, at: Timestamp) -> None:
        """Has every endpoint that is disabled by failures, and is not probed yet, probed from *at* on."""

    async def end_probes(self) -> None:
        """Has no endpoint probed any more."""

    # What the operator is told

    async def failure_notices(self, endpoint_ids: Collection[str]) -> dict[str, FailureNotice]:
        """What is remembered of the failures of these endpoints, by their ids. To be asked for within the transaction that has
        read them (`endpoints_by_id`), so that nobody else changes it meanwhile."""

    async def untold_failures(self, told_before: Timestamp, *, limit: int) -> Sequence[FailureNotice]:
        """Up to *limit* of those that have something untold and were told before *told_before*, earliest first."""

    async def save_failure_notices(self, notices: Sequence[FailureNotice]) -> None:
        """Stores notices, each in place of the one before."""

    async def forget_failure_notices(self, told_before: Timestamp) -> None:
        """Deletes those that were told before *told_before* and have nothing untold."""

    # Events and deliveries

    async def take_external_ids(self, events: Sequence[AcceptedEvent]) -> dict[tuple[Tenant, str], AcceptedEvent]:
        """Takes the external ids of *events*, each of which has one, no two the same, for them, which are about to be
        added; those that were taken before, with the event that has them."""

    async def add_events(self, events: Sequence[NewEvent]) -> None:
        """Stores new events."""

    async def add_deliveries(self, deliveries: Sequence[tuple[Tenant, DueDelivery]]) -> None:
        """Stores new pending deliveries. Those triggered by a test are never handed out to a lane."""

    async def record_results(self, results: Sequence[Result]) -> Sequence[Result]:
        """Stores attempts, and what they mean for their deliveries: a success delivers from any state; a failure
        moves a delivery only when it is pending and its endpoint's activation has not passed. A retry by hand is done
        with, unless it was interrupted. A result whose lease has passed on moves nothing: its attempt is stored as fenced.
        Those that count."""

    async def delivery(self, tenant: Tenant, delivery_id: str) -> Delivery | None:
        """The delivery; one whose endpoint's activation has passed shows as canceled."""

    async def add_retry(self, retry_id: str, delivery: Delivery, endpoint: Endpoint) -> None:
        """Queues a retry by hand of *delivery*, which goes to *endpoint*."""

    async def interrupt_tests(self, before: Timestamp, at: Timestamp) -> int:
        """Fails the test deliveries made before *before* that are still pending (`interrupted`); how many it was."""

    async def expire(self, before: Timestamp, at: Timestamp, *, limit: int) -> int:
        """Fails deliveries made before *before* that are still pending (`expired`), going on where the last call ended
        and looking at up to *limit*; how many it looked at, 0 when all are done."""

    async def prune(self, before: Timestamp, *, limit: int) -> int:
        """Deletes events made before *before* with their deliveries and attempts, as many as come to *limit* events and
        deliveries, or else one; how many events it was. A store that keeps history by the day drops whole days that ended
        before *before*, apart from this transaction, and says *limit* while there is more to do, else 0."""

    # Keys, organizations, the audit log, idempotency

    async def add_key(self, key: ApiKey) -> None:
        """Stores a new key."""

    async def revoke_key(self, key_id: str, tenant: Tenant | None, at: Timestamp) -> ApiKey | None:
        """Ends a key, with a *tenant* only one of that tenant; the key as it is now, or None when there is none."""

    async def touch_keys(self, used: Collection[tuple[str, Timestamp]]) -> None:
        """Stores when keys were last used."""

    async def pinned_version(self, organization_id: str) -> str | None:
        """What the organization is pinned to. Nobody else pins it until the transaction ends."""

    async def pin_organization(self, organization: Organization) -> None:
        """Stores what an organization is pinned to."""

    async def add_audit_entry(self, entry: AuditEntry) -> None:
        """Stores what somebody has done."""

    async def forget_audit_entries(self, before: Timestamp, *, limit: int) -> int:
        """Deletes up to *limit* entries of the audit log made before *before*; how many it was."""

    async def save_answer(self, answer: IdempotentAnswer) -> None:
        """Keeps the answer to an idempotent request, in place of its reservation or of one that has expired.

        Raises ReservationLapsed when another process has reserved the key meanwhile."""

    async def forget_answers(self, expired_before: Timestamp, *, limit: int) -> int:
        """Deletes up to *limit* expired answers; how many it was."""


class Change(Protocol[R_co]):
    """A piece of work that runs inside the writer's next transaction, before the events of that transaction are
    matched. A `GatewayError` that it raises before it has written anything is its own; all else breaks the batch."""

    async def apply(self, transaction: Transaction) -> R_co:
        """Does the work."""


class Changer(Protocol):
    """Who runs changes."""

    async def change(self, change: Change[T]) -> T:
        """Runs *change* in the next commit; its outcome after that.

        Raises the GatewayError that the change raises, StoreUnavailable, Stopping.
        """


class Intake(Protocol):
    """The writing side."""

    transactions_at_once: int
    gathering_seconds: float  # that results may wait for others, where a transaction costs much more than its rows

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begins; commits at the end of the block, synced to disk, or rolls back when the block raises. Up to
        `transactions_at_once` run side by side; others wait.

        Raises TransactionConflict when two transactions stood in each other's way."""

    async def claim(self, claims: Sequence[Claim]) -> Sequence[Claimed]:
        """Due deliveries for each claim, in the claims' order, as of some moment since it was called: transactions may
        end meanwhile."""

    async def lane_work(self, buckets: Collection[int]) -> Sequence[LaneWork]:
        """The endpoints in *buckets* that have work waiting, in the time it takes to look at each of them."""

    async def unswept_endpoints(self) -> Sequence[Endpoint]:
        """The endpoints of which deliveries of an earlier activation may still be waiting."""


class Log(Protocol):
    """The reading side; any number of callers. Reads never stand in a writer's way and end after a second."""

    async def endpoint(self, tenant: Tenant, endpoint_id: str) -> Endpoint | None:
        """The endpoint, unless it is deleted."""

    async def endpoints(self, tenant: Tenant, *, below: str | None, limit: int) -> Page[Endpoint]:
        """Endpoints with ids below *below*, deleted ones left out."""

    async def ended_overlaps(self, at: Timestamp, *, limit: int) -> Sequence[Endpoint]:
        """Up to *limit* endpoints that still have a previous secret although it is not in force any more at *at*."""

    async def endpoints_to_probe(self, *, limit: int) -> Sequence[Endpoint]:
        """Endpoints of all tenants that are probed, those whose next probe is due first."""

    async def event(self, tenant: Tenant, event_id: str) -> AcceptedEvent | None:
        """The event with its data."""

    async def events(self, tenant: Tenant, only: EventFilter, *, below: str | None, limit: int) -> Page[AcceptedEvent]:
        """Events without their data (it is empty), with ids below *below*."""

    async def delivery(self, tenant: Tenant, delivery_id: str) -> Delivery | None:
        """The delivery; one whose endpoint's activation has passed shows as canceled."""

    async def deliveries(self, tenant: Tenant, only: DeliveryFilter, *, below: str | None, limit: int) -> Page[Delivery]:
        """Deliveries with ids below *below*."""

    async def delivery_with_attempts(self, tenant: Tenant, delivery_id: str) -> tuple[Delivery, Sequence[Attempt]] | None:
        """The delivery and its last 1,000 attempts by number, as of the same moment."""

    async def revisions(self, tenant: Tenant, *, after: int, limit: int) -> Sequence[Revision]:
        """The tenant's revisions with numbers above *after*, in order."""

    async def keys(self, tenant: Tenant | None, *, below: str | None, limit: int) -> Page[ApiKey]:
        """A tenant's keys, or with None everybody's, those not revoked."""

    async def all_keys(self) -> Sequence[ApiKey]:
        """Every key that is not revoked."""

    async def audit_log(self, tenant: Tenant | None, only: AuditFilter, *, below: str | None, limit: int) -> Page[AuditEntry]:
        """What was done in a tenant, or with None anywhere, with ids below *below*."""

    async def sealed_with(self) -> Mapping[str | None, int]:
        """How many secret texts are stored encrypted, by the name of their key; None: in clear."""

    async def organizations(self) -> Sequence[Organization]:
        """The organizations that are pinned or have had an endpoint or a key, by id."""

    async def answer(self, key_hash: bytes, now: Timestamp) -> IdempotentAnswer | None:
        """The kept answer to an idempotent request, unless it has expired."""

    async def reserve(self, reservation: Reservation, now: Timestamp) -> IdempotentAnswer | Reservation | None:
        """Reserves an idempotency key for this process, whose other requests with the key are the caller's to hold off.
        None when that is done; otherwise the kept answer, or the reservation of another process that lives."""

    async def release(self, reservation: Reservation) -> None:
        """Ends a reservation that came to no answer."""

    async def cursor_key(self) -> bytes:
        """32 random bytes, made with the store, that cursors are sealed with."""


class ClusterView(msgspec.Struct, frozen=True):
    """Who is there and who holds what, as of one moment."""

    now: Timestamp  # by the database's clock
    nodes: Sequence[Node]  # by id
    leases: Sequence[Lease]  # by bucket, all of them


class News(msgspec.Struct):
    """What other processes have committed that this one holds in memory."""

    effects: Effects = msgspec.field(default_factory=Effects)  # everything as it is now
    work: list[Endpoint] = msgspec.field(default_factory=list)  # endpoints in buckets held here that have new deliveries
    is_complete: bool = True  # False: it has been too long to tell, and everything has to be read anew


class Cluster(Protocol):
    """How processes that share a store settle which of them starts whose attempts, and hear of each other."""

    async def join(self, node: Node) -> None:
        """*node*, which is this process, takes part from now on."""

    async def renew(self, node_id: str) -> ClusterView | None:
        """Says that the node lives, and looks round; None when it was evicted and has to join anew under another id."""

    async def view(self) -> ClusterView:
        """Looks round."""

    async def take(self, node_id: str, *, limit: int) -> dict[int, int]:
        """Takes up to *limit* free buckets for the node; their epochs, by bucket. None are free for one that was evicted."""

    async def give_back(self, node_id: str, buckets: Collection[int]) -> None:
        """Frees those of *buckets* that the node has. Nothing that it made under their leases counts any more."""

    async def evict(self, node: Node) -> bool:
        """Takes everything from a node, unless it has renewed since it was seen as given; whether it is gone."""

    async def leave(self, node_id: str) -> None:
        """The node takes part no longer; what it still has is free."""

    def hold(self, buckets: Collection[int]) -> None:
        """From the next transaction on, new work in these buckets is this process's own affair, and all other work is
        told to the others."""

    async def settled(self) -> None:
        """Returns when every transaction that had begun when this was called has ended."""

    async def news(self) -> News:
        """What the others have committed since the last call, some of it perhaps once more."""

    async def wake_others(self) -> None:
        """Makes the others look for news at once, when they listen."""

    async def share_demand(self, demand: Mapping[str, float]) -> Mapping[str, Sequence[float]]:
        """Tells the others how many requests a second this process is asked for with each API key, by the keys' ids; how many
        each of those is asked for that told of one of these keys in the last seconds."""

    def wake_ups(self) -> AbstractAsyncContextManager["WakeUps"]:
        """Listens for others that want to be looked at. Raises StoreUnavailable."""


class WakeUps(Protocol):
    """Being woken by other processes."""

    async def next(self) -> None:
        """Returns when somebody has woken this process since the last call. Raises StoreUnavailable when the line is dead."""


class Store(Intake, Log, Protocol):
    """A store, open."""

    sealing: Sealing

    cluster: Cluster | None  # None: no other process works on this store

    @property
    def back_up(self) -> Callable[[Path], Awaitable[int]] | None:
        """Copies the store into a new file; how many bytes it has. None where the database has means of its own."""

    @property
    def wipe(self) -> Callable[[], Awaitable[None]] | None:
        """Sees to it that what was overwritten is in no file of the store any more. None where that is the database's affair."""
