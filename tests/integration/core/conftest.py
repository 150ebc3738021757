"""A gateway without HTTP on the real embedded store: writer and dispatcher, a scripted sender, and time that jumps."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway import ids
from gateway.clock import MINUTE, Timestamp
from gateway.delivery.attempt import Attempter
from gateway.delivery.dispatcher import Dispatcher
from gateway.delivery.endpoint_test import EndpointTester
from gateway.delivery.health import HealthRecorder
from gateway.delivery.maintenance import InterruptTests
from gateway.delivery.manual_retry import QueueRetry
from gateway.delivery.operator_events import OperatorEvents
from gateway.delivery.retry import RetrySchedule
from gateway.errors import StoreUnavailable
from gateway.ids import IdMaker
from gateway.model import BUCKETS, AcceptedEvent, Attempt, Delivery, DeliveryState, Endpoint, Tenant
from gateway.publishing.event_queue import EventQueue
from gateway.publishing.fan_out import FanOut
from gateway.publishing.writer import Writer
from gateway.registry.endpoints import CreateEndpoint, DeleteEndpoint, EndpointPatch, UpdateEndpoint, new_endpoint
from gateway.registry.operations import SetOperationsEndpoint
from gateway.settings import Delivery as DeliverySettings
from gateway.settings import Intake, Operations
from gateway.store.protocol import Claim, Claimed, DeliveryFilter, LaneWork, Transaction
from gateway.store.sqlite import SqliteStore
from tests.fakes import ACTOR, API_VERSION, PATIENCE_SECONDS, Dice, FakeClock, ScriptedSender, event, tenant

URL = "https://receiver.example/hook"


class ScriptedStore:
    """A store that counts its transactions, and fails or waits when it is told to."""

    transactions_at_once = 1
    gathering_seconds = 0.0

    def __init__(self, store: SqliteStore) -> None:
        self.real = store
        self.commits = 0
        self.committed = asyncio.Event()
        self.failure: Exception | None = None  # of the next transactions and claims
        self.commit_failure: Exception | None = None  # of the next commits, when all has been written
        self.gate = asyncio.Event()  # commits wait for it
        self.gate.set()
        self.gated = asyncio.Event()  # a commit waits

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        if self.failure is not None:
            raise self.failure
        async with self.real.transaction() as transaction:
            yield transaction
            if not self.gate.is_set():
                self.gated.set()
                await self.gate.wait()
            if self.commit_failure is not None:
                raise self.commit_failure
        self.commits += 1
        self.committed.set()

    async def claim(self, claims: Sequence[Claim]) -> Sequence[Claimed]:
        if self.failure is not None:
            raise self.failure
        return await self.real.claim(claims)

    async def lane_work(self, buckets: Collection[int]) -> Sequence[LaneWork]:
        return await self.real.lane_work(buckets)

    async def unswept_endpoints(self) -> Sequence[Endpoint]:
        return await self.real.unswept_endpoints()

    def break_down(self) -> None:
        """From now on nothing can be committed."""
        self.failure = StoreUnavailable("the disk is on fire")

    def recover(self) -> None:
        """All is well again."""
        self.failure = self.commit_failure = None

    def close_gate(self) -> None:
        """Commits wait until `gate` is set."""
        self.gate.clear()
        self.gated.clear()


class Nothing:
    """A change that does nothing: when it is done, everything before it is."""

    async def apply(self, transaction: Transaction) -> None:
        pass


class WatchedClock(FakeClock):
    """The node's clock, which tells whether who waits by it rests."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.is_resting = False

    def now(self) -> Timestamp:
        return self._clock.now()

    def steady(self) -> Timestamp:
        return self._clock.steady()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def wait(self, event: asyncio.Event, until: Timestamp | None) -> None:
        self.is_resting = True
        await self._clock.wait(event, until)
        self.is_resting = False


