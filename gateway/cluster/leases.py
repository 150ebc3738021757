"""The leases that this node has: taken, served, and given back without a delivery being missed or made twice."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec
import structlog

from gateway.clock import Clock
from gateway.cluster.pause import Pause
from gateway.errors import StoreUnavailable
from gateway.model import Node, bucket_of
from gateway.store.protocol import Cluster, ClusterView, LaneWork

log = structlog.get_logger()

REREAD_SECONDS = 30.0
"""What waits in the buckets held here is read again so often: should anything have been missed, it waits no longer."""


class Holder(Protocol):
    """Who starts the attempts of the endpoints in the buckets that this node holds."""

    def hold(self, epochs: Mapping[int, int], work: Sequence[LaneWork]) -> None:
        """These buckets are this node's from now on, with what waits in them. May be repeated."""

    async def let_go(self, buckets: Collection[int]) -> None:
        """Starts nothing more in *buckets*; returns once the results of all their open attempts are committed."""

    def lose(self, buckets: Collection[int]) -> None:
        """*buckets* are another's: starts nothing more in them, at once; results of open attempts will be fenced."""

    def lease_until(self, monotonic: float) -> None:
        """Attempts may start until this moment of the monotonic clock."""


class WaitingWork(Protocol):
    """Where deliveries wait."""

    async def lane_work(self, buckets: Collection[int]) -> Sequence[LaneWork]:
        """The endpoints in *buckets* that have work waiting."""


class Snapshot(msgspec.Struct, frozen=True):
    """What a node had at some moment."""

    epochs: Mapping[int, int]  # of the buckets that it held
    parting: frozenset[int]
    returns: int


