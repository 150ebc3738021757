"""What the gateway tells its operator: signed events of its own tenant, as durable as any, since each is stored in the
transaction that it speaks of. They go to `operations.url`, through the lanes like everything else."""

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from gateway import ids
from gateway.clock import Timestamp, isoformat
from gateway.ids import IdMaker
from gateway.model import OPERATIONS, AcceptedEvent, Delivery, DisabledReason, DueDelivery, Endpoint, Result
from gateway.store.protocol import NewEvent, Transaction


class Told(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The `data` of an operational event: which webhook it is about."""

    type: ClassVar[str]

    webhook_id: str
    organization_id: str
    mode: str
    url: str


class WebhookDisabled(Told, frozen=True, kw_only=True, rename="camel"):
    """The gateway took an endpoint out of service."""

    type: ClassVar[str] = "webhook.disabled"

    reason: str  # failures or gone
    failed_in_row: int
    disabled_at: str
    last_delivery_id: str  # of the failure that decided
    last_status: int | None
    last_error: str | None


class WebhookEnabled(Told, frozen=True, kw_only=True, rename="camel"):
    """A probe was answered 2xx, and the endpoint is back in service."""

    type: ClassVar[str] = "webhook.enabled"

    disabled_at: str | None
    enabled_at: str
    probes: int
    last_delivery_id: str  # the test


class DeliveryFailed(Told, frozen=True, kw_only=True, rename="camel"):
    """Deliveries of an endpoint have failed for good: *count* of them since *since*, of which this is the last."""

    type: ClassVar[str] = "delivery.failed"

    delivery_id: str
    event_id: str
    event: str
    reason: str | None
    attempts: int
    last_status: int | None
    last_error: str | None
    count: int
    since: str


def about(endpoint: Endpoint) -> dict[str, str]:
    """The fields that tell which webhook is meant."""
    return {
        "webhook_id": endpoint.id,
        "organization_id": endpoint.tenant.organization_id,
        "mode": endpoint.tenant.mode,
        "url": endpoint.url,
    }


def webhook_disabled(endpoint: Endpoint, reason: DisabledReason, last: Result) -> WebhookDisabled:
    """*endpoint*, as it is now, was disabled because of *last*."""
    return WebhookDisabled(
        **about(endpoint),
        reason=reason,
        failed_in_row=endpoint.failed_in_row,
        disabled_at=isoformat(endpoint.disabled_at or last.ended_at),
        last_delivery_id=last.due.id,
        last_status=last.attempt.status,
        last_error=last.attempt.error,
    )


def failed_now(endpoint: Endpoint, last: Result, count: int, since: Timestamp) -> DeliveryFailed:
    """*count* deliveries of *endpoint* have failed for good since *since*; the last did with *last*."""
    return DeliveryFailed(
        **about(endpoint),
        delivery_id=last.due.id,
        event_id=last.due.event.id,
        event=last.due.event.type,
        reason=last.verdict.reason,
        attempts=last.attempt.number,
        last_status=last.attempt.status,
        last_error=last.attempt.error,
        count=count,
        since=isoformat(since),
    )


def failed_meanwhile(endpoint: Endpoint, last: Delivery, count: int, since: Timestamp) -> DeliveryFailed:
    """*count* deliveries of *endpoint* have failed for good since *since*, of which *last* is the last."""
    return DeliveryFailed(
        **about(endpoint),
        delivery_id=last.id,
        event_id=last.event_id,
        event=last.event_type,
        reason=last.reason,
        attempts=last.attempt_count,
        last_status=last.last_status,
        last_error=last.last_error,
        count=count,
        since=isoformat(since),
    )


class OperatorEvents:
    """Tells the operator."""

    def __init__(self, *, ids: IdMaker, current_version: str) -> None:
        self._ids = ids
        self._current_version = current_version

    async def tell(self, transaction: Transaction, told: Sequence[Told]) -> None:
        """Stores each of *told* as an event with its delivery, within *transaction*."""
        if not told:
            return
        active = await transaction.active_endpoints(OPERATIONS)
        events = [self._event(each) for each in told] if active.endpoints else []
        if not events:  # another node was started without `operations.url`
            return
        await transaction.add_events([NewEvent(event, active.revision) for event in events])
        for endpoint in active.endpoints:
            deliveries = [(OPERATIONS, self._delivery(event, endpoint)) for event in events]
            await transaction.add_deliveries(deliveries)
            transaction.effects.new_work.append(endpoint)

    def _event(self, told: Told) -> AcceptedEvent:
        event_id, at = self._ids.next_with_time(ids.EVENT)
        return AcceptedEvent(event_id, OPERATIONS, told.type, at, None, msgspec.json.encode(told), at)

    def _delivery(self, event: AcceptedEvent, endpoint: Endpoint) -> DueDelivery:
        delivery_id, at = self._ids.next_with_time(ids.DELIVERY)
        return DueDelivery(
            id=delivery_id,
            endpoint_id=endpoint.id,
            event=event,
            api_version=endpoint.api_version or self._current_version,
            activation=endpoint.activation,
            attempt_count=0,
            scheduled_count=0,
            due_at=at,
            created_at=at,
        )