class _WatchedClaims:
    """The dispatcher's claims, and whether the store is being asked."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self.are_open = False
        self.asked = asyncio.Event()
        self.count = 0

    def claims(self) -> Sequence[Claim]:
        claims = self._dispatcher.claims()
        self.are_open = bool(claims)
        self.count += len(claims)
        if claims:
            self.asked.set()
        return claims

    def claimed(self, claims: Sequence[Claim], answers: Sequence[Claimed]) -> None:
        self.are_open = False
        self._dispatcher.claimed(claims, answers)


class Node:
    """A gateway without HTTP."""

    def __init__(
        self,
        store: SqliteStore,
        *,
        clock: FakeClock,
        sender: ScriptedSender,
        intake: Intake,
        settings: DeliverySettings,
        operations: Operations | None = None,
    ) -> None:
        self.store = store
        self.scripted = ScriptedStore(store)
        self.clock = clock
        self.sender = sender
        self.settings = settings
        self.ids = IdMaker(clock)
        self.queue = EventQueue(intake)
        self.operations = operations or Operations()
        self.operator = OperatorEvents(ids=self.ids, current_version=API_VERSION) if self.operations.url else None
        self.writer = Writer(
            store=self.scripted,
            queue=self.queue,
            recorder=HealthRecorder(
                clock=clock,
                disable_after_failed_events=settings.disable_after_failed_events,
                operator=self.operator,
                probes=settings.recovery == "probe",
            ),
            fan_out=FanOut(ids=self.ids, current_version=API_VERSION),
        )
        self.attempter = Attempter(
            sender=sender,
            clock=clock,
            schedule=RetrySchedule(settings.retry_delays, settings.jitter, settings.max_retry_after),
            chance=Dice(),
            header_prefix=settings.signature_header_prefix,
        )
        self.dispatcher = Dispatcher(ledger=self.writer, attempter=self.attempter, settings=settings, clock=clock)
        self.claims = _WatchedClaims(self.dispatcher)
        self.tester = EndpointTester(
            changer=self.writer, attempter=self.attempter, ids=self.ids, clock=clock, current_version=API_VERSION
        )

    # What people do

    async def create(
        self, url: str = URL, *, of: Tenant | None = None, events: tuple[str, ...] = ("*",), most: int = 1_000
    ) -> Endpoint:
        endpoint_id, at = self.ids.next_with_time(ids.ENDPOINT)
        made = new_endpoint(endpoint_id, of or tenant(), url=url, events=events, description=None, api_version=None, at=at)
        return await self.writer.change(CreateEndpoint(made, ACTOR, most))

    async def update(self, endpoint: Endpoint, **fields: Any) -> Endpoint:
        return await self.writer.change(self.update_of(endpoint, **fields))

    def update_of(self, endpoint: Endpoint, **fields: Any) -> UpdateEndpoint:
        return UpdateEndpoint(endpoint.tenant, endpoint.id, EndpointPatch(**fields), ACTOR, self.clock.now())

    async def delete(self, endpoint: Endpoint) -> Endpoint:
        return await self.writer.change(DeleteEndpoint(endpoint.tenant, endpoint.id, ACTOR, self.clock.now()))

    def event(self, **fields: Any) -> AcceptedEvent:
        event_id, at = self.ids.next_with_time(ids.EVENT)
        return event(id=event_id, timestamp=at, created_at=at, **fields)

    async def publish(self, count: int = 1, **fields: Any) -> list[AcceptedEvent]:
        """*count* events together, committed."""
        return list(await self.writer.publish([self.event(**fields) for _ in range(count)]))

    def retry_of(self, delivery: Delivery) -> QueueRetry:
        return QueueRetry(self.ids.next(ids.RETRY), delivery.tenant, delivery.id, ACTOR, self.clock.now())

    async def retry(self, delivery: Delivery) -> Delivery:
        return await self.writer.change(self.retry_of(delivery))

    # What is on record

    async def deliveries(self, of: Tenant | None = None, **only: Any) -> list[Delivery]:
        """All deliveries of a tenant, oldest first."""
        found: list[Delivery] = []
        below: str | None = None
        while True:
            page = await self.store.deliveries(of or tenant(), DeliveryFilter(**only), below=below, limit=1_000)
            found += page.items
            below = page.next_below
            if below is None:
                return found[::-1]

    async def only_delivery(self) -> Delivery:
        (found,) = await self.deliveries()
        return found

    async def states(self, **only: Any) -> dict[DeliveryState, int]:
        return dict(Counter(delivery.state for delivery in await self.deliveries(**only)))

    async def attempts(self, delivery: Delivery) -> Sequence[Attempt]:
        found = await self.store.delivery_with_attempts(delivery.tenant, delivery.id)
        assert found is not None
        return found[1]

    async def endpoint(self, endpoint: Endpoint) -> Endpoint:
        found = await self.store.endpoint(endpoint.tenant, endpoint.id)
        assert found is not None
        return found

    # Time

    async def quiet(self) -> None:
        """Returns when nothing moves any more but the requests that are held."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                await self.writer.change(Nothing())
                if self._is_quiet():
                    return
                await asyncio.sleep(0)

    def _is_quiet(self) -> bool:
        return not (
            self.clock.is_waking
            or self.dispatcher._wake.is_set()
            or self.dispatcher.open_requests != self.sender.held_requests
            or self.dispatcher._uncommitted
            or self.writer._results
            or self.writer._claims_wanted.is_set()
            or self.claims.are_open
            or self.queue.depth
        )

    async def advance(self, ms: int) -> None:
        """Lets what is due now happen, moves time on, and lets what is due then happen."""
        await self.quiet()
        self.clock.advance(ms)
        await self.quiet()


