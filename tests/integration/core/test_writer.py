"""The writer on the real store: batches that grow with load, answers after the commit, and what happens when it fails."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from gateway.delivery.health import HealthRecorder
from gateway.errors import EndpointNotFound, QueueFull, Stopping, StoreUnavailable, TooManyEndpoints
from gateway.ids import IdMaker
from gateway.model import AcceptedEvent, DeliveryState, DueDelivery, Endpoint, IdempotentAnswer, Organization, Result
from gateway.publishing.event_queue import EventQueue, Seal
from gateway.publishing.fan_out import FanOut
from gateway.publishing.writer import ENOUGH_RESULTS, Writer
from gateway.registry.endpoints import CreateEndpoint, DeleteEndpoint, EndpointPatch, UpdateEndpoint
from gateway.registry.organizations import PinOrganization
from gateway.settings import Intake
from gateway.store.protocol import (
    Claim,
    Claimed,
    DeliveryFilter,
    Effects,
    EventFilter,
    NewEvent,
    Transaction,
)
from gateway.store.sqlite import SqliteStore
from tests.fakes import ACTOR, API_VERSION, EXHAUSTED, GONE, PATIENCE_SECONDS, START, FakeClock, endpoint, event, result, tenant
from tests.fakes import due as make_due
from tests.integration.core.conftest import Nothing, ScriptedStore, queued


class Desk:
    """A writer, and everything that it has told its listeners."""

    def __init__(self, store: SqliteStore, intake: Intake, *, longest_wait_seconds: float = 5.0) -> None:
        self.clock = FakeClock()
        self.store = ScriptedStore(store)
        self.queue = EventQueue(intake)
        self.writer = Writer(
            store=self.store,
            queue=self.queue,
            recorder=HealthRecorder(clock=self.clock, disable_after_failed_events=3),
            fan_out=FanOut(ids=IdMaker(self.clock), current_version=API_VERSION),
            longest_wait_seconds=longest_wait_seconds,
        )
        self.fresh: list[tuple[Endpoint, DueDelivery]] = []
        self.results: list[Result] = []
        self.heard = asyncio.Event()
        self.writer.listen(self._committed)

    def _committed(self, fresh: Sequence[tuple[Endpoint, DueDelivery]], results: Sequence[Result], _: Effects) -> None:
        self.fresh += fresh
        self.results += results
        self.heard.set()

    async def create(self, made: Endpoint | None = None) -> Endpoint:
        return await self.writer.change(CreateEndpoint(made or endpoint(), ACTOR, 1_000))

    async def publish(self, *events: AcceptedEvent, seal: Seal | None = None) -> Sequence[AcceptedEvent]:
        return await self.writer.publish(events, seal=seal)

    def publishing(self, *events: AcceptedEvent, seal: Seal | None = None) -> "asyncio.Task[Sequence[AcceptedEvent]]":
        return asyncio.create_task(self.publish(*events, seal=seal))

    async def recorded(self, count: int) -> None:
        """Returns when the listeners have heard of *count* results."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.results) < count:
                self.heard.clear()
                await self.heard.wait()

    async def stored_ids(self) -> list[str]:
        page = await self.store.real.events(tenant(), EventFilter(), below=None, limit=1_000)
        return [found.id for found in page.items][::-1]


@asynccontextmanager
async def at_work(desk: Desk) -> AsyncIterator[Desk]:
    """The desk, with its writer running."""
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(desk.writer.run())
        try:
            yield desk
        finally:
            desk.writer.stop()
            desk.store.gate.set()
            await asyncio.wait([writing], timeout=PATIENCE_SECONDS)
            writing.cancel()


@pytest.fixture
def closed_desk(store: SqliteStore) -> Desk:
    """A desk whose writer does not run yet, so that what is asked for comes into one batch."""
    return Desk(store, Intake())


@pytest.fixture
async def desk(closed_desk: Desk) -> AsyncIterator[Desk]:
    async with at_work(closed_desk):
        yield closed_desk


