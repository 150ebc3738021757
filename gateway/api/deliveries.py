"""The operations on deliveries: what became of each event at each endpoint."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway import ids
from gateway.api.cursors import Cursors, scope
from gateway.api.dialects import Answer
from gateway.api.idempotency import commit
from gateway.api.operations import Call, Operation, one, page
from gateway.api.parameters import EVENT, SINCE, UNTIL, Id, Parameter, is_id
from gateway.api.parts import ApiParts
from gateway.api.problems import not_found
from gateway.api.vocabulary import Count, EventType, OrganizationId, ShownStatus, ShownVersion, Time
from gateway.clock import isoformat
from gateway.delivery.body import render_body
from gateway.delivery.manual_retry import QueueRetry
from gateway.model import (
    Attempt,
    AttemptError,
    AttemptTrigger,
    Delivery,
    DeliveryState,
    DeliveryTrigger,
    Mode,
    Reason,
)
from gateway.store.protocol import DeliveryFilter

_Error = Annotated[
    str,
    Meta(description="why there was no answer that counts; null beside a status", extra_json_schema={"enum": list(AttemptError)}),
]


class DeliveryView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A delivery as lists show it."""

    id: str
    object: Literal["delivery"] = "delivery"
    webhook_id: str
    event_id: str
    event: EventType
    state: DeliveryState
    reason: Annotated[Reason | None, Meta(description="of a failed or canceled one")]
    trigger: DeliveryTrigger
    attempt_count: Count
    next_attempt_at: Time | None
    last_status: ShownStatus | None
    last_error: _Error | None
    created_at: Time
    finished_at: Time | None
    organization_id: OrganizationId
    mode: Mode
    livemode: bool


class AttemptView(msgspec.Struct, frozen=True, rename="camel"):
    """One HTTP request of a delivery."""

    number: Annotated[int, Meta(ge=1)]
    trigger: AttemptTrigger
    started_at: Time
    duration_ms: Count
    status: ShownStatus | None
    error: _Error | None
    error_message: str | None
    url: str
    request_headers: Annotated[
        msgspec.Raw, Meta(extra_json_schema={"type": "object", "additionalProperties": {"type": "string"}})
    ]
    resent: Annotated[bool, Meta(description="a stale connection made it be sent again on a fresh one")]
    fenced: Annotated[bool, Meta(description="its node had lost the endpoint to another by then, so that it moved nothing")]
    response_headers: Annotated[
        msgspec.Raw | None,
        Meta(
            description="pairs of name and value",
            extra_json_schema={
                "type": ["array", "null"],
                "items": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2},
            },
        ),
    ]
    response_body: Annotated[str | None, Meta(description="its first 16 KiB, as text")]


class FullDeliveryView(DeliveryView, frozen=True, kw_only=True, rename="camel"):
    """A delivery with all that was sent and answered."""

    api_version: ShownVersion
    body: Annotated[str | None, Meta(description="as it is sent")]
    attempts: Annotated[list[AttemptView], Meta(description="of more than 1,000 the last 1,000")]


def delivery_view(delivery: Delivery) -> DeliveryView:
    """*delivery* as lists show it."""
    return DeliveryView(**_fields(delivery))


def _fields(delivery: Delivery) -> dict[str, Any]:
    is_waiting = delivery.state is DeliveryState.PENDING and delivery.due_at is not None
    return {
        "id": delivery.id,
        "webhook_id": delivery.endpoint_id,
        "event_id": delivery.event_id,
        "event": delivery.event_type,
        "state": delivery.state,
        "reason": delivery.reason,
        "trigger": delivery.trigger,
        "attempt_count": delivery.attempt_count,
        "next_attempt_at": isoformat(delivery.due_at) if is_waiting and delivery.due_at is not None else None,
        "last_status": delivery.last_status,
        "last_error": delivery.last_error,
        "created_at": isoformat(delivery.created_at),
        "finished_at": None if delivery.finished_at is None else isoformat(delivery.finished_at),
        "organization_id": delivery.tenant.organization_id,
        "mode": delivery.tenant.mode,
        "livemode": delivery.tenant.livemode,
    }


