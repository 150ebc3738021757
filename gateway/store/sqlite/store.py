"""The embedded store as a whole: opening, migrating, transactions whose end is always known, claims, closing."""

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import msgspec
import structlog

from gateway.errors import StoreLocked, StoreUnavailable
from gateway.model import AcceptedEvent, DeliveryTrigger, DueDelivery, Endpoint, Tenant, bucket_of
from gateway.store import migrate, queries
from gateway.store.claim_budget import ClaimBudget
from gateway.store.protocol import Claim, Claimed, Cluster, LaneWork
from gateway.store.sealing import Sealing
from gateway.store.sqlite import backup, rows
from gateway.store.sqlite.connection import Connection, FileLock, open_writer, translated
from gateway.store.sqlite.log import SqliteLog
from gateway.store.sqlite.place import Place, Standing, moved
from gateway.store.sqlite.transaction import ExpiryCursor, SqliteTransaction

log = structlog.get_logger()

DIALECT = "sqlite"
_REOPEN_SECONDS = 0.25
_WATCH_SECONDS = 1.0  # between looks at the place of the file while nothing is stored
_MIGRATIONS_TABLE = """
CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL) STRICT
"""

_encode = msgspec.json.Encoder().encode


class SqliteStore(SqliteLog):
    """See `store.protocol.Store`."""

    transactions_at_once = 1
    gathering_seconds = 0.0
    cluster: Cluster | None = None

    def __init__(self, path: Path, sealing: Sealing, connect: Callable[[Path], Awaitable[Connection]] = open_writer) -> None:
        super().__init__(queries.load(DIALECT), sealing)
        self._path = path
        self._place = Place(path)
        self._lock = FileLock(path)
        self._connect = connect
        self._writer: Connection | None = None
        self._turn = asyncio.Lock()  # the writing connection has one user at a time: a transaction, or a claim
        self._batch = 0
        self._expiry = ExpiryCursor()
        self._backing_up = asyncio.Lock()
        self._is_closing = False
        self._close = contextlib.AsyncExitStack()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, sealing: Sealing | None = None, *, connect: Callable[[Path], Awaitable[Connection]] = open_writer
    ) -> AsyncIterator[Self]:
        """The store in the file *path*, made and migrated when need be, and locked against other processes.

        *connect* opens the connection that writes. Raises StoreLocked, SchemaMismatch, StoreUnavailable, SecretUnreadable.
        """
        store = cls(path, sealing or Sealing(), connect)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # It holds secrets: for its owner only, and SQLite gives the files beside it the same mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            store._close.enter_context(store._lock)
        except OSError as error:
            raise StoreUnavailable(f"the store {path} cannot be opened: {error.strerror}") from error
        async with store._close:
            # The writer opens first and closes last, so that no reader ever recovers or checkpoints the file.
            store._close.push_async_callback(store._close_writer)
            await store._migrate()
            store.sealing.require([row[0] for row in await store._select("sealed_with", {}) if row[0]])
            store._close.push_async_callback(store.close_log)
            await store.open_log(path)
            store._close.push_async_callback(store._end_backup)
            store._place.note()
            # No task group: what ends the block is to reach the caller as it is.
            watch = asyncio.create_task(store._watch_place(), name="place of the store")
            store._close.push_async_callback(store._end_watch, watch)
            yield store

    # The place of the file

    async def _watch_place(self) -> None:
        """Sees to the file also while nothing is stored."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            try:
                self._lock.renew()
            except (StoreLocked, OSError) as error:
                log.warning("store.unlocked", error=str(error))
            if self._place.standing() is Standing.EMPTY:
                async with self._turn:
                    with contextlib.suppress(StoreUnavailable):  # whoever stores something hears of it
                        await self._keep_place()

    async def _keep_place(self) -> None:
        """Puts the file back when it was deleted. For one who has the turn. Raises StoreUnavailable while nothing can be
        stored in its place."""
        standing = self._place.standing()
        if standing is Standing.OURS:
            return
        if standing is Standing.TAKEN:
            raise moved(f"another file is at {self._path} now: put back what was there, or restart the gateway on what is there")
        log.error("store.deleted", path=str(self._path))
        await self.take_readers()
        try:
            await self._place.put_back(self._readers[0].connection)
        except StoreUnavailable:
            self.give_readers_back()
            raise
        # All of them, before any is opened anew: they share what lay beside the old file.
        await self._reopen()
        log.warning("store.put_back", path=str(self._path))

    async def _reopen(self) -> None:
        """Opens every connection anew. Nobody can do anything before that has worked."""
        while True:
            await self._close_writer()
            await self.close_log()
            try:
                self._writer = await self._connect(self._path)
                await self.open_log(self._path)
            except StoreUnavailable as error:
                log.warning("store.not_reopened", error=str(error))
                await asyncio.sleep(_REOPEN_SECONDS)
            else:
                self._place.note()
                return

    async def _end_watch(self, watch: "asyncio.Task[None]") -> None:
        async with self._turn:  # not in the middle of putting the file back
            watch.cancel()
        await asyncio.wait([watch])

    async def _connection(self) -> Connection:
        if self._writer is None:
            if self._place.is_noted and self._place.standing() is not Standing.OURS:
                raise moved("it is not opened anew before it is back")
            self._writer = await self._connect(self._path)
        return self._writer

    async def _close_writer(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with contextlib.suppress(Exception):  # it is being given up: nothing depends on how it closes
                await writer.close()

    async def _migrate(self) -> None:
        connection = await self._connection()
        with translated():
            await connection.execute(_MIGRATIONS_TABLE)
            found = await connection.execute_fetchall("SELECT number, checksum FROM migrations")
            applied = {int(number): str(checksum) for number, checksum in found}
            for migration in migrate.pending(migrate.available(DIALECT), applied):
                record = f"INSERT INTO migrations VALUES ({migration.number}, '{migration.name}', '{migration.checksum}');"  # noqa: S608 - our own file's name
                await connection.executescript(f"BEGIN IMMEDIATE;\n{migration.sql}\n{record}\nCOMMIT;")
            for name, value in (("cursor_key", secrets.token_bytes(32)), ("last_batch", 0)):
                await connection.execute("INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, value))
            self._batch = await self._last_batch()

    async def _last_batch(self) -> int:
        with translated():
            found = await (await self._connection()).execute_fetchall(self._sql["meta"], {"name": "last_batch"})
        return int(next(iter(found))[0])

    # Backups

    async def back_up(self, target: Path) -> int:
        """Copies the store into the new file *target*, while it goes on; how many bytes it has. One backup at a time.

        All that was committed before this was called is in it. Raises BackupRefused, StoreUnavailable.
        """
        async with self._backing_up:
            return await backup.back_up(self._connection, target, turn=self._turn, goes_on=lambda: not self._is_closing)

    async def _end_backup(self) -> None:
        self._is_closing = True
        async with self._backing_up:
            pass

    async def wipe(self) -> None:
        """Empties the log of commits into the file, where what is overwritten is wiped out. Raises StoreUnavailable when a read
        stands in the way for too long."""
        async with self._turn:
            connection = await self._connection()
            with translated():
                ((is_blocked, _, _),) = await connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        if is_blocked:
            raise StoreUnavailable(f"the store's log {self._path}-wal could not be emptied, since it is being read; try again")

    # Transactions

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqliteTransaction]:
        """See `store.protocol.Intake.transaction`."""
        async with self._turn, self._transaction() as transaction:
            yield transaction

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[SqliteTransaction]:
        expiry_before = self._expiry.after
        await self._keep_place()
        try:
            with translated():
                transaction = SqliteTransaction(
                    await self._connection(), self._sql, self.sealing, batch=self._batch + 1, expiry=self._expiry
                )
                try:
                    yield transaction
                except BaseException:
                    await transaction.roll_back()
                    raise
                await self._commit(transaction)
        except BaseException as error:
            self._expiry.after = expiry_before
            if isinstance(error, StoreUnavailable):
                # The file may have been replaced, or the connection may be stuck in a broken transaction.
                await self._close_writer()
            raise

    async def _commit(self, transaction: SqliteTransaction) -> None:
        try:
            with translated():
                await transaction.commit()
        except StoreUnavailable:
            if not await self._was_committed(self._batch + 1):
                raise
        if transaction.has_begun:
            self._batch += 1

    async def _was_committed(self, batch: int) -> bool:
        """Whether a commit that ended in an error took effect. Asks until there is an answer: nobody may be told anything
        before. A fresh connection knows; when none can be opened (on a full disk, say), a reader that is open does, too."""
        while True:
            await self._close_writer()
            with contextlib.suppress(StoreUnavailable):
                return await self._last_batch() == batch
            with contextlib.suppress(StoreUnavailable):
                ((last,),) = await self._rows("meta", {"name": "last_batch"})
                return int(last) == batch
            log.error("store.in_doubt", batch=batch)
            await asyncio.sleep(_REOPEN_SECONDS)

    # Claims

    async def _select(self, name: str, parameters: Mapping[str, object]) -> list[Any]:
        with translated():
            return list(await (await self._connection()).execute_fetchall(self._sql[name], parameters))

    async def claim(self, claims: Sequence[Claim]) -> Sequence[Claimed]:
        """See `store.protocol.Intake.claim`."""
        async with self._turn:
            return await self._claim(claims)

    async def _claim(self, claims: Sequence[Claim]) -> Sequence[Claimed]:
        chosen = [await self._choose(claim) for claim in claims]
        wanted = {
            (claim.endpoint.tenant, row[1])
            for claim, choice in zip(claims, chosen, strict=True)
            for row in (*choice.manual, *choice.retries, *choice.first)
        }
        events = await self._events(wanted)
        return [_handed_out(claim, choice, events) for claim, choice in zip(claims, chosen, strict=True)]

    async def _choose(self, claim: Claim) -> "_Choice":
        """The rows to hand out, without their events' data."""
        budget = ClaimBudget(claim.limit, claim.max_bytes)
        parameters: dict[str, object] = {
            "endpoint_id": claim.endpoint.id,
            "activation": claim.endpoint.activation,
            "now": claim.now,
            "held": _encode(list(claim.held)).decode(),
        }
        choice = _Choice()
        if claim.manual:
            under_way = _encode(list(claim.under_way)).decode()
            found = await self._select("claim_manual", {**parameters, "under_way": under_way, "limit": budget.limit + 1})
            choice.manual = budget.spend(found)
            choice.more_manual = len(found) > len(choice.manual)
            # What is left without being offered belongs to deliveries that are being attempted, or to ones just handed out.
            waiting = await self._select("count_manual", {"endpoint_id": claim.endpoint.id})
            choice.blocked_manual = waiting[0][0] > len(found)
            parameters["held"] = _encode([*claim.held, *(row[0] for row in choice.manual)]).decode()
        if claim.retries and claim.endpoint.is_active:
            choice.retries = budget.spend(await self._select("claim_retries", {**parameters, "limit": budget.limit}))
            held = [*claim.held, *(row[0] for row in (*choice.manual, *choice.retries))]
            ((choice.next_retry_at,),) = await self._select("next_retry_at", {**parameters, "held": _encode(held).decode()})
        if claim.first and claim.endpoint.is_active:
            found = await self._select("claim_first", {**parameters, "limit": budget.limit + 1})
            choice.first = budget.spend(found)
            choice.more_first = len(found) > len(choice.first)
        return choice

    async def _events(self, wanted: set[tuple[Tenant, str]]) -> dict[str, AcceptedEvent]:
        if not wanted:
            return {}
        keys = [(tenant.organization_id, tenant.mode, event_id) for tenant, event_id in wanted]
        found = await self._select("events_by_id", {"wanted": _encode(keys).decode()})
        return {event.id: event for event in map(rows.event, found)}

    async def lane_work(self, buckets: Collection[int]) -> Sequence[LaneWork]:
        """See `store.protocol.Intake.lane_work`."""
        async with self._turn:
            found = await self._select("lane_work", {})
        work = [
            LaneWork(
                endpoint=self._endpoint(row),
                has_first_attempts=bool(row[rows.ENDPOINT_COLUMNS]),
                next_retry_at=row[rows.ENDPOINT_COLUMNS + 1],
                has_manual=bool(row[rows.ENDPOINT_COLUMNS + 2]),
            )
            for row in found
        ]
        return [waiting for waiting in work if bucket_of(waiting.endpoint.id) in buckets]

    async def unswept_endpoints(self) -> Sequence[Endpoint]:
        """See `store.protocol.Intake.unswept_endpoints`."""
        async with self._turn:
            return [self._endpoint(row) for row in await self._select("unswept_endpoints", {})]


class _Choice:
    """Rows picked for one claim."""

    def __init__(self) -> None:
        self.manual: list[Any] = []
        self.retries: list[Any] = []
        self.first: list[Any] = []
        self.more_first = self.more_manual = self.blocked_manual = False
        self.next_retry_at: int | None = None


def _handed_out(claim: Claim, choice: _Choice, events: Mapping[str, AcceptedEvent]) -> Claimed:
    def due(row: Any) -> DueDelivery:
        return DueDelivery(
            id=row[0],
            endpoint_id=claim.endpoint.id,
            event=events[row[1]],
            api_version=row[2],
            activation=row[3],
            attempt_count=row[4],
            scheduled_count=row[5],
            due_at=row[6],
            created_at=row[7],
            retry_id=row[8],
            trigger=DeliveryTrigger(row[9]),
        )

    return Claimed(
        manual=[due(row) for row in choice.manual],
        retries=[due(row) for row in choice.retries],
        first=[due(row) for row in choice.first],
        more_first=choice.more_first,
        more_manual=choice.more_manual,
        blocked_manual=choice.blocked_manual,
        next_retry_at=choice.next_retry_at,
    )
