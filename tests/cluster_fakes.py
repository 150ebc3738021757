"""Several members in one test, on one store in memory, with a clock for each of them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from msgspec.structs import replace

from gateway import settings
from gateway.clock import SECOND, Timestamp
from gateway.cluster.member import Member
from gateway.errors import StoreUnavailable
from gateway.model import BUCKETS, Endpoint, Lease, Node, bucket_of
from gateway.store.postgres.cluster import DEMAND_TOLD_FOR
from gateway.store.protocol import ClusterView, LaneWork, News
from tests.fakes import PATIENCE_SECONDS, START, FakeClock, endpoint

LEASE_SECONDS = 15.0
STEP_MS = 50

_CALM_TURNS = 25
"""Turns of the event loop without a call, after which nobody has anything left to do before time moves: more than the longest
way from one call to the next."""


class Told(msgspec.Struct, frozen=True):
    """A row of news."""

    number: int
    process: "FakeProcess"
    work: Endpoint


class FakeStore:
    """What all processes share: who takes part, who holds what, and what waits."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.leases = [Lease(bucket, None, 0) for bucket in range(BUCKETS)]
        self.waiting: Counter[str] = Counter()  # deliveries by endpoint
        self.endpoints: dict[str, Endpoint] = {}
        self.told: list[Told] = []
        self.demand: dict[
            tuple[str, int], tuple[float, Timestamp]
        ] = {}  # by key and process: what it is asked for, and as of when
        self.oldest_told = 0
        self.is_down = False
        self.processes: list[FakeProcess] = []
        self.calls = 0
        self.faults: list[str] = []  # what must never happen, and did
        self.now: Timestamp = START

    def change(self, bucket: int, node_id: str | None) -> None:
        self.leases[bucket] = Lease(bucket, node_id, self.leases[bucket].epoch + 1)

    def free_all_of(self, node_id: str) -> None:
        for lease in self.leases:
            if lease.node_id == node_id:
                self.change(lease.bucket, None)

    def look_for_overlap(self) -> None:
        """No two may start attempts in a bucket at the same time."""
        holders = Counter(bucket for process in self.processes for bucket in process.holder.serving)
        self.faults += [f"bucket {bucket} is served twice" for bucket, count in holders.items() if count > 1]


class FakeHolder:
    """A dispatcher without lanes: it claims what waits for an endpoint as soon as it hears of it, and may."""

    def __init__(self, store: FakeStore, clock: FakeClock) -> None:
        self._store = store
        self._clock = clock
        self.epochs: dict[int, int] = {}
        self.until = 0.0
        self.is_frozen = False
        self.open: Counter[int] = Counter()  # attempts that the test holds open, by bucket
        self.started: list[str] = []  # ids of endpoints
        self._lanes: dict[str, Endpoint] = {}
        self._ended = asyncio.Event()

    @property
    def serving(self) -> set[int]:
        may_start = self._clock.monotonic() < self.until and not self.is_frozen
        return set(self.epochs) if may_start else set()

    def hold(self, epochs: Mapping[int, int], work: Sequence[LaneWork]) -> None:
        self.epochs.update(epochs)
        for waiting in work:
            self.hear(waiting.endpoint)
        self._changed()

    async def let_go(self, buckets: Collection[int]) -> None:
        self.lose(buckets)
        while any(self.open[bucket] for bucket in buckets):
            self._ended.clear()
            await self._ended.wait()

    def lose(self, buckets: Collection[int]) -> None:
        for bucket in buckets:
            self.epochs.pop(bucket, None)
        self._lanes = {name: to for name, to in self._lanes.items() if bucket_of(name) in self.epochs}

    def lease_until(self, monotonic: float) -> None:
        self.until = monotonic
        self._changed()

    def hear(self, to: Endpoint) -> None:
        """There is new work for *to*, by news or by a commit of this process."""
        if bucket_of(to.id) in self.epochs:
            self._lanes[to.id] = to
            self._changed()

    def end_attempts(self, bucket: int) -> None:
        self.open[bucket] = 0
        self._ended.set()

    def _changed(self) -> None:
        self._store.look_for_overlap()
        if self._clock.monotonic() >= self.until:
            return
        for name in list(self._lanes):
            del self._lanes[name]
            self.started += [name] * self._store.waiting.pop(name, 0)


