"""One transaction that writes."""

import zlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import asyncpg
from msgspec.structs import asdict

from gateway import ids
from gateway.clock import Timestamp
from gateway.errors import ReservationLapsed, TransactionConflict
from gateway.model import (
    AcceptedEvent,
    ApiKey,
    AttemptError,
    AuditEntry,
    Delivery,
    DeliveryState,
    DeliveryTrigger,
    DueDelivery,
    Endpoint,
    FailureNotice,
    IdempotentAnswer,
    Organization,
    Reason,
    Result,
    Revision,
    Tenant,
    bucket_of,
)
from gateway.store import columns
from gateway.store.postgres import rows
from gateway.store.postgres.bundle import Bundle, Bundler, Piece
from gateway.store.postgres.cluster import PostgresCluster, mask_of
from gateway.store.postgres.connection import Parameters, Row, Session
from gateway.store.postgres.partitions import Partitions
from gateway.store.protocol import ActiveEndpoints, Effects, NewEvent, Resealed
from gateway.store.sealing import Sealing

# What may wait until the commit.
_EVENTS = Piece("add_events", adds={"events"})
_DELIVERIES = Piece("add_deliveries", "add_due", adds={"deliveries", "due"})
_ATTEMPTS = Piece("add_attempts", adds={"attempts"})
_SUCCESSES = Piece("record_successes", "end_due", reads={"deliveries", "due"}, writes={"deliveries", "due"})
_FAILURES = Piece(
    "record_failures",
    "move_due",
    "end_due_of_failures",
    reads={"deliveries", "due", "endpoints"},
    writes={"deliveries", "due"},
)
_RETRIES = Piece("remove_retries", writes={"retries"})
_RESETS = Piece("reset_failures", writes={"endpoints"})
_PAUSES = Piece("pause_endpoints", writes={"endpoints"})
_NEWS = Piece("add_news", adds={"news"})
_MARK = Piece("mark_commit", writes={"commits"})

_TAKES = 3  # tries at external ids whose events are pruned in between


