"""How the processes that share a PostgreSQL hear of each other: who lives, who holds which bucket, what has changed.

Everything here has connections of its own, never those that work uses: a node whose pools are busy still renews its leases."""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Self

import structlog

from gateway.clock import HOUR, MINUTE, SECOND
from gateway.errors import StoreUnavailable, TransactionConflict
from gateway.model import BUCKETS, Endpoint, Lease, Node, Organization, bucket_of
from gateway.store.postgres import rows
from gateway.store.postgres.connection import GRACE_SECONDS, Connection, Database, Parameters, Session, opening, translated
from gateway.store.protocol import ClusterView, Effects, News
from gateway.store.sealing import Sealing

log = structlog.get_logger()

CHANNEL = "gateway_news"
NEWS_KEPT_FOR = HOUR
WAKE_SECONDS = 0.03
"""Others are woken at most once in so long: each NOTIFY takes a lock that all notifying commits of a database share."""
ENDPOINTS_KEPT = 10_000
PRUNE_SECONDS = 60.0
PRUNED_AT_ONCE = 1_000
DEMAND_TOLD_FOR = 5 * SECOND
"""A process that has told of no demand for so long has none, or is gone."""
DEMAND_KEPT_FOR = MINUTE
LINE_CHECK_SECONDS = 1.0
LINE_TIMEOUT_SECONDS = 2.0
"""A line on which nothing has come back for so long, after it was looked at, is dead."""


def mask_of(buckets: Collection[int]) -> int:
    """*buckets* as the bits of a bigint, the 64th of which is the sign; `mask >> bucket & 1` tells whether one is in it."""
    mask = sum(1 << bucket for bucket in set(buckets))
    return mask - (1 << BUCKETS) if mask >> (BUCKETS - 1) else mask