# Batches


async def test_commits_are_shared(desk: Desk):
    """While one transaction is being committed the next batch gathers: many publishers share few commits."""
    desk.store.close_gate()
    first = desk.publishing(event())
    await desk.store.gated.wait()
    others = [desk.publishing(event()) for _ in range(500)]
    await queued(*others)
    desk.store.gate.set()
    await asyncio.gather(first, *others)
    assert desk.store.commits == 2
    assert len(await desk.stored_ids()) == 501


async def test_a_publisher_returns_after_the_commit(desk: Desk):
    """A publisher is answered when its event is safe, and not a moment before."""
    desk.store.close_gate()
    publisher = desk.publishing(made := event())
    await desk.store.gated.wait()
    assert not publisher.done()
    assert await desk.stored_ids() == []
    desk.store.gate.set()
    assert await publisher == [made]
    assert await desk.stored_ids() == [made.id]


async def test_a_batch_ends_at_so_many_deliveries(closed_desk: Desk):
    """Events that fan out to many endpoints go in several transactions, and none is lost or reordered."""
    async with at_work(closed_desk) as desk:
        for _ in range(60):
            await desk.create()
        await desk.publish(event())  # so that the fan-out is known
        desk.store.close_gate()
        first = desk.publishing(event())
        await desk.store.gated.wait()
        before = desk.store.commits
        events = [event() for _ in range(200)]
        rest = desk.publishing(*events)
        await queued(rest)
        desk.store.gate.set()
        await asyncio.gather(first, rest)
        assert desk.store.commits - before >= 3
        assert (await desk.stored_ids())[-200:] == [each.id for each in events]
        assert len(desk.fresh) == 60 * 202


