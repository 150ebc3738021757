"""The operation that shows the catalogue of event types."""

from typing import Literal

import msgspec

from gateway.api.cursors import Cursors, scope
from gateway.api.dialects import Answer
from gateway.api.operations import Call, Operation, TenantIn, page
from gateway.api.parts import ApiParts
from gateway.api.vocabulary import EventType


class EventTypeView(msgspec.Struct, frozen=True, kw_only=True):
    """An event type of the catalogue."""

    object: Literal["event_type"] = "event_type"
    event: EventType
    description: str


class EventTypes:
    """Shows the catalogue, in its own order; nothing when none is set."""

    def __init__(self, parts: ApiParts) -> None:
        self._cursors = Cursors(parts.cursor_key)
        types = {} if parts.catalogue is None else parts.catalogue.types
        self._views = [EventTypeView(event=name, description=description) for name, description in types.items()]
        self._positions = {name: position for position, name in enumerate(types)}

    def operations(self) -> list[Operation]:
        """What can be done with event types: any key may read them."""
        return [
            Operation(
                name="list_event_types",
                method="GET",
                path="/event-types",
                permission=None,
                handler=self.page,
                summary="List the event types of the catalogue",
                description="In the catalogue's own order; none when none is set.",
                answers=(page(EventTypeView),),
                tenant_in=TenantIn.NOWHERE,
            )
        ]

    async def page(self, call: Call) -> Answer:
        limit = call.parameters.limit()
        list_ = scope("event-types", None)
        after = call.parameters.cursor(self._cursors, list_)
        call.check()
        # A type that has left the catalogue since the page before: from the start, rather than missing some.
        start = 0 if after is None else self._positions.get(after, -1) + 1
        shown = self._views[start : start + limit]
        last = shown[-1].event if start + limit < len(self._views) else None
        return call.dialect.page(shown, self._cursors.seal(list_, last))