class _Line:
    """A connection of one's own, opened when first used and anew when it has broken. It has one user at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seconds = database.settings.statement_seconds
        self._opening = opening(seconds=self._seconds, idle_seconds=database.idle_seconds)
        self._session: Session | None = None
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def _use(self) -> AsyncIterator[Session]:
        async with self._turn:
            if self._session is None or self._session.is_closed:
                self._session = Session(await self._database.connect(), self._database.sql, self._seconds)
            session = self._session
            try:
                yield session
            except TransactionConflict as error:
                # Whoever asks does not know of transactions, and asks again in any case.
                raise StoreUnavailable(str(error)) from error
            finally:
                await session.roll_back()

    async def rows(self, name: str, parameters: Parameters | None = None) -> list[Any]:
        """The rows of one statement, which is a transaction of its own."""
        if self._database.settings.prepared_statements:
            async with self._use() as session:
                return await session.rows(name, parameters)
        # A pooler may give the messages of one statement to two servers, unless they are in a transaction.
        async with self.transaction() as session:
            return await session.rows(name, parameters)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """A transaction of several statements, or of one that may wait for a lock: the server ends it when its time is up."""
        async with self._use() as session:
            await session.begin(self._opening)
            yield session
            await session.end()

    def close(self) -> None:
        if self._session is not None:
            self._session.terminate()


_NAMES = ("endpoints", "retried", "keys", "organizations", "work")


class PostgresCluster:
    """See `store.protocol.Cluster`.

    News starts with its opening: whoever opens it before reading anything that others may change misses no change.
    """

    def __init__(self, database: Database, sealing: Sealing | None = None) -> None:
        self._database = database
        self._sealing = sealing or Sealing()
        self._leases = _Line(database)
        self._changes = _Line(database)
        self._waking = _Line(database)
        self._held = 0
        self._transactions: set[asyncio.Event] = set()
        self._seen = ""  # the snapshot of the last look for news
        self._endpoints: dict[str, Endpoint] = {}  # as of that look, those that news have named
        self._looking = asyncio.Lock()
        self._prune_at = 0.0
        self._prune_demand_at = 0.0
        self._to_wake = asyncio.Event()
        self.process_ids: list[str] = [f"process_{secrets.token_hex(12)}"]
        """All that this process has gone by: an id of its own, then those of the nodes that it was."""

    @classmethod
    @asynccontextmanager
    async def open(cls, database: Database, sealing: Sealing | None = None) -> AsyncIterator[Self]:
        """The cluster as this process sees it. Raises StoreUnavailable."""
        cluster = cls(database, sealing)
        async with AsyncExitStack() as close:
            for line in (cluster._leases, cluster._changes, cluster._waking):
                close.callback(line.close)
            ((cluster._seen,),) = await cluster._changes.rows("news_start")
            waking = asyncio.create_task(cluster._wake_as_asked(), name="wake others")
            close.push_async_callback(cluster._stop_waking, waking)
            yield cluster

    @property
    def process_id(self) -> str:
        """What this process signs with: its node's id once it has joined, by which others tell whether it lives."""
        return self.process_ids[-1]

    # Leases

    async def join(self, node: Node) -> None:
        parameters = {
            "id": node.id,
            "name": node.name,
            "version": node.version,
            "started_at": node.started_at,
            "lease_seconds": node.lease_seconds,
        }
        async with self._leases.transaction() as session:
            await session.rows("join_cluster", parameters)
            await session.rows("forget_keys")
            await session.rows("tell_keys", {"node_id": node.id, "key_names": " ".join(self._sealing.told)})
        if node.id not in self.process_ids:
            self.process_ids.append(node.id)

    async def renew(self, node_id: str) -> ClusterView | None:
        found = await self._leases.rows("renew_node", {"id": node_id})
        return _view(found[0]) if found else None

    async def view(self) -> ClusterView:
        (row,) = await self._leases.rows("cluster_view")
        return _view(row)

    async def take(self, node_id: str, *, limit: int) -> dict[int, int]:
        async with self._leases.transaction() as session:
            found = await session.rows("take_buckets", {"node_id": node_id, "limit": limit})
        return dict(sorted((row["bucket"], row["epoch"]) for row in found))

    async def give_back(self, node_id: str, buckets: Collection[int]) -> None:
        async with self._leases.transaction() as session:
            await session.rows("give_back_buckets", {"node_id": node_id, "buckets": list(buckets)})

    async def evict(self, node: Node) -> bool:
        async with self._leases.transaction() as session:
            if await session.rows("evict_node", {"id": node.id, "renewals": node.renewals}):
                await session.rows("free_buckets_of", {"node_id": node.id})
                return True
            return not await session.rows("node_exists", {"id": node.id})

    async def leave(self, node_id: str) -> None:
        async with self._leases.transaction() as session:
            await session.rows("remove_node", {"id": node_id})
            await session.rows("free_buckets_of", {"node_id": node_id})

    # Whose affair new work is

    def hold(self, buckets: Collection[int]) -> None:
        self._held = mask_of(buckets)

    @contextmanager
    def transaction_begun(self) -> Iterator[int]:
        """To be open from before a transaction's first statement until its end is known. The buckets held meanwhile, as a
        mask: work for any other is to be told."""
        ended = asyncio.Event()
        self._transactions.add(ended)
        try:
            yield self._held
        finally:
            self._transactions.discard(ended)
            ended.set()

    async def settled(self) -> None:
        for ended in list(self._transactions):
            await ended.wait()

    # News

    async def news(self) -> News:
        async with self._looking:
            await self._prune()
            held = self._held
            told = await self._changes.rows("news", {"seen": self._seen, "own_ids": self.process_ids, "held": held})
            if not told[0]["is_complete"]:
                self._endpoints.clear()
            news = await self._read(told, held) if told[0]["is_complete"] else News(is_complete=False)
            # Last of all, and with nothing to wait for after it: what an error cut off is told once more.
            self._seen = told[0]["snapshot"]
            return news

    async def _read(self, told: Sequence[Any], held: int) -> News:
        """What the rows of *told* name, as it is now."""
        if told[0]["work"] is None:  # the row that says that there are none
            return News()
        named = {column: sorted({name for row in told for name in row[column]}) for column in _NAMES}
        work = [name for name in named["work"] if held >> bucket_of(name) & 1]
        if len(self._endpoints) > ENDPOINTS_KEPT:
            self._endpoints.clear()
        # An endpoint that has changed since it was read last is among those that are named as changed.
        unknown = {name for name in (*named["retried"], *work) if name not in self._endpoints}
        found = await self._named("news_endpoints", {*named["endpoints"], *unknown})
        endpoints = self._endpoints
        endpoints.update((endpoint.id, endpoint) for endpoint in (rows.endpoint(row, self._sealing) for row in found))
        effects = Effects(
            endpoints=[endpoints[name] for name in named["endpoints"] if name in endpoints],
            retried_endpoints=[endpoints[name] for name in named["retried"] if name in endpoints],
            keys=[rows.key(row) for row in await self._named("news_keys", named["keys"])],
            organizations=[Organization(*row) for row in await self._named("news_organizations", named["organizations"])],
        )
        return News(effects=effects, work=[endpoints[name] for name in work if name in endpoints])

    async def _named(self, name: str, ids: Collection[str]) -> list[Any]:
        """The rows with *ids*; none are asked for when there are no ids."""
        return await self._changes.rows(name, {"ids": sorted(ids)}) if ids else []

    async def _prune(self) -> None:
        """Deletes old rows: some now and then, and at each look while there are more."""
        now = asyncio.get_running_loop().time()
        if now < self._prune_at:
            return
        try:
            ((pruned,),) = await self._changes.rows("prune_news", {"kept_for": NEWS_KEPT_FOR, "limit": PRUNED_AT_ONCE})
        except StoreUnavailable as error:
            # The news matters more, and somebody will prune another time.
            log.warning("news.not_pruned", error=str(error))
            pruned = 0
        if pruned < PRUNED_AT_ONCE:
            self._prune_at = now + PRUNE_SECONDS

    # Demand

    async def share_demand(self, demand: Mapping[str, float]) -> Mapping[str, Sequence[float]]:
        others: defaultdict[str, list[float]] = defaultdict(list)
        told = {
            "process_id": self.process_ids[0],  # the one that stays
            "key_ids": list(demand),
            "per_second": list(demand.values()),
            "told_for": DEMAND_TOLD_FOR,
        }
        for key_id, per_second in await self._changes.rows("share_demand", told):
            others[key_id].append(per_second)
        now = asyncio.get_running_loop().time()
        if now >= self._prune_demand_at:
            await self._changes.rows("prune_demand", {"kept_for": DEMAND_KEPT_FOR})
            self._prune_demand_at = now + PRUNE_SECONDS
        return dict(others)

    # Waking

    async def wake_others(self) -> None:
        self._to_wake.set()

    async def _wake_as_asked(self) -> None:
        """Wakes the others at once, and then again for whoever has asked meanwhile."""
        while True:
            await self._to_wake.wait()
            await self._wake()
            await asyncio.sleep(WAKE_SECONDS)

    async def _wake(self) -> None:
        self._to_wake.clear()
        try:
            # A statement of its own, never in the transaction that it tells of, whose commit it would hold up.
            await self._waking.rows("wake_others", {"channel": CHANNEL, "process_id": self.process_id})
        except asyncio.CancelledError:
            self._to_wake.set()
            raise
        except StoreUnavailable as error:
            # They look by themselves, too.
            log.warning("cluster.not_woken", error=str(error))

    async def _stop_waking(self, waking: "asyncio.Task[None]") -> None:
        await _end(waking)
        if self._to_wake.is_set():
            await self._wake()

    @asynccontextmanager
    async def wake_ups(self) -> AsyncIterator["PostgresWakeUps"]:
        connection = await self._database.connect()
        wake_ups = PostgresWakeUps(self.process_ids)
        try:
            connection.add_termination_listener(wake_ups.die)
            await _listen(connection, wake_ups)
            line = Session(connection, {}, LINE_TIMEOUT_SECONDS - GRACE_SECONDS)
            checking = asyncio.create_task(_check(line), name="check the line")
            try:
                yield wake_ups
            finally:
                await _end(checking)
        finally:
            connection.terminate()


