"""Rows into structs, and structs into the columns that a statement takes as arrays, for PostgreSQL."""

from collections.abc import Collection, Sequence
from typing import Any

from gateway.model import (
    AcceptedEvent,
    ApiKey,
    Attempt,
    AttemptError,
    AttemptTrigger,
    Delivery,
    DeliveryState,
    DeliveryTrigger,
    DisabledReason,
    DueDelivery,
    Endpoint,
    Mode,
    Reason,
    Result,
    Revision,
    RevisionCause,
    Tenant,
    bucket_of,
)
from gateway.store import columns
from gateway.store.postgres.connection import Row
from gateway.store.postgres.days import whole_days
from gateway.store.protocol import NewEvent
from gateway.store.sealing import Sealing

Parameters = dict[str, object]

# By value, for every row of a claim: a look-up costs a third of calling the enum.
_MODES = {mode.value: mode for mode in Mode}
TRIGGERS = {trigger.value: trigger for trigger in DeliveryTrigger}


def _optional(kind: Any, value: Any) -> Any:
    return None if value is None else kind(value)


def _text(value: str | None) -> str | None:
    """What others wrote, without the one character that PostgreSQL's text cannot hold."""
    return None if value is None else value.replace("\0", "\N{REPLACEMENT CHARACTER}")


def bounds(ids: Collection[str]) -> Parameters:
    """What keeps a statement to the days that *ids* are of."""
    lowest, highest = whole_days(ids)
    return {"lowest": lowest, "highest": highest}


def keys(found: Sequence[tuple[str, str, str]]) -> Parameters:
    """Rows of (id, organization, mode) as columns, with their bounds."""
    return {
        "ids": [row[0] for row in found],
        "organization_ids": [row[1] for row in found],
        "modes": [row[2] for row in found],
        **bounds([row[0] for row in found]),
    }


# Endpoints


def endpoint(row: Any, sealing: Sealing) -> Endpoint:
    id, previous, headers = row["id"], row["previous_secret"], row["headers"]
    return Endpoint(
        id=id,
        tenant=Tenant(row["organization_id"], _MODES[row["mode"]]),
        url=row["url"],
        events=tuple(row["events"]),
        description=row["description"],
        api_version=row["api_version"],
        secret=sealing.open(row["secret"], of=id),
        is_active=row["is_active"],
        disabled_at=row["disabled_at"],
        disabled_reason=_optional(DisabledReason, row["disabled_reason"]),
        activation=row["activation"],
        deactivated_at=row["deactivated_at"],
        failed_in_row=row["failed_in_row"],
        paused_until=row["paused_until"],
        created_at=row["created_at"],
        deleted_at=row["deleted_at"],
        revision=row["revision"],
        previous_secret=None if previous is None else sealing.open(previous, of=id),
        previous_secret_until=row["previous_secret_until"],
        headers=columns.read_headers(None if headers is None else sealing.open(headers, of=id)),
        probe_count=row["probe_count"],
        probe_at=row["probe_at"],
    )


def revision(row: Row) -> Revision:
    return Revision(
        tenant=Tenant(row[0], _MODES[row[1]]),
        number=row[2],
        endpoint_id=row[3],
        events=tuple(row[4]),
        is_active=row[5],
        cause=RevisionCause(row[6]),
        actor=row[7],
        at=row[8],
    )


# Events


def event(row: Row) -> AcceptedEvent:
    return AcceptedEvent(
        id=row[2],
        tenant=Tenant(row[0], _MODES[row[1]]),
        type=row[3],
        timestamp=row[4],
        external_id=row[5],
        data=row[7],
        created_at=row[6],
    )


def new_events(new: Sequence[NewEvent]) -> Parameters:
    events = [each.event for each in new]
    return {
        "organization_ids": [each.tenant.organization_id for each in events],
        "modes": [each.tenant.mode for each in events],
        "ids": [each.id for each in events],
        "types": [each.type for each in events],
        "timestamps": [each.timestamp for each in events],
        "external_ids": [each.external_id for each in events],
        "created_at": [each.created_at for each in events],
        "revisions": [each.revision for each in new],
        "data": [each.data for each in events],
    }


def external_ids(events: Sequence[AcceptedEvent]) -> Parameters:
    return {
        "organization_ids": [each.tenant.organization_id for each in events],
        "modes": [each.tenant.mode for each in events],
        "external_ids": [each.external_id for each in events],
        "ids": [each.id for each in events],
    }


