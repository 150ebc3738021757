"""The gateway's nouns: frozen structs, and states as enums whose members explain themselves.

Times are `Timestamp`s (integer milliseconds since the Unix epoch, UTC)."""

import zlib
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from gateway.clock import Timestamp


class Mode(StrEnum):
    """The two worlds of an organization; nothing crosses between them."""

    LIVE = "live"
    SANDBOX = "sandbox"


class Tenant(msgspec.Struct, frozen=True, order=True, gc=False):
    """An organization in one mode: the first part of every row, query, index and key."""

    organization_id: str
    mode: Mode

    @property
    def livemode(self) -> bool:
        return self.mode is Mode.LIVE


OPERATIONS = Tenant("$operations", Mode.LIVE)
"""The gateway's own: what it has to tell its operator are events of this tenant. No key is of it, and nobody publishes to it."""

OPERATIONS_ENDPOINT = "wh_operations"
"""The one endpoint of `OPERATIONS`: `operations.url`. It is never disabled, whatever it answers."""


class Actor(msgspec.Struct, frozen=True, gc=False):
    """Who changes something, and from where."""

    id: str  # a key's, or "operator" (at this machine), "process" (who has the gateway in process), "gateway" (by itself)
    address: str | None = None  # of the client; None: this machine


# Endpoints


BUCKETS = 64
"""Endpoints are spread over so many buckets; each is held by one node at a time."""


def bucket_of(endpoint_id: str) -> int:
    """The bucket, 0 to 63, of an endpoint: a CRC-32 of the id spreads them evenly, and is the same everywhere."""
    return zlib.crc32(endpoint_id.encode()) % BUCKETS


class DisabledReason(StrEnum):
    """Why an endpoint is not active."""

    USER = "user"  # somebody set `isActive` to false
    FAILURES = "failures"  # `delivery.disable_after_failed_events` events in a row failed for good
    GONE = "gone"  # it answered 410


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """A URL that wants some events; the API calls it a webhook."""

    id: str
    tenant: Tenant
    url: str
    events: tuple[str, ...]  # event types, `prefix.*` or `*`
    description: str | None
    api_version: str | None  # None follows the organization
    secret: str
    is_active: bool
    disabled_at: Timestamp | None
    disabled_reason: DisabledReason | None
    activation: int  # raised by disabling and deleting; a delivery made under a lower one is canceled
    deactivated_at: Timestamp | None  # when `activation` was last raised
    failed_in_row: int  # events that failed for good since the last success
    paused_until: Timestamp | None  # no automatic attempt before this (Retry-After)
    created_at: Timestamp
    deleted_at: Timestamp | None
    revision: int = 0  # the tenant's number of its last change, by which the later of two versions is known
    previous_secret: str | None = None  # in force beside `secret` until `previous_secret_until`
    previous_secret_until: Timestamp | None = None
    headers: Mapping[str, str] = {}  # that go with each delivery, as the endpoint's owner wishes
    probe_count: int = 0  # since it was disabled by failures
    probe_at: Timestamp | None = None  # when the next probe is due; None: it is not probed

    def previous_secret_at(self, at: Timestamp) -> str | None:
        """The secret before this one, if it is in force beside it at *at*."""
        until = self.previous_secret_until
        return self.previous_secret if until is not None and at < until else None

    def __repr__(self) -> str:
        return f"Endpoint({self.id!r}, url={self.url!r}, is_active={self.is_active})"


class RevisionCause(StrEnum):
    """What changed an endpoint."""

    CREATED = "created"
    UPDATED = "updated"
    ENABLED = "enabled"
    DISABLED = "disabled"
    DELETED = "deleted"


class Revision(msgspec.Struct, frozen=True, gc=False):
    """One numbered change of an endpoint. Events store the number that they were matched against."""

    tenant: Tenant
    number: int  # counts within the tenant, from 1
    endpoint_id: str
    events: tuple[str, ...]
    is_active: bool
    cause: RevisionCause
    actor: str  # the id of an `Actor`
    at: Timestamp