class PostgresWakeUps:
    """See `store.protocol.WakeUps`."""

    def __init__(self, own_ids: Collection[str]) -> None:
        self._own_ids = own_ids
        self._woken = asyncio.Event()
        self._is_dead = False

    def hear(self, _connection: object, _pid: int, _channel: str, process_id: object) -> None:
        """Called by the driver for each notification."""
        if process_id not in self._own_ids:
            self._woken.set()

    def die(self, _connection: object) -> None:
        """Called by the driver when the connection has ended."""
        self._is_dead = True
        self._woken.set()

    async def next(self) -> None:
        await self._woken.wait()
        if self._is_dead:
            raise StoreUnavailable("the connection on which other nodes wake this one has ended")
        self._woken.clear()


async def _listen(connection: Connection, wake_ups: PostgresWakeUps) -> None:
    with translated():
        async with asyncio.timeout(LINE_TIMEOUT_SECONDS):
            await connection.add_listener(CHANNEL, wake_ups.hear)


async def _check(session: Session) -> None:
    """Looks at a line now and then. One on which nothing comes back any more, though nobody has closed it, is ended."""
    try:
        while True:
            await asyncio.sleep(LINE_CHECK_SECONDS)
            await session.script("SELECT 1")
    except StoreUnavailable:
        session.terminate()


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


def _view(row: Any) -> ClusterView:
    now, nodes, leases = row
    return ClusterView(now, [Node(*node) for node in nodes or ()], [Lease(*lease) for lease in leases or ()])
