"""The operations on events: publishing, one or many at once, and looking back."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.api import problems
from gateway.api.cursors import Cursors, scope
from gateway.api.deliveries import DeliveryView, delivery_view
from gateway.api.dialects import Answer
from gateway.api.event_drafts import Draft, EventBatch, OneEvent, accept, read_draft, read_drafts
from gateway.api.operations import Call, Operation, TenantIn, one, page
from gateway.api.parameters import EVENT, SINCE, UNTIL, Parameter, Text, is_id
from gateway.api.parts import ApiParts
from gateway.api.problems import ErrorView, Fault, Problem, not_found
from gateway.api.vocabulary import EventType, ExternalId, OrganizationId, Time, Yes
from gateway.clock import isoformat
from gateway.model import AcceptedEvent, IdempotentAnswer, Mode, Tenant
from gateway.store.protocol import DeliveryFilter, EventFilter

_TURN = 100  # events that are checked before others have their turn
_PAGE = 1_000


class EventView(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """An event as the API shows it."""

    id: str
    object: Literal["event"] = "event"
    event: EventType
    timestamp: Annotated[Time, Meta(description="when it happened")]
    external_id: ExternalId | None
    organization_id: OrganizationId
    mode: Mode
    livemode: bool
    created_at: Time
    duplicate: Annotated[Yes, Meta(description="the external id was there before, and this is the first event")] | UnsetType = (
        UNSET
    )


class FullEventView(EventView, frozen=True, kw_only=True, rename="camel"):
    """An event with what was published and what became of it."""

    data: Annotated[msgspec.Raw, Meta(description="as it was published", extra_json_schema={"type": "object"})]
    deliveries: list[DeliveryView]


class FailedItemView(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a batch that was refused, in its place."""

    object: Literal["error"] = "error"
    error: ErrorView


def event_view(event: AcceptedEvent) -> EventView:
    """*event* as the API shows it."""
    return EventView(
        id=event.id,
        event=event.type,
        timestamp=isoformat(event.timestamp),
        external_id=event.external_id,
        organization_id=event.tenant.organization_id,
        mode=event.tenant.mode,
        livemode=event.tenant.livemode,
        created_at=isoformat(event.created_at),
        duplicate=True if event.duplicate else UNSET,
    )