# Events


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What a publisher says: something happened.

    *data* is a JSON object as bytes, delivered byte for byte, or a mapping that is encoded once.
    *timestamp* is when it happened (now, when absent). With an *external_id* (at most 255 characters) it happens once.
    """

    type: str
    data: bytes | dict[str, object]
    organization_id: str
    mode: Mode = Mode.LIVE
    timestamp: Timestamp | None = None
    external_id: str | None = None


class AcceptedEvent(msgspec.Struct, frozen=True):
    """An event that is, or is about to be, in the store. `data` is as published, byte for byte."""

    id: str
    tenant: Tenant
    type: str
    timestamp: Timestamp
    external_id: str | None
    data: bytes
    created_at: Timestamp
    duplicate: bool = False  # True for the answer to a repeat of an external id
    bodies: dict[str, bytes] = msgspec.field(default_factory=dict)  # rendered once for each API version

    def __repr__(self) -> str:
        return f"AcceptedEvent({self.id!r}, type={self.type!r})"


# Deliveries


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"  # due at `due_at`, or being attempted
    DELIVERED = "delivered"  # the endpoint answered 2xx; final
    FAILED = "failed"  # no attempts left; a retry by hand may still deliver it
    CANCELED = "canceled"  # its endpoint was deleted or disabled; a retry by hand may still deliver it


MOVES: dict[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.PENDING: frozenset({DeliveryState.DELIVERED, DeliveryState.FAILED, DeliveryState.CANCELED}),
    DeliveryState.DELIVERED: frozenset(),
    DeliveryState.FAILED: frozenset({DeliveryState.DELIVERED}),
    DeliveryState.CANCELED: frozenset({DeliveryState.DELIVERED}),
}
"""The states that each state may move to."""


class Reason(StrEnum):
    """Why a delivery is failed or canceled."""

    ATTEMPTS_EXHAUSTED = "attempts_exhausted"  # failed: the last automatic attempt failed
    ENDPOINT_GONE = "endpoint_gone"  # failed: the endpoint answered 410
    TEST_FAILED = "test_failed"  # failed: a test is never retried
    INTERRUPTED = "interrupted"  # failed: a test that was under way when the gateway went down
    EXPIRED = "expired"  # failed: still waiting when its day of history was pruned
    ENDPOINT_DISABLED = "endpoint_disabled"  # canceled
    ENDPOINT_DELETED = "endpoint_deleted"  # canceled


class DeliveryTrigger(StrEnum):
    """What made a delivery."""

    EVENT = "event"  # an event that matched
    TEST = "test"  # the test operation
    REPLAY = "replay"  # an operator's replay


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One event on its way to one endpoint, as it is on record."""

    id: str
    tenant: Tenant
    endpoint_id: str
    event_id: str
    event_type: str
    state: DeliveryState
    reason: Reason | None
    trigger: DeliveryTrigger
    activation: int  # the endpoint's, when this was made
    api_version: str  # fixed when this was made, so that the body is the same on every attempt
    attempt_count: int  # all attempts
    scheduled_count: int  # those that count among the schedule's
    due_at: Timestamp | None  # when the next automatic attempt is due; None when there is none
    last_status: int | None
    last_error: str | None
    created_at: Timestamp
    finished_at: Timestamp | None


class AttemptTrigger(StrEnum):
    """What made an attempt."""

    AUTOMATIC = "automatic"  # the schedule, or the test operation
    MANUAL = "manual"  # a retry by hand


class AttemptError(StrEnum):
    """Why an attempt got no answer that counts; a plain status has none. To add one: here, where `egress.sender.explain` finds
    it, in `delivery.outcome` if it tells of strain, and in the table of docs/running.md, which a test compares."""

    TIMEOUT = "timeout"  # not answered within `delivery.timeout_seconds`
    DNS_FAILED = "dns_failed"  # the host has no address, or its name servers did not answer
    ADDRESS_FORBIDDEN = "address_forbidden"  # the host's address, or the port, is not one that the gateway may reach
    PROXY_FAILED = "proxy_failed"  # the egress proxy cannot be reached, or did not connect to the endpoint
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_FAILED = "connection_failed"  # no route, network down, …
    CONNECTION_RESET = "connection_reset"  # closed or reset before an answer
    TLS_FAILED = "tls_failed"  # no TLS, or a certificate that does not hold
    INVALID_RESPONSE = "invalid_response"  # not HTTP, or headers over the limits
    REDIRECT = "redirect"  # 3xx: redirects are not followed
    INTERRUPTED = "interrupted"  # the gateway stopped before the answer came
    CRASHED = "crashed"  # a fault of the gateway itself; its log says more


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One HTTP request of a delivery, as it is on record."""

    delivery_id: str
    number: int  # from 1 within the delivery
    trigger: AttemptTrigger
    started_at: Timestamp
    duration_ms: int
    status: int | None
    error: AttemptError | None
    error_message: str | None
    url: str
    request_headers: bytes  # a JSON object
    resent: bool  # a stale keep-alive connection made it be sent again on a fresh one
    response_headers: bytes | None  # a JSON array of [name, value]
    response_body: bytes | None  # the first 16 KiB
    fenced: bool = False  # its node had lost the endpoint's lease by then: it moved nothing


class DueDelivery(msgspec.Struct, frozen=True):
    """A delivery that is handed out to its lane, with what an attempt of it needs. Held until its result is committed."""

    id: str
    endpoint_id: str
    event: AcceptedEvent
    api_version: str
    activation: int
    attempt_count: int
    scheduled_count: int
    due_at: Timestamp
    created_at: Timestamp
    retry_id: str | None = None  # set for a retry by hand
    trigger: DeliveryTrigger = DeliveryTrigger.EVENT


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What an attempt's answer means for its delivery and its endpoint."""

    state: DeliveryState  # PENDING: try again at `due_at`; for a retry by hand that failed: stays as it was
    reason: Reason | None = None
    due_at: Timestamp | None = None
    endpoint_gone: bool = False
    pause_until: Timestamp | None = None  # Retry-After: nothing automatic for the endpoint before this
    counts: bool = True  # whether it counts among the scheduled attempts


