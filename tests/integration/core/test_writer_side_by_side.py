"""The writer where the store takes several transactions at once: what goes beside, what stays in one line, and conflicts."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

import pytest

from gateway.delivery.health import HealthRecorder
from gateway.errors import StoreUnavailable, TransactionConflict
from gateway.ids import IdMaker
from gateway.model import Endpoint, IdempotentAnswer
from gateway.publishing.event_queue import EventQueue
from gateway.publishing.fan_out import FanOut
from gateway.publishing.writer import WORTH_A_TRANSACTION, Writer
from gateway.registry.endpoints import CreateEndpoint
from gateway.settings import Intake
from gateway.store.protocol import (
    Claim,
    Claimed,
    LaneWork,
    NewEvent,
    Transaction,
)
from gateway.store.sqlite import SqliteStore
from tests.fakes import ACTOR, API_VERSION, PATIENCE_SECONDS, START, FakeClock, endpoint, event, tenant
from tests.integration.core.conftest import queued


class SeveralAtOnce:
    """A store that takes three transactions at once, each of which can be held up before its commit. They are in truth one
    after another on the embedded store: what is looked at here is what the writer puts into them."""

    transactions_at_once = 3
    gathering_seconds = 0.0

    def __init__(self, store: SqliteStore) -> None:
        self.real = store
        self.batches: list[list[str]] = []  # what each transaction stores, in the order in which they begin
        self.conflicts = 0  # how many of the next transactions are given up for others
        self._gates: list[asyncio.Event] = []
        self._begun = asyncio.Condition()
        self.is_held = False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        stored: list[str] = []
        async with self._begun:
            self.batches.append(stored)
            gate = asyncio.Event()
            self._gates.append(gate)
            self._begun.notify_all()
        if self.is_held:
            await gate.wait()
        async with self.real.transaction() as transaction:
            add_events = transaction.add_events

            async def noted(events: Sequence[NewEvent]) -> None:
                stored.extend(new.event.id for new in events)
                await add_events(events)

            transaction.add_events = noted  # type: ignore[method-assign]
            yield transaction
            if self.conflicts:
                self.conflicts -= 1
                raise TransactionConflict("a deadlock")

    async def begun(self, count: int) -> None:
        """Returns when *count* transactions have begun."""
        async with self._begun, asyncio.timeout(PATIENCE_SECONDS):
            await self._begun.wait_for(lambda: len(self.batches) >= count)

    def release(self, *numbers: int) -> None:
        """Lets these transactions go on."""
        for number in numbers:
            self._gates[number].set()

    def release_all(self) -> None:
        self.is_held = False
        for gate in self._gates:
            gate.set()

    async def claim(self, claims: Sequence[Claim]) -> Sequence[Claimed]:
        return await self.real.claim(claims)

    async def lane_work(self, buckets: Collection[int]) -> Sequence[LaneWork]:
        return await self.real.lane_work(buckets)

    async def unswept_endpoints(self) -> Sequence[Endpoint]:
        return await self.real.unswept_endpoints()


@asynccontextmanager
async def beside(store: SqliteStore) -> AsyncIterator[tuple[Writer, SeveralAtOnce]]:
    """A writer over a store that takes several transactions at once, held up until they are released."""
    several, clock = SeveralAtOnce(store), FakeClock()
    writer = Writer(
        store=several,
        queue=EventQueue(Intake()),
        recorder=HealthRecorder(clock=clock, disable_after_failed_events=3),
        fan_out=FanOut(ids=IdMaker(clock), current_version=API_VERSION),
    )
    several.is_held = True
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(writer.run())
        try:
            yield writer, several
        finally:
            several.release_all()
            writer.stop()


async def test_many_events_go_into_a_transaction_beside(store: SqliteStore):
    """While a transaction is under way, few events wait for its end, and many get one of their own; both end well,
    whichever is first."""
    async with beside(store) as (writer, several), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(writer.publish([event()]))
        await several.begun(1)
        few = tasks.create_task(writer.publish([event() for _ in range(WORTH_A_TRANSACTION - 1)]))
        await queued(few)
        assert len(several.batches) == 1
        one_more = tasks.create_task(writer.publish([event()]))
        await several.begun(2)
        several.release(1)
        await asyncio.gather(few, one_more)
        assert not first.done()
        several.release(0)
        await first
    assert [len(batch) for batch in several.batches] == [1, WORTH_A_TRANSACTION]


async def test_results_and_changes_stay_in_one_line(store: SqliteStore):
    """Results and changes wait for the transaction before them, however much waits: they count in their order."""
    async with beside(store) as (writer, several), asyncio.TaskGroup() as tasks:
        tasks.create_task(writer.publish([event()]))
        await several.begun(1)
        change = tasks.create_task(writer.change(CreateEndpoint(endpoint(), ACTOR, 10)))
        events = tasks.create_task(writer.publish([event() for _ in range(WORTH_A_TRANSACTION)]))
        await several.begun(2)
        several.release(1)
        await events
        assert not change.done()
        several.release(0)
        await several.begun(3)
        several.release(2)
        await change


async def test_a_sealed_publication_stays_in_one_line(store: SqliteStore):
    """A publication that ends with a record of the whole is not split over transactions that run side by side."""
    answer = IdempotentAnswer(b"k" * 32, b"r" * 32, b"answer", START + 1_000)
    async with beside(store) as (writer, several), asyncio.TaskGroup() as tasks:
        tasks.create_task(writer.publish([event()]))
        await several.begun(1)
        sealed = tasks.create_task(writer.publish([event() for _ in range(2 * WORTH_A_TRANSACTION)], seal=lambda _: answer))
        await queued(sealed)
        other = tenant("other")
        plain = tasks.create_task(writer.publish([event(tenant=other)]))
        await several.begun(2)
        assert not sealed.done()
        several.release_all()
        await asyncio.gather(sealed, plain)
    assert await store.answer(answer.key_hash, START) == answer
    assert [len(batch) for batch in several.batches] == [1, 1, 2 * WORTH_A_TRANSACTION]


async def test_transactions_in_each_others_way_are_run_again(store: SqliteStore):
    """A transaction that the database gave up for another is run again, and everybody is answered once."""
    async with beside(store) as (writer, several):
        several.is_held = False
        several.conflicts = 3
        subject = event(external_id="x")
        assert await writer.publish([subject]) == [subject]
        assert len(several.batches) == 4


async def test_a_transaction_that_always_stands_in_the_way_is_refused(store: SqliteStore):
    """One that is given up again and again is refused as unavailable, not tried for ever."""
    async with beside(store) as (writer, several):
        several.is_held = False
        several.conflicts = 1_000
        with pytest.raises(StoreUnavailable):
            await writer.publish([event()])
        several.conflicts = 0
