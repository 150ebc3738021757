"""The types that structs of the API share, as its description tells them.

What stands in `extra_json_schema` describes only: it is judged elsewhere, in sentences of its own. `x-setting` stands for the
values that a setting holds, which the description fills in.
"""

from typing import Annotated

from msgspec import Meta

from gateway.model import Mode
from gateway.publishing.event_types import MAX_LENGTH
from gateway.publishing.publisher import MAX_EXTERNAL_ID
from gateway.registry.organizations import MAX_ORGANIZATION_ID

_PART = "[a-z0-9_]+"

Time = Annotated[
    str,
    Meta(
        description="ISO 8601, in UTC, with milliseconds",
        examples=["2026-03-25T14:30:00.000Z"],
        extra_json_schema={"format": "date-time", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"},
    ),
]
"""A time as the API shows it."""

GivenTime = Annotated[
    str,
    Meta(description="ISO 8601, in the years 1970 to 9999; in UTC without an offset", extra_json_schema={"format": "date-time"}),
]
"""A time as it may be given."""

EventType = Annotated[
    str,
    Meta(
        description=f"two or more parts of `a-z 0-9 _` joined by dots, at most {MAX_LENGTH} characters; one of the catalogue, "
        "when there is one",
        examples=["invoice.paid"],
        extra_json_schema={"pattern": rf"^{_PART}(\.{_PART})+$", "maxLength": MAX_LENGTH},
    ),
]

EventPattern = Annotated[
    str,
    Meta(
        description="an event type, `prefix.*` (any depth below the prefix) or `*`",
        examples=["invoice.paid", "invoice.*", "*"],
        extra_json_schema={"pattern": rf"^(\*|({_PART}\.)+(\*|{_PART}))$", "maxLength": MAX_LENGTH},
    ),
]

ApiVersion = Annotated[
    str, Meta(description="a known API version", examples=["2026-08-27"], extra_json_schema={"x-setting": "api.versions"})
]
"""One that may be given."""

ShownVersion = Annotated[str, Meta(description="an API version", extra_json_schema={"format": "date"})]
"""One that is shown; it may have been known only when it was given."""

OrganizationId = Annotated[
    str,
    Meta(
        description=f"1 to {MAX_ORGANIZATION_ID} printable characters, no spaces",
        examples=["acme"],
        extra_json_schema={"minLength": 1, "maxLength": MAX_ORGANIZATION_ID, "pattern": r"^[^\s\u0000-\u001f\u007f]+$"},
    ),
]

ModeName = Annotated[str, Meta(extra_json_schema={"enum": list(Mode)})]

ExternalId = Annotated[
    str,
    Meta(
        description=f"the publisher's own id of the event, 1 to {MAX_EXTERNAL_ID} characters, none of them NUL",
        extra_json_schema={"minLength": 1, "maxLength": MAX_EXTERNAL_ID, "pattern": r"^[^\u0000]+$"},
    ),
]

ShownStatus = Annotated[int, Meta(ge=100, le=999)]
Count = Annotated[int, Meta(ge=0)]

Yes = Annotated[bool, Meta(extra_json_schema={"const": True})]
No = Annotated[bool, Meta(extra_json_schema={"const": False})]