class Result(msgspec.Struct, frozen=True):
    """An attempt that has ended, on its way into the next commit."""

    due: DueDelivery
    tenant: Tenant
    attempt: Attempt
    verdict: Verdict
    ended_at: Timestamp
    epoch: int | None = None  # of the lease it was made under; None: under none, as a test


class FailureNotice(msgspec.Struct, frozen=True, gc=False):
    """What the operator was told of an endpoint's deliveries that failed for good, and what he was not told yet."""

    endpoint_id: str
    told_at: Timestamp  # when he was last told
    untold: int  # how many have failed since
    delivery_id: str  # the last that failed


# Keys


class Resource(StrEnum):
    """What a permission speaks of."""

    WEBHOOK = "webhook"
    EVENT = "event"
    DELIVERY = "delivery"
    KEY = "key"
    AUDIT = "audit"  # only to be read


class Verb(StrEnum):
    """What a permission allows; write does not imply read."""

    READ = "read"
    WRITE = "write"


class ApiKey(msgspec.Struct, frozen=True, gc=False):
    """An API key, of which only a hash is kept."""

    id: str
    hash: bytes  # SHA-256 of the whole key
    prefix: str  # the first characters, by which people recognize it
    name: str | None
    tenant: Tenant | None  # None: a service key, which reaches all
    permissions: tuple[str, ...] | None  # `resource:verb`; None: everything
    created_at: Timestamp
    expires_at: Timestamp | None
    last_used_at: Timestamp | None
    revoked_at: Timestamp | None

    def __repr__(self) -> str:
        return f"ApiKey({self.id!r}, prefix={self.prefix!r})"


class AuditAction(StrEnum):
    """What somebody did."""

    WEBHOOK_CREATED = "webhook.created"
    WEBHOOK_UPDATED = "webhook.updated"
    WEBHOOK_ENABLED = "webhook.enabled"  # with it, other fields may have been updated
    WEBHOOK_DISABLED = "webhook.disabled"  # likewise; `disabledReason` says why
    WEBHOOK_DELETED = "webhook.deleted"
    WEBHOOK_SECRET_ROTATED = "webhook.secret_rotated"  # noqa: S105 - a name
    WEBHOOK_ROTATION_FINISHED = "webhook.rotation_finished"  # by somebody, or by the gateway when the overlap has ended
    DELIVERY_RETRIED = "delivery.retried"
    KEY_CREATED = "key.created"
    KEY_REVOKED = "key.revoked"
    ORGANIZATION_PINNED = "organization.pinned"  # or unpinned
    BACKUP_CREATED = "backup.created"  # the target is its path
    SECRETS_REENCRYPTED = "secrets.reencrypted"  # the target is the name of the key


class AuditEntry(msgspec.Struct, frozen=True):
    """Who did what, when and from where. Never with a secret in it."""

    id: str
    tenant: Tenant | None  # None: it concerns none, or all of an organization, or everybody
    at: Timestamp
    actor: Actor
    action: str  # an `AuditAction`; of a later version perhaps
    target_id: str  # of what was changed
    changes: Mapping[str, object]  # by field, as JSON has it


class Organization(msgspec.Struct, frozen=True, gc=False):
    """An organization and the API version that it is pinned to."""

    id: str
    api_version: str | None


class IdempotentAnswer(msgspec.Struct, frozen=True, gc=False):
    """The first answer to a request with an `Idempotency-Key`, kept to be given again."""

    key_hash: bytes  # SHA-256 of the API key's id and the idempotency key
    request_hash: bytes  # SHA-256 of method, path, query, tenant and body
    answer: bytes  # encrypted status, headers and body
    expires_at: Timestamp


# Nodes


class Node(msgspec.Struct, frozen=True, gc=False):
    """A gateway process that shares a store with others."""

    id: str
    name: str  # what its operator calls it
    version: str
    started_at: Timestamp
    renewals: int = 0  # how often it has said that it lives; one whose count stands still loses its leases
    renewed_at: Timestamp = 0  # when it last did, by the database's clock
    lease_seconds: float | None = None  # how long the others wait for it before they take its place; None: as long as theirs


class NodeStanding(msgspec.Struct, frozen=True, gc=False):
    """A node among the others."""

    node: Node
    buckets: int  # how many it holds
    is_this: bool  # the one that was asked


class Lease(msgspec.Struct, frozen=True, gc=False):
    """Who starts the attempts of the endpoints in one bucket."""

    bucket: int
    node_id: str | None  # None: free to be taken
    epoch: int  # raised whenever it changes hands, so that a late result is told from one that counts


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """An idempotency key whose first request is under way."""

    key_hash: bytes  # as in `IdempotentAnswer`
    request_hash: bytes
