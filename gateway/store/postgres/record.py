"""See `store.record`: a shared store, read on a connection of its own in transactions that only read."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

from gateway import ids, settings
from gateway.clock import DAY
from gateway.errors import SchemaMismatch
from gateway.model import Mode, Revision, Tenant
from gateway.store import columns
from gateway.store.copying.unfinished import refuse_unfinished
from gateway.store.postgres import migration, rows
from gateway.store.postgres.connection import Database, Parameters, Session, opening
from gateway.store.postgres.days import day_of
from gateway.store.record import (
    EndpointPage,
    EventPage,
    Key,
    Link,
    Linked,
    QueuedDelivery,
    RecordedAttempt,
    RecordedDelivery,
    RecordedEndpoint,
    RecordedEvent,
    Span,
)

_READ_SECONDS = 30.0  # a page is small; a disk that is busy may take its time
_AS_OF_ONE_MOMENT = "ISOLATION LEVEL REPEATABLE READ READ ONLY"
_NO_LIMIT = 2**31
_BEFORE_ALL: Key = ("", "", "", "")  # the longest key there is


class PostgresRecord:
    """See `store.record.Record`."""

    links: Sequence[Link] = tuple(Link)

    def __init__(self, session: Session, now: int) -> None:
        """Use `open`."""
        self._session = session
        self.now = now

    @classmethod
    @asynccontextmanager
    async def open(cls, configured: settings.Store) -> AsyncIterator[Self]:
        """The store at `store.url`. Raises SchemaMismatch, StoreUnavailable, CopyUnfinished."""
        found = await migration.inspect(configured)
        if found.pending:
            raise SchemaMismatch(
                f"the store lacks {found.pending} migration(s): `gateway migrate` or `serve` applies them; then come again"
            )
        async with Database(configured).single(seconds=_READ_SECONDS) as session:
            await session.begin(opening(seconds=_READ_SECONDS, mode=_AS_OF_ONE_MOMENT))
            await refuse_unfinished(session)
            (now,) = await session.one("database_time")
            await session.end()
            yield cls(session, now)

    @asynccontextmanager
    async def _moment(self) -> AsyncIterator[Session]:
        """A transaction whose statements all read as of the same moment."""
        session = self._session
        # Along the indexes, however few rows the planner believes there are.
        await session.begin(f"{opening(seconds=_READ_SECONDS, mode=_AS_OF_ONE_MOMENT)}; SET LOCAL enable_seqscan = off")
        try:
            yield session
        except BaseException:
            await session.roll_back()
            raise
        await session.end()

    async def _rows(self, name: str, parameters: Parameters) -> list[Any]:
        async with self._moment() as session:
            return await session.rows(name, parameters)

    async def next_tenant(self, organization_id: str, mode: str) -> Tenant | None:
        found = await self._rows("next_tenant", {"organization_id": organization_id, "mode": mode})
        return Tenant(found[0][0], Mode(found[0][1])) if found else None

    async def revisions(self, tenant: Tenant, *, above: int, limit: int) -> Sequence[Revision]:
        async with self._moment() as session:
            return await _revisions(session, tenant, above, limit)

    async def endpoints(self, tenant: Tenant, endpoint_ids: Collection[str], *, above: int) -> EndpointPage:
        async with self._moment() as session:
            last = await session.one("last_number", columns.tenant_parameters(tenant))
            return EndpointPage(
                await _endpoints(session, tenant, endpoint_ids),
                await _revisions(session, tenant, above),
                last_number=0 if last is None else last[0],
            )

    async def events(self, tenant: Tenant, span: Span, *, after: str, above: int, limit: int) -> EventPage:
        of = columns.tenant_parameters(tenant)
        async with self._moment() as session:
            walk = {**of, **_bounds(ids.EVENT, span), "after": after, "limit": limit}
            events = [RecordedEvent(*row) for row in await session.rows("recorded_events", walk)]
            deliveries = await _deliveries(session, of, [event.id for event in events])
            delivery_ids = [delivery.id for delivery in deliveries]
            attempts = await _attempts(session, of, delivery_ids)
            pending = [delivery.id for delivery in deliveries if delivery.state == "pending"]
            queue = [QueuedDelivery(*row) for row in await session.rows("recorded_due", {"delivery_ids": pending})]
            return EventPage(
                events=events,
                deliveries=deliveries,
                attempts=attempts,
                queue={queued.delivery_id: queued for queued in queue},
                endpoints=await _endpoints(session, tenant, {delivery.endpoint_id for delivery in deliveries}),
                revisions=await _revisions(session, tenant, above),
            )

    async def deliveries(self, tenant: Tenant, span: Span, *, after: str, limit: int) -> Sequence[Linked]:
        walk = {**columns.tenant_parameters(tenant), **_bounds(ids.DELIVERY, span), "after": after, "limit": limit}
        return [_linked(row) for row in await self._rows("links_of_deliveries", walk)]

    async def linked(self, link: Link, span: Span, *, after: Key, limit: int) -> Sequence[Linked]:
        first, organization_id, mode, external_id = (*after, *_BEFORE_ALL[len(after) :])
        walk = {
            "since_delivery": ids.floor(ids.DELIVERY, span.since),
            "until_delivery": ids.floor(ids.DELIVERY, span.until),
            "since_event": ids.floor(ids.EVENT, span.since),
            "until_event": ids.floor(ids.EVENT, span.until),
            "after": first,
            "after_organization": organization_id,
            "after_mode": mode,
            "after_external_id": external_id,
            "limit": limit,
        }
        return [_linked(row) for row in await self._rows(link.value, walk)]


async def _revisions(session: Session, tenant: Tenant, above: int, limit: int = _NO_LIMIT) -> Sequence[Revision]:
    parameters = {**columns.tenant_parameters(tenant), "after": above, "limit": limit}
    return [rows.revision(row) for row in await session.rows("revisions", parameters)]


async def _endpoints(session: Session, tenant: Tenant, endpoint_ids: Collection[str]) -> dict[str, RecordedEndpoint]:
    parameters = {**columns.tenant_parameters(tenant), "ids": list(endpoint_ids)}
    found = await session.rows("recorded_endpoints", parameters) if endpoint_ids else ()
    return {row[0]: RecordedEndpoint(row[0], tuple(row[1]), *row[2:]) for row in found}


async def _deliveries(session: Session, of: Parameters, event_ids: Sequence[str]) -> Sequence[RecordedDelivery]:
    if not event_ids:
        return ()
    # No delivery is older than its event, but for the first moments of a day: the clocks of nodes agree only about.
    lowest = ids.floor(ids.DELIVERY, (day_of(min(event_ids)) - 1) * DAY)
    found = await session.rows("recorded_deliveries", {**of, "event_ids": event_ids, "lowest": lowest})
    return [RecordedDelivery(*row) for row in found]


async def _attempts(session: Session, of: Parameters, delivery_ids: Sequence[str]) -> Sequence[RecordedAttempt]:
    if not delivery_ids:
        return ()
    found = await session.rows("recorded_attempts", {**of, "delivery_ids": delivery_ids, **rows.bounds(delivery_ids)})
    return [RecordedAttempt(*row) for row in found]


def _bounds(prefix: str, span: Span) -> Parameters:
    return {"since": ids.floor(prefix, span.since), "until": ids.floor(prefix, span.until)}


def _linked(row: Sequence[Any]) -> Linked:
    values = tuple(row)
    return Linked(values[:-5], Tenant(values[-5], Mode(values[-4])), *values[-3:])