class PostgresTransaction:
    """See `store.protocol.Transaction`.

    What is written in each commit waits for it, and goes to the server in one statement; what is rare is written at once.
    A transaction that does nothing takes no connection.
    """

    def __init__(
        self,
        begin: Callable[[], Awaitable[Session]],
        *,
        sealing: Sealing,
        bundler: Bundler,
        partitions: Partitions,
        cluster: PostgresCluster,
        held: int,
        mark: Parameters,
    ) -> None:
        self._begin = begin
        self._mark = mark  # by which it is recognized once it is committed
        self._sealing = sealing
        self._bundler = bundler
        self._partitions = partitions
        self._cluster = cluster
        self._held = held  # buckets, as a mask
        self._waiting = Bundle()
        self._work: set[str] = set()  # endpoints with new deliveries that are others' affair
        self._has_written = False
        self.has_told = False  # others have something to hear of once it is committed
        self._fault: Exception | None = None
        self.session: Session | None = None
        self.xid: str | None = None  # known before there is anything to lose
        self.effects = Effects()

    async def prepare(self) -> None:
        """Does all but the COMMIT itself."""
        if self._fault is not None:
            # A statement failed, and whoever ran it went on: nothing of this can be kept.
            raise self._fault
        self._tell()
        if self._waiting or (self._has_written and self.xid is None):
            await self._flush()

    def _tell(self) -> None:
        """Adds what other processes have to hear of."""
        effects = self.effects
        news = {
            "work": sorted(self._work),
            "endpoints": sorted({endpoint.id for endpoint in effects.endpoints}),
            "retried": sorted({endpoint.id for endpoint in effects.retried_endpoints}),
            "keys": sorted({key.id for key in effects.keys}),
            "organizations": sorted({organization.id for organization in effects.organizations}),
        }
        if any(news.values()) and not self.has_told:
            self.has_told = True
            buckets = mask_of({bucket_of(endpoint_id) for endpoint_id in self._work})
            self._waiting.add(_NEWS, {"process_id": self._cluster.process_id, "buckets": buckets, **news})

    # Statements

    async def _write_later(self, *pieces: tuple[Piece, Parameters]) -> None:
        """Writes *pieces*, which do not stand in each other's way, with the commit at the latest."""
        if not all(self._waiting.takes(piece) for piece, _ in pieces):
            await self._flush()
        for piece, parameters in pieces:
            self._waiting.add(piece, parameters)

    async def _flush(self) -> None:
        if self.xid is None:
            self._waiting.add(_MARK, self._mark)
        waiting, self._waiting = self._waiting, Bundle()
        sql, values = self._bundler.statement(waiting)
        self._has_written = True
        ((self.xid,),) = await self._run(lambda session: session.fetch(sql, values))

    async def _read(self, name: str, parameters: Parameters, *, of: Collection[str]) -> list[Any]:
        """The rows of a statement that reads, or locks, rows of the tables *of*."""
        if self._waiting.stands_before(reads=of):
            await self._flush()
        return await self._run(lambda session: session.rows(name, parameters))

    async def _write(self, name: str, parameters: Parameters, *, to: Collection[str]) -> list[Any]:
        """Writes to the tables *to* at once; the rows that the statement returns."""
        if self._waiting.stands_before(writes=to):
            await self._flush()
        self._has_written = True
        return await self._run(lambda session: session.rows(name, parameters))

    async def _run(self, statement: Callable[[Session], Awaitable[list[Any]]]) -> list[Any]:
        if self._fault is not None:
            raise self._fault
        try:
            if self.session is None:
                self.session = await self._begin()
            return await statement(self.session)
        except asyncpg.CheckViolationError as error:
            self._fault = error
            if "no partition" in str(error):
                # Somebody has dropped a day that this process knew of. The next run makes it.
                self._partitions.forget()
                self._fault = TransactionConflict("a day of history was dropped at this very moment")
                raise self._fault from error
            raise
        except Exception as error:
            self._fault = error
            raise

    # Endpoints

    def _endpoint(self, row: Row) -> Endpoint:
        return rows.endpoint(row, self._sealing)

    async def endpoint(self, tenant: Tenant, endpoint_id: str) -> Endpoint | None:
        parameters = {**columns.tenant_parameters(tenant), "id": endpoint_id}
        found = await self._read("endpoint_to_change", parameters, of={"endpoints"})
        return self._endpoint(found[0]) if found else None

    async def endpoint_by_id(self, endpoint_id: str) -> Endpoint | None:
        return (await self.endpoints_by_id([endpoint_id])).get(endpoint_id)

    async def endpoints_by_id(self, endpoint_ids: Collection[str]) -> dict[str, Endpoint]:
        found = await self._read("endpoints_to_change", {"ids": list(endpoint_ids)}, of={"endpoints"})
        return {endpoint.id: endpoint for endpoint in map(self._endpoint, found)}

    async def count_endpoints(self, organization_id: str) -> int:
        # Whoever counts is about to add one. The lock comes first, so that the count sees what the one before has added.
        await self._lock_organization(organization_id)
        ((count,),) = await self._read("count_endpoints", {"organization_id": organization_id}, of={"endpoints"})
        return int(count)

    async def _lock_organization(self, organization_id: str) -> None:
        number = zlib.crc32(organization_id.encode()) - 2**31
        await self._read("lock_organization", {"number": number}, of=())

    async def active_endpoints(self, tenant: Tenant) -> ActiveEndpoints:
        found = await self._read("active_endpoints", columns.tenant_parameters(tenant), of={"endpoints"})
        first = found[0]
        endpoints = tuple(self._endpoint(row) for row in found if row["id"] is not None)
        return ActiveEndpoints(first["last_revision"], endpoints, first["pinned_version"])

    async def outdated(self, known: Mapping[Tenant, tuple[int, str | None]]) -> Collection[Tenant]:
        if not known:
            return ()
        tenants = {(tenant.organization_id, str(tenant.mode)): tenant for tenant in known}
        parameters = {
            "organization_ids": [tenant.organization_id for tenant in known],
            "modes": [tenant.mode for tenant in known],
            "revisions": [revision for revision, _ in known.values()],
            "versions": [version for _, version in known.values()],
        }
        return [tenants[row[0], row[1]] for row in await self._read("outdated", parameters, of=())]

    async def add_endpoint(self, endpoint: Endpoint) -> None:
        await self._write("add_endpoint", columns.endpoint_parameters(endpoint, list, self._sealing), to={"endpoints"})
        self.effects.endpoints.append(endpoint)

    async def save_endpoint(self, endpoint: Endpoint) -> None:
        await self._write("save_endpoint", columns.endpoint_parameters(endpoint, list, self._sealing), to={"endpoints"})
        if endpoint.deleted_at is not None:
            lane = {"bucket": bucket_of(endpoint.id), "endpoint_id": endpoint.id}
            await self._write("drop_retries", lane, to={"retries"})
        self.effects.endpoints.append(endpoint)

    async def add_revision(self, revision: Revision) -> int:
        ((number,),) = await self._write("next_revision", columns.tenant_parameters(revision.tenant), to=())
        await self._write("add_revision", columns.revision_parameters(revision, number, list), to=())
        return int(number)

    async def reset_failures(self, endpoint_ids: Collection[str]) -> None:
        await self._write_later((_RESETS, {"ids": list(endpoint_ids)}))

    async def pause_endpoints(self, pauses: Sequence[tuple[str, Timestamp]]) -> None:
        latest: dict[str, Timestamp] = {}
        for endpoint_id, until in pauses:
            latest[endpoint_id] = max(until, latest.get(endpoint_id, until))
        await self._write_later((_PAUSES, {"ids": list(latest), "until": list(latest.values())}))

    async def reseal_endpoints(self, after: str, *, limit: int) -> Resealed:
        found = await self._read("sealed_texts", {"after": after, "limit": limit}, of={"endpoints"})
        changed = [parameters for row in found if (parameters := columns.resealed(self._sealing, *row))]
        for parameters in changed:
            await self._write("reseal_endpoint", parameters, to={"endpoints"})
        return Resealed(len(found), len(changed), found[-1]["id"] if len(found) == limit else None)

    async def cancel_passed(self, endpoint: Endpoint, reason: Reason, at: Timestamp, *, limit: int) -> int:
        lane = {"bucket": bucket_of(endpoint.id), "endpoint_id": endpoint.id}
        parameters = {**lane, "activation": endpoint.activation, "limit": limit}
        found = await self._read("passed_deliveries", parameters, of={"due"})
        if found:
            await self._write("cancel_passed", {**rows.keys(found), "reason": reason, "at": at}, to={"deliveries"})
            await self._write("end_due", {"ids": [row[0] for row in found]}, to={"due"})
        return len(found)

    async def mark_swept(self, endpoint: Endpoint) -> None:
        await self._write("mark_swept", {"id": endpoint.id, "activation": endpoint.activation}, to={"endpoints"})

    async def schedule_probes(self, at: Timestamp) -> None:
        await self._write("schedule_probes", {"at": at}, to={"endpoints"})

    async def end_probes(self) -> None:
        await self._write("end_probes", {}, to={"endpoints"})

    # What the operator is told

    async def failure_notices(self, endpoint_ids: Collection[str]) -> dict[str, FailureNotice]:
        found = await self._read("failure_notices", {"ids": list(endpoint_ids)}, of=())
        return {row[0]: FailureNotice(*row) for row in found}

    async def untold_failures(self, told_before: Timestamp, *, limit: int) -> Sequence[FailureNotice]:
        found = await self._read("untold_failures", {"told_before": told_before, "limit": limit}, of=())
        return [FailureNotice(*row) for row in found]

    async def save_failure_notices(self, notices: Sequence[FailureNotice]) -> None:
        parameters = {
            "ids": [notice.endpoint_id for notice in notices],
            "told_at": [notice.told_at for notice in notices],
            "untold": [notice.untold for notice in notices],
            "delivery_ids": [notice.delivery_id for notice in notices],
        }
        await self._write("save_failure_notices", parameters, to=())

    async def forget_failure_notices(self, told_before: Timestamp) -> None:
        await self._write("forget_failure_notices", {"told_before": told_before}, to=())

    # Events and deliveries

    async def take_external_ids(self, events: Sequence[AcceptedEvent]) -> dict[tuple[Tenant, str], AcceptedEvent]:
        asked = {event.id: event for event in events}
        before: dict[tuple[Tenant, str], AcceptedEvent] = {}
        for _ in range(_TAKES):
            if not asked:
                return before
            for row in await self._write("take_external_ids", rows.external_ids(list(asked.values())), to=()):
                del asked[row[0]]
            if asked:
                first = await self._events_by_external_id(list(asked.values()))
                before |= first
                asked = {event.id: event for event in asked.values() if (event.tenant, event.external_id) not in first}
        raise TransactionConflict("external ids were taken and pruned at this very moment")

    async def _events_by_external_id(self, events: Sequence[AcceptedEvent]) -> dict[tuple[Tenant, str], AcceptedEvent]:
        named = await self._read("events_by_external_id", rows.external_ids(events), of=())
        if not named:
            return {}
        keys = rows.keys([(event_id, organization_id, mode) for organization_id, mode, event_id in named])
        found = map(rows.event, await self._read("events_by_id", keys, of={"events"}))
        return {(event.tenant, event.external_id): event for event in found if event.external_id is not None}

    async def add_events(self, events: Sequence[NewEvent]) -> None:
        if events:
            await self._partitions.ensure([new.event.id for new in events])
            await self._write_later((_EVENTS, rows.new_events(events)))

    async def add_deliveries(self, deliveries: Sequence[tuple[Tenant, DueDelivery]]) -> None:
        if not deliveries:
            return
        await self._partitions.ensure([due.id for _, due in deliveries])
        await self._write_later((_DELIVERIES, rows.new_deliveries(deliveries)))
        for _, due in deliveries:
            if due.trigger is not DeliveryTrigger.TEST and not self._held >> bucket_of(due.endpoint_id) & 1:
                self._work.add(due.endpoint_id)

    async def record_results(self, results: Sequence[Result]) -> Sequence[Result]:
        in_force = await self._lock_leases(results)
        counting = [result for result in results if _lease_of(result) in in_force]
        if len(counting) < len(results):
            fenced = [result for result in results if _lease_of(result) not in in_force]
            self.effects.fenced += fenced
            await self._partitions.ensure([result.due.id for result in fenced])
            await self._write_later((_ATTEMPTS, rows.new_attempts([(result, True) for result in fenced])))
        rest = counting
        while rest:
            # Of a delivery that has several, one at a time: a statement changes a row once.
            now: dict[str, Result] = {}
            for result in rest:
                now.setdefault(result.due.id, result)
            rest = [result for result in rest if now[result.due.id] is not result]
            await self._record(list(now.values()))
        return counting

    async def _lock_leases(self, results: Sequence[Result]) -> set[tuple[int, int | None]]:
        """The leases, by bucket and epoch, that these results are under and that are in force until the commit; what is under
        none is as good."""
        named = {lease for result in results if (lease := _lease_of(result))[1] is not None}
        in_force: set[tuple[int, int | None]] = {_UNDER_NONE}
        if named:
            parameters = {"buckets": sorted({bucket for bucket, _ in named}), "node_ids": self._cluster.process_ids}
            in_force.update(map(tuple, await self._read("lock_leases", parameters, of=())))
        return in_force

    async def _record(self, results: Sequence[Result]) -> None:
        """Records results, each of another delivery."""
        # Of the day of its delivery, which may have been pruned meanwhile.
        await self._partitions.ensure([result.due.id for result in results])
        pieces: list[tuple[Piece, Parameters]] = [(_ATTEMPTS, rows.new_attempts([(result, False) for result in results]))]
        if delivered := [result for result in results if result.verdict.state is DeliveryState.DELIVERED]:
            pieces.append((_SUCCESSES, rows.successes(delivered)))
        if failed := [result for result in results if result.verdict.state is not DeliveryState.DELIVERED]:
            pieces.append((_FAILURES, rows.failures(failed)))
        # A retry by hand that was cut off stays queued, as an automatic attempt does.
        retries = [
            result.due.retry_id
            for result in results
            if result.due.retry_id is not None and result.attempt.error is not AttemptError.INTERRUPTED
        ]
        ended = [result.due.id for result in results if _ends_retries(result)]
        if retries or ended:
            pieces.append((_RETRIES, {"ids": retries, "delivery_ids": ended}))
        await self._write_later(*pieces)

    async def delivery(self, tenant: Tenant, delivery_id: str) -> Delivery | None:
        parameters = {**columns.tenant_parameters(tenant), "id": delivery_id}
        found = await self._read("delivery", parameters, of={"deliveries", "endpoints"})
        return rows.delivery(found[0]) if found else None

    async def add_retry(self, retry_id: str, delivery: Delivery, endpoint: Endpoint) -> None:
        if self._waiting.stands_before(reads={"events"}):
            await self._flush()
        await self._write(
            "add_retry",
            {
                **columns.tenant_parameters(delivery.tenant),
                "id": retry_id,
                "bucket": bucket_of(endpoint.id),
                "endpoint_id": endpoint.id,
                "delivery_id": delivery.id,
                "event_id": delivery.event_id,
            },
            to={"retries"},
        )
        self.effects.retried_endpoints.append(endpoint)

    async def interrupt_tests(self, before: Timestamp, at: Timestamp) -> int:
        found = await self._read("pending_tests", {"before": before}, of={"due"})
        if not found:
            return 0
        interrupted = await self._write("interrupt_tests", {**rows.keys(found), "at": at}, to={"deliveries"})
        await self._write("end_due", {"ids": [row[0] for row in found]}, to={"due"})
        return len(interrupted)

    async def expire(self, before: Timestamp, at: Timestamp, *, limit: int) -> int:
        # What has expired is no longer due, so that the next call finds the next.
        below = ids.floor(ids.DELIVERY, before)
        found = await self._read("old_deliveries", {"below": below, "limit": limit}, of={"due"})
        if found:
            await self._write("expire_deliveries", {**rows.keys(found), "at": at}, to={"deliveries"})
            await self._write("end_due", {"ids": [row[0] for row in found]}, to={"due"})
        return len(found)

    async def prune(self, before: Timestamp, *, limit: int) -> int:
        # Apart from this transaction: the partitions may be another role's, and dropping one waits for whoever reads it.
        await self._partitions.ensure_ahead()
        return limit if await self._partitions.drop(before, limit=limit) else 0

    # Keys, organizations, the audit log, idempotency

    async def add_key(self, key: ApiKey) -> None:
        await self._write("add_key", columns.key_parameters(key, list), to=())
        self.effects.keys.append(key)

    async def revoke_key(self, key_id: str, tenant: Tenant | None, at: Timestamp) -> ApiKey | None:
        reach = {"organization_id": None, "mode": None} if tenant is None else columns.tenant_parameters(tenant)
        found = await self._write("revoke_key", {"id": key_id, "at": at, **reach}, to=())
        if not found:
            return None
        revoked = rows.key(found[0])
        self.effects.keys.append(revoked)
        return revoked

    async def touch_keys(self, used: Collection[tuple[str, Timestamp]]) -> None:
        latest: dict[str, Timestamp] = {}
        for key_id, at in used:
            latest[key_id] = max(at, latest.get(key_id, at))
        await self._write("touch_keys", {"ids": list(latest), "at": list(latest.values())}, to=())

    async def pinned_version(self, organization_id: str) -> str | None:
        await self._lock_organization(organization_id)
        found = await self._read("pinned_version", {"organization_id": organization_id}, of=())
        return found[0][0] if found else None

    async def pin_organization(self, organization: Organization) -> None:
        await self._write("pin_organization", {"id": organization.id, "api_version": organization.api_version}, to=())
        self.effects.organizations.append(organization)

    async def add_audit_entry(self, entry: AuditEntry) -> None:
        await self._write("add_audit_entry", columns.audit_parameters(entry), to=())
        self.effects.audited.append(entry)

    async def forget_audit_entries(self, before: Timestamp, *, limit: int) -> int:
        below = ids.floor(ids.AUDIT_ENTRY, before)
        return len(await self._write("forget_audit_entries", {"below": below, "limit": limit}, to=()))

    async def save_answer(self, answer: IdempotentAnswer) -> None:
        who = {"process_id": self._cluster.process_id, "process_ids": self._cluster.process_ids}
        if not await self._write("save_answer", {**asdict(answer), **who}, to=()):
            raise ReservationLapsed(
                "another request with this Idempotency-Key has been taken up meanwhile; ask again for its answer"
            )

    async def forget_answers(self, expired_before: Timestamp, *, limit: int) -> int:
        return len(await self._write("forget_answers", {"expired_before": expired_before, "limit": limit}, to=()))


_UNDER_NONE = (-1, None)


def _lease_of(result: Result) -> tuple[int, int | None]:
    return _UNDER_NONE if result.epoch is None else (bucket_of(result.due.endpoint_id), result.epoch)


def _ends_retries(result: Result) -> bool:
    """Whether retries by hand that still wait for this delivery are pointless. A first attempt has none before it: they
    are asked for by those who have seen it fail."""
    is_later = result.attempt.number > 1 or result.due.retry_id is not None
    return is_later and result.verdict.state is DeliveryState.DELIVERED
