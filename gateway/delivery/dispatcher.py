"""Starts attempts: keeps the lanes, gives them their turns under the node's limits, and hands results to the writer.

It serves the endpoints in the buckets that this node holds a lease on, for as long as the lease lasts. What is under way
when a bucket goes ends as it will; the lane is kept until then, so that the endpoint's limit holds if the bucket returns.
"""

import asyncio
import heapq
import logging
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import structlog
from msgspec.structs import replace

from gateway.clock import SECOND, Clock, Timestamp
from gateway.delivery.admission import Admission
from gateway.delivery.attempt import Attempter
from gateway.delivery.health import speaks_of
from gateway.delivery.lanes import Lane, Turns
from gateway.delivery.outcome import Strain, strain_of
from gateway.delivery.pressure import Pressure
from gateway.model import DeliveryState, DueDelivery, Endpoint, Result, bucket_of
from gateway.settings import Delivery
from gateway.store.protocol import Claim, Claimed, Effects, LaneWork

log = structlog.get_logger()

CLAIMS_AT_ONCE = 32
"""Lanes that are filled between two commits."""

_IDLE_LANE_MS = 60 * SECOND  # a lane without work is forgotten after this, and its limit with it


class Ledger(Protocol):
    """Where results go and due deliveries come from."""

    def record(self, result: Result) -> None:
        """Puts *result* into the next commit."""

    def want_claims(self) -> None:
        """Asks to be asked for claims."""