class Leases:
    """A bucket is held (`epochs`), being given back (`_partings`, then `_quiet` until the store knows), or not this node's."""

    def __init__(
        self, *, cluster: Cluster, intake: WaitingWork, holder: Holder, clock: Clock, pause: Pause, retry_seconds: float
    ) -> None:
        self._cluster = cluster
        self._intake = intake
        self._holder = holder
        self._clock = clock
        self._pause = pause
        self._retry_seconds = retry_seconds
        self.node: Node | None = None  # whose leases they are; None: this process takes no part, and has none
        self.epochs: dict[int, int] = {}  # of the buckets that are held
        self._unread: set[int] = set()  # held, and the holder has not been told yet
        self._to_reread: set[int] = set()
        self._reread_at = 0.0
        self._partings: dict[int, asyncio.Task[None]] = {}
        self._quiet: set[int] = set()
        self._returns = 0  # how often something was given back
        self._turn = asyncio.Lock()
        self._moved = asyncio.Event()
        self._return = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._is_closing = False

    async def run(self) -> None:
        """Gives back what is quiet, as soon as it is."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await self._returning()
            finally:
                self._group = None
                for parting in self._partings.values():
                    parting.cancel()

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """To be open while the store is asked to change what this node has: one change at a time, since the answer to one
        may get lost."""
        try:
            async with self._turn:
                yield
        finally:
            self._moved.set()

    @property
    def parting(self) -> tuple[int, ...]:
        """The buckets that are being given back."""
        return tuple(sorted(self._partings))

    # Taking

    async def take(self, node: Node, limit: int) -> None:
        """Takes up to *limit* free buckets. The holder has them after `read`."""
        async with self.changing():
            if self.node is not node or self._is_closing:
                return
            taken = await self._cluster.take(node.id, limit=limit)
            if self.node is not node or not taken:  # evicted or gone meanwhile, and these with it
                return
            for bucket in taken:
                self._parted(bucket)  # it was free, whatever became of the answer when it was given back
            self._begin(taken)
            if self._is_closing:
                self.part(list(taken))

    def _begin(self, taken: Mapping[int, int]) -> None:
        self.epochs |= taken
        self._unread |= taken.keys()
        self._cluster.hold(frozenset(self.epochs))
        log.info("lease.taken", buckets=sorted(taken))

    def snapshot(self) -> Snapshot:
        """What this node has at the moment, as far as it knows."""
        return Snapshot(dict(self.epochs), frozenset(self._partings), self._returns)

    def compare(self, node: Node, view: ClusterView, before: Snapshot) -> None:
        """Brings what the node knows into line with *view*, which was asked for when *before* was how things stood."""
        leases = {lease.bucket: lease for lease in view.leases}
        # What has been taken since the view was asked for is not in it yet.
        passed_on = [
            bucket
            for bucket, epoch in before.epochs.items()
            if self.epochs.get(bucket) == epoch and (leases[bucket].node_id, leases[bucket].epoch) != (node.id, epoch)
        ]
        if passed_on:
            self._lose(passed_on, "it is another's in the store")
        if self._is_closing or self._returns != before.returns:  # what was given back since then may look as if it was held
            return
        known = before.epochs.keys() | before.parting | self.epochs.keys() | self._partings.keys()
        # The answer got lost when they were taken.
        found = {lease.bucket: lease.epoch for lease in view.leases if lease.node_id == node.id and lease.bucket not in known}
        if found:
            self._begin(found)

    async def read(self) -> None:
        """Tells the holder of what was taken, and of what waits in what is to be read again."""
        await self._read_unread()
        await self._reread()

    async def _read_unread(self) -> None:
        """Tells the holder what it has, and what waits in it. No delivery for it may be missed, and its maker may be

        - a transaction of another process. Either it began while that process held the bucket: then it had ended before the
          bucket was given back, and before it was taken here. Or it told everybody, as part of itself.
        - a transaction of this process that began before the bucket was held here. It told the others and not this process,
          so it has to have ended before what waits is read: `settled`.
        - a transaction of this process that began later. The holder is told when it is committed.

        But until it is told that the bucket is its own, the holder does not care for news and commits that concern it. What
        came in that time was committed by the time that the holder is told; so what waits is read once more after that. The
        first reading is needed, too: a holder that did not know of old deliveries would send new ones before them.
        """
        if not self._unread:
            return
        await self._cluster.settled()
        read = await self._read(self._unread)
        self._unread -= read
        self._to_reread |= read

    async def _reread(self) -> None:
        now = self._clock.monotonic()
        if now >= self._reread_at:
            self._reread_at = now + REREAD_SECONDS
            self.reread_all()
        buckets = self._to_reread
        self._to_reread = set()  # what is put there while this reads is read again
        try:
            await self._read(buckets)
        except BaseException:
            self._to_reread |= buckets & self.epochs.keys()
            raise

    def reread_all(self) -> None:
        """What waits in all that is held is read again, by the next `read`."""
        self._to_reread |= self.epochs.keys() - self._unread

    async def _read(self, buckets: Collection[int]) -> set[int]:
        """Tells the holder what waits in *buckets*; those of them that were held all the while."""
        epochs = {bucket: self.epochs[bucket] for bucket in buckets if bucket in self.epochs}
        if not epochs:
            return set()
        work = await self._intake.lane_work(sorted(epochs))
        epochs = {bucket: epoch for bucket, epoch in epochs.items() if self.epochs.get(bucket) == epoch}
        self._holder.hold(epochs, [waiting for waiting in work if bucket_of(waiting.endpoint.id) in epochs])
        return set(epochs)

    # Giving back

    def part(self, buckets: Sequence[int]) -> None:
        """Begins to give *buckets* back, each for itself: one slow endpoint keeps none but its own bucket."""
        if not buckets:
            return
        assert self._group is not None, "leases are held by a node that runs"
        self._drop(buckets)
        for bucket in buckets:
            self._partings[bucket] = self._group.create_task(self._quiet_down(bucket), name=f"leases: bucket {bucket} goes")

    async def _quiet_down(self, bucket: int) -> None:
        try:
            await self._holder.let_go((bucket,))
            # What transactions make that took the bucket for this node's own has to be there before the next holder reads
            # what waits in it. Those that begin from now on tell the others.
            await self._cluster.settled()
        except Exception:
            # It cannot be kept for ever: its results are fenced.
            log.exception("cluster.crashed", task="giving back", bucket=bucket)
            self._holder.lose((bucket,))
        self._quiet.add(bucket)
        self._return.set()

    async def _returning(self) -> None:
        while True:
            await self._return.wait()
            self._return.clear()
            try:
                await self._return_quiet()
            except StoreUnavailable as error:
                log.debug("lease.not_given_back", error=str(error))
            except Exception:
                # Whatever it was, somebody waits for these buckets.
                log.exception("cluster.crashed", task="giving back")
            else:
                continue
            await self._pause(asyncio.Event(), self._retry_seconds)
            self._return.set()

    async def _return_quiet(self) -> None:
        async with self.changing():
            node = self.node
            quiet = sorted(self._quiet)
            if node is None or not quiet:
                return
            await self._cluster.give_back(node.id, quiet)
            self._returns += 1
            if self.node is not node:
                return
            for bucket in quiet:
                self._parted(bucket)
            log.info("lease.given_back", buckets=quiet)
        await self._cluster.wake_others()

    def _parted(self, bucket: int) -> None:
        self._quiet.discard(bucket)
        parting = self._partings.pop(bucket, None)
        if parting is not None:
            parting.cancel()

    async def close(self, until: float) -> None:
        """Takes nothing more, and gives back everything; what is not quiet at *until*, of the monotonic clock, is lost."""
        self._is_closing = True
        self.part(list(self.epochs))
        # What is being taken at this moment is given back when it has come.
        while (self._partings or self._turn.locked()) and (remaining := until - self._clock.monotonic()) > 0:
            self._moved.clear()
            await self._pause(self._moved, remaining)
        if self._partings:
            self._lose_all("the time for stopping was over")

    # Losing

    def evicted(self) -> None:
        """The node was taken for dead: everything is another's, or free to become so."""
        self.node = None
        self._lose_all("the node was evicted")

    def _lose_all(self, reason: str) -> None:
        for parting in self._partings.values():
            parting.cancel()
        lost = [*self.epochs, *self._partings]
        self._partings.clear()
        self._quiet.clear()
        self._lose(lost, reason)

    def _lose(self, buckets: Sequence[int], reason: str) -> None:
        self._holder.lose(buckets)
        self._drop(buckets)
        if buckets:
            log.warning("lease.lost", buckets=sorted(buckets), reason=reason)
        self._moved.set()

    def _drop(self, buckets: Iterable[int]) -> None:
        """*buckets* are held no longer: what is made for them from now on is told to the others."""
        for bucket in buckets:
            self.epochs.pop(bucket, None)
            self._unread.discard(bucket)
            self._to_reread.discard(bucket)
        self._cluster.hold(frozenset(self.epochs))
