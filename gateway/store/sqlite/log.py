"""What has happened, read: lists newest first, a page at a time, each along an index."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import asdict

from gateway import ids
from gateway.clock import Timestamp
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
from gateway.store.protocol import SCAN_LIMIT, AuditFilter, DeliveryFilter, EventFilter, Page
from gateway.store.sealing import Sealing
from gateway.store.sqlite import rows
from gateway.store.sqlite.connection import Reader, open_reader

READERS = 3

T = TypeVar("T")


class SqliteLog:
    """See `store.protocol.Log`."""

    def __init__(self, sql: Mapping[str, str], sealing: Sealing) -> None:
        self._sql = sql
        self.sealing = sealing
        self._readers: list[Reader] = []
        self._idle: asyncio.LifoQueue[Reader] = asyncio.LifoQueue()

    async def open_log(self, path: Path) -> None:
        """Opens the readers. Raises StoreUnavailable."""
        for _ in range(READERS):
            reader = await open_reader(path)
            self._readers.append(reader)
            self._idle.put_nowait(reader)

    async def close_log(self) -> None:
        """Closes the readers."""
        while self._readers:
            await self._readers.pop().close()

    async def take_readers(self) -> None:
        """Waits until nobody reads; whoever wants to from now on waits for `open_log`."""
        for _ in self._readers:
            await self._idle.get()

    def give_readers_back(self) -> None:
        """What `take_readers` took."""
        for reader in self._readers:
            self._idle.put_nowait(reader)

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[Reader]:
        reader = await self._idle.get()
        try:
            yield reader
        finally:
            self._idle.put_nowait(reader)

    async def _rows(self, name: str, parameters: Mapping[str, object]) -> list[Any]:
        async with self._reader() as reader:
            # Shielded: a read that is left alone goes on in its thread, and its connection must not be handed on meanwhile.
            return await _to_the_end(asyncio.ensure_future(reader.rows(self._sql[name], parameters)))

    async def _one(self, name: str, parameters: Mapping[str, object]) -> Any:
        found = await self._rows(name, parameters)
        return found[0] if found else None

    def _endpoint(self, row: rows.Row) -> Endpoint:
        return rows.endpoint(row, self.sealing)

    # Lists

    async def _page(
        self,
        name: str,
        parameters: dict[str, Any],
        limit: int,
        build: Callable[[rows.Row], T],
        id_of: Callable[[T], str],
        *,
        is_filtered: bool = False,
    ) -> Page[T]:
        """A page of the statement *name*, whose walk is bounded by SCAN_LIMIT rows when it *is_filtered*. Without a filter
        nothing is passed over, so there is no need to walk further than the page."""
        scan, end = limit + 1, None
        if is_filtered:
            # Looked up first and kept to: rows that are added in between make the pages neither skip nor repeat any.
            scan, row = -1, await self._one(f"{name}_scan_end", {**parameters, "scan": SCAN_LIMIT})
            if row is not None:
                end = parameters["since"] = row[0]
        found = await self._rows(name, {**parameters, "limit": limit + 1, "scan": scan})
        items = [build(row) for row in found[:limit]]
        return Page(items, id_of(items[-1]) if len(found) > limit else end)

    async def endpoints(self, tenant: Tenant, *, below: str | None, limit: int) -> Page[Endpoint]:
        parameters = {**columns.tenant_parameters(tenant), "below": below or walks.ABOVE_ALL}
        return await self._page("endpoints", parameters, limit, self._endpoint, lambda endpoint: endpoint.id)

    async def endpoints_to_probe(self, *, limit: int) -> Sequence[Endpoint]:
        return [self._endpoint(row) for row in await self._rows("endpoints_to_probe", {"limit": limit})]

    async def events(self, tenant: Tenant, only: EventFilter, *, below: str | None, limit: int) -> Page[AcceptedEvent]:
        parameters = {
            **columns.tenant_parameters(tenant),
            **asdict(only),
            **walks.bounds(ids.EVENT, below, only.since, only.until),
        }
        if only.external_id is not None:
            found = await self._rows("events_of_external_id", {**parameters, "external_id": only.external_id})
            return Page([rows.event(row) for row in found], None)
        is_filtered = walks.is_filtered(only)
        return await self._page("events", parameters, limit, rows.event, lambda event: event.id, is_filtered=is_filtered)

    async def deliveries(self, tenant: Tenant, only: DeliveryFilter, *, below: str | None, limit: int) -> Page[Delivery]:
        parameters = {
            **columns.tenant_parameters(tenant),
            **asdict(only),
            **walks.bounds(ids.DELIVERY, below, only.since, only.until),
        }
        return await self._page(
            walks.narrowest(only),
            parameters,
            limit,
            rows.delivery,
            lambda delivery: delivery.id,
            is_filtered=walks.is_filtered(only),
        )

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
        is_filtered = walks.is_filtered(only)
        return await self._page(name, parameters, limit, columns.audit_entry, lambda entry: entry.id, is_filtered=is_filtered)

    # Single things

    async def endpoint(self, tenant: Tenant, endpoint_id: str) -> Endpoint | None:
        row = await self._one("endpoint", {**columns.tenant_parameters(tenant), "id": endpoint_id})
        return row and self._endpoint(row)

    async def ended_overlaps(self, at: Timestamp, *, limit: int) -> Sequence[Endpoint]:
        return [self._endpoint(row) for row in await self._rows("ended_overlaps", {"at": at, "limit": limit})]

    async def event(self, tenant: Tenant, event_id: str) -> AcceptedEvent | None:
        row = await self._one("event", {**columns.tenant_parameters(tenant), "id": event_id})
        return row and rows.event(row)

    async def delivery(self, tenant: Tenant, delivery_id: str) -> Delivery | None:
        row = await self._one("delivery", {**columns.tenant_parameters(tenant), "id": delivery_id})
        return row and rows.delivery(row)

    async def delivery_with_attempts(self, tenant: Tenant, delivery_id: str) -> tuple[Delivery, Sequence[Attempt]] | None:
        parameters = columns.tenant_parameters(tenant)
        statements = [
            (self._sql["delivery"], {**parameters, "id": delivery_id}),
            (self._sql["attempts"], {**parameters, "delivery_id": delivery_id}),
        ]
        async with self._reader() as reader:
            found, attempts = await _to_the_end(asyncio.ensure_future(reader.snapshot(statements)))
        return (rows.delivery(found[0]), [rows.attempt(row) for row in reversed(attempts)]) if found else None

    async def revisions(self, tenant: Tenant, *, after: int, limit: int) -> Sequence[Revision]:
        found = await self._rows("revisions", {**columns.tenant_parameters(tenant), "after": after, "limit": limit})
        return [rows.revision(row) for row in found]

    async def all_keys(self) -> Sequence[ApiKey]:
        return [rows.key(row) for row in await self._rows("all_keys", {})]

    async def sealed_with(self) -> Mapping[str | None, int]:
        return dict(await self._rows("sealed_with", {}))

    async def organizations(self) -> Sequence[Organization]:
        return [Organization(*row) for row in await self._rows("organizations", {})]

    async def answer(self, key_hash: bytes, now: Timestamp) -> IdempotentAnswer | None:
        row = await self._one("answer", {"key_hash": key_hash, "now": now})
        return row and IdempotentAnswer(*row)

    async def reserve(self, reservation: Reservation, now: Timestamp) -> IdempotentAnswer | Reservation | None:
        return await self.answer(reservation.key_hash, now)  # no other process could have reserved it

    async def release(self, reservation: Reservation) -> None:
        """Nothing was kept of it."""

    async def cursor_key(self) -> bytes:
        return bytes((await self._one("meta", {"name": "cursor_key"}))[0])


async def _to_the_end(work: "asyncio.Future[T]") -> T:
    """The result of *work*, which is waited for even when the caller is cancelled."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
