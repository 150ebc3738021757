"""The body of a delivery. Pure: the same event and API version always give the same bytes."""

import msgspec

from gateway.clock import isoformat
from gateway.model import AcceptedEvent

_encode = msgspec.json.encode


def render_body(event: AcceptedEvent, api_version: str) -> bytes:
    """What an endpoint receives of *event*; `data` is as it was published, byte for byte."""
    body = event.bodies.get(api_version)
    if body is None:
        body = event.bodies[api_version] = (
            b'{"id":"%s","event":"%s","timestamp":"%s","organizationId":%s,"mode":"%s","apiVersion":"%s","data":%s}'
            % (
                event.id.encode(),
                event.type.encode(),
                isoformat(event.timestamp).encode(),
                _encode(event.tenant.organization_id),
                event.tenant.mode.encode(),
                api_version.encode(),
                event.data,
            )
        )
    return body
