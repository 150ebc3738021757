"""What schemathesis cannot read in the API's description. It is told by its configuration to load this file."""

from datetime import UTC, datetime
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, HookContext

from gateway.registry.custom_headers import HeaderRules

schemathesis.openapi.format(
    "date-time",
    st.integers(0, int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())).map(
        lambda seconds: datetime.fromtimestamp(seconds, UTC).isoformat()  # in the years that are taken
    ),
)


@schemathesis.hook
def filter_case(_context: HookContext, case: Case[Any]) -> bool:
    """Whether *case* is as good, or as bad, as it is thought to be.

    A batch is taken when one of its events is good, whatever the others are. Not every name of a header may be given.
    """
    if not isinstance(case.body, dict) or case.meta is None:
        return True
    if case.meta.generation.mode is GenerationMode.NEGATIVE:
        events = case.body.get("events")
        return not (isinstance(events, list) and len(events) > 1)
    headers = case.body.get("headers")
    return not (isinstance(headers, dict) and any(HeaderRules("X-Commet").faults(headers)))
