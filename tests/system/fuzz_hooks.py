"""What schemathesis cannot read in the API's description. It is told by its configuration to load this file."""

from datetime import UTC, datetime
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, HookContext

schemathesis.openapi.format(
    "date-time",
    st.integers(0, int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())).map(
        lambda seconds: datetime.fromtimestamp(seconds, UTC).isoformat()  # in the years that are taken
    ),
)


@schemathesis.hook
def filter_case(_context: HookContext, case: Case[Any]) -> bool:
    """A batch is taken when one of its events is good, whatever the others are: bad is only what has no good one beside it."""
    events = case.body.get("events") if isinstance(case.body, dict) else None
    is_bad = case.meta is not None and case.meta.generation.mode is GenerationMode.NEGATIVE
    return not (is_bad and isinstance(events, list) and len(events) > 1)
