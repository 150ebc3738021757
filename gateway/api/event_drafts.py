"""What a publisher sends, read and checked. The way of a good event is short; a bad one is read again field by field,
so that everything wrong with it is told."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.api.auth import Principal, tenant_of
from gateway.api.json_body import Body, JsonObject, is_blank, read_json
from gateway.api.parts import Publisher
from gateway.api.problems import Fault, Problem, invalid, too_large
from gateway.api.validation import read_timestamp
from gateway.api.vocabulary import EventType, ExternalId, GivenTime, ModeName, OrganizationId
from gateway.errors import InvalidEvent
from gateway.model import AcceptedEvent, Event, Mode, Tenant

MAX_BATCH = 1_000

_NOTHING = msgspec.Raw(b"")
_NULL = memoryview(b"null")
_STAND_IN = Tenant("organization", Mode.LIVE)


class EventTexts(msgspec.Struct, kw_only=True, rename="camel"):
    """What an event says besides its data. Null is as good as absent."""

    event: EventType | None = None
    timestamp: Annotated[GivenTime | None, Meta(description="when it happened; now, when absent")] = None
    external_id: ExternalId | None = None
    organization_id: OrganizationId | None = None
    mode: Annotated[ModeName | None, Meta(description="live, when absent")] = None


class Draft(EventTexts, kw_only=True, rename="camel"):
    """The body of a publish request, or an event of a batch, as it is read at first."""

    data: msgspec.Raw = _NOTHING
    events: msgspec.Raw | UnsetType = UNSET  # a batch

    def tenant(self, principal: Principal, faults: list[Fault]) -> Tenant | None:
        """See `auth.tenant_of`."""
        return tenant_of(principal, self.organization_id, self.mode, faults)


class NewEvent(EventTexts, kw_only=True, rename="camel"):
    """An event to publish. Null is as good as absent. A service key has to name `organizationId`."""

    event: EventType
    data: Annotated[
        dict[str, Any],
        Meta(description="delivered byte for byte as it was sent; a setting limits its size, by default to 256 KiB"),
    ]


OneEvent = Annotated[
    NewEvent,
    Meta(extra_json_schema={"properties": {"events": {"type": "null", "description": "with them the body is a batch"}}}),
]


class EventBatch(msgspec.Struct, kw_only=True):
    """Events to publish at once. A service key has to name `organizationId` in each."""

    events: Annotated[list[NewEvent], Meta(min_length=1, max_length=MAX_BATCH)]


_decode_draft = msgspec.json.Decoder(Draft).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read_draft(raw: bytes | msgspec.Raw, faults: list[Fault]) -> Draft:
    """The draft in *raw*, less the fields that *faults* then speaks of. Raises a 400 for what is no JSON object."""
    try:
        draft = read_json(raw, _decode_draft)
    except msgspec.ValidationError:
        given = JsonObject(raw)
    except Problem:
        if is_blank(raw):
            return Draft()
        raise
    else:
        if draft.events is not UNSET and memoryview(draft.events) == _NULL:
            draft.events = UNSET
        return draft
    data, events = given.raw("data"), given.raw("events")
    return Draft(
        data=_NOTHING if isinstance(data, UnsetType) else msgspec.Raw(data),
        events=UNSET if isinstance(events, UnsetType) or events == _NULL else msgspec.Raw(events),
        **Body(given, EventTexts, faults).values,
    )


def read_drafts(raw: msgspec.Raw, faults: list[Fault]) -> list[msgspec.Raw]:
    """The events of a batch, each still to be read."""
    try:
        items = _decode_items(raw)
    except msgspec.ValidationError:
        faults.append(("events", "must be an array"))
        return []
    if not 1 <= len(items) <= MAX_BATCH:
        faults.append(("events", f"must hold 1 to {MAX_BATCH} events"))
    return items


def accept(publisher: Publisher, principal: Principal, draft: Draft, faults: list[Fault]) -> AcceptedEvent:
    """The event that *draft* describes, checked. Raises a 400 with *faults* and all others, a 413 and a 403."""
    known = {field for field, _ in faults}
    own: list[Fault] = []
    tenant = draft.tenant(principal, own)
    if draft.event is None:
        own.append(("event", "is required"))
    timestamp = None if draft.timestamp is None else read_timestamp(draft.timestamp)
    if draft.timestamp is not None and timestamp is None:
        own.append(("timestamp", "must be a date and time in ISO 8601, such as 2026-03-25T14:30:00Z"))
    data = bytes(draft.data)  # copied out of the request's body, which is let go
    if not data or data == b"null":
        own.append(("data", "is required"))
    elif not data.startswith(b"{"):
        own.append(("data", "must be an object"))
    # The rest is judged with stand-ins for what is wrong already.
    tenant = tenant or _STAND_IN
    event = Event(
        type=draft.event if draft.event is not None else "stand.in",
        data=data if data.startswith(b"{") else b"{}",
        organization_id=tenant.organization_id,
        mode=tenant.mode,
        timestamp=timestamp,
        external_id=draft.external_id,
    )
    is_too_large = False
    accepted: AcceptedEvent | None = None
    try:
        accepted = publisher.accept(event)
    except InvalidEvent as error:
        own += [fault for fault in error.faults if fault[0] != "event" or draft.event is not None]
        is_too_large = error.too_large
    faults += [fault for fault in own if fault[0] not in known]
    if is_too_large:
        raise too_large(faults)
    if faults or accepted is None:
        raise invalid(faults)
    return accepted