def _attempt_view(attempt: Attempt) -> AttemptView:
    return AttemptView(
        number=attempt.number,
        trigger=attempt.trigger,
        started_at=isoformat(attempt.started_at),
        duration_ms=attempt.duration_ms,
        status=attempt.status,
        error=attempt.error,
        error_message=attempt.error_message,
        url=attempt.url,
        request_headers=msgspec.Raw(attempt.request_headers),
        resent=attempt.resent,
        fenced=attempt.fenced,
        response_headers=None if attempt.response_headers is None else msgspec.Raw(attempt.response_headers),
        # Whatever an endpoint answers is shown as text; what is no UTF-8 shows as replacement characters.
        response_body=None if attempt.response_body is None else attempt.response_body.decode(errors="replace"),
    )


class Deliveries:
    """Shows deliveries, and retries them by hand."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._cursors = Cursors(parts.cursor_key)

    def operations(self) -> list[Operation]:
        """What can be done with deliveries."""
        return [
            Operation(
                name="list_deliveries",
                method="GET",
                path="/deliveries",
                permission="delivery:read",
                handler=self.page,
                summary="List deliveries",
                query=(
                    Parameter("webhookId", Id, "only those to this webhook"),
                    Parameter("eventId", Id, "only those of this event"),
                    EVENT,
                    Parameter("state", DeliveryState, "only those in this state"),
                    SINCE,
                    UNTIL,
                ),
                answers=(page(DeliveryView),),
            ),
            Operation(
                name="get_delivery",
                method="GET",
                path="/deliveries/{id}",
                permission="delivery:read",
                handler=self.get,
                summary="Get a delivery with its body and attempts",
                answers=(one(FullDeliveryView),),
            ),
            Operation(
                name="retry_delivery",
                method="POST",
                path="/deliveries/{id}/retry",
                permission="delivery:write",
                handler=self.retry,
                summary="Attempt a delivery once more, now",
                description="Whatever its state, also for a disabled endpoint. It counts for nothing and moves nothing, unless "
                "it succeeds: then the delivery is delivered.",
                answers=(one(DeliveryView, 202),),
            ),
        ]

    async def page(self, call: Call) -> Answer:
        parameters = call.parameters
        only = DeliveryFilter(
            endpoint_id=parameters.id("webhookId"),
            event_id=parameters.id("eventId"),
            event_type=parameters.event_type("event"),
            state=parameters.member("state", DeliveryState),
            since=parameters.timestamp("since"),
            until=parameters.timestamp("until"),
        )
        list_ = scope("deliveries", call.named_tenant, only)
        below = None if call.faults else parameters.cursor(self._cursors, list_)
        limit = parameters.limit()
        call.check()
        page = await self._parts.log.deliveries(call.tenant, only, below=below, limit=limit)
        return call.dialect.page([delivery_view(delivery) for delivery in page.items], self._cursors.seal(list_, page.next_below))

    async def get(self, call: Call) -> Answer:
        call.check()
        log = self._parts.log
        found = await log.delivery_with_attempts(call.tenant, _id(call))
        if found is None:
            raise not_found("delivery", call.id)
        delivery, attempts = found
        event = await log.event(call.tenant, delivery.event_id)  # which never changes
        return call.dialect.one(
            FullDeliveryView(
                **_fields(delivery),
                api_version=delivery.api_version,
                body=None if event is None else render_body(event, delivery.api_version).decode(errors="replace"),
                attempts=[_attempt_view(attempt) for attempt in attempts],
            )
        )

    async def retry(self, call: Call) -> Answer:
        call.check()
        change = QueueRetry(self._parts.ids.next(ids.RETRY), call.tenant, _id(call), call.actor, call.now)
        return await commit(
            self._parts.writer, change, lambda delivery: call.dialect.one(delivery_view(delivery), 202), call.ticket
        )


def _id(call: Call) -> str:
    """The id in the path. Raises a 404 for what can be no id."""
    if not is_id(call.id):
        raise not_found("delivery", call.id)
    return call.id
