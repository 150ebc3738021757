"""See `store.record`: the embedded store's file, read on a connection that changes nothing, also beside a running gateway."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from gateway import ids
from gateway.clock import SECOND
from gateway.errors import SchemaMismatch, StoreLocked, StoreUnavailable
from gateway.model import Mode, Revision, Tenant
from gateway.store import columns, migrate, queries
from gateway.store.record import (
    EndpointPage,
    EventPage,
    Key,
    Link,
    Linked,
    RecordedAttempt,
    RecordedDelivery,
    RecordedEndpoint,
    RecordedEvent,
    Span,
)
from gateway.store.sqlite import inspection, rows
from gateway.store.sqlite.connection import FileLock, translated

_DIALECT = "sqlite"
_PRAGMAS = ("query_only = ON", "wal_autocheckpoint = 0", "cache_size = -65536", "trusted_schema = OFF", "busy_timeout = 5000")
_NO_LIMIT = -1

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
_strings = msgspec.json.Decoder(tuple[str, ...])


class SqliteRecord:
    """See `store.record.Record`. One page is read at a time, in a thread of its own."""

    links: Sequence[Link] = (Link.DELIVERY_OF_ATTEMPT, Link.DELIVERY_OF_RETRY)

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        """Use `open`."""
        self._connection = connection
        self._thread = thread
        self._sql = queries.load(_DIALECT)
        self.now = round(time.time() * SECOND)

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Self]:
        """The store in the file *path*, which somebody may be working on. Raises SchemaMismatch, StoreUnavailable."""
        if not inspection.exists(path):
            raise StoreUnavailable(f"there is no store {path}")
        with ThreadPoolExecutor(1, "record") as thread:
            with translated():
                connection = await asyncio.get_running_loop().run_in_executor(thread, _connect, path)
            try:
                yield cls(connection, thread)
            finally:
                thread.submit(connection.close)  # after what is being read

    async def _read(self, work: Callable[[], T]) -> T:
        """What *work* reads, all as of one moment."""

        def as_of_one_moment() -> T:
            self._connection.execute("BEGIN")
            try:
                return work()
            finally:
                self._connection.rollback()

        with translated():
            return await asyncio.get_running_loop().run_in_executor(self._thread, as_of_one_moment)

    def _rows(self, name: str, parameters: Mapping[str, object]) -> list[Any]:
        return self._connection.execute(self._sql[name], parameters).fetchall()

    async def next_tenant(self, organization_id: str, mode: str) -> Tenant | None:
        found = await self._read(lambda: self._rows("next_tenant", {"organization_id": organization_id, "mode": mode}))
        return Tenant(found[0][0], Mode(found[0][1])) if found else None

    def _revisions(self, tenant: Tenant, above: int, limit: int = _NO_LIMIT) -> Sequence[Revision]:
        parameters = {**columns.tenant_parameters(tenant), "after": above, "limit": limit}
        return [rows.revision(row) for row in self._rows("revisions", parameters)]

    async def revisions(self, tenant: Tenant, *, above: int, limit: int) -> Sequence[Revision]:
        return await self._read(lambda: self._revisions(tenant, above, limit))

    def _endpoints(self, tenant: Tenant, endpoint_ids: Collection[str]) -> dict[str, RecordedEndpoint]:
        parameters = {**columns.tenant_parameters(tenant), "ids": _array(endpoint_ids)}
        return {
            row[0]: RecordedEndpoint(row[0], _strings.decode(row[1]), bool(row[2]), bool(row[3]), row[4])
            for row in self._rows("recorded_endpoints", parameters)
        }

    async def endpoints(self, tenant: Tenant, endpoint_ids: Collection[str], *, above: int) -> EndpointPage:
        return await self._read(
            lambda: EndpointPage(self._endpoints(tenant, endpoint_ids), self._revisions(tenant, above), last_number=None)
        )

    async def events(self, tenant: Tenant, span: Span, *, after: str, above: int, limit: int) -> EventPage:
        return await self._read(lambda: self._events(tenant, span, after, above, limit))

    def _events(self, tenant: Tenant, span: Span, after: str, above: int, limit: int) -> EventPage:
        of = columns.tenant_parameters(tenant)
        walk = {**of, **_bounds(ids.EVENT, span), "after": after, "limit": limit}
        events = [RecordedEvent(*row) for row in self._rows("recorded_events", walk)]
        event_ids = _array(event.id for event in events)
        deliveries = [RecordedDelivery(*row) for row in self._rows("recorded_deliveries", {**of, "event_ids": event_ids})]
        delivery_ids = _array(delivery.id for delivery in deliveries)
        attempts = self._rows("recorded_attempts", {**of, "delivery_ids": delivery_ids})
        return EventPage(
            events=events,
            deliveries=deliveries,
            attempts=[RecordedAttempt(*row) for row in attempts],
            queue=None,
            endpoints=self._endpoints(tenant, {delivery.endpoint_id for delivery in deliveries}),
            revisions=self._revisions(tenant, above),
        )

    async def deliveries(self, tenant: Tenant, span: Span, *, after: str, limit: int) -> Sequence[Linked]:
        walk = {**columns.tenant_parameters(tenant), **_bounds(ids.DELIVERY, span), "after": after, "limit": limit}
        return [_linked(row) for row in await self._read(lambda: self._rows("links_of_deliveries", walk))]

    async def linked(self, link: Link, span: Span, *, after: Key, limit: int) -> Sequence[Linked]:
        walk = {
            "since_delivery": ids.floor(ids.DELIVERY, span.since),
            "until_delivery": ids.floor(ids.DELIVERY, span.until),
            "after": after[0] if after else "",
            "limit": limit,
        }
        return [_linked(row) for row in await self._read(lambda: self._rows(link.value, walk))]


def _array(texts: Collection[str] | Iterator[str]) -> str:
    return _encode(list(texts)).decode()


def _bounds(prefix: str, span: Span) -> dict[str, object]:
    return {"since": ids.floor(prefix, span.since), "until": ids.floor(prefix, span.until)}


def _linked(row: Sequence[Any]) -> Linked:
    return Linked(tuple(row[:-5]), Tenant(row[-5], Mode(row[-4])), row[-3], row[-2], bool(row[-1]))


def _connect(path: Path) -> sqlite3.Connection:
    """A connection to the store."""
    with contextlib.ExitStack() as lock:
        # What a crash has left is mended by whoever reads first. No gateway starts meanwhile; if one runs, it has done so.
        with contextlib.suppress(StoreLocked):
            lock.enter_context(FileLock(path, makes_file=False))
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            _check_schema(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Raises SchemaMismatch unless the store has the schema that this version knows."""
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'migrations'").fetchall():
        raise SchemaMismatch(f"{path} is no store of the gateway")
    applied = dict(connection.execute("SELECT number, checksum FROM migrations").fetchall())
    if pending := migrate.pending(migrate.available(_DIALECT), applied):
        raise SchemaMismatch(
            f"the store {path} lacks {len(pending)} migration(s): `gateway migrate` or `serve` applies them; then come again"
        )
