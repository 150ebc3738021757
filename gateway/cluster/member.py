"""This node among the others: it holds leases on its share of the buckets, renews them, and hands them over.

Nothing here decides by itself whether an attempt may start: the holder is told what it has and until when.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from gateway import settings
from gateway.clock import Clock, Timestamp
from gateway.cluster.leases import Holder, Leases, Snapshot, WaitingWork
from gateway.cluster.news import NewsWatch
from gateway.cluster.observation import Conclusion, Observation
from gateway.cluster.pause import Pause, pause
from gateway.cluster.shares import fair_shares, shortfall, surplus
from gateway.errors import SecretUnreadable, StoreUnavailable
from gateway.model import Node
from gateway.store.protocol import Cluster, ClusterView, News

log = structlog.get_logger()

_RENEWAL_SECONDS = 1.0
_RETRY_SECONDS = 0.5
_MARGIN = 0.05  # of the lease, by which it ends early here: clocks drift, and from a look at it to a request takes a moment
_LOOKS_PER_RENEWAL = 5  # at most, however often others wake this node
_ROUND_TRIP_SECONDS = 1.0  # a longer one says too little of the time


class Standing(msgspec.Struct, frozen=True):
    """How this node stands among the others."""

    node_id: str | None  # None: it takes no part at the moment
    name: str
    buckets: tuple[int, ...]  # those held
    giving_back: tuple[int, ...]  # those whose last attempts are under way
    lease_age_seconds: float | None  # since the last renewal that succeeded was sent
    seconds_left: float  # in which attempts may start
    nodes: tuple[Node, ...]  # all, when this one last looked
    is_listening: bool  # others can wake this node
    evictions: int  # how often the others took this node for dead


class Member:
    """See the module.

    One task renews and nothing else, so that nothing that takes long makes a lease run out; another settles who has what;
    a third gives back what is quiet, which nothing else may hold up.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        intake: WaitingWork,
        holder: Holder,
        clock: Clock,
        settings: settings.Node,
        listen: bool,
        make_node: Callable[[], Node],
        heard: Callable[[News], None],
        reload: Callable[[], Awaitable[None]],
        tell_time: Callable[[Timestamp], None],
        pause: Pause = pause,
    ) -> None:
        """*make_node* makes this node anew, with another id, each time that it joins; *heard* acts on what other nodes have
        committed; *reload* reads anew everything that the process holds in memory; *tell_time* is told the database's time."""
        self._cluster = cluster
        self._holder = holder
        self._clock = clock
        self._lease_seconds = settings.lease_seconds
        self._listen = listen
        self._make_node = make_node
        self._tell_time = tell_time
        self._pause = pause
        self._renewal_seconds = min(_RENEWAL_SECONDS, self._lease_seconds / 5)
        self._retry_seconds = min(_RETRY_SECONDS, self._lease_seconds / 10)
        self._leases = Leases(
            cluster=cluster, intake=intake, holder=holder, clock=clock, pause=pause, retry_seconds=self._retry_seconds
        )
        self._news = NewsWatch(
            cluster=cluster, heard=heard, reload=reload, reread=self._reread_all, woken=self._look_round, pause=pause
        )

        self._joining: Node | None = None  # asked to join; there has been no answer yet
        self._name = ""
        self._renewed_at: float | None = None
        self._renewal_at = 0.0  # when it is time to renew
        self._lease_until = 0.0
        self._observation = Observation(self._lease_seconds)
        self._view: ClusterView | None = None
        self._conclusion: Conclusion | None = None  # None: there was none of late
        self._known: frozenset[str] = frozenset()  # ids of the nodes seen at the last look
        self._evictions = 0
        self._is_away = False  # the store has not answered

        self._look = asyncio.Event()
        self._settle = asyncio.Event()
        self._has_left = asyncio.Event()
        self._is_running = False
        self._is_stopping = False

    # What others ask

    @property
    def standing(self) -> Standing:
        """How this node stands, as far as it knows."""
        now = self._clock.monotonic()
        node = self._leases.node
        return Standing(
            node_id=None if node is None else node.id,
            name=self._name,
            buckets=tuple(sorted(self._leases.epochs)),
            giving_back=self._leases.parting,
            lease_age_seconds=None if self._renewed_at is None else now - self._renewed_at,
            seconds_left=max(0.0, self._lease_until - now),
            nodes=() if self._view is None else tuple(self._view.nodes),
            is_listening=self._news.is_listening,
            evictions=self._evictions,
        )

    async def look_now(self) -> None:
        """Returns when everything that other nodes committed before the call has been acted on.

        Raises StoreUnavailable, Stopping.
        """
        await self._news.look_now()

    async def run(self) -> None:
        """Takes part until `stop` has ended."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._renewing(), name="leases: renewing"),
                group.create_task(self._settling(), name="leases: settling"),
                group.create_task(self._leases.run(), name="leases: giving back"),
                group.create_task(self._news.run(), name="news: looking"),
            ]
            if self._listen:
                tasks.append(group.create_task(self._news.listen(), name="news: listening"))
            self._is_running = True
            try:
                await self._has_left.wait()
            finally:
                self._is_running = False
                for task in tasks:
                    task.cancel()

    async def stop(self, until: float) -> None:
        """Takes nothing more and gives everything back, each bucket as soon as it is quiet; then leaves, which ends `run`.

        What is not quiet at *until*, of the monotonic clock, is lost: the others have it at once, and its results are fenced.
        """
        self._is_stopping = True
        if self._is_running:
            await self._leases.close(until)
            await self._leave(until)
        self._has_left.set()

    async def _leave(self, until: float) -> None:
        node, self._leases.node = self._leases.node or self._joining, None
        while node is not None:
            try:
                await self._cluster.leave(node.id)
                log.info("node.left", node_id=node.id)
                await self._cluster.wake_others()
            except StoreUnavailable as error:
                if self._clock.monotonic() < until:
                    await self._pause(asyncio.Event(), self._retry_seconds)
                    continue
                # The others will see that it stands still.
                log.warning("node.not_left", node_id=node.id, error=str(error))
            return

    # Renewing

    def _reread_all(self) -> None:
        self._leases.reread_all()
        self._settle.set()

    def _look_round(self) -> None:
        """Somebody has woken this node: perhaps there are buckets to be had."""
        self._look.set()

    async def _renewing(self) -> None:
        never = asyncio.Event()
        while not (self._is_stopping and self._leases.node is None):
            self._look.clear()
            try:
                await self._take_part()
            except StoreUnavailable as error:
                self._note_absence(error)
            except Exception:
                # Whatever it was, the leases have to be renewed.
                log.exception("cluster.crashed", task="renewing")
            else:
                self._note_return()
                await self._pause(never, self._renewal_seconds / _LOOKS_PER_RENEWAL)
                await self._pause(self._look, max(0.0, self._renewal_at - self._clock.monotonic()))
                continue
            await self._pause(never, self._retry_seconds)

    async def _take_part(self) -> None:
        """Joins, renews, or only looks round when it is not time yet to renew."""
        node = self._leases.node or await self._join()
        if node is None:
            return
        before = self._leases.snapshot()
        asked_at = self._clock.monotonic()
        is_renewal = asked_at >= self._renewal_at
        view = await (self._cluster.renew(node.id) if is_renewal else self._cluster.view())
        answered_at = self._clock.monotonic()
        if self._leases.node is not node:  # it has left meanwhile
            return
        if view is None or all(other.id != node.id for other in view.nodes):
            self._evictions += 1
            self._renewal_at = answered_at  # joins anew, under another id, which its late results do not have
            log.error("node.evicted", node_id=node.id, node_name=node.name)
            self._leases.evicted()
            return
        if is_renewal:
            self._renewed(asked_at)
        self._seen(node, view, before, asked_at, answered_at)

    async def _join(self) -> Node | None:
        # What was made while this node took buckets for its own that were another's by then has been told to nobody. All of
        # it is committed before this node shows up anew, which makes the others read what waits (`_seen`).
        await self._cluster.settled()
        async with self._leases.changing():
            if self._is_stopping:
                return None
            node = self._joining = self._joining or self._make_node()
            asked_at = self._clock.monotonic()
            await self._cluster.join(node)
            self._leases.node, self._joining, self._name = node, None, node.name
        log.info("node.joined", node_id=node.id, node_name=node.name)
        self._renewed(asked_at)
        self._renewal_at = asked_at  # a joining shows nothing of the others
        await self._cluster.wake_others()
        return node

    def _renewed(self, asked_at: float) -> None:
        """The others cannot have seen this renewal before it was sent, and let the lease's length pass from when they do."""
        self._renewed_at = asked_at
        self._renewal_at = asked_at + self._renewal_seconds
        self._lease_until = asked_at + self._lease_seconds * (1 - _MARGIN)
        self._holder.lease_until(self._lease_until)

    def _seen(self, node: Node, view: ClusterView, before: Snapshot, asked_at: float, answered_at: float) -> None:
        """Takes in a view that was asked for when *before* was how things stood."""
        self._view = view
        self._conclusion = self._observation.look(view, me=node.id, asked_at=asked_at, answered_at=answered_at)
        self._leases.compare(node, view, before)
        known, self._known = self._known, frozenset(other.id for other in view.nodes)
        if self._known - known:
            # It may be one that was evicted and is back, and committed work meanwhile that it took for its own affair.
            self._leases.reread_all()
        self._settle.set()
        if answered_at - asked_at <= _ROUND_TRIP_SECONDS:
            self._tell_time(view.now + round((answered_at - asked_at) * 500))

    def _note_absence(self, error: StoreUnavailable) -> None:
        if not self._is_away:
            log.error("cluster.unavailable", error=str(error), seconds_left=self.standing.seconds_left)
        self._is_away = True
        self._conclusion = None  # by the time that the store is back it is not true any more

    def _note_return(self) -> None:
        if self._is_away:
            log.info("cluster.recovered")
        self._is_away = False

    # Settling

    async def _settling(self) -> None:
        while True:
            await self._settle.wait()
            self._settle.clear()
            try:
                await self._settle_once()
            except SecretUnreadable:
                raise  # nor will it do better next time: see `news`
            except StoreUnavailable as error:
                log.debug("cluster.unsettled", error=str(error))
            except Exception:
                # Whatever it was, what this node holds has to be served, and the others have to get theirs.
                log.exception("cluster.crashed", task="settling")
            else:
                continue
            await self._pause(asyncio.Event(), self._retry_seconds)
            self._settle.set()

    async def _settle_once(self) -> None:
        node, view, conclusion = self._leases.node, self._view, self._conclusion
        if node is None or view is None or conclusion is None or node.id not in conclusion.staying:
            return
        evicted = await self._evict(node, conclusion.overdue)
        if self._leases.node is not node or self._is_stopping:
            return
        share = fair_shares(conclusion.staying - evicted)[node.id]
        self._leases.part(surplus(self._leases.epochs, share))
        free = sum(lease.node_id is None or lease.node_id in evicted for lease in view.leases)
        if limit := shortfall(len(self._leases.epochs), share, free):
            await self._leases.take(node, limit)
        await self._leases.read()

    async def _evict(self, node: Node, overdue: Sequence[Node]) -> set[str]:
        evicted = set()
        for other in overdue:
            if await self._cluster.evict(other):
                log.warning("node.evicted", node_id=other.id, node_name=other.name, by=node.id)
                evicted.add(other.id)
        return evicted