class Dispatcher:
    """One for each node."""

    def __init__(
        self, *, ledger: Ledger, attempter: Attempter, settings: Delivery, clock: Clock, pressure: Pressure | None = None
    ) -> None:
        self._pressure = pressure or Pressure(clock=clock, max_backlog_seconds=0)
        self._ledger = ledger
        self._attempter = attempter
        self._settings = settings
        self._clock = clock
        self._lanes: dict[str, Lane] = {}
        self._idle: OrderedDict[str, Timestamp] = OrderedDict()  # lanes without work or pause, since when
        self._turns = Turns()
        self._admission = Admission(settings.max_in_flight)
        self._wanting: OrderedDict[str, Lane] = OrderedDict()  # lanes that wait for a claim
        self._looks: list[tuple[Timestamp, str]] = []  # a heap of when to look at which lane
        self._epochs: dict[int, int] = {}  # of the buckets that are held
        self._lease_until = 0.0  # of the monotonic clock
        self._quiet_waiters: list[tuple[Collection[int], asyncio.Future[None]]] = []
        self._uncommitted = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._wake = asyncio.Event()
        self._is_stopping = False

    # What the node knows about itself

    @property
    def open_requests(self) -> int:
        return len(self._tasks)

    @property
    def is_held_up(self) -> bool:
        """Whether lanes that could start something wait for the node: for a slot, or for its commits."""
        return bool(self._turns)

    # Buckets come and go

    def hold(self, epochs: Mapping[int, int], work: Sequence[LaneWork]) -> None:
        """Serves these buckets from now on, beginning with what waits in them. May be repeated: what is known stays known."""
        self._epochs.update(epochs)
        for waiting in work:
            if bucket_of(waiting.endpoint.id) in self._epochs:
                lane = self._lane(waiting.endpoint)
                lane.change(waiting.endpoint)
                lane.expect(waiting)
                if waiting.next_retry_at is not None:
                    lane.limit.suspect()
                self._look(lane)
        self._start_due()

    def lease_until(self, monotonic: float) -> None:
        """Attempts may start until this moment of the monotonic clock."""
        self._lease_until = monotonic
        self._start_due()

    def lose(self, buckets: Collection[int]) -> None:
        """Starts nothing more in *buckets*, which are another's by now."""
        for bucket in buckets:
            self._epochs.pop(bucket, None)
        for lane in [lane for lane in self._lanes.values() if lane.bucket in buckets]:
            lane.abandon()
            self._look(lane)

    async def let_go(self, buckets: Collection[int]) -> None:
        """Starts nothing more in *buckets*; returns once the results of all that is under way in them are committed."""
        self.lose(buckets)
        quiet: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._quiet_waiters.append((buckets, quiet))
        self._tell_quiet()
        await quiet

    def _tell_quiet(self) -> None:
        busy = {lane.bucket for lane in self._lanes.values() if lane.held}
        for buckets, quiet in self._quiet_waiters:
            if not quiet.done() and busy.isdisjoint(buckets):
                quiet.set_result(None)
        self._quiet_waiters = [waiting for waiting in self._quiet_waiters if not waiting[1].done()]

    # Work comes in

    def heard(self, effects: Effects, work: Sequence[Endpoint]) -> None:
        """Acts on what other nodes have committed: endpoints that changed, and new deliveries for some that are held."""
        self.committed((), (), effects)
        for endpoint in work:
            if bucket_of(endpoint.id) in self._epochs:
                lane = self._lane(endpoint)
                lane.expect_unseen()
                self._look(lane)
        self._start_due()

    def committed(self, fresh: Sequence[tuple[Endpoint, DueDelivery]], results: Sequence[Result], effects: Effects) -> None:
        """Acts on a commit: results let go of their deliveries, endpoints change, new deliveries join their lanes."""
        self._uncommitted -= len(results)
        touched: dict[str, Lane] = {}
        self._release_all(results, effects, touched)
        self._change_endpoints(effects, touched)
        if fresh:
            self._pressure.made(len(fresh), len({due.event.id for _, due in fresh}))
        for endpoint, due in fresh:
            known = self._lanes.get(endpoint.id)
            if (bucket_of(endpoint.id) if known is None else known.bucket) in self._epochs:
                lane = touched[endpoint.id] = known or self._lane(endpoint)
                if endpoint.revision > lane.endpoint.revision:
                    # Changed through another node, whose news are still on their way: what is published after holds already.
                    lane.change(endpoint)
                lane.offer(due)
        for lane in touched.values():
            self._look(lane)
        if self._quiet_waiters:
            self._tell_quiet()
        self._start_due()

    def _change_endpoints(self, effects: Effects, touched: dict[str, Lane]) -> None:
        for endpoint in effects.endpoints:
            if lane := self._lanes.get(endpoint.id):
                lane.change(endpoint)
                touched[endpoint.id] = lane
        latest = {endpoint.id: endpoint for endpoint in effects.endpoints}
        for endpoint in effects.retried_endpoints:
            if bucket_of(endpoint.id) in self._epochs:
                lane = touched[endpoint.id] = self._lane(latest.get(endpoint.id, endpoint))
                lane.expect_manual()
        for endpoint in effects.new_work:
            if bucket_of(endpoint.id) in self._epochs:
                lane = touched[endpoint.id] = self._lane(latest.get(endpoint.id, endpoint))
                lane.expect_unseen()

    def _release_all(self, results: Sequence[Result], effects: Effects, touched: dict[str, Lane]) -> None:
        fenced = {id(result) for result in effects.fenced}
        for result in results:
            lane = self._lanes.get(result.due.endpoint_id)
            if lane is not None:
                self._release(lane, result, is_fenced=id(result) in fenced)
                touched[lane.endpoint.id] = lane

    def _release(self, lane: Lane, result: Result, *, is_fenced: bool) -> None:
        lane.release(result.due)
        if lane.bucket not in self._epochs:
            return
        verdict, due = result.verdict, result.due
        if is_fenced:
            # The bucket has come back meanwhile; where the delivery stands by now, only the store knows.
            lane.expect_first()
            lane.expect_retry(self._clock.steady())
            lane.expect_manual()
        elif verdict.state is DeliveryState.PENDING and due.activation == lane.endpoint.activation:
            if verdict.due_at is not None:
                lane.expect_retry(verdict.due_at)
            elif due.scheduled_count > 0:
                lane.expect_retry(due.due_at)
            else:
                lane.expect_first()

    def claims(self) -> Sequence[Claim]:
        """See `publishing.writer.Claimer`."""
        now = self._clock.steady()
        claims: list[Claim] = []
        while self._wanting and len(claims) < CLAIMS_AT_ONCE:
            _, lane = self._wanting.popitem(last=False)
            if lane.wants_claim(now):
                claims.append(lane.claim(now))
        return claims

    def claimed(self, claims: Sequence[Claim], answers: Sequence[Claimed]) -> None:
        """See `publishing.writer.Claimer`."""
        for claim, answer in zip(claims, answers, strict=True):
            if lane := self._lanes.get(claim.endpoint.id):
                lane.fill(claim, answer)
                self._look(lane)
        if self._wanting:
            self._ledger.want_claims()
        self._start_due()

    # Lanes

    def _lane(self, endpoint: Endpoint) -> Lane:
        lane = self._lanes.get(endpoint.id)
        if lane is None:
            lane = self._lanes[endpoint.id] = Lane(endpoint, most_open=self._settings.max_in_flight_per_endpoint)
        return lane

    def _look(self, lane: Lane) -> None:
        """Puts *lane* wherever it belongs now."""
        endpoint_id = lane.endpoint.id
        if lane.bucket not in self._epochs:
            self._admission.forget(lane)
            self._wanting.pop(endpoint_id, None)
            self._idle.pop(endpoint_id, None)
            if not lane.held and self._lanes.get(endpoint_id) is lane:
                del self._lanes[endpoint_id]
            return
        now = self._clock.steady()
        if lane.is_idle:
            self._admission.forget(lane)
            if endpoint_id not in self._idle:
                self._idle[endpoint_id] = max(now, lane.paused_until)
                self._wake.set()
            return
        self._idle.pop(endpoint_id, None)
        if lane.can_start(now) and not self._admission.is_parked(lane):
            self._turns.add(lane)
        if endpoint_id not in self._wanting and lane.wants_claim(now):
            self._wanting[endpoint_id] = lane
            self._ledger.want_claims()
        look_at = lane.next_look_at(now)
        if look_at is not None and look_at > now and look_at not in lane.looks:
            if not self._looks or look_at < self._looks[0][0]:
                self._wake.set()
            heapq.heappush(self._looks, (look_at, endpoint_id))
            lane.looks.add(look_at)

    # Attempts

    def _start_due(self) -> None:
        """Starts whatever may start now."""
        settings = self._settings
        now = self._clock.steady()
        while (
            self._turns
            and not self._is_stopping
            and self._group is not None
            and not self._admission.is_full
            and self._uncommitted <= 2 * settings.max_in_flight
            and self._clock.monotonic() < self._lease_until
        ):
            lane = self._turns.next(self._admission.whose_turn(self._turns.organizations()))
            if lane.can_start(now) and self._admission.admits(lane):
                self._start(lane, self._group)
                self._look(lane)

    def _start(self, lane: Lane, group: asyncio.TaskGroup) -> None:
        due = lane.take()
        if due.attempt_count == 0:
            self._pressure.started(lane)
        self._admission.started(lane)
        epoch = self._epochs[lane.bucket]
        task = group.create_task(self._attempt(lane, due, lane.endpoint, epoch), name=f"attempt {due.id}")
        self._tasks.add(task)

    async def _attempt(self, lane: Lane, due: DueDelivery, endpoint: Endpoint, epoch: int) -> None:
        strain = Strain.NONE
        try:
            answer, result = await self._attempter.attempt(due, endpoint)
            strain = strain_of(answer)
        except Exception:
            # A bug in one attempt must not cancel its siblings in the group.
            log.exception("attempt.crashed", delivery_id=due.id, endpoint_id=endpoint.id)
            result = self._attempter.crashed(due, endpoint)
        self._ended(lane, replace(result, epoch=epoch), strain)

    def _ended(self, lane: Lane, result: Result, strain: Strain) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.discard(task)
        self._admission.ended(lane)
        standing = lane.limit.standing
        lane.limit.learn(strain, result.attempt.duration_ms / 1_000)
        self._admission.learned(lane, standing)
        if result.verdict.pause_until is not None and speaks_of(result, lane.endpoint):
            lane.paused_until = max(lane.paused_until, result.verdict.pause_until)
        self._log(result)
        self._uncommitted += 1
        self._ledger.record(result)
        for waiting in self._admission.let_in():
            self._look(waiting)
        self._look(lane)
        self._start_due()
        if self._is_stopping and not self._tasks:
            self._wake.set()

    def _log(self, result: Result) -> None:
        attempt, verdict = result.attempt, result.verdict
        level = logging.DEBUG if verdict.state is DeliveryState.DELIVERED else logging.INFO
        if not log.is_enabled_for(level):
            return
        log.log(
            level,
            "attempt.finished",
            delivery_id=attempt.delivery_id,
            event_id=result.due.event.id,
            endpoint_id=result.due.endpoint_id,
            number=attempt.number,
            trigger=attempt.trigger,
            status=attempt.status,
            error=attempt.error,
            duration_ms=attempt.duration_ms,
            state=verdict.state,
            reason=verdict.reason,
            retry_at=verdict.due_at,
        )

    # The loop

    async def run(self) -> None:
        """Starts attempts as they fall due, until it is stopped and the last one has ended."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                self._start_due()
                while not (self._is_stopping and not self._tasks):
                    self._wake.clear()  # before looking for work, so that no wake-up is lost
                    self._look_at_due_lanes()
                    await self._clock.wait(self._wake, self._next_look_at())
            finally:
                self._group = None

    def _look_at_due_lanes(self) -> None:
        now = self._clock.steady()
        while self._looks and self._looks[0][0] <= now:
            look_at, endpoint_id = heapq.heappop(self._looks)
            if lane := self._lanes.get(endpoint_id):
                lane.looks.discard(look_at)
                self._look(lane)
        while self._idle and next(iter(self._idle.values())) + _IDLE_LANE_MS <= now:
            endpoint_id, _ = self._idle.popitem(last=False)
            self._lanes.pop(endpoint_id, None)
            self._wanting.pop(endpoint_id, None)
        self._start_due()

    def _next_look_at(self) -> Timestamp | None:
        times = [self._looks[0][0]] if self._looks else []
        if self._idle:
            times.append(next(iter(self._idle.values())) + _IDLE_LANE_MS)
        return None if self._is_stopping else min(times, default=None)

    def stop(self) -> None:
        """Starts nothing more; `run` ends when the open attempts have ended."""
        self._is_stopping = True
        self._wake.set()

    def interrupt(self) -> None:
        """Gives up the open attempts: they end as interrupted, and may be sent again."""
        for task in self._tasks:
            task.cancel()
            task.add_done_callback(self._given_up)

    def _given_up(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)  # one that had not taken its first step ends without a result: nothing was sent
        self._wake.set()