class FakeTransaction:
    """A transaction that makes a delivery; it ends when the test says so."""

    def __init__(self, process: "FakeProcess", to: Endpoint) -> None:
        self.process = process
        self._to = to
        self._is_own = bucket_of(to.id) in process.held
        self.ended = asyncio.Event()

    def commit(self) -> str:
        """The id of the endpoint that has a delivery now."""
        store = self.process.store
        store.endpoints[self._to.id] = self._to
        store.waiting[self._to.id] += 1
        if not self._is_own:
            store.told.append(Told(len(store.told), self.process, self._to))
        self.process.transactions.remove(self)
        self.ended.set()
        if self._is_own:  # a holder may leave it at that; what it is told beyond this is no harm
            self.process.holder.hear(self._to)
        return self._to.id


class FakeWakeUps:
    """See `store.protocol.WakeUps`."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self.is_dead = False

    async def next(self) -> None:
        await self.woken.wait()
        if self.is_dead:
            raise StoreUnavailable("the line is dead")
        self.woken.clear()


class FakeProcess:
    """What one process sees of the store, as `Cluster` and `Intake` say. Every call takes a few turns of the loop."""

    def __init__(self, store: FakeStore, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock
        self.holder = FakeHolder(store, clock)
        self.held: frozenset[int] = frozenset()
        self.transactions: list[FakeTransaction] = []
        self.joined: list[Node] = []
        self.calls: Counter[str] = Counter()
        self.losing: set[str] = set()  # calls whose answer gets lost, though they are carried out
        self.gates: dict[str, asyncio.Event] = {}  # calls that wait, once carried out, for their answer
        self.is_deaf = False
        self.is_alive = True
        self.line: FakeWakeUps | None = None
        self._news_read = 0
        store.processes.append(self)

    async def _begin(self, name: str) -> None:
        self.calls[name] += 1
        self.store.calls += 1
        await asyncio.sleep(0)  # a turn of the loop, as the way to the store is
        if self.store.is_down:
            raise StoreUnavailable("the database is away")

    async def _end(self, name: str) -> None:
        await asyncio.sleep(0)
        self.store.calls += 1
        if name in self.gates:
            await self.gates[name].wait()
        if name in self.losing or self.store.is_down:
            self.losing.discard(name)
            raise StoreUnavailable("the answer got lost")

    async def join(self, node: Node) -> None:
        await self._begin("join")
        self.store.nodes.setdefault(node.id, node)
        self.joined.append(node)
        await self._end("join")

    async def renew(self, node_id: str) -> ClusterView | None:
        await self._begin("renew")
        node = self.store.nodes.get(node_id)
        view = None
        if node is not None:
            view = self._view()
            self.store.nodes[node_id] = replace(node, renewals=node.renewals + 1)
        await self._end("renew")
        return view

    async def view(self) -> ClusterView:
        await self._begin("view")
        view = self._view()
        await self._end("view")
        return view

    def _view(self) -> ClusterView:
        nodes = [self.store.nodes[node_id] for node_id in sorted(self.store.nodes)]
        return ClusterView(self.store.now, nodes, list(self.store.leases))

    async def take(self, node_id: str, *, limit: int) -> dict[int, int]:
        await self._begin("take")
        free = [lease.bucket for lease in self.store.leases if lease.node_id is None][:limit]
        taken = free if node_id in self.store.nodes else []
        for bucket in taken:
            self.store.change(bucket, node_id)
        epochs = {bucket: self.store.leases[bucket].epoch for bucket in taken}
        await self._end("take")
        return epochs

    async def give_back(self, node_id: str, buckets: Collection[int]) -> None:
        await self._begin("give_back")
        for bucket in buckets:
            if self.store.leases[bucket].node_id == node_id:
                self.store.change(bucket, None)
        await self._end("give_back")

    async def evict(self, node: Node) -> bool:
        await self._begin("evict")
        known = self.store.nodes.get(node.id)
        if known is not None and known.renewals == node.renewals:
            del self.store.nodes[node.id]
            self.store.free_all_of(node.id)
        await self._end("evict")
        return node.id not in self.store.nodes

    async def leave(self, node_id: str) -> None:
        await self._begin("leave")
        self.store.nodes.pop(node_id, None)
        self.store.free_all_of(node_id)
        await self._end("leave")

    def hold(self, buckets: Collection[int]) -> None:
        self.held = frozenset(buckets)

    async def settled(self) -> None:
        for transaction in list(self.transactions):
            await transaction.ended.wait()

    def begin(self, to: Endpoint) -> FakeTransaction:
        """A transaction of this process that makes a delivery for *to*, begun."""
        transaction = FakeTransaction(self, to)
        self.transactions.append(transaction)
        return transaction

    async def news(self) -> News:
        await self._begin("news")
        rows, self._news_read = self.store.told[self._news_read :], len(self.store.told)
        missed = any(row.number < self.store.oldest_told for row in rows)
        work = [row.work for row in rows if row.process is not self and bucket_of(row.work.id) in self.held]
        await self._end("news")
        return News(work=work, is_complete=not missed)

    async def share_demand(self, demand: Mapping[str, float]) -> Mapping[str, Sequence[float]]:
        await self._begin("share_demand")
        now, others = self.store.now, dict[str, list[float]]()
        for (key, process), (asked, at) in self.store.demand.items():
            if key in demand and process != id(self) and now - at < DEMAND_TOLD_FOR:
                others.setdefault(key, []).append(asked)
        self.store.demand |= {(key, id(self)): (asked, now) for key, asked in demand.items()}
        await self._end("share_demand")
        return others

    async def wake_others(self) -> None:
        self.store.calls += 1
        for other in self.store.processes:
            if other is not self and other.line is not None and not other.is_deaf:
                other.line.woken.set()

    @asynccontextmanager
    async def wake_ups(self) -> AsyncIterator[FakeWakeUps]:
        await self._begin("wake_ups")
        self.line = FakeWakeUps()
        try:
            yield self.line
        finally:
            self.line = None

    def cut_line(self) -> None:
        """The line on which others wake this process dies."""
        assert self.line is not None
        self.line.is_dead = True
        self.line.woken.set()

    async def lane_work(self, buckets: Collection[int]) -> Sequence[LaneWork]:
        await self._begin("lane_work")
        names = [name for name, count in self.store.waiting.items() if count and bucket_of(name) in buckets]
        work = [
            LaneWork(self.store.endpoints[name], has_first_attempts=True, next_retry_at=None, has_manual=False) for name in names
        ]
        await self._end("lane_work")
        return work


class FakeNode:
    """A process and its member, running."""

    def __init__(self, cluster: "FakeCluster", name: str, *, listen: bool, **fields: Any) -> None:
        self.name = name
        self.clock = FakeClock()
        # Monotonic clocks of different machines have nothing to do with each other.
        self.clock.advance(1_000 * SECOND * (len(cluster.nodes) + 1))
        self.process = FakeProcess(cluster.store, self.clock)
        self.holder = self.process.holder
        self.is_frozen = False
        self.told_time: list[Timestamp] = []
        self.heard: list[News] = []
        self.reloads = 0
        self.reload_failure: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self._incarnations = 0
        self.member = Member(
            cluster=self.process,
            intake=self.process,
            holder=self.holder,
            clock=self.clock,
            settings=settings.Node(name=name, **{"lease_seconds": LEASE_SECONDS, **fields}),
            listen=listen,
            make_node=self._make_node,
            heard=self._hear,
            reload=self._reload,
            tell_time=self.told_time.append,
            pause=self._pause,
        )

    def _make_node(self) -> Node:
        self._incarnations += 1
        return Node(id=f"{self.name}{self._incarnations}", name=self.name, version="1", started_at=START)

    def _hear(self, news: News) -> None:
        self.heard.append(news)
        for to in news.work:
            self.holder.hear(to)

    async def _reload(self) -> None:
        if self.reload_failure is not None:
            raise self.reload_failure
        self.reloads += 1

    async def _pause(self, event: asyncio.Event, seconds: float) -> None:
        await self.clock.wait(event, self.clock.steady() + round(seconds * 1_000))

    @property
    def buckets(self) -> tuple[int, ...]:
        return self.member.standing.buckets

    def stop(self, seconds: float = 12.0) -> "asyncio.Task[None]":
        """Begins an orderly end that has so many seconds."""
        return asyncio.create_task(self.member.stop(self.clock.monotonic() + seconds))

    def kill(self) -> None:
        """Ends the process, which says nothing more to anybody."""
        assert self.task is not None
        self.task.cancel()
        self.process.is_alive = False
        self.holder.lease_until(0.0)

    def freeze(self) -> None:
        """Stops the process, and its clock with it."""
        self.is_frozen = self.process.is_deaf = self.holder.is_frozen = True


class FakeCluster:
    """Nodes on one store, and time."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.store = FakeStore()
        self.nodes: list[FakeNode] = []
        self._group = group
        self._frozen_ms: Counter[str] = Counter()

    async def start(self, name: str, *, listen: bool = True, **fields: Any) -> FakeNode:
        """A node that runs. *fields* are those of section `node`."""
        node = FakeNode(self, name, listen=listen, **fields)
        self.nodes.append(node)
        node.task = self._group.create_task(node.member.run(), name=name)
        await self.quiet()
        return node

    async def quiet(self) -> None:
        """Returns when nothing moves any more before time does."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            calm = 0
            while calm < _CALM_TURNS:
                calls = self.store.calls
                await asyncio.sleep(0)
                is_moving = self.store.calls != calls or any(node.clock.is_waking for node in self.nodes)
                calm = 0 if is_moving else calm + 1

    async def advance(self, seconds: float, *, step_ms: int = STEP_MS) -> None:
        """Lets time pass in steps, and whatever is due in each of them happen."""
        left = round(seconds * 1_000)
        await self.quiet()
        while left > 0:
            step = min(step_ms, left)
            left -= step
            self.store.now += step
            for node in self.nodes:
                if node.is_frozen:
                    self._frozen_ms[node.name] += step
                else:
                    node.clock.advance(step)
            self.store.look_for_overlap()
            await self.quiet()

    def thaw(self, node: FakeNode) -> None:
        """Lets a frozen node go on, from the next turn of the loop; its clock jumps to where it would be."""
        node.is_frozen = node.process.is_deaf = node.holder.is_frozen = False
        node.clock.advance(self._frozen_ms.pop(node.name, 0))
        self.store.look_for_overlap()

    def owners(self) -> Counter[str | None]:
        """How many buckets each node has in the store, by id."""
        return Counter(lease.node_id for lease in self.store.leases)


@asynccontextmanager
async def run_cluster() -> AsyncIterator[FakeCluster]:
    """A cluster without nodes. Leaving kills those that were started, and looks for what must never have happened."""
    async with asyncio.TaskGroup() as group:
        cluster = FakeCluster(group)
        try:
            yield cluster
        finally:
            for node in cluster.nodes:
                node.kill()
    assert cluster.store.faults == []


def endpoint_in(bucket: int) -> Endpoint:
    """An endpoint of that bucket."""
    while True:
        made = endpoint()
        if bucket_of(made.id) == bucket:
            return made