Running = Callable[..., AbstractAsyncContextManager[Node]]


@asynccontextmanager
async def run_node(
    store: SqliteStore,
    *,
    clock: FakeClock | None = None,
    sender: ScriptedSender | None = None,
    intake: Intake | None = None,
    operations: Operations | None = None,
    **settings: Any,
) -> AsyncIterator[Node]:
    """A node that runs. *settings* are those of section `delivery`. Leaving stops it as a deadline of zero does."""
    node = Node(
        store,
        clock=clock or FakeClock(),
        sender=sender or ScriptedSender(),
        intake=intake or Intake(),
        settings=DeliverySettings(**settings),
        operations=operations,
    )
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(node.writer.run())
        await node.writer.change(InterruptTests(node.clock.now() + 1, node.clock.now()))
        node.dispatcher.lease_until(math.inf)
        node.dispatcher.hold(dict.fromkeys(range(BUCKETS), 0), await store.lane_work(range(BUCKETS)))
        node.writer.listen(node.dispatcher.committed)
        node.writer.serve_claims(node.claims)
        await node.writer.change(SetOperationsEndpoint(node.operations, node.clock.now()))
        delivering = tasks.create_task(node.dispatcher.run())
        try:
            yield node
        finally:
            node.dispatcher.stop()
            node.dispatcher.interrupt()
            await asyncio.wait([delivering], timeout=PATIENCE_SECONDS)
            node.writer.stop()
            node.scripted.gate.set()
            await asyncio.wait([writing], timeout=PATIENCE_SECONDS)
            writing.cancel()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore.open(tmp_path / "gateway.db") as opened:
        yield opened


@pytest.fixture
async def node(store: SqliteStore) -> AsyncIterator[Node]:
    """A node with the default settings."""
    async with run_node(store) as running:
        yield running


async def queued(*tasks: "asyncio.Task[Any]") -> None:
    """Returns when *tasks* have put what they have to say into the queue."""
    for _ in range(2):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


async def run_through_schedule(node: Node) -> None:
    for minutes in (0, 1, 5, 15, 30, 60, 60, 60):
        await node.advance(minutes * MINUTE)


def differences(sent: Sequence[str], events: Sequence[AcceptedEvent]) -> list[tuple[str, int]]:
    """Events that were not sent once, with how often they were; the first few."""
    counts = Counter(sent)
    expected = {event.id for event in events}
    wrong = [(event_id, counts[event_id]) for event_id in expected if counts[event_id] != 1]
    return [*wrong, *((event_id, count) for event_id, count in counts.items() if event_id not in expected)][:10]
