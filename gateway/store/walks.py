"""How lists are walked on every backend: along ids, within a span of them, by the narrowest index. Pure."""

from msgspec.structs import asdict

from gateway import ids
from gateway.clock import Timestamp
from gateway.model import DeliveryState
from gateway.store.protocol import AuditFilter, DeliveryFilter, EventFilter

ABOVE_ALL = "~"
"""Sorts after every id."""


def bounds(prefix: str, below: str | None, since: Timestamp | None, until: Timestamp | None) -> dict[str, object]:
    """A span of time as a span of ids, since ids tell the time of making."""
    top = ABOVE_ALL if until is None else ids.floor(prefix, until)
    return {"below": min(top, below or ABOVE_ALL), "since": "" if since is None else ids.floor(prefix, since)}


def is_filtered(only: EventFilter | DeliveryFilter | AuditFilter) -> bool:
    """Whether rows are passed over; a span of time passes over none, since it bounds the walk itself."""
    return any(value is not None for name, value in asdict(only).items() if name not in {"since", "until"})


def narrowest(only: DeliveryFilter) -> str:
    """The statement whose index leaves the least to walk."""
    if only.event_id is not None:
        return "deliveries_of_event"
    if only.endpoint_id is not None:
        return "deliveries_of_endpoint"
    if only.state is DeliveryState.FAILED:
        return "deliveries_failed"
    return "deliveries_of_tenant"
