"""Rows into structs and back, for the embedded store."""

from collections.abc import Sequence
from typing import Any

import msgspec

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
    Endpoint,
    Mode,
    Reason,
    Result,
    Revision,
    RevisionCause,
    Tenant,
)
from gateway.store import columns
from gateway.store.sealing import Sealing

Row = Sequence[Any]

_strings = msgspec.json.Decoder(tuple[str, ...])
_encode = msgspec.json.Encoder().encode


def stored_list(texts: Sequence[str]) -> str:
    """Lists are JSON arrays."""
    return _encode(texts).decode()


def _optional(kind: Any, value: Any) -> Any:
    return None if value is None else kind(value)


def endpoint(row: Row, sealing: Sealing) -> Endpoint:
    return Endpoint(
        id=row[0],
        tenant=Tenant(row[1], Mode(row[2])),
        url=row[3],
        events=_strings.decode(row[4]),
        description=row[5],
        api_version=row[6],
        secret=sealing.open(row[7], of=row[0]),
        is_active=bool(row[8]),
        disabled_at=row[9],
        disabled_reason=_optional(DisabledReason, row[10]),
        activation=row[11],
        deactivated_at=row[12],
        # row[13] is swept_activation, the store's own
        failed_in_row=row[14],
        paused_until=row[15],
        created_at=row[16],
        deleted_at=row[17],
        revision=row[18],
        previous_secret=None if row[19] is None else sealing.open(row[19], of=row[0]),
        previous_secret_until=row[20],
        headers=columns.read_headers(None if row[21] is None else sealing.open(row[21], of=row[0])),
        probe_count=row[22],
        probe_at=row[23],
    )


ENDPOINT_COLUMNS = 24


def revision(row: Row) -> Revision:
    return Revision(
        tenant=Tenant(row[0], Mode(row[1])),
        number=row[2],
        endpoint_id=row[3],
        events=_strings.decode(row[4]),
        is_active=bool(row[5]),
        cause=RevisionCause(row[6]),
        actor=row[7],
        at=row[8],
    )


def event(row: Row) -> AcceptedEvent:
    return AcceptedEvent(
        id=row[2],
        tenant=Tenant(row[0], Mode(row[1])),
        type=row[3],
        timestamp=row[4],
        external_id=row[5],
        data=row[7],
        created_at=row[6],
    )


def delivery(row: Row) -> Delivery:
    return Delivery(
        id=row[2],
        tenant=Tenant(row[0], Mode(row[1])),
        endpoint_id=row[3],
        event_id=row[4],
        event_type=row[5],
        state=DeliveryState(row[6]),
        reason=_optional(Reason, row[7]),
        trigger=DeliveryTrigger(row[8]),
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
        resent=bool(row[10]),
        response_headers=row[11],
        response_body=row[12],
    )


def attempt_values(result: Result) -> tuple[object, ...]:
    subject = result.attempt
    return (
        result.tenant.organization_id,
        result.tenant.mode,
        subject.delivery_id,
        subject.number,
        subject.trigger,
        subject.started_at,
        subject.duration_ms,
        subject.status,
        subject.error,
        subject.error_message,
        subject.url,
        subject.resent,
        subject.request_headers,
        subject.response_headers,
        subject.response_body,
    )


def success_values(result: Result) -> tuple[object, ...]:
    attempt, tenant = result.attempt, result.tenant
    return (
        tenant.organization_id,
        tenant.mode,
        attempt.delivery_id,
        attempt.number,
        result.verdict.counts,
        attempt.status,
        result.ended_at,
    )


def failure_values(result: Result) -> tuple[object, ...]:
    attempt, tenant, verdict = result.attempt, result.tenant, result.verdict
    return (
        tenant.organization_id,
        tenant.mode,
        attempt.delivery_id,
        attempt.number,
        verdict.counts,
        attempt.status,
        attempt.error,
        verdict.due_at,
        verdict.state,
        verdict.reason,
        result.ended_at,
    )


def key(row: Row) -> ApiKey:
    return ApiKey(
        id=row[0],
        hash=row[1],
        prefix=row[2],
        name=row[3],
        tenant=None if row[4] is None else Tenant(row[4], Mode(row[5])),
        permissions=None if row[6] is None else _strings.decode(row[6]),
        created_at=row[7],
        expires_at=row[8],
        last_used_at=row[9],
        revoked_at=row[10],
    )