# Deliveries


def delivery(row: Row) -> Delivery:
    return Delivery(
        id=row[2],
        tenant=Tenant(row[0], _MODES[row[1]]),
        endpoint_id=row[3],
        event_id=row[4],
        event_type=row[5],
        state=DeliveryState(row[6]),
        reason=_optional(Reason, row[7]),
        trigger=TRIGGERS[row[8]],
        activation=row[9],
        api_version=row[10],
        attempt_count=row[11],
        scheduled_count=row[12],
        due_at=row[13],
        last_status=row[14],
        last_error=row[15],
        created_at=row[16],
        finished_at=row[17],
    )


def new_deliveries(deliveries: Sequence[tuple[Tenant, DueDelivery]]) -> Parameters:
    dues = [due for _, due in deliveries]
    return {
        "organization_ids": [tenant.organization_id for tenant, _ in deliveries],
        "modes": [tenant.mode for tenant, _ in deliveries],
        "ids": [due.id for due in dues],
        "endpoint_ids": [due.endpoint_id for due in dues],
        "event_ids": [due.event.id for due in dues],
        "event_types": [due.event.type for due in dues],
        "triggers": [due.trigger for due in dues],
        "activations": [due.activation for due in dues],
        "api_versions": [due.api_version for due in dues],
        "due_at": [due.due_at for due in dues],
        "created_at": [due.created_at for due in dues],
        "buckets": [None if due.trigger is DeliveryTrigger.TEST else bucket_of(due.endpoint_id) for due in dues],
        "data_bytes": [len(due.event.data) for due in dues],
    }


# Attempts, and what they mean


def attempt(row: Row) -> Attempt:
    return Attempt(
        delivery_id=row[0],
        number=row[1],
        trigger=AttemptTrigger(row[2]),
        started_at=row[3],
        duration_ms=row[4],
        status=row[5],
        error=_optional(AttemptError, row[6]),
        error_message=row[7],
        url=row[8],
        request_headers=row[9],
        resent=row[10],
        response_headers=row[11],
        response_body=row[12],
        fenced=row[13],
    )


def _of_results(results: Sequence[Result]) -> Parameters:
    return {
        "organization_ids": [result.tenant.organization_id for result in results],
        "modes": [result.tenant.mode for result in results],
    }


def new_attempts(results: Sequence[tuple[Result, bool]]) -> Parameters:
    """*results*, each with whether it is fenced."""
    attempts = [result.attempt for result, _ in results]
    return {
        **_of_results([result for result, _ in results]),
        "delivery_ids": [each.delivery_id for each in attempts],
        "numbers": [each.number for each in attempts],
        "triggers": [each.trigger for each in attempts],
        "started_at": [each.started_at for each in attempts],
        "durations": [each.duration_ms for each in attempts],
        "statuses": [each.status for each in attempts],
        "errors": [each.error for each in attempts],
        "error_messages": [_text(each.error_message) for each in attempts],
        "urls": [each.url for each in attempts],
        "resent": [each.resent for each in attempts],
        "fenced": [fenced for _, fenced in results],
        "request_headers": [each.request_headers for each in attempts],
        "response_headers": [each.response_headers for each in attempts],
        "response_bodies": [each.response_body for each in attempts],
    }


def successes(results: Sequence[Result]) -> Parameters:
    ids = [result.due.id for result in results]
    return {
        **_of_results(results),
        "ids": ids,
        "numbers": [result.attempt.number for result in results],
        "counts": [int(result.verdict.counts) for result in results],
        "statuses": [result.attempt.status for result in results],
        "ended_at": [result.ended_at for result in results],
        **bounds(ids),
    }


def failures(results: Sequence[Result]) -> Parameters:
    return {
        **successes(results),
        "endpoint_ids": [result.due.endpoint_id for result in results],
        "errors": [result.attempt.error for result in results],
        "due_at": [result.verdict.due_at for result in results],
        "states": [result.verdict.state for result in results],
        "reasons": [result.verdict.reason for result in results],
    }


# Keys


def key(row: Any) -> ApiKey:
    return ApiKey(
        id=row["id"],
        hash=row["hash"],
        prefix=row["prefix"],
        name=row["name"],
        tenant=None if row["organization_id"] is None else Tenant(row["organization_id"], _MODES[row["mode"]]),
        permissions=None if row["permissions"] is None else tuple(row["permissions"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
        revoked_at=row["revoked_at"],
    )
