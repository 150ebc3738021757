"""What has happened, read: lists newest first, a page at a time, each along an index from one day's partition to the next."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from msgspec.structs import asdict

from gateway import ids
from gateway.clock import DAY, Timestamp
from gateway.model import (
    AcceptedEvent,
    ApiKey,
    Attempt,
    AuditEntry,
    Delivery,
    Endpoint,
    IdempotentAnswer,
    Organization,
    Reservation,
    Revision,
    Tenant,
)
from gateway.store import columns, walks
from gateway.store.postgres import reservations, rows
from gateway.store.postgres.cluster import PostgresCluster
from gateway.store.postgres.connection import Database, Parameters, Row
from gateway.store.postgres.days import day_of
from gateway.store.protocol import SCAN_LIMIT, AuditFilter, DeliveryFilter, EventFilter, Page
from gateway.store.sealing import Sealing

# A list is read along its index, however few rows the planner believes there are: sorting them would read them all.
_IN_ORDER = "SET LOCAL enable_sort = off"
T = TypeVar("T")


class PostgresLog:
    """See `store.protocol.Log`."""

    def __init__(self, database: Database, sealing: Sealing, cluster: PostgresCluster) -> None:
        self._database = database
        self.sealing = sealing
        self._own_cluster = cluster

    async def _rows(self, name: str, parameters: Parameters) -> list[Any]:
        async with self._database.read() as session:
            return await session.rows(name, parameters)

    async def _one(self, name: str, parameters: Parameters) -> Any:
        found = await self._rows(name, parameters)
        return found[0] if found else None

    def _endpoint(self, row: Row) -> Endpoint:
        return rows.endpoint(row, self.sealing)

    # Lists

    async def _page(
        self,
        name: str,
        parameters: dict[str, Any],
        limit: int,
        build: Callable[[Row], T],
        id_of: Callable[[T], str],
    ) -> Page[T]:
        """A page of the statement *name*, of which each row that it walks is shown."""
        async with self._database.read() as session:
            await session.script(_IN_ORDER)
            found = await session.rows(name, {**parameters, "limit": limit + 1, "scan": limit + 1})
        items = [build(row) for row in found[:limit]]
        return Page(items, id_of(items[-1]) if len(found) > limit else None)

    async def _filtered_page(
        self,
        name: str,
        parameters: dict[str, Any],
        limit: int,
        build: Callable[[Row], T],
        id_of: Callable[[T], str],
    ) -> Page[T]:
        """A page of the statement *name*, for which at most SCAN_LIMIT rows are walked. The walk and where it ends are of one
        moment: rows that are added in between make the pages neither skip nor repeat any."""
        parameters = {**parameters, "limit": limit + 1, "scan": SCAN_LIMIT}
        async with self._database.read(snapshot=True) as session:
            await session.script(_IN_ORDER)
            found = await session.rows(name, parameters)
            end = await session.one(f"{name}_scan_end", parameters) if len(found) <= limit else None
        items = [build(row) for row in found[:limit]]
        return Page(items, id_of(items[-1]) if len(found) > limit else end and end[0])

    async def endpoints(self, tenant: Tenant, *, below: str | None, limit: int) -> Page[Endpoint]:
        parameters = {**columns.tenant_parameters(tenant), "below": below or walks.ABOVE_ALL}
        return await self._page("endpoints", parameters, limit, self._endpoint, lambda endpoint: endpoint.id)

    async def events(self, tenant: Tenant, only: EventFilter, *, below: str | None, limit: int) -> Page[AcceptedEvent]:
        parameters = {
            **columns.tenant_parameters(tenant),
            **asdict(only),
            **walks.bounds(ids.EVENT, below, only.since, only.until),
        }
        if only.external_id is not None:
            return Page([rows.event(row) for row in await self._rows("events_of_external_id", parameters)], None)
        page = self._filtered_page if walks.is_filtered(only) else self._page
        return await page("events", parameters, limit, rows.event, lambda event: event.id)

    async def deliveries(self, tenant: Tenant, only: DeliveryFilter, *, below: str | None, limit: int) -> Page[Delivery]:
        since = only.since
        if only.event_id is not None:
            # A delivery is no older than its event: the days before need not be looked at. But for one: a node knows the
            # database's time, which ids tell, only about, and another's event may be of the first moments of a day.
            since = max(since or 0, (day_of(only.event_id) - 1) * DAY)
        span = walks.bounds(ids.DELIVERY, below, since, only.until)
        parameters = {**columns.tenant_parameters(tenant), **asdict(only), **span}
        page = self._filtered_page if walks.is_filtered(only) else self._page
        return await page(walks.narrowest(only), parameters, limit, rows.delivery, lambda delivery: delivery.id)

    async def keys(self, tenant: Tenant | None, *, below: str | None, limit: int) -> Page[ApiKey]:
        name = "keys_of_everybody" if tenant is None else "keys_of_tenant"
        reach = {} if tenant is None else columns.tenant_parameters(tenant)
        return await self._page(name, {**reach, "below": below or walks.ABOVE_ALL}, limit, rows.key, lambda key: key.id)

    async def audit_log(self, tenant: Tenant | None, only: AuditFilter, *, below: str | None, limit: int) -> Page[AuditEntry]:
        parameters = {
            **({} if tenant is None else columns.tenant_parameters(tenant)),
            **asdict(only),
            **walks.bounds(ids.AUDIT_ENTRY, below, only.since, only.until),
        }
        name = "audit_log_of_everybody" if tenant is None else "audit_log_of_tenant"
        page = self._filtered_page if walks.is_filtered(only) else self._page
        return await page(name, parameters, limit, columns.audit_entry, lambda entry: entry.id)

    async def endpoints_to_probe(self, *, limit: int) -> Sequence[Endpoint]:
        return [self._endpoint(row) for row in await self._rows("endpoints_to_probe", {"limit": limit})]

    # Single things

    async def endpoint(self, tenant: Tenant, endpoint_id: str) -> Endpoint | None:
        row = await self._one("endpoint", {**columns.tenant_parameters(tenant), "id": endpoint_id})
        return None if row is None else self._endpoint(row)

    async def ended_overlaps(self, at: Timestamp, *, limit: int) -> Sequence[Endpoint]:
        return [self._endpoint(row) for row in await self._rows("ended_overlaps", {"at": at, "limit": limit})]

    async def event(self, tenant: Tenant, event_id: str) -> AcceptedEvent | None:
        row = await self._one("event", {**columns.tenant_parameters(tenant), "id": event_id})
        return None if row is None else rows.event(row)

    async def delivery(self, tenant: Tenant, delivery_id: str) -> Delivery | None:
        row = await self._one("delivery", {**columns.tenant_parameters(tenant), "id": delivery_id})
        return None if row is None else rows.delivery(row)

    async def delivery_with_attempts(self, tenant: Tenant, delivery_id: str) -> tuple[Delivery, Sequence[Attempt]] | None:
        parameters = columns.tenant_parameters(tenant)
        async with self._database.read(snapshot=True) as session:
            row = await session.one("delivery", {**parameters, "id": delivery_id})
            if row is None:
                return None
            attempts = await session.rows("attempts", {**parameters, "delivery_id": delivery_id})
        return rows.delivery(row), [rows.attempt(attempt) for attempt in reversed(attempts)]

    async def revisions(self, tenant: Tenant, *, after: int, limit: int) -> Sequence[Revision]:
        found = await self._rows("revisions", {**columns.tenant_parameters(tenant), "after": after, "limit": limit})
        return [rows.revision(row) for row in found]

    async def all_keys(self) -> Sequence[ApiKey]:
        return [rows.key(row) for row in await self._rows("all_keys", {})]

    async def sealed_with(self) -> Mapping[str | None, int]:
        return {row[0]: row[1] for row in await self._rows("sealed_with", {})}

    async def organizations(self) -> Sequence[Organization]:
        return [Organization(*row) for row in await self._rows("organizations", {})]

    async def cursor_key(self) -> bytes:
        return bytes((await self._one("meta", {"name": "cursor_key"}))[0])

    # Idempotent requests

    async def answer(self, key_hash: bytes, now: Timestamp) -> IdempotentAnswer | None:
        row = await self._one("answer", {"key_hash": key_hash, "now": now})
        return None if row is None else IdempotentAnswer(*row)

    async def reserve(self, reservation: Reservation, now: Timestamp) -> IdempotentAnswer | Reservation | None:
        return await reservations.reserve(self._database, reservation, now, self._own_cluster.process_ids)

    async def release(self, reservation: Reservation) -> None:
        await reservations.release(self._database, reservation, self._own_cluster.process_ids)