async def test_publishing_nothing(desk: Desk):
    """A publication of no events is answered at once."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await desk.publish() == []


async def test_a_full_queue_says_so(store: SqliteStore):
    """A publisher that finds the queue full hears so at once, and nothing of it is kept."""
    desk = Desk(store, Intake(max_queue=2))
    waiting = [desk.publishing(event(tenant=tenant(name))) for name in ("a", "b")]
    await queued(*waiting)
    with pytest.raises(QueueFull):
        await desk.publish(event(tenant=tenant("c")))
    async with at_work(desk):
        await asyncio.gather(*waiting)
        await desk.publish(event(tenant=tenant("c")))
    assert desk.queue.depth == 0


# What events are matched against


async def test_deliveries_are_made_for_those_who_want_them(desk: Desk):
    """An event makes one delivery for each active endpoint of its tenant that wants it, with the version that holds for it."""
    wanting = await desk.create(endpoint(events=("invoice.*",)))
    pinned = await desk.create(endpoint(events=("invoice.paid",), api_version="2026-05-25"))
    await desk.create(endpoint(events=("customer.*",)))
    await desk.create(endpoint(is_active=False))
    await desk.create(endpoint(tenant=tenant("other")))
    await desk.publish(made := event())
    assert [(each.id, due.event.id, due.api_version) for each, due in desk.fresh] == [
        (wanting.id, made.id, API_VERSION),
        (pinned.id, made.id, "2026-05-25"),
    ]
    page = await desk.store.real.deliveries(tenant(), DeliveryFilter(), below=None, limit=10)
    assert {found.id for found in page.items} == {due.id for _, due in desk.fresh}


async def test_the_organizations_version_holds_for_unpinned_endpoints(desk: Desk):
    """A pin of the organization counts from its commit on, for endpoints that have none of their own."""
    await desk.create()
    await desk.publish(event())
    for version in ("2026-07-11", None):
        await desk.writer.change(PinOrganization(Organization("acme", version), ACTOR, START))
        await desk.publish(event())
    assert [due.api_version for _, due in desk.fresh] == [API_VERSION, "2026-07-11", API_VERSION]


async def test_changes_come_first_in_a_batch(closed_desk: Desk):
    """An endpoint that is created in the same batch as an event gets it, whoever asked first; one that is deleted does not."""
    gone, made = endpoint(), endpoint()
    async with closed_desk.store.real.transaction() as transaction:
        await transaction.add_endpoint(gone)
    publisher = closed_desk.publishing(event())
    await queued(publisher)
    deletion = asyncio.create_task(closed_desk.writer.change(DeleteEndpoint(tenant(), gone.id, ACTOR, START)))
    creation = asyncio.create_task(closed_desk.create(made))
    await queued(deletion, creation)
    async with at_work(closed_desk) as desk:
        await asyncio.gather(publisher, creation, deletion)
        assert desk.store.commits == 1
        assert [each.id for each, _ in desk.fresh] == [made.id]


async def test_an_endpoint_gets_what_is_published_after_its_creation_was_answered(desk: Desk):
    """Whatever was published before: once its creation is answered, an endpoint gets every event that it wants."""
    for _ in range(5):
        await desk.publish(event())
        made = await desk.create()
        await desk.publish(event())
        assert made.id in {each.id for each, due in desk.fresh if due.event.id == desk.fresh[-1][1].event.id}


async def test_changed_events_hold_from_the_answer_on(desk: Desk):
    """An endpoint that changes what it wants, or is disabled, gets what it wants from then on and nothing else."""
    made = await desk.create()
    await desk.publish(event())
    for patch in (EndpointPatch(events=("customer.*",)), EndpointPatch(events=("*",)), EndpointPatch(is_active=False)):
        await desk.writer.change(UpdateEndpoint(tenant(), made.id, patch, ACTOR, START))
        await desk.publish(event())
    assert len(desk.fresh) == 2


async def test_results_come_before_events(closed_desk: Desk):
    """An endpoint that a result of the batch finds gone gets no event of the same batch."""
    made = endpoint()
    async with at_work(closed_desk) as desk:
        await desk.create(made)
        await desk.publish(event())
        ((_, first),) = desk.fresh
        desk.store.close_gate()
        blocker = desk.publishing(event(tenant=tenant("other")))
        await desk.store.gated.wait()
        publisher = desk.publishing(event())
        desk.writer.record(result(first, made, GONE, status=410))
        await queued(publisher)
        desk.store.gate.set()
        await asyncio.gather(blocker, publisher)
        assert len(desk.fresh) == 1


async def test_an_event_names_its_revision(desk: Desk):
    """Each event is stored with the revision of its tenant that it was matched against."""
    made = [event() for _ in range(3)]
    for each in made:
        await desk.publish(each)
        await desk.create()
    connection = await desk.store.real._connection()
    revisions = await connection.execute_fetchall("SELECT revision FROM events ORDER BY id")
    assert [row[0] for row in revisions] == [0, 1, 2]


# External ids


async def test_external_ids_in_a_batch(closed_desk: Desk):
    """Of two events with one external id in a batch the first happens; the other is answered with it, as a duplicate."""
    first, second, other = event(external_id="x"), event(external_id="x"), event(external_id="x", tenant=tenant("other"))
    publishers = [closed_desk.publishing(each) for each in (first, second, other)]
    await queued(*publishers)
    async with at_work(closed_desk) as desk:
        await desk.create()
        answers = [(await publisher)[0] for publisher in publishers]
        assert [(answer.id, answer.duplicate) for answer in answers] == [(first.id, False), (first.id, True), (other.id, False)]
        assert await desk.stored_ids() == [first.id]


async def test_external_ids_across_batches(desk: Desk):
    """A repeat in a later batch is answered with the first event as it was stored, and makes no delivery."""
    await desk.create()
    first = event(external_id="x", data=b'{"first":true}')
    await desk.publish(first)
    answers = await desk.publish(event(), event(external_id="x", data=b'{"first":false}'))
    assert (answers[1].id, answers[1].data, answers[1].duplicate) == (first.id, first.data, True)
    assert not answers[0].duplicate
    assert len(desk.fresh) == 2


async def test_repeats_within_a_publication(desk: Desk):
    """In a publication repeats stand in their places beside the others."""
    events = [event(external_id="x"), event(), event(external_id="x"), event(external_id="y")]
    answers = await desk.publish(*events)
    assert [answer.id for answer in answers] == [events[0].id, events[1].id, events[0].id, events[3].id]
    assert [answer.duplicate for answer in answers] == [False, False, True, False]


# What breaks a batch


class Break:
    """A change that fails in a way that nobody expected."""

    async def apply(self, transaction: Transaction) -> None:
        await transaction.add_endpoint(endpoint(url="https://half-done.example/"))
        raise RuntimeError("a bug")


async def test_one_guilty_event_fails_alone(closed_desk: Desk):
    """An event that cannot be stored fails for its own publisher; every other of its batch gets through, in order."""
    taken = event()
    events = [event() for _ in range(20)]
    guilty = event(id=taken.id)
    async with closed_desk.store.real.transaction() as transaction:
        await transaction.add_events([NewEvent(taken, 0)])
    publishers = [closed_desk.publishing(each) for each in (*events[:13], guilty, *events[13:])]
    await queued(*publishers)
    async with at_work(closed_desk) as desk:
        await desk.create()
        outcomes = await asyncio.gather(*publishers, return_exceptions=True)
    assert isinstance(outcomes.pop(13), sqlite3.IntegrityError)
    assert [outcome[0].id for outcome in outcomes if not isinstance(outcome, BaseException)] == [each.id for each in events]
    assert set(await desk.stored_ids()) == {taken.id, *(each.id for each in events)}
    assert desk.queue.depth == 0
    assert [due.event.id for _, due in desk.fresh] == [each.id for each in events]


async def test_one_guilty_change_fails_alone(closed_desk: Desk):
    """A change that breaks its batch fails for its own caller and leaves nothing; changes and events beside it go through."""
    creations = [asyncio.create_task(closed_desk.create()) for _ in range(5)]
    guilty = asyncio.create_task(closed_desk.writer.change(Break()))
    publishers = [closed_desk.publishing(event()) for _ in range(5)]
    await queued(*creations, guilty, *publishers)
    async with at_work(closed_desk) as desk:
        with pytest.raises(RuntimeError, match="a bug"):
            await guilty
        await asyncio.gather(*creations, *publishers)
    page = await desk.store.real.endpoints(tenant(), below=None, limit=10)
    assert {found.id for found in page.items} == {task.result().id for task in creations}
    assert len(desk.fresh) == 25


async def test_a_refusal_is_its_own(closed_desk: Desk):
    """A change that refuses is answered so, and the others of its batch are committed with it in one transaction."""
    changer = closed_desk.writer
    absent = asyncio.create_task(changer.change(DeleteEndpoint(tenant(), "wh_none", ACTOR, START)))
    full = asyncio.create_task(changer.change(CreateEndpoint(endpoint(), ACTOR, 0)))
    creation = asyncio.create_task(closed_desk.create())
    publisher = closed_desk.publishing(event())
    await queued(absent, full, creation, publisher)
    async with at_work(closed_desk) as desk:
        with pytest.raises(EndpointNotFound):
            await absent
        with pytest.raises(TooManyEndpoints):
            await full
        await asyncio.gather(creation, publisher)
        assert desk.store.commits == 1


async def test_one_guilty_result_is_left_out(desk: Desk):
    """A result that cannot be stored takes no other with it, and the writer goes on."""
    made = await desk.create()
    await desk.publish(*(event() for _ in range(5)))
    dues = [due for _, due in desk.fresh]
    desk.store.close_gate()
    blocker = desk.publishing(event())
    await desk.store.gated.wait()
    for due in dues[:4]:
        desk.writer.record(result(due, made))
    desk.writer.record(result(dues[0], made))  # the same attempt again
    desk.writer.record(result(dues[4], made, EXHAUSTED))
    desk.store.gate.set()
    await blocker
    await desk.recorded(5)
    await desk.publish(event())
    page = await desk.store.real.deliveries(tenant(), DeliveryFilter(), below=None, limit=10)
    states = {found.id: found.state for found in page.items}
    assert [states[due.id] for due in dues] == [DeliveryState.DELIVERED] * 4 + [DeliveryState.FAILED]


# When the store is unavailable


@pytest.mark.parametrize("when", ["begin", "commit"])
async def test_an_unavailable_store_fails_those_who_wait(desk: Desk, when: str):
    """While the store cannot commit, publishers and changes hear so, nothing of theirs is kept, and the node says so."""
    failure = StoreUnavailable("the disk is on fire")
    if when == "begin":
        desk.store.failure = failure
    else:
        desk.store.commit_failure = failure
    with pytest.raises(StoreUnavailable, match="on fire"):
        await desk.publish(event())
    with pytest.raises(StoreUnavailable):
        await desk.create()
    assert desk.writer.unavailable is not None
    assert desk.queue.depth == 0
    desk.store.recover()
    await desk.publish(kept := event())
    assert desk.writer.unavailable is None
    assert await desk.stored_ids() == [kept.id]
    assert desk.fresh == []


async def test_results_outlast_an_unavailable_store(desk: Desk):
    """What was learnt while the store was unavailable is recorded once it is back, in order, and told of once."""
    made = await desk.create()
    await desk.publish(*(event() for _ in range(4)))
    dues = [due for _, due in desk.fresh]
    desk.store.break_down()
    for due in dues[:2]:
        desk.writer.record(result(due, made))
    with pytest.raises(StoreUnavailable):
        await desk.publish(event())
    for due in dues[2:]:
        desk.writer.record(result(due, made))
    with pytest.raises(StoreUnavailable):
        await desk.create()
    assert desk.results == []
    desk.store.recover()
    await desk.recorded(4)
    assert [each.due.id for each in desk.results] == [due.id for due in dues]
    page = await desk.store.real.deliveries(tenant(), DeliveryFilter(state=DeliveryState.DELIVERED), below=None, limit=10)
    assert len(page.items) == 4


async def test_publishers_do_not_wait_out_a_pause(desk: Desk):
    """While results wait for an unavailable store, a publisher hears at once that there is no answer to be had."""
    made = await desk.create()
    await desk.publish(event())
    desk.store.break_down()
    desk.writer.record(result(desk.fresh[0][1], made))
    loop = asyncio.get_running_loop()
    started = loop.time()
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            await desk.publish(event())
    assert loop.time() - started < 5  # 20 pauses would take 10
    desk.store.recover()
    await desk.recorded(1)


async def test_nobody_waits_behind_a_commit_without_an_end(store: SqliteStore):
    """A commit of which nobody knows how it ended may last for as long as the store is away. Who waits behind it hears that
    there is no answer to be had, and so does whoever comes later, at once; who is in it hears how it ended. Then all goes on."""
    async with at_work(Desk(store, Intake(), longest_wait_seconds=0.05)) as desk:
        desk.store.gate.clear()
        inside = desk.publishing(first := event())
        await desk.store.gated.wait()
        for behind in (desk.publish(event()), desk.create(), desk.publish(event())):
            with pytest.raises(StoreUnavailable):
                await behind
        assert desk.writer.unavailable is not None
        assert not inside.done()
        desk.store.gate.set()
        await inside
        await desk.publish(second := event())
        assert desk.writer.unavailable is None
        assert await desk.stored_ids() == [first.id, second.id]
        assert desk.queue.depth == 0


async def test_a_node_finds_out_that_the_store_is_back(desk: Desk):
    """A node that says it is unavailable is sent nothing: it notices by itself that the store is back."""
    desk.store.break_down()
    with pytest.raises(StoreUnavailable):
        await desk.publish(event())
    desk.store.recover()
    desk.store.committed.clear()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await desk.store.committed.wait()
    assert desk.writer.unavailable is None


async def test_a_store_that_fails_within_a_batch(desk: Desk):
    """A change that finds the store unavailable fails the batch as the store itself does."""

    class Unlucky:
        async def apply(self, transaction: Transaction) -> None:
            raise StoreUnavailable("no answer")

    with pytest.raises(StoreUnavailable, match="no answer"):
        await desk.writer.change(Unlucky())
    await desk.publish(event())


# Seals


def sealing(calls: list[list[str]]) -> Seal:
    def seal(outcomes: Sequence[AcceptedEvent]) -> IdempotentAnswer:
        calls.append([outcome.id for outcome in outcomes])
        return IdempotentAnswer(b"k" * 32, b"r" * 32, ",".join(calls[-1]).encode(), START + 100)

    return seal


async def test_a_seal_is_committed_with_its_work(desk: Desk):
    """The record of an idempotent request is in the store exactly when its events are, and made of their outcomes."""
    calls: list[list[str]] = []
    await desk.publish(event(external_id="x"))
    (first,) = await desk.stored_ids()
    desk.store.close_gate()
    publisher = desk.publishing(event(external_id="x"), made := event(), seal=sealing(calls))
    await desk.store.gated.wait()
    assert await desk.store.real.answer(b"k" * 32, START) is None
    desk.store.gate.set()
    await publisher
    kept = await desk.store.real.answer(b"k" * 32, START)
    assert kept is not None
    assert kept.answer.decode() == f"{first},{made.id}"


async def test_a_seal_goes_with_its_work(desk: Desk):
    """When the commit fails there is no record either, so that the request can be sent again."""
    calls: list[list[str]] = []
    desk.store.commit_failure = StoreUnavailable("no")
    with pytest.raises(StoreUnavailable):
        await desk.publish(event(), seal=sealing(calls))
    desk.store.recover()
    assert await desk.store.real.answer(b"k" * 32, START) is None


async def test_a_seal_comes_with_the_last_of_several_commits(desk: Desk):
    """A publication that takes several transactions is sealed in the last, once, when all of it is safe."""
    for _ in range(60):
        await desk.create()
    await desk.publish(event())
    calls: list[list[str]] = []
    events = [event() for _ in range(200)]
    before = desk.store.commits
    await desk.publish(*events, seal=sealing(calls))
    assert desk.store.commits - before >= 2
    assert calls == [[each.id for each in events]]
    assert await desk.store.real.answer(b"k" * 32, START) is not None


# Stopping


async def test_stopping_commits_what_was_accepted(closed_desk: Desk):
    """What is queued when the writer is stopped is committed; what comes after is refused by name."""
    publishers = [closed_desk.publishing(event()) for _ in range(10)]
    await queued(*publishers)
    closed_desk.writer.stop()
    await closed_desk.writer.run()
    assert len([await publisher for publisher in publishers]) == 10
    with pytest.raises(Stopping):
        await closed_desk.publish(event())
    with pytest.raises(Stopping):
        await closed_desk.create()


async def test_results_are_taken_to_the_end(desk: Desk):
    """Results that come while the writer is stopping are committed."""
    made = await desk.create()
    await desk.publish(event())
    desk.writer.stop()
    desk.writer.record(result(desk.fresh[0][1], made))
    await desk.recorded(1)


async def test_nobody_waits_for_a_writer_that_was_cut_off(closed_desk: Desk):
    """When the writer is cancelled in the middle of a commit, whoever waits for that commit or the next hears so."""
    closed_desk.store.close_gate()
    writing = asyncio.create_task(closed_desk.writer.run())
    committing = [closed_desk.publishing(event()), asyncio.create_task(closed_desk.create())]
    await closed_desk.store.gated.wait()
    waiting = [closed_desk.publishing(event()), asyncio.create_task(closed_desk.writer.change(Nothing()))]
    await queued(*committing, *waiting)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    async with asyncio.timeout(PATIENCE_SECONDS):
        for task in (*committing, *waiting):
            with pytest.raises(Stopping):
                await task


async def test_a_publisher_that_goes_away(desk: Desk):
    """A publisher that is cancelled while its event is being committed hurts nobody; its event may well be kept."""
    desk.store.close_gate()
    gone = desk.publishing(event())
    await desk.store.gated.wait()
    gone.cancel()
    await asyncio.wait([gone])
    desk.store.gate.set()
    await desk.publish(event())
    assert desk.queue.depth == 0


# Results alone, and commits without an answer


async def test_a_few_results_wait_for_company(closed_desk: Desk):
    """Where a transaction is dear, a few results alone are committed with what comes next, or after a moment by themselves;
    many go at once."""
    closed_desk.store.gathering_seconds = 3_600.0
    async with at_work(closed_desk) as desk:
        to = await desk.create()
        await desk.publish(*(event() for _ in range(ENOUGH_RESULTS + 2)))
        commits = desk.store.commits
        made = [due for _, due in desk.fresh]
        desk.writer.record(result(made[0], to))
        desk.writer.record(result(made[1], to))
        await desk.publish(event())
        assert (len(desk.results), desk.store.commits) == (2, commits + 1)
        for due in made[2:]:
            desk.writer.record(result(due, to))
        await desk.recorded(len(made))
        assert desk.store.commits == commits + 2
    closed_desk.store.gathering_seconds = 0.001


async def test_results_alone_do_not_wait_for_ever(closed_desk: Desk):
    """When nothing comes, results are committed after a moment."""
    closed_desk.store.gathering_seconds = 0.001
    async with at_work(closed_desk) as desk:
        to = await desk.create()
        await desk.publish(event())
        commits = desk.store.commits
        desk.writer.record(result(desk.fresh[0][1], to))
        await desk.recorded(1)
        assert desk.store.commits == commits + 1


class _OneLane:
    """Claims for one lane, and what is handed out to it."""

    def __init__(self, to: Endpoint) -> None:
        self.to = to
        self.handed_out: list[DueDelivery] = []
        self.answered = asyncio.Event()

    def claims(self) -> Sequence[Claim]:
        return [Claim(endpoint=self.to, now=START, limit=10, max_bytes=10**6, held=(), under_way=())]

    def claimed(self, _: Sequence[Claim], answers: Sequence[Claimed]) -> None:
        self.handed_out += [due for answer in answers for due in answer.first]
        self.answered.set()


class ShowsWhatIsUnderWay(ScriptedStore):
    """A store whose claims show what a transaction has written before its commit is answered, as another connection to a
    server may once the server has committed."""

    shown: Sequence[DueDelivery] = ()

    async def claim(self, claims: Sequence[Claim]) -> Sequence[Claimed]:
        return [Claimed(first=self.shown) for _ in claims]


async def test_a_delivery_whose_commit_is_not_answered_yet_is_handed_out_once(closed_desk: Desk, store: SqliteStore):
    """The race: a claim sees a commit before the writer has its answer. Its deliveries come as fresh, and not by the claim, so
    that none is sent twice."""
    closed_desk.store = ShowsWhatIsUnderWay(store)
    closed_desk.writer._store = closed_desk.store
    async with at_work(closed_desk) as desk:
        to = await desk.create()
        lane = _OneLane(to)
        desk.writer.serve_claims(lane)
        desk.store.close_gate()
        publishing = desk.publishing(event())
        await desk.store.gated.wait()
        (unsettled,) = desk.writer._unsettled
        other = make_due(to)
        closed_desk.store.shown = [make_due(to, id=unsettled), other]
        desk.writer.want_claims()
        await lane.answered.wait()
        assert lane.handed_out == [other]
        desk.store.gate.set()
        await publishing
        assert [fresh.id for _, fresh in desk.fresh] == [unsettled]
        assert desk.writer._unsettled == set()
