"""The embedded store that is copied: held against everybody else, read in pages, and changed in nothing."""

import asyncio
import hashlib
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from gateway.errors import StoreUnavailable
from gateway.store import queries
from gateway.store.copying.tables import Place, Record, Table
from gateway.store.sealing import Sealing
from gateway.store.sqlite import SqliteStore, inspection
from gateway.store.sqlite.connection import translated

PAGE_ROWS = 5_000
PAGE_BYTES = 8 * 1024 * 1024
"""What is in memory of a table at once, twice over: the row that passes it is the last of its page."""

_PRAGMAS = ("query_only = ON", "wal_autocheckpoint = 0", "cache_size = -65536", "trusted_schema = OFF")

T = TypeVar("T")


class Identity(msgspec.Struct, frozen=True):
    """Tells a store from every other, and from what it was before it was last used. Its path does neither."""

    store: str  # a hash of its cursor key, which is made with it
    batch: int  # the number of its last transaction


class Page(msgspec.Struct, frozen=True):
    """Some rows of a table, and the place after them."""

    records: Sequence[Record]
    place: Place


class Source:
    """The store, open. One statement runs at a time, in a thread of its own; its next page is read while this one is stored."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor, rows: int, size: int) -> None:
        """Use `open`."""
        self._connection = connection
        self._thread = thread
        self._rows = rows
        self._bytes = size
        self._sql = queries.load("copying")
        self.migrated_from: int | None = None
        """The migration that it was at before it was opened, when that brought it up to date."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, sealing: Sealing | None = None, *, page_rows: int = PAGE_ROWS, page_bytes: int = PAGE_BYTES
    ) -> AsyncIterator[Self]:
        """The store in the file *path*, locked until the end, and migrated when need be. Encrypted texts are copied as they are;
        still the keys have to be at hand, since whoever opens the copy needs them.

        Raises StoreLocked, SchemaMismatch, StoreUnavailable, SecretUnreadable.
        """
        if not inspection.exists(path):
            raise StoreUnavailable(f"there is no store {path}")
        before = await inspection.look_at(path)
        async with SqliteStore.open(path, sealing):
            with ThreadPoolExecutor(1, "copying") as thread:
                with translated():
                    connection = await asyncio.get_running_loop().run_in_executor(thread, _connect, path)
                try:
                    source = cls(connection, thread, page_rows, page_bytes)
                    source.migrated_from = before.migration if before.pending else None
                    yield source
                finally:
                    thread.submit(connection.close)  # after what is being read

    async def _run(self, work: Callable[[], T]) -> T:
        with translated():
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def cursor_key(self) -> bytes:
        return bytes((await self._meta())["cursor_key"])  # type: ignore[call-overload, no-any-return]

    async def identity(self) -> Identity:
        """Which store this is, and as of when."""
        meta = await self._meta()
        return Identity(hashlib.sha256(await self.cursor_key()).hexdigest(), int(str(meta["last_batch"])))

    async def _meta(self) -> Mapping[str, object]:
        return await self._run(lambda: dict(self._connection.execute("SELECT name, value FROM meta").fetchall()))

    async def count(self, table: Table) -> int:
        """How many rows *table* gets."""
        sql = f"SELECT count(*) FROM ({self._sql[table.name]})"  # noqa: S608 - a statement of ours
        return int(await self._run(lambda: self._connection.execute(sql).fetchone()[0]))

    def in_order_of_age(self, table: Table, *, after: Place) -> AsyncGenerator[Page, None]:
        """What *table* gets from the place *after* on."""
        place = ", ".join(table.place)
        marks = ", ".join("?" * len(table.place))
        return self._pages(table, f"{self._sql[table.name]} AND ({place}) > ({marks}) ORDER BY {place}", after)

    def in_order_of_keys(self, table: Table) -> AsyncGenerator[Page, None]:
        """All that *table* gets."""
        return self._pages(table, f"{self._sql[table.name]} ORDER BY {', '.join(table.key)}", ())

    async def _pages(self, table: Table, sql: str, parameters: Place) -> AsyncGenerator[Page, None]:
        found = await self._run(lambda: self._connection.execute(sql, parameters))

        def next_page() -> asyncio.Task[Page]:
            return asyncio.create_task(self._run(lambda: self._page(table, found)), name="read a page")

        reading = next_page()
        try:
            while (page := await reading).records:
                reading = next_page()
                yield page
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    def _page(self, table: Table, found: Iterator[Sequence[object]]) -> Page:
        records: list[Record] = []
        size = 0
        row: Sequence[object] = ()
        for row in found:
            records.append(table.record(row))
            size += sum(len(value) for value in row if isinstance(value, bytes | str))
            if len(records) >= self._rows or size >= self._bytes:
                break
        return Page(records, tuple(row[: len(table.place)]))  # type: ignore[arg-type]


def _connect(path: Path) -> sqlite3.Connection:
    # Opened in the thread that uses it, and closed from there.
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    return connection
