"""What is copied: the tables in their order, and what a row of the one store is in the other. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.model import bucket_of

Record = tuple[Any, ...]
"""A row as it stands in the PostgreSQL."""

Place = tuple[str | int, ...]
"""Where to go on: what was copied last, in the order of copying."""

_strings = msgspec.json.Decoder(list[str])


def _flag(value: int) -> bool:
    return bool(value)


def _list(text: str | None) -> list[str] | None:
    return None if text is None else _strings.decode(text)


def _bucket(endpoint_id: str | None) -> int | None:
    return None if endpoint_id is None else bucket_of(endpoint_id)


def _storable(text: str | None) -> str | None:
    """PostgreSQL has no NUL in texts. What strangers have sent is kept as bytes; this is what was said about it."""
    return text and text.replace("\0", "\N{REPLACEMENT CHARACTER}")


class Table(msgspec.Struct, frozen=True):
    """A table that is written, from the rows of the statement of its name."""

    name: str
    columns: tuple[str, ...]  # of the table, in the order of the statement's
    key: tuple[str, ...]  # tells its rows apart; both stores have an index in this order, or few rows
    place: tuple[str, ...] = ("rowid",)  # the order of copying: that of age, as the source has it on disk
    start: Place = (0,)  # before the first
    changes: Mapping[str, Callable[[Any], Any]] = {}  # columns that are kept otherwise than in the source

    def record(self, row: Sequence[Any]) -> Record:
        """What *row* of the source's statement is in the table."""
        values = list(row[len(self.place) :])
        for column, change in self.changes.items():
            index = self.columns.index(column)
            values[index] = change(values[index])
        return tuple(values)

    def key_of(self, record: Record) -> tuple[Any, ...]:
        return tuple(record[self.columns.index(column)] for column in self.key)

    @property
    def dated(self) -> int | None:
        """Which column holds the id by whose day the table is cut; None: it is not."""
        cut_by = {"events": "id", "deliveries": "id", "attempts": "delivery_id"}.get(self.name)
        return None if cut_by is None else self.columns.index(cut_by)


HISTORY: Sequence[Table] = (
    Table("organizations", ("id", "api_version"), ("id",), ("id",), ("",)),
    Table(
        "tenants",
        ("organization_id", "mode", "revision"),
        ("organization_id", "mode"),
        ("organization_id", "mode"),
        ("", ""),
    ),
    Table(
        "endpoints",
        (
            "id", "organization_id", "mode", "url", "events", "description", "api_version", "secret", "is_active", "disabled_at",
            "disabled_reason", "activation", "deactivated_at", "swept_activation", "failed_in_row", "paused_until", "created_at",
            "deleted_at", "revision", "previous_secret", "previous_secret_until", "headers", "probe_count", "probe_at",
        ),
        ("id",),
        changes={"events": _list, "is_active": _flag},
    ),
    Table(
        "revisions",
        ("organization_id", "mode", "number", "endpoint_id", "events", "is_active", "cause", "actor", "at"),
        ("organization_id", "mode", "number"),
        ("organization_id", "mode", "number"),
        ("", "", 0),
        changes={"events": _list, "is_active": _flag},
    ),
    Table(
        "events",
        ("organization_id", "mode", "id", "type", "timestamp", "external_id", "created_at", "revision", "data"),
        ("organization_id", "mode", "id"),
    ),
    Table(
        "external_ids",
        ("organization_id", "mode", "external_id", "event_id"),
        ("organization_id", "mode", "external_id"),
    ),
    Table(
        "deliveries",
        (
            "organization_id", "mode", "id", "endpoint_id", "event_id", "event_type", "state", "reason", "trigger", "activation",
            "api_version", "attempt_count", "scheduled_count", "due_at", "last_status", "last_error", "created_at", "finished_at",
            "is_failed",
        ),
        ("organization_id", "mode", "id"),
        changes={"is_failed": _flag},
    ),
    Table(
        "attempts",
        (
            "organization_id", "mode", "delivery_id", "number", "trigger", "started_at", "duration_ms", "status", "error",
            "error_message", "url", "resent", "fenced", "request_headers", "response_headers", "response_body",
        ),
        ("delivery_id", "number"),
        changes={"error_message": _storable, "resent": _flag, "fenced": _flag},
    ),
    Table(
        "api_keys",
        (
            "id", "hash", "prefix", "name", "organization_id", "mode", "permissions", "created_at", "expires_at", "last_used_at",
            "revoked_at",
        ),
        ("id",),
        changes={"permissions": _list},
    ),
    Table(
        "audit_log",
        ("id", "organization_id", "mode", "at", "actor", "address", "action", "target_id", "changes"),
        ("id",),
        ("id",),
        ("",),
    ),
    Table(
        "failure_notices", ("endpoint_id", "told_at", "untold", "delivery_id"), ("endpoint_id",), ("endpoint_id",), ("",)
    ),
    Table(
        "idempotent_requests",
        ("key_hash", "request_hash", "process_id", "expires_at", "answer"),
        ("key_hash",),
    ),
)  # fmt: skip
"""What is on record: copied first, in steps."""

WORK: Sequence[Table] = (
    Table(
        "due",
        (
            "delivery_id", "bucket", "endpoint_id", "event_id", "activation", "attempt_count", "scheduled_count", "due_at",
            "created_at", "api_version", "trigger", "organization_id", "mode", "data_bytes",
        ),
        ("organization_id", "mode", "delivery_id"),
        changes={"bucket": _bucket},
    ),
    Table(
        "retries",
        ("id", "organization_id", "mode", "bucket", "endpoint_id", "delivery_id", "event_id", "data_bytes"),
        ("id",),
        changes={"bucket": _bucket},
    ),
)  # fmt: skip
"""What waits to be sent: copied last, all at once, so that nobody ever sends what is half there."""
