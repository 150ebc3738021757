"""The PostgreSQL that is copied into: what it may hold before, how far the copy has come, and rows in and out.

How far it has come stands in a row of `meta` of its own, written in the transaction that stores what it speaks of. While it
is there, the store is not to be opened for anything else: see `unfinished.py`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn, Self

import asyncpg
import msgspec

from gateway import settings
from gateway.clock import SystemClock, Timestamp
from gateway.errors import GatewayError
from gateway.store import queries
from gateway.store.copying.source import Identity, Page
from gateway.store.copying.tables import Place, Record, Table
from gateway.store.postgres.connection import (
    Connection,
    Database,
    Session,
    compiled,
    load_statements,
    opening,
    translated,
)
from gateway.store.postgres.migration import migrate
from gateway.store.postgres.partitions import Partitions

_SECONDS = 900.0
"""For one statement: all that waits is sorted in one, and there may be millions."""
_IDLE_SECONDS = 900.0  # between two, while the source is read from a slow disk

_encode = msgspec.json.Encoder().encode

Fetch = Callable[[int], Awaitable[Sequence[Record]]]
"""So many more rows."""


class CopyRefused(GatewayError):
    """The copy cannot be made into this database."""


class Progress(msgspec.Struct, frozen=True):
    """How far a copy has come, or what it was once it is complete."""

    source: Identity
    began_at: Timestamp
    places: dict[str, Place] = {}  # what was copied last, by table
    counts: dict[str, int] = {}  # rows that are copied, by table
    ended_at: Timestamp | None = None

    def place(self, table: Table) -> Place:
        return self.places.get(table.name, table.start)

    def after(self, table: Table, page: Page) -> "Progress":
        counts = {**self.counts, table.name: self.counts.get(table.name, 0) + len(page.records)}
        return msgspec.structs.replace(self, places={**self.places, table.name: page.place}, counts=counts)


_progress = msgspec.json.Decoder(Progress)


class Target:
    """The database, ready to be copied into. What raises leaves it unusable; the next one goes on from what is committed."""

    def __init__(self, database: Database, connection: Connection) -> None:
        """Use `open`."""
        self._connection = connection
        self._session = Session(connection, database.sql, _SECONDS)
        self._partitions = Partitions(database)
        self._progress: Progress | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, configured: settings.Store) -> AsyncIterator[Self]:
        """The database at `url`, its schema up to date. Raises SchemaMismatch, StoreUnavailable."""
        own = {name: compiled(sql) for name, sql in queries.load("copying").items()}
        database = Database(configured, {**load_statements(), **own})
        await migrate(configured)
        connection = await database.connect()
        try:
            yield cls(database, connection)
        finally:
            connection.terminate()

    @property
    def progress(self) -> Progress:
        """As it is committed."""
        assert self._progress is not None, "the copy has not begun"
        return self._progress

    # How far it has come

    async def begin(self, source: Identity) -> Progress:
        """Where to go on; one that has ended says so. Raises CopyRefused unless the database is empty, or has an unfinished
        or complete copy of this very source, as it is now."""
        await self._begin()
        copies = {name: _progress.decode(value) for name, value in await self._session.rows("copies")}
        if done := copies.get("copied"):
            if done.source != source:
                raise CopyRefused("another store was copied into this database before: give the copy an empty one")
            self._progress = done
        elif node := await self._session.one("live_node"):
            _refuse_for_node(node[0])
        elif begun := copies.get("copying"):
            if begun.source.store != source.store:
                raise CopyRefused("this database has an unfinished copy of another store: give this one an empty one")
            if begun.source != source:
                raise CopyRefused(
                    "the store has been used since its copy into this database began, so what is there is out of date: "
                    "begin anew with an empty database"
                )
            self._progress = begun
        elif (await self._session.one("holds_data"))[0]:
            raise CopyRefused("this database is in use: it holds data that is no unfinished copy of this store")
        else:
            self._progress = Progress(source, SystemClock().now())
            if not await self._session.rows("begin_copy", {"progress": _encode(self._progress)}):
                _refuse_for_another()
        await self._session.end()
        return self._progress

    async def append(self, table: Table, page: Page) -> None:
        """Stores a page, and with it that it is stored."""
        if table.dated is not None:
            await self._partitions.ensure([record[table.dated] for record in page.records])
        await self._begin()
        await self.add(table, page.records)
        await self._advance("advance_copy", "progress", self.progress.after(table, page))

    async def add(self, table: Table, records: Sequence[Record]) -> None:
        """Stores rows as part of the transaction that is open."""
        try:
            with translated():
                await self._connection.copy_records_to_table(table.name, records=records, columns=table.columns, timeout=_SECONDS)
        except (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, ValueError) as error:
            # The driver's own words may show the value.
            words = error if isinstance(error, asyncpg.PostgresError) else type(error).__name__
            first, last = table.key_of(records[0]), table.key_of(records[-1])
            raise CopyRefused(f"{table.name} does not take a row between {first} and {last}: {words}") from error

    @asynccontextmanager
    async def last_step(self) -> AsyncIterator[None]:
        """A transaction for what waits to be sent. Unless it is completed, nothing of it stays. No node starts meanwhile."""
        await self._begin()
        await self._session.rows("lock_nodes_out")
        yield
        await self._session.roll_back()

    async def complete(self, cursor_key: bytes) -> None:
        """Commits the last step, and takes away what keeps nodes from starting."""
        await self._session.rows("set_cursor_key", {"value": cursor_key})
        ended = msgspec.structs.replace(self.progress, ended_at=SystemClock().now())
        await self._advance("end_copy", "record", ended)

    async def _begin(self) -> None:
        await self._session.begin(opening(seconds=_SECONDS, idle_seconds=_IDLE_SECONDS))

    async def _advance(self, statement: str, name: str, progress: Progress) -> None:
        """Commits, if nobody has come in between."""
        if not await self._session.rows(statement, {name: _encode(progress), "before": _encode(self.progress)}):
            if node := await self._session.one("live_node"):
                _refuse_for_node(node[0])
            _refuse_for_another()
        await self._session.end()
        self._progress = progress

    # Reading back

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """A transaction to read in."""
        await self._begin()
        yield
        await self._session.end()

    @asynccontextmanager
    async def in_order_of_keys(self, table: Table) -> AsyncIterator[Fetch]:
        """The rows of *table*, as part of the transaction that is open."""
        columns = ", ".join(f'"{column}"' for column in table.columns)
        name = f"copied_{table.name}"
        # Names of ours.
        select = f"SELECT {columns} FROM {table.name} ORDER BY {', '.join(table.key)}"  # noqa: S608
        await self._session.script(f"DECLARE {name} NO SCROLL CURSOR FOR {select}")

        async def fetch(count: int) -> Sequence[Record]:
            return [tuple(row) for row in await self._session.fetch(f"FETCH {count} FROM {name}")]

        yield fetch
        await self._session.script(f"CLOSE {name}")

    async def analyze(self) -> None:
        """Tells the server's planner what is there."""
        await self._begin()
        await self._session.rows("analyze")
        await self._session.end()


def _refuse_for_node(name: str) -> NoReturn:
    raise CopyRefused(
        f"the node {name} works on this database: stop it first (one that has died is removed when another starts and stops)"
    )


def _refuse_for_another() -> NoReturn:
    raise CopyRefused("another copy into this database is under way")
