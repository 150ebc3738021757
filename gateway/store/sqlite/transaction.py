"""One transaction on the writing connection."""

import functools
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import astuple, replace

from gateway import ids
from gateway.clock import Timestamp
from gateway.model import (
    AcceptedEvent,
    ApiKey,
    AttemptError,
    AuditEntry,
    Delivery,
    DeliveryState,
    DueDelivery,
    Endpoint,
    FailureNotice,
    IdempotentAnswer,
    Organization,
    Reason,
    Result,
    Revision,
    Tenant,
)
from gateway.store import columns, queries
from gateway.store.protocol import ActiveEndpoints, Effects, NewEvent, Resealed
from gateway.store.sealing import Sealing
from gateway.store.sqlite import rows
from gateway.store.sqlite.connection import Connection, Statement

MAX_ROWS = 128
"""Of one statement."""

_encode = msgspec.json.Encoder().encode
_with_rows = functools.cache(queries.with_rows)


class SqliteTransaction:
    """See `store.protocol.Transaction`.

    What it writes waits until something is read, or until the commit: then all of it goes to the connection's thread in
    one hop. A transaction that writes nothing leaves no trace.
    """

    def __init__(
        self, connection: Connection, sql: Mapping[str, str], sealing: Sealing, *, batch: int, expiry: "ExpiryCursor"
    ) -> None:
        self._connection = connection
        self._sql = sql
        self._sealing = sealing
        self._batch = batch
        self._expiry = expiry
        self._waiting: list[Statement] = []
        self.has_begun = False
        self.effects = Effects()

    async def commit(self) -> None:
        """Makes it last. When this raises, `has_begun` says whether there was anything to lose."""
        if self._waiting or self.has_begun:
            self._waiting.append(("COMMIT", ()))
            await self._flush()

    async def roll_back(self) -> None:
        """Takes all of it back."""
        if self.has_begun:
            await self._connection.rollback()

    async def _flush(self) -> list[int]:
        statements, self._waiting = self._waiting, []
        if not self.has_begun:
            self.has_begun = True
            # The number of the batch is committed with it: that is how a commit whose end is unknown is recognized.
            statements[:0] = [("BEGIN IMMEDIATE", ()), (self._sql["set_meta"], {"name": "last_batch", "value": self._batch})]
        return await self._connection.run(statements)

    def _write(self, name: str, parameters: Mapping[str, object]) -> None:
        self._waiting.append((self._sql[name], parameters))

    def _write_each(self, name: str, parameters: Iterable[Sequence[object]]) -> None:
        self._waiting += [(self._sql[name], values) for values in parameters]

    def _write_rows(self, name: str, values: Sequence[Sequence[object]]) -> None:
        """Writes with a statement of many rows, in powers of two of them so that few statements have to be prepared.

        Not `executemany`, which takes the interpreter's lock again for each row: that makes the thread wait for the
        busy event loop as many times."""
        start = 0
        while start < len(values):
            count = min(MAX_ROWS, 1 << ((len(values) - start).bit_length() - 1))
            parameters = [value for row in values[start : start + count] for value in row]
            self._waiting.append((_with_rows(self._sql[name], count), parameters))
            start += count

    async def _write_now(self, name: str, parameters: Mapping[str, object]) -> int:
        """How many rows it changed."""
        self._write(name, parameters)
        return (await self._flush())[-1]

    async def _rows(self, name: str, parameters: Mapping[str, object]) -> list[Any]:
        if self._waiting:
            await self._flush()
        return list(await self._connection.execute_fetchall(self._sql[name], parameters))

    async def _one(self, name: str, parameters: Mapping[str, object]) -> Any:
        found = await self._rows(name, parameters)
        return found[0] if found else None

    # Endpoints

    def _endpoint(self, row: rows.Row) -> Endpoint:
        return rows.endpoint(row, self._sealing)

    async def endpoint(self, tenant: Tenant, endpoint_id: str) -> Endpoint | None:
        row = await self._one("endpoint", {**columns.tenant_parameters(tenant), "id": endpoint_id})
        return row and self._endpoint(row)

    async def endpoint_by_id(self, endpoint_id: str) -> Endpoint | None:
        row = await self._one("endpoint_by_id", {"id": endpoint_id})
        return row and self._endpoint(row)

    async def endpoints_by_id(self, endpoint_ids: Collection[str]) -> dict[str, Endpoint]:
        found = await self._rows("endpoints_by_id", {"ids": _encode(list(endpoint_ids)).decode()})
        return {endpoint.id: endpoint for endpoint in map(self._endpoint, found)}

    async def count_endpoints(self, organization_id: str) -> int:
        return int((await self._one("count_endpoints", {"organization_id": organization_id}))[0])

    async def active_endpoints(self, tenant: Tenant) -> ActiveEndpoints:
        parameters = columns.tenant_parameters(tenant)
        (revision,) = await self._one("last_revision", parameters)
        pinned = await self._one("pinned_version", {"organization_id": tenant.organization_id})
        endpoints = await self._rows("active_endpoints", parameters)
        return ActiveEndpoints(revision or 0, tuple(map(self._endpoint, endpoints)), pinned[0] if pinned else None)

    async def outdated(self, known: Mapping[Tenant, tuple[int, str | None]]) -> Collection[Tenant]:  # noqa: ARG002 - protocol's
        return ()  # nobody else writes to this file

    async def add_endpoint(self, endpoint: Endpoint) -> None:
        self._write("add_endpoint", columns.endpoint_parameters(endpoint, rows.stored_list, self._sealing))
        self.effects.endpoints.append(endpoint)

    async def save_endpoint(self, endpoint: Endpoint) -> None:
        self._write("save_endpoint", columns.endpoint_parameters(endpoint, rows.stored_list, self._sealing))
        if endpoint.deleted_at is not None:
            self._write("drop_retries", {"endpoint_id": endpoint.id})
        self.effects.endpoints.append(endpoint)

    async def add_revision(self, revision: Revision) -> int:
        (last,) = await self._one("last_revision", columns.tenant_parameters(revision.tenant))
        number = (last or 0) + 1
        self._write("add_revision", columns.revision_parameters(revision, number, rows.stored_list))
        return number

    async def reset_failures(self, endpoint_ids: Collection[str]) -> None:
        self._write_each("reset_failures", [(endpoint_id,) for endpoint_id in endpoint_ids])

    async def pause_endpoints(self, pauses: Sequence[tuple[str, Timestamp]]) -> None:
        self._write_each("pause_endpoint", pauses)

    async def reseal_endpoints(self, after: str, *, limit: int) -> Resealed:
        found = await self._rows("sealed_texts", {"after": after, "limit": limit})
        changed = [parameters for row in found if (parameters := columns.resealed(self._sealing, *row))]
        for parameters in changed:
            self._write("reseal_endpoint", parameters)
        return Resealed(len(found), len(changed), found[-1][0] if len(found) == limit else None)

    async def cancel_passed(self, endpoint: Endpoint, reason: Reason, at: Timestamp, *, limit: int) -> int:
        parameters = {"endpoint_id": endpoint.id, "activation": endpoint.activation, "reason": reason, "at": at, "limit": limit}
        return await self._write_now("cancel_passed", parameters)

    async def mark_swept(self, endpoint: Endpoint) -> None:
        self._write("mark_swept", {"id": endpoint.id, "activation": endpoint.activation})

    async def schedule_probes(self, at: Timestamp) -> None:
        self._write("schedule_probes", {"at": at})

    async def end_probes(self) -> None:
        self._write("end_probes", {})

    # What the operator is told

    async def failure_notices(self, endpoint_ids: Collection[str]) -> dict[str, FailureNotice]:
        found = await self._rows("failure_notices", {"ids": _encode(list(endpoint_ids)).decode()})
        return {row[0]: FailureNotice(*row) for row in found}

    async def untold_failures(self, told_before: Timestamp, *, limit: int) -> Sequence[FailureNotice]:
        found = await self._rows("untold_failures", {"told_before": told_before, "limit": limit})
        return [FailureNotice(*row) for row in found]

    async def save_failure_notices(self, notices: Sequence[FailureNotice]) -> None:
        self._write_rows("save_failure_notices", [astuple(notice) for notice in notices])

    async def forget_failure_notices(self, told_before: Timestamp) -> None:
        self._write("forget_failure_notices", {"told_before": told_before})

    # Events and deliveries

    async def take_external_ids(self, events: Sequence[AcceptedEvent]) -> dict[tuple[Tenant, str], AcceptedEvent]:
        # There is nothing to take: the index on events does it, and nobody else adds any meanwhile.
        wanted = [(event.tenant.organization_id, event.tenant.mode, event.external_id) for event in events]
        found = await self._rows("events_by_external_id", {"wanted": _encode(wanted).decode()}) if wanted else ()
        first = map(rows.event, found)
        return {(event.tenant, event.external_id): event for event in first if event.external_id is not None}

    async def add_events(self, events: Sequence[NewEvent]) -> None:
        self._write_rows(
            "add_events",
            [
                (
                    event.tenant.organization_id,
                    event.tenant.mode,
                    event.id,
                    event.type,
                    event.timestamp,
                    event.external_id,
                    event.created_at,
                    new.revision,
                    event.data,
                )
                for new in events
                for event in (new.event,)
            ],
        )

    async def add_deliveries(self, deliveries: Sequence[tuple[Tenant, DueDelivery]]) -> None:
        self._write_rows(
            "add_deliveries",
            [
                (
                    tenant.organization_id,
                    tenant.mode,
                    due.id,
                    due.endpoint_id,
                    due.event.id,
                    due.event.type,
                    due.trigger,
                    due.activation,
                    due.api_version,
                    None if due.trigger == "test" else due.due_at,
                    due.created_at,
                )
                for tenant, due in deliveries
            ],
        )

    async def record_results(self, results: Sequence[Result]) -> Sequence[Result]:
        self._write_rows("add_attempts", list(map(rows.attempt_values, results)))
        successes = [rows.success_values(result) for result in results if result.verdict.state is DeliveryState.DELIVERED]
        if successes:
            self._write_rows("record_successes", successes)
        failures = [rows.failure_values(result) for result in results if result.verdict.state is not DeliveryState.DELIVERED]
        if failures:
            self._write_rows("record_failures", failures)
        # A retry by hand that was cut off stays queued, as an automatic attempt does.
        retries = [
            (result.due.retry_id,)
            for result in results
            if result.due.retry_id is not None and result.attempt.error is not AttemptError.INTERRUPTED
        ]
        if retries:
            self._write_each("remove_retry", retries)
        delivered = [(result.due.id,) for result in results if _ends_retries(result)]
        if delivered:
            self._write_each("remove_retries_of", delivered)
        return results

    async def delivery(self, tenant: Tenant, delivery_id: str) -> Delivery | None:
        row = await self._one("delivery", {**columns.tenant_parameters(tenant), "id": delivery_id})
        return row and rows.delivery(row)

    async def add_retry(self, retry_id: str, delivery: Delivery, endpoint: Endpoint) -> None:
        self._write(
            "add_retry",
            {
                **columns.tenant_parameters(delivery.tenant),
                "id": retry_id,
                "delivery_id": delivery.id,
                "endpoint_id": endpoint.id,
            },
        )
        self.effects.retried_endpoints.append(endpoint)

    async def interrupt_tests(self, before: Timestamp, at: Timestamp) -> int:
        return await self._write_now("interrupt_tests", {"before": before, "at": at})

    async def expire(self, before: Timestamp, at: Timestamp, *, limit: int) -> int:
        (newest,) = await self._one("newest_delivery", {})
        if newest < self._expiry.after:
            self._expiry.after = 0  # all had been pruned, and SQLite counts from 1 again
        after = self._expiry.after
        (last,) = await self._one("old_deliveries", {"after": after, "before": before, "limit": limit})
        if last is None:
            return 0
        self._write("expire_deliveries", {"after": after, "last": last, "at": at})
        self._expiry.after = last
        return int(last) - after

    async def prune(self, before: Timestamp, *, limit: int) -> int:
        old = _within(limit, await self._rows("old_events", {"before": before, "limit": limit}))
        if old:
            event_ids = {"event_ids": _encode([event_id for _, event_id in old]).decode()}
            for name in ("prune_attempts", "prune_retries", "prune_deliveries"):
                self._write(name, event_ids)
            self._write("prune_events", {"rowids": _encode([rowid for rowid, _ in old]).decode()})
        return len(old)

    # Keys, organizations, the audit log, idempotency

    async def add_key(self, key: ApiKey) -> None:
        self._write("add_key", columns.key_parameters(key, rows.stored_list))
        self.effects.keys.append(key)

    async def revoke_key(self, key_id: str, tenant: Tenant | None, at: Timestamp) -> ApiKey | None:
        reach = {"organization_id": None, "mode": None} if tenant is None else columns.tenant_parameters(tenant)
        row = await self._one("key", {"id": key_id, **reach})
        if row is None:
            return None
        self._write("revoke_key", {"id": key_id, "at": at})
        revoked = replace(rows.key(row), revoked_at=at)
        self.effects.keys.append(revoked)
        return revoked

    async def touch_keys(self, used: Collection[tuple[str, Timestamp]]) -> None:
        self._write_each("touch_key", used)

    async def pinned_version(self, organization_id: str) -> str | None:
        row = await self._one("pinned_version", {"organization_id": organization_id})
        return None if row is None else row[0]

    async def pin_organization(self, organization: Organization) -> None:
        self._write("pin_organization", {"id": organization.id, "api_version": organization.api_version})
        self.effects.organizations.append(organization)

    async def add_audit_entry(self, entry: AuditEntry) -> None:
        self._write("add_audit_entry", columns.audit_parameters(entry))
        self.effects.audited.append(entry)

    async def forget_audit_entries(self, before: Timestamp, *, limit: int) -> int:
        return await self._write_now("forget_audit_entries", {"below": ids.floor(ids.AUDIT_ENTRY, before), "limit": limit})

    async def save_answer(self, answer: IdempotentAnswer) -> None:
        self._write("save_answer", msgspec.structs.asdict(answer))

    async def forget_answers(self, expired_before: Timestamp, *, limit: int) -> int:
        return await self._write_now("forget_answers", {"expired_before": expired_before, "limit": limit})


def _ends_retries(result: Result) -> bool:
    """Whether retries by hand that still wait for this delivery are pointless. A first attempt has none before it: they
    are asked for by those who have seen it fail."""
    is_later = result.attempt.number > 1 or result.due.retry_id is not None
    return is_later and result.verdict.state is DeliveryState.DELIVERED


class ExpiryCursor:
    """How far the search for deliveries that expired has come: the last row that was looked at."""

    def __init__(self) -> None:
        self.after = 0


def _within(limit: int, found: Sequence[tuple[int, str, int]]) -> list[tuple[int, str]]:
    """The first of the events *found* (row, id, number of deliveries) that come to *limit* rows with their deliveries; one at
    least, however many wanted it."""
    totals = itertools.accumulate(1 + deliveries for _, _, deliveries in found)
    few = [(rowid, event_id) for (rowid, event_id, _), total in zip(found, totals, strict=True) if total <= limit]
    return few or [(rowid, event_id) for rowid, event_id, _ in found[:1]]
