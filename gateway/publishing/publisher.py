"""The room behind every door for events: checks an event, gives it its id, queues it, and returns once it is committed."""

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
from gateway.settings import Events

MAX_EXTERNAL_ID = 255
MAX_ORGANIZATION_ID = 255

_encoder = msgspec.json.Encoder()


class Publisher:
    """Takes events from every door."""

    def __init__(self, *, writer: Writer, ids: IdMaker, settings: Events, catalogue: Catalogue | None) -> None:
        self._writer = writer
        self._ids = ids
        self._max_data_bytes = settings.max_data_bytes
        self._catalogue = catalogue

    def accept(self, event: Event) -> AcceptedEvent:
        """*event* with its id, checked. Nothing is kept yet.

        Raises InvalidEvent with every fault.
        """
        faults: list[tuple[str, str]] = []
        if not is_event_type(event.type):
            faults.append(("event", "must be two or more parts of a-z, 0-9 and _ joined by dots, at most 128 characters"))
        elif self._catalogue is not None and not self._catalogue.knows(event.type):
            faults.append(("event", f"{event.type!r} is not in the catalogue of event types"))
        if not isinstance(event.mode, Mode):
            faults.append(("mode", "must be live or sandbox"))
        for field, text, most in (
            ("organizationId", event.organization_id, MAX_ORGANIZATION_ID),
            ("externalId", event.external_id, MAX_EXTERNAL_ID),
        ):
            if text is not None and (not 1 <= len(text) <= most or "\0" in text):
                faults.append((field, f"must have 1 to {most} characters, none of them NUL"))
        if event.timestamp is not None and not 0 <= event.timestamp <= MAX_TIMESTAMP:
            faults.append(("timestamp", "must lie in the years 1970 to 9999"))
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


def _data(data: bytes | dict[str, object]) -> tuple[bytes, str | None]:
    """The bytes to deliver, and what is wrong with them."""
    if isinstance(data, dict):
        try:
            return _encoder.encode(data), None
        except (TypeError, ValueError, RecursionError) as error:
            return b"", f"cannot be written as JSON: {error}"
    if not data.lstrip(b" \t\r\n").startswith(b"{"):
        return data, "must be a JSON object"
    try:
        # Decoded whole: a message that skips over it would let broken text through.
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return data, f"must be a JSON object ({error})"
    return data, None