class Events:
    """Takes events, and shows them."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._cursors = Cursors(parts.cursor_key)

    def operations(self) -> list[Operation]:
        """What can be done with events."""
        return [
            Operation(
                name="publish_events",
                method="POST",
                path="/events",
                permission="event:write",
                handler=self.publish,
                summary="Publish an event, or up to 1,000 at once",
                description="Answered once it is synced to disk, with a delivery for each webhook that wants it. Of a batch the "
                "good events are accepted whatever the others are; one of which none is good is a 400.",
                body=(OneEvent, EventBatch),
                answers=(
                    one(EventView, 202),
                    page((EventView, FailedItemView), 202, means="of a batch, each event or its error, in place"),
                    one(EventView, 200, means="a repeat of an external id, with the first event"),
                ),
                tenant_in=TenantIn.BODY,
                max_body_bytes=self._parts.settings.http.max_body_bytes,
            ),
            Operation(
                name="list_events",
                method="GET",
                path="/events",
                permission="event:read",
                handler=self.page,
                summary="List events",
                query=(EVENT, Parameter("externalId", Text, "only the one with this external id"), SINCE, UNTIL),
                answers=(page(EventView),),
            ),
            Operation(
                name="get_event",
                method="GET",
                path="/events/{id}",
                permission="event:read",
                handler=self.get,
                summary="Get an event with its data and deliveries",
                answers=(one(FullEventView),),
            ),
        ]

    async def publish(self, call: Call) -> Answer:
        # Before the body is read: under overload, refusing must not cost what delivering needs.
        self._parts.publisher.ensure_room()
        draft = read_draft(call.body, call.faults)
        if not isinstance(draft.events, UnsetType):
            return await self._publish_batch(call, draft, draft.events)
        event = accept(self._parts.publisher, call.principal, draft, call.faults)

        def render(outcome: Sequence[AcceptedEvent]) -> Answer:
            published = outcome[0]
            return call.dialect.one(event_view(published), 200 if published.duplicate else 202)

        return await self._commit(call, [event], render)

    async def _publish_batch(self, call: Call, outer: Draft, raw: msgspec.Raw) -> Answer:
        if call.principal.tenant is not None:
            outer.tenant(call.principal, call.faults)
        items = read_drafts(raw, call.faults)
        call.check()
        results: list[AcceptedEvent | Problem] = []
        for position, item in enumerate(items):
            if position and position % _TURN == 0:
                await asyncio.sleep(0)
            results.append(self._accept_item(call, item))
        if not any(isinstance(result, AcceptedEvent) for result in results):
            raise _none_is_good([result for result in results if isinstance(result, Problem)])

        def render(outcome: Sequence[AcceptedEvent]) -> Answer:
            published = iter(outcome)
            views: list[EventView | FailedItemView] = [
                FailedItemView(error=problems.view(result)) if isinstance(result, Problem) else event_view(next(published))
                for result in results
            ]
            return call.dialect.page(views, status=202)

        return await self._commit(call, [result for result in results if isinstance(result, AcceptedEvent)], render)

    def _accept_item(self, call: Call, raw: msgspec.Raw) -> AcceptedEvent | Problem:
        faults: list[Fault] = []
        try:
            return accept(self._parts.publisher, call.principal, read_draft(raw, faults), faults)
        except Problem as problem:
            return problem

    async def _commit(
        self, call: Call, events: Sequence[AcceptedEvent], render: Callable[[Sequence[AcceptedEvent]], Answer]
    ) -> Answer:
        ticket = call.ticket
        if ticket is None:
            return render(await self._parts.publisher.publish(events))
        kept: list[Answer] = []  # the last one is what was committed: a commit may be tried more than once

        def seal(outcome: Sequence[AcceptedEvent]) -> IdempotentAnswer:
            kept.append(render(outcome))
            return ticket.seal(kept[-1])

        outcome = await self._parts.publisher.publish(events, seal=seal)
        return kept[-1] if kept else render(outcome)

    async def page(self, call: Call) -> Answer:
        parameters = call.parameters
        only = EventFilter(
            type=parameters.event_type("event"),
            external_id=parameters.text("externalId"),
            since=parameters.timestamp("since"),
            until=parameters.timestamp("until"),
        )
        list_ = scope("events", call.named_tenant, only)
        below = None if call.faults else parameters.cursor(self._cursors, list_)
        limit = parameters.limit()
        call.check()
        page = await self._parts.log.events(call.tenant, only, below=below, limit=limit)
        return call.dialect.page([event_view(event) for event in page.items], self._cursors.seal(list_, page.next_below))

    async def get(self, call: Call) -> Answer:
        call.check()
        tenant = call.tenant
        event = await self._parts.log.event(tenant, call.id) if is_id(call.id) else None
        if event is None:
            raise not_found("event", call.id)
        shown = event_view(event)
        return call.dialect.one(
            FullEventView(
                **{name: getattr(shown, name) for name in EventView.__struct_fields__},
                data=msgspec.Raw(event.data),
                deliveries=await self._deliveries(tenant, event.id),
            )
        )

    async def _deliveries(self, tenant: Tenant, event_id: str) -> list[DeliveryView]:
        only, below, views = DeliveryFilter(event_id=event_id), None, list[DeliveryView]()
        while True:
            page = await self._parts.log.deliveries(tenant, only, below=below, limit=_PAGE)
            views.extend(delivery_view(delivery) for delivery in page.items)
            if page.next_below is None:
                return views
            below = page.next_below


def _none_is_good(refused: Sequence[Problem]) -> Problem:
    """The answer to a batch of which nothing can be taken."""
    if all(problem.kind is problems.FORBIDDEN for problem in refused):
        return refused[0]
    faults: list[Fault] = []
    for position, problem in enumerate(refused):
        item = f"events[{position}]"
        if problem.kind is problems.INVALID and problem.faults:
            faults += [(item if field == "body" else f"{item}.{field}", message) for field, message in problem.faults]
        else:
            # Messages begin with what they speak of, which the field names already.
            about = problem.param or "the body"
            field = item if problem.param is None else f"{item}.{problem.param}"
            faults.append((field, problem.message.removeprefix(f"{about} ")))
    return problems.invalid(faults)
