"""The store that many nodes share: opening, transactions whose end is always known, claims."""

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Self

import asyncpg
import structlog

from gateway import settings
from gateway.clock import DAY
from gateway.errors import StoreUnavailable
from gateway.model import Endpoint
from gateway.store.copying.unfinished import refuse_unfinished
from gateway.store.postgres import claims, migration
from gateway.store.postgres.bundle import Bundler
from gateway.store.postgres.cluster import PostgresCluster
from gateway.store.postgres.connection import Database, Parameters, Session
from gateway.store.postgres.log import PostgresLog
from gateway.store.postgres.partitions import Partitions
from gateway.store.postgres.transaction import PostgresTransaction
from gateway.store.protocol import Claim, Claimed, Cluster, LaneWork
from gateway.store.sealing import Sealing

log = structlog.get_logger()

_REASK_SECONDS = 0.1
_MARKS_KEPT_FOR = DAY


class PostgresStore(PostgresLog):
    """See `store.protocol.Store`."""

    gathering_seconds = 0.01
    back_up = None  # the server is backed up with its own tools
    wipe = None  # the server vacuums by itself

    def __init__(self, database: Database, sealing: Sealing, cluster: PostgresCluster) -> None:
        super().__init__(database, sealing, cluster)
        self.cluster: Cluster | None = cluster
        # One connection is left for claims, which must not wait behind the transactions whose work they fetch.
        self.transactions_at_once = database.settings.write_connections - 1
        # Each transaction has a slot to itself, in which it leaves a mark.
        self._slots: asyncio.LifoQueue[int] = asyncio.LifoQueue()
        for slot in range(self.transactions_at_once):
            self._slots.put_nowait(slot)
        self._tokens = itertools.count(1)
        self._claiming = asyncio.Lock()
        self._bundler = Bundler(database.sql)
        self._claim_statements = claims.ClaimStatements(database.sql)
        self._partitions = Partitions(database)

    @classmethod
    @asynccontextmanager
    async def open(cls, configured: settings.Store, sealing: Sealing | None = None) -> AsyncIterator[Self]:
        """The store at `store.url`, made and migrated when need be.

        Raises SchemaMismatch, StoreUnavailable, CopyUnfinished, SecretUnreadable.
        """
        sealing = sealing or Sealing()
        await migration.migrate(configured)
        database = Database(configured)
        async with database.pools(), PostgresCluster.open(database, sealing) as cluster:
            store = cls(database, sealing, cluster)
            await store._partitions.ensure_ahead()
            async with store._transaction_on_its_own() as session:
                await refuse_unfinished(session)
                sealing.require([row[0] for row in await session.rows("sealed_with") if row[0]])
                sealing.require_agreement([(node, names.split()) for node, names in await session.rows("keys_of_nodes")])
                await session.rows("forget_commits", {"kept_for": _MARKS_KEPT_FOR})
                await session.rows("add_meta", {"name": "cursor_key", "value": secrets.token_bytes(32)})
            yield store

    @asynccontextmanager
    async def _transaction_on_its_own(self) -> AsyncIterator[Session]:
        async with self._database.write() as session:
            await self._database.begin_write(session)
            yield session
            await session.end()

    # Transactions

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresTransaction]:
        """See `store.protocol.Intake.transaction`."""
        async with contextlib.AsyncExitStack() as stack:
            slot = await self._slots.get()
            stack.callback(self._slots.put_nowait, slot)
            mark = {"process_id": self._own_cluster.process_ids[0], "slot": slot, "token": next(self._tokens)}
            held = stack.enter_context(self._own_cluster.transaction_begun())

            async def begin() -> Session:
                session = await stack.enter_async_context(self._database.write())
                await self._database.begin_write(session)
                return session

            transaction = PostgresTransaction(
                begin,
                sealing=self.sealing,
                bundler=self._bundler,
                partitions=self._partitions,
                cluster=self._own_cluster,
                held=held,
                mark=mark,
            )
            yield transaction
            await transaction.prepare()
            if transaction.session is not None:
                await self._commit(transaction.session, transaction.xid, mark)
            if transaction.has_told:
                await self._own_cluster.wake_others()

    async def _commit(self, session: Session, xid: str | None, mark: Parameters) -> None:
        try:
            await session.end()
        except StoreUnavailable:
            session.terminate()
            # Without a number nothing was written, so there is nothing to be in doubt about.
            if xid is None or not await self._was_committed(xid, mark):
                raise

    async def _was_committed(self, xid: str, mark: Parameters) -> bool:
        """Whether a transaction whose COMMIT got no answer took effect. Asks until there is an answer: nobody may be told
        anything before.

        Once it is over its mark tells. Its number does not: after a crash the server gives out again the numbers whose records
        never reached its disk, and another transaction may have committed under this one."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                if await self._status_of(xid) != "in progress":
                    return await self._has_left_its_mark(mark)
                # The server has not noticed yet that nobody waits for it, or is still at it.
            log.error("store.in_doubt", xid=xid)
            await asyncio.sleep(_REASK_SECONDS)

    async def _has_left_its_mark(self, mark: Parameters) -> bool:
        async with self._database.single() as session:
            await self._database.begin_write(session, mode="READ ONLY")
            last = await session.one("last_commit", {name: mark[name] for name in ("process_id", "slot")})
        return last is not None and last["token"] == mark["token"]

    async def _status_of(self, xid: str) -> str | None:
        """None for a transaction that the server has never heard of: it is another one by now, which took over without it."""
        async with self._database.single() as session:
            await self._database.begin_write(session, mode="READ ONLY")
            try:
                return str((await session.one("transaction_status", {"xid": xid}))[0])
            except asyncpg.InvalidParameterValueError:
                return None

    # Claims

    @asynccontextmanager
    async def _look(self) -> AsyncIterator[Session]:
        """A transaction that reads as of one moment, on the connection that transactions leave."""
        async with self._claiming, self._database.write() as session:
            await self._database.begin_write(session, mode="ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield session
            await session.end()

    async def claim(self, claims_: Sequence[Claim]) -> Sequence[Claimed]:
        """See `store.protocol.Intake.claim`."""
        if not claims_:
            return []
        async with self._look() as session:
            return await claims.claim(session, self._claim_statements, claims_)

    async def lane_work(self, buckets: Collection[int]) -> Sequence[LaneWork]:
        """See `store.protocol.Intake.lane_work`."""
        async with self._look() as session:
            return [claims.lane_work(row, self.sealing) for row in await session.rows("lane_work", {"buckets": list(buckets)})]

    async def unswept_endpoints(self) -> Sequence[Endpoint]:
        """See `store.protocol.Intake.unswept_endpoints`."""
        async with self._look() as session:
            return [self._endpoint(row) for row in await session.rows("unswept_endpoints")]
