"""The room behind every door for events: checks an event, gives it its id, queues it, and returns once it is committed."""

import json
from collections.abc import Sequence

import msgspec

from gateway import ids
from gateway.clock import MAX_TIMESTAMP
from gateway.errors import InvalidEvent
from gateway.ids import IdMaker
from gateway.model import AcceptedEvent, Event, Mode, Tenant
from gateway.publishing.event_queue import Seal
from gateway.publishing.event_types import Catalogue, is_event_type
from gateway.publishing.writer import Writer
from gateway.registry.organizations import MAX_ORGANIZATION_ID, RESERVED, is_organization_id, is_reserved
from gateway.settings import Events

MAX_EXTERNAL_ID = 255

# Floats stay text, so that a number of any size passes: it is delivered as it was written.
_decoder = msgspec.json.Decoder(float_hook=str)


class Publisher:
    """Takes events from every door."""

    def __init__(self, *, writer: Writer, ids: IdMaker, settings: Events, catalogue: Catalogue | None) -> None:
        self._writer = writer
        self._ids = ids
        self._max_data_bytes = settings.max_data_bytes
        self._catalogue = catalogue

    def ensure_room(self) -> None:
        """See `Writer.ensure_room`."""
        self._writer.ensure_room()

    def accept(self, event: Event) -> AcceptedEvent:
        """*event* with its id, checked. Nothing is kept yet.

        Raises InvalidEvent with every fault.
        """
        faults: list[tuple[str, str]] = []
        if not isinstance(event.type, str) or not is_event_type(event.type):
            faults.append(("event", "must be two or more parts of a-z, 0-9 and _ joined by dots, at most 128 characters"))
        elif self._catalogue is not None and not self._catalogue.knows(event.type):
            faults.append(("event", f"{event.type!r} is not in the catalogue of event types"))
        if not isinstance(event.mode, Mode):
            faults.append(("mode", "must be live or sandbox"))
        if organization_fault := _organization_fault(event.organization_id):
            faults.append(("organizationId", organization_fault))
        if event.external_id is not None and not _is_external_id(event.external_id):
            faults.append(("externalId", f"must have 1 to {MAX_EXTERNAL_ID} characters of Unicode, none of them NUL"))
        if event.timestamp is not None and not (isinstance(event.timestamp, int) and 0 <= event.timestamp <= MAX_TIMESTAMP):
            faults.append(("timestamp", "must be whole milliseconds in the years 1970 to 9999"))
        data, data_fault = _data(event.data)
        if data_fault is not None:
            faults.append(("data", data_fault))
        is_too_large = len(data) > self._max_data_bytes
        if is_too_large:
            faults.append(("data", f"has {len(data)} bytes; the limit is {self._max_data_bytes}"))
        if faults:
            raise InvalidEvent(faults, too_large=is_too_large)
        event_id, at = self._ids.next_with_time(ids.EVENT)
        return AcceptedEvent(
            id=event_id,
            tenant=Tenant(event.organization_id, event.mode),
            type=event.type,
            timestamp=at if event.timestamp is None else event.timestamp,
            external_id=event.external_id,
            data=data,
            created_at=at,
        )

    async def publish(self, events: Sequence[AcceptedEvent], *, seal: Seal | None = None) -> Sequence[AcceptedEvent]:
        """See `Writer.publish`."""
        return await self._writer.publish(events, seal=seal)


def _organization_fault(organization_id: object) -> str | None:
    if not isinstance(organization_id, str) or not is_organization_id(organization_id):
        return f"must have 1 to {MAX_ORGANIZATION_ID} printable characters, no spaces"
    return f"must be another: {RESERVED}" if is_reserved(organization_id) else None


def _is_external_id(text: object) -> bool:
    return isinstance(text, str) and 1 <= len(text) <= MAX_EXTERNAL_ID and "\0" not in text and _is_unicode(text)


def _is_unicode(text: str) -> bool:
    """Whether *text* can be written down: a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _data(data: object) -> tuple[bytes, str | None]:
    """The bytes to deliver, and what is wrong with them."""
    if isinstance(data, dict):
        try:
            # Not msgspec, which writes NaN as null.
            return json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode(), None
        except (TypeError, ValueError, RecursionError) as error:
            return b"", f"cannot be written as JSON: {error}"
    if not isinstance(data, bytes):
        return b"", "must be a JSON object, as bytes or as a dict"
    if not data.lstrip(b" \t\r\n").startswith(b"{"):
        return data, "must be a JSON object"
    try:
        # Decoded whole: a message that skips over it would let broken text through.
        _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return data, _explained(error)
    return data, None


def _explained(error: Exception) -> str:
    if isinstance(error, msgspec.ValidationError):  # read as anything, it can be wrong in a whole number alone
        return "holds a number of more than 4,300 digits, the sign counted as one"
    if isinstance(error, UnicodeDecodeError):
        why = "it is not UTF-8"
    elif isinstance(error, RecursionError):
        why = "it is nested too deeply"
    else:
        # Half of a pair of surrogates reads as an end to msgspec.
        why = "it breaks off, or has half of a surrogate pair in it" if "truncated" in str(error) else str(error)
    return f"must be a JSON object ({why})"
