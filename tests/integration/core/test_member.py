"""Nodes that share a store settle who serves what: joining, stopping, dying, freezing, outages, and what they tell each other."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

import pytest
from structlog.testing import capture_logs

from gateway.clock import SECOND
from gateway.cluster.news import ASKED_SECONDS
from gateway.errors import Stopping, StoreUnavailable
from gateway.model import BUCKETS
from tests.cluster_fakes import LEASE_SECONDS, FakeCluster, FakeNode, FakeTransaction, endpoint_in, run_cluster
from tests.fakes import START

ALL = tuple(range(BUCKETS))
HALF = BUCKETS // 2


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with run_cluster() as running:
        yield running


async def start_two(cluster: FakeCluster) -> tuple[FakeNode, FakeNode]:
    """Nodes `a` and `b`, each with half of the buckets."""
    first, second = await cluster.start("a"), await cluster.start("b")
    await cluster.advance(3)
    assert (len(first.buckets), len(second.buckets)) == (HALF, HALF)
    return first, second


# Joining


async def test_one_node_takes_everything_at_once(cluster: FakeCluster):
    """A node that is alone serves all buckets before any time has passed, for the length of its lease less a margin."""
    node = await cluster.start("a")
    standing = node.member.standing
    assert standing.buckets == ALL
    assert node.holder.epochs == dict.fromkeys(ALL, 1)
    assert (standing.node_id, standing.name, standing.evictions, standing.giving_back) == ("a1", "a", 0, ())
    assert [other.id for other in standing.nodes] == ["a1"]
    assert standing.lease_age_seconds == 0
    assert LEASE_SECONDS * 0.9 < standing.seconds_left < LEASE_SECONDS


async def test_a_second_node_gets_half(cluster: FakeCluster):
    """When another joins, each has half within moments, the first one its lowest buckets, and none is served twice."""
    first = await cluster.start("a")
    second = await cluster.start("b")
    await cluster.advance(1)
    assert (first.buckets, second.buckets) == (ALL[:HALF], ALL[HALF:])
    assert first.holder.serving | second.holder.serving == set(ALL)
    assert cluster.owners() == {"a1": HALF, "b1": HALF}


async def test_many_nodes_have_equal_shares(cluster: FakeCluster):
    """However many join at whatever moments, each has its share in the end, and all buckets are served."""
    nodes = []
    for name in "abcdefg":
        nodes.append(await cluster.start(name))
        await cluster.advance(0.35)
    await cluster.advance(5)
    assert sorted(len(node.buckets) for node in nodes) == [9, 9, 9, 9, 9, 9, 10]
    assert sorted(bucket for node in nodes for bucket in node.buckets) == list(ALL)


async def test_nodes_that_cannot_be_woken_settle_as_well(cluster: FakeCluster):
    """Without being woken a node looks round each time that it renews."""
    first = await cluster.start("a", listen=False)
    second = await cluster.start("b", listen=False)
    await cluster.advance(4)
    assert (len(first.buckets), len(second.buckets)) == (HALF, HALF)
    assert not first.member.standing.is_listening


async def test_leases_are_renewed(cluster: FakeCluster):
    """A node that is well renews once a second, and its lease never gets near its end."""
    node = await cluster.start("a")
    for _ in range(60):
        await cluster.advance(1)
        assert node.member.standing.seconds_left > LEASE_SECONDS * 0.85
    assert 55 <= node.process.calls["renew"] <= 65


async def test_short_leases_are_renewed_more_often(cluster: FakeCluster):
    """A lease of a second is renewed five times in it."""
    node = await cluster.start("a", lease_seconds=1.0)
    for _ in range(20):
        await cluster.advance(0.25)
        assert node.holder.serving == set(ALL)
    assert node.member.standing.evictions == 0


async def test_the_databases_time_is_told(cluster: FakeCluster):
    """Each look tells the time by the database, whatever this machine's clocks say."""
    node = await cluster.start("a")
    await cluster.advance(2)
    assert node.told_time[-1] == START + 2 * SECOND


# Giving back


async def test_a_node_that_stops_hands_everything_over(cluster: FakeCluster):
    """What nothing is under way in changes hands at once when a node stops, and its `run` ends."""
    first, second = await start_two(cluster)
    stopping = first.stop()
    await cluster.advance(1)
    assert stopping.done()
    assert first.task is not None
    assert first.task.done()
    assert second.buckets == ALL
    assert second.holder.serving == set(ALL)
    assert cluster.owners() == {"b1": BUCKETS}
    assert list(cluster.store.nodes) == ["b1"]
    assert first.member.standing.node_id is None


async def test_a_bucket_waits_for_its_last_attempt(cluster: FakeCluster):
    """A bucket in which an attempt is open stays with the node that stops, which renews and counts, until its result is
    committed; then it is given back within a second."""
    first, second = await start_two(cluster)
    first.holder.open[3] = 1
    stopping = first.stop(40)
    await cluster.advance(30)
    assert not stopping.done()
    assert first.member.standing.giving_back == (3,)
    assert 3 not in first.holder.serving
    assert cluster.store.leases[3].node_id == "a1"
    first.holder.end_attempts(3)
    await cluster.advance(1)
    assert stopping.done()
    assert second.buckets == ALL


async def test_a_slow_bucket_does_not_hold_the_others_back(cluster: FakeCluster):
    """While one bucket of a node that stops waits for its endpoint, another node has and serves all the others."""
    first, second = await start_two(cluster)
    first.holder.open[3] = 1
    stopping = first.stop()
    await cluster.advance(1.5)
    assert second.holder.serving == set(ALL) - {3}
    await cluster.advance(8)
    assert second.holder.serving == set(ALL) - {3}
    first.holder.end_attempts(3)
    await cluster.advance(1)
    assert stopping.done()


async def test_all_others_share_what_a_stopping_node_gives_back(cluster: FakeCluster):
    """The rest is shared equally while one of three still waits for its last attempt."""
    first, second = await start_two(cluster)
    third = await cluster.start("c")
    await cluster.advance(3)
    first.holder.open[first.buckets[0]] = 1
    stopping = first.stop()
    await cluster.advance(3)
    assert sorted((len(second.buckets), len(third.buckets))) == [31, 32]
    assert not stopping.done()


async def test_what_is_not_quiet_at_the_deadline_is_lost(cluster: FakeCluster):
    """When its time is over, a node that stops leaves all the same: its lease passes on, and the late result is fenced."""
    first, second = await start_two(cluster)
    epoch = cluster.store.leases[3].epoch
    first.holder.open[3] = 1
    stopping = first.stop(5)
    await cluster.advance(4.9)
    assert not stopping.done()
    await cluster.advance(1.1)
    assert stopping.done()
    assert second.holder.serving == set(ALL)
    assert cluster.store.leases[3].epoch > epoch


async def test_a_surplus_waits_for_its_last_attempt(cluster: FakeCluster):
    """When another joins, a bucket with an open attempt follows later, and counts for neither until then."""
    first = await cluster.start("a")
    first.holder.open[63] = 1
    second = await cluster.start("b")
    await cluster.advance(3)
    assert (first.buckets, second.buckets) == (ALL[:HALF], ALL[HALF:63])
    assert first.member.standing.giving_back == (63,)
    first.holder.end_attempts(63)
    await cluster.advance(1)
    assert second.buckets == ALL[HALF:]


async def test_giving_back_ends_although_the_shares_change(cluster: FakeCluster):
    """A bucket on its way is given back even when the node that it was for has gone meanwhile, and is then taken anew."""
    first = await cluster.start("a")
    first.holder.open[63] = 1
    second = await cluster.start("b")
    await cluster.advance(2)
    stopping = second.stop()
    await cluster.advance(2)
    assert stopping.done()
    assert first.buckets == ALL[:63]
    first.holder.end_attempts(63)
    await cluster.advance(2)
    assert first.holder.serving == set(ALL)
    assert first.holder.epochs[63] > 1


async def test_stopping_without_the_store_ends_in_time(cluster: FakeCluster):
    """A node that stops while the store is away gives up at its deadline."""
    first, _ = await start_two(cluster)
    cluster.store.is_down = True
    stopping = first.stop(4)
    await cluster.advance(5)
    assert stopping.done()
    assert first.holder.serving == set()


async def test_what_is_being_taken_when_a_node_stops_is_given_back(cluster: FakeCluster):
    """A node that is told to stop while the store hands it buckets gives them back, too, and takes no work for its own."""
    node = FakeNode(cluster, "a", listen=True)
    gate = node.process.gates["take"] = asyncio.Event()
    cluster.nodes.append(node)
    node.task = cluster._group.create_task(node.member.run())
    await cluster.quiet()
    stopping = node.stop()
    await cluster.advance(1)
    assert not stopping.done()
    gate.set()
    await cluster.advance(1)
    assert stopping.done()
    assert cluster.owners() == {None: BUCKETS}
    assert node.process.held == frozenset()
    assert node.holder.epochs == {}


# Dying, freezing, outages


async def test_a_dead_node_is_taken_over_after_its_lease(cluster: FakeCluster):
    """What a dead node held is taken when its lease has run out, within two seconds of that, and not before."""
    first, second = await start_two(cluster)
    first.kill()
    await cluster.advance(LEASE_SECONDS - 1.5)
    assert len(second.buckets) == HALF
    await cluster.advance(3.5)
    assert second.holder.serving == set(ALL)
    assert list(cluster.store.nodes) == ["b1"]


async def test_a_frozen_node_starts_nothing_when_it_wakes(cluster: FakeCluster):
    """A node that was frozen for longer than its lease serves nothing when it wakes, learns that it was evicted, and takes
    part anew under another id."""
    first, second = await start_two(cluster)
    first.freeze()
    await cluster.advance(LEASE_SECONDS + 3)
    assert second.holder.serving == set(ALL)
    with capture_logs() as logs:
        cluster.thaw(first)
        assert first.holder.serving == set()
        await cluster.advance(3)
    assert [line["node_id"] for line in logs if line["event"] == "node.evicted"] == ["a1"]
    standing = first.member.standing
    assert (standing.node_id, standing.evictions) == ("a2", 1)
    assert (len(first.buckets), len(second.buckets)) == (HALF, HALF)


async def test_a_short_freeze_costs_nothing(cluster: FakeCluster):
    """A node that was frozen for less than its lease has what it had before."""
    first, second = await start_two(cluster)
    held = first.buckets
    first.freeze()
    await cluster.advance(LEASE_SECONDS - 5)
    cluster.thaw(first)
    await cluster.advance(5)
    assert first.buckets == held
    assert first.member.standing.evictions == second.member.standing.evictions == 0


async def test_an_outage_of_the_store_evicts_nobody(cluster: FakeCluster):
    """While the store is away for longer than the lease the nodes start nothing once it has run out; when it is back, each
    goes on with what it had."""
    first, second = await start_two(cluster)
    held = first.buckets, second.buckets
    cluster.store.is_down = True
    await cluster.advance(LEASE_SECONDS - 2)
    assert len(first.holder.serving) == len(second.holder.serving) == HALF
    await cluster.advance(LEASE_SECONDS)
    assert first.holder.serving == second.holder.serving == set()
    cluster.store.is_down = False
    await cluster.advance(2)
    assert (first.buckets, second.buckets) == held
    assert first.holder.serving | second.holder.serving == set(ALL)
    await cluster.advance(2 * LEASE_SECONDS)
    assert first.member.standing.evictions == second.member.standing.evictions == 0


async def test_a_node_that_comes_back_later_than_the_others_is_waited_for(cluster: FakeCluster):
    """After an outage a node has a whole lease again to come back, too."""
    first, second = await start_two(cluster)
    cluster.store.is_down = True
    await cluster.advance(LEASE_SECONDS)
    first.freeze()
    cluster.store.is_down = False
    await cluster.advance(LEASE_SECONDS - 2)
    cluster.thaw(first)
    await cluster.advance(3)
    assert first.member.standing.evictions == 0
    assert (len(first.buckets), len(second.buckets)) == (HALF, HALF)


async def test_a_renewal_that_fails_is_tried_again_soon(cluster: FakeCluster):
    """One lost answer costs half a second, not the lease."""
    node = await cluster.start("a")
    await cluster.advance(2)
    node.process.losing.add("renew")
    await cluster.advance(2)
    assert node.member.standing.lease_age_seconds is not None
    assert node.member.standing.lease_age_seconds <= 1
    assert node.holder.serving == set(ALL)


async def test_a_node_starts_while_the_store_is_away(cluster: FakeCluster):
    """A node that finds no store joins when there is one."""
    cluster.store.is_down = True
    node = await cluster.start("a")
    await cluster.advance(20)
    assert node.member.standing.node_id is None
    cluster.store.is_down = False
    await cluster.advance(1)
    assert node.holder.serving == set(ALL)


@pytest.mark.parametrize("call", ["join", "renew", "view", "take", "give_back", "news", "lane_work"])
async def test_a_lost_answer_costs_nothing_in_the_end(cluster: FakeCluster, call: str):
    """Whatever answer of the store gets lost, though it did what it was asked to: shares are equal and all is served soon."""
    first = FakeNode(cluster, "a", listen=True)
    first.process.losing.add(call)
    cluster.nodes.append(first)
    first.task = cluster._group.create_task(first.member.run())
    await cluster.advance(1)
    second = await cluster.start("b")
    await cluster.advance(5)
    assert (len(first.buckets), len(second.buckets)) == (HALF, HALF)
    assert first.holder.serving | second.holder.serving == set(ALL)
    assert len(cluster.store.nodes) == 2


async def test_a_bucket_that_comes_back_is_not_given_back_once_more(cluster: FakeCluster):
    """When the answer to a giving back got lost, and the node has taken the bucket again by the time that it would ask once
    more, it does not."""
    node = await cluster.start("a")
    await cluster.advance(1)
    node.process.losing.add("give_back")
    with capture_logs() as logs:
        node.member._leases.part([63])
        await cluster.quiet()
        assert node.process.line is not None
        node.process.line.woken.set()
        await cluster.advance(3)
    assert [line["event"] for line in logs] == ["lease.not_given_back", "lease.taken"]
    assert node.process.calls["give_back"] == 1
    assert node.holder.serving == set(ALL)


async def test_a_lease_that_is_anothers_is_let_go(cluster: FakeCluster):
    """A bucket whose epoch in the store is not the node's own any more is lost at the next look, and taken anew when free."""
    node = await cluster.start("a")
    cluster.store.change(5, None)
    with capture_logs() as logs:
        await cluster.advance(2)
    assert [line["buckets"] for line in logs if line["event"] == "lease.lost"] == [[5]]
    assert node.holder.epochs[5] == cluster.store.leases[5].epoch
    assert node.holder.serving == set(ALL)


# Nothing is missed


async def test_work_that_waits_is_served_when_a_bucket_is_taken(cluster: FakeCluster):
    """A node begins with what waits in the store."""
    to = endpoint_in(7)
    cluster.store.endpoints[to.id] = to
    cluster.store.waiting[to.id] = 3
    node = await cluster.start("a")
    assert node.holder.started == [to.id] * 3


async def test_work_that_another_node_takes_in_is_heard_of_at_once(cluster: FakeCluster):
    """A delivery for a bucket of another node starts there as soon as it is woken."""
    first, second = await start_two(cluster)
    to = endpoint_in(second.buckets[0])
    first.process.begin(to).commit()
    await first.process.wake_others()
    await cluster.quiet()
    assert second.holder.started == [to.id]


@pytest.mark.parametrize("when", ["before", "between", "after"])
@pytest.mark.parametrize("maker", ["giver", "taker", "third"])
async def test_transactions_in_flight_at_a_hand_over_are_not_missed(cluster: FakeCluster, maker: str, when: str):
    """Whoever makes a delivery while its bucket changes hands, and whenever the transaction ends: it is started once, and
    before the time comes at which everything is read again."""
    giver = await cluster.start("a")
    third = await cluster.start("c")
    await cluster.advance(3)
    bucket = giver.buckets[-1]
    to = endpoint_in(bucket)
    giver.holder.open[bucket] = 1
    taker = await cluster.start("b")
    process = {"giver": giver, "taker": taker, "third": third}[maker].process
    early = process.begin(to)  # before the giver has let go, and before the taker has anything
    await cluster.advance(2)
    late = process.begin(to)
    if when == "before":
        early.commit()
        late.commit()
    giver.holder.end_attempts(bucket)
    await cluster.advance(0.5)
    if when == "between":
        late.commit()
        early.commit()
    await cluster.advance(1)
    if when == "after":
        late.commit()
        await cluster.advance(1)
        early.commit()
    await cluster.advance(2)
    started = [name for node in cluster.nodes for name in node.holder.started]
    assert started == [to.id] * 2
    assert not +cluster.store.waiting


@pytest.mark.parametrize("gated", ["take", "lane_work"])
async def test_work_that_is_committed_while_a_bucket_is_being_taken_is_not_missed(cluster: FakeCluster, gated: str):
    """What this process itself, and another, commit while the store has given a bucket and the holder has not been told yet
    is started when it has."""
    other = await cluster.start("b")
    await cluster.advance(1)
    node = FakeNode(cluster, "a", listen=True)
    gate = node.process.gates[gated] = asyncio.Event()
    cluster.nodes.append(node)
    node.task = cluster._group.create_task(node.member.run())
    await cluster.advance(2)
    first, second = endpoint_in(HALF), endpoint_in(HALF + 1)
    node.process.begin(first).commit()
    other.process.begin(second).commit()
    await cluster.advance(1)
    assert node.holder.started == []
    gate.set()
    await cluster.advance(1)
    assert sorted(node.holder.started) == sorted([first.id, second.id])


async def test_a_bucket_is_not_given_back_while_a_transaction_took_it_for_the_nodes_own(cluster: FakeCluster):
    """A transaction that began while the bucket was held tells nobody of its work: the bucket waits for its end."""
    first = await cluster.start("a")
    to = endpoint_in(63)
    transaction = first.process.begin(to)
    second = await cluster.start("b")
    await cluster.advance(3)
    assert second.buckets == ()
    transaction.commit()
    await cluster.advance(1)
    assert second.holder.started == [to.id]
    assert len(second.buckets) == HALF


async def test_work_made_by_an_evicted_node_is_not_missed(cluster: FakeCluster):
    """What a node commits after its eviction and before it learns of that, and so tells nobody, is served by the new holder
    as soon as the node shows up again."""
    first, second = await start_two(cluster)
    to = endpoint_in(first.buckets[0])
    transaction = first.process.begin(to)
    first.freeze()
    await cluster.advance(LEASE_SECONDS + 3)
    cluster.thaw(first)
    await cluster.advance(1)
    standing = first.member.standing
    assert (standing.node_id, standing.evictions) == (None, 1)
    transaction.commit()
    assert second.holder.started == first.holder.started == []
    await cluster.advance(2)
    assert [*first.holder.started, *second.holder.started] == [to.id]


async def test_what_waits_is_read_again_every_so_often(cluster: FakeCluster):
    """Work that nobody was told of, which should not be, is found within half a minute."""
    node = await cluster.start("a")
    to = endpoint_in(7)
    cluster.store.endpoints[to.id] = to
    cluster.store.waiting[to.id] = 1
    await cluster.advance(32)
    assert node.holder.started == [to.id]


class Storm:
    """All that can happen to nodes, at random."""

    def __init__(self, cluster: FakeCluster, seed: int) -> None:
        self.cluster = cluster
        self.dice = random.Random(seed)
        self.alive: list[FakeNode] = []
        self.stopping: list[asyncio.Task[None]] = []
        self.open: list[FakeTransaction] = []
        self.made: list[str] = []  # ids of the endpoints of deliveries that were committed
        self._happenings = (self.join, self.stop, self.kill, self.freeze, self.thaw, self.outage, self.lose_answer)

    async def blow(self) -> None:
        """Something happens, or a delivery is made; then some transactions end, and some time passes."""
        happening = self.dice.choice((*self._happenings, *[self.begin] * 8))
        await happening()
        self.commit(self.dice.sample(self.open, k=len(self.open) // 2))
        await self.cluster.advance(self.dice.choice((0, 0.1, 0.5, 2)), step_ms=100)

    def any_node(self) -> FakeNode:
        return self.dice.choice(self.alive)

    async def join(self) -> None:
        if len(self.alive) < 5:
            name = f"n{len(self.cluster.nodes)}"
            self.alive.append(await self.cluster.start(name, listen=self.dice.random() < 0.7))

    async def stop(self) -> None:
        node = self.any_node()
        if len(self.alive) > 1 and not node.is_frozen:
            self.alive.remove(node)
            self.stopping.append(node.stop(self.dice.choice((0, 3, 12))))

    async def kill(self) -> None:
        if len(self.alive) > 1:
            node = self.any_node()
            self.alive.remove(node)
            node.kill()

    async def freeze(self) -> None:
        self.any_node().freeze()

    async def thaw(self) -> None:
        self.cluster.thaw(self.any_node())

    async def outage(self) -> None:
        self.cluster.store.is_down = True
        await self.cluster.advance(self.dice.choice((1, 8, 20)), step_ms=250)
        self.cluster.store.is_down = False

    async def lose_answer(self) -> None:
        call = self.dice.choice(("join", "renew", "view", "take", "give_back", "lane_work"))
        self.any_node().process.losing.add(call)

    async def begin(self) -> None:
        node = self.any_node()
        if not node.is_frozen:
            self.open.append(node.process.begin(endpoint_in(self.dice.randrange(BUCKETS))))

    def commit(self, transactions: Sequence[FakeTransaction]) -> None:
        """Ends *transactions*; those of dead processes come to nothing."""
        for transaction in transactions:
            self.open.remove(transaction)
            if transaction.process.is_alive:
                self.made.append(transaction.commit())


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_nothing_is_missed_and_nothing_served_twice(cluster: FakeCluster, seed: int):
    """Nodes join, stop, die and freeze, the store goes away and loses answers, all under work: no bucket is ever served twice,
    and when it is over every delivery that was committed has been started, once, and the shares are equal."""
    storm = Storm(cluster, seed)
    await storm.join()
    for _ in range(80):
        await storm.blow()
    storm.commit(list(storm.open))
    for node in cluster.nodes:
        cluster.thaw(node)
    await cluster.advance(2 * LEASE_SECONDS, step_ms=250)
    assert all(task.done() for task in storm.stopping)
    assert sorted(name for node in cluster.nodes for name in node.holder.started) == sorted(storm.made)
    assert set[int]().union(*(node.holder.serving for node in storm.alive)) == set(ALL)
    assert sum(len(node.buckets) for node in storm.alive) == BUCKETS


# News


async def test_a_look_began_after_it_was_asked_for(cluster: FakeCluster):
    """`look_now` returns when what was committed before it was called has been acted on, also when a look was under way that
    had not seen it; callers at the same time share one look."""
    first, second = await start_two(cluster)
    gate = second.process.gates["news"] = asyncio.Event()
    early = asyncio.create_task(second.member.look_now())
    await cluster.quiet()
    to = endpoint_in(second.buckets[0])
    first.process.begin(to).commit()
    late = [asyncio.create_task(second.member.look_now()) for _ in range(5)]
    looks = second.process.calls["news"]
    gate.set()
    await asyncio.gather(early, *late)
    assert second.holder.started == [to.id]
    assert second.process.calls["news"] == looks + 1


async def test_many_who_ask_share_few_looks(cluster: FakeCluster):
    """Whoever tries keys on a node makes it ask the database no more often than every 50 ms."""
    node = await cluster.start("a")
    before, began = node.process.calls["news"], asyncio.get_running_loop().time()
    for _ in range(40):
        await asyncio.gather(*(node.member.look_now() for _ in range(3)))
        if asyncio.get_running_loop().time() - began > 4 * ASKED_SECONDS:
            break
    took = asyncio.get_running_loop().time() - began
    assert 2 <= node.process.calls["news"] - before <= took / ASKED_SECONDS + 1


async def test_a_look_that_fails_says_so(cluster: FakeCluster):
    """`look_now` raises when the store is away, and when the node takes no part."""
    node = await cluster.start("a")
    cluster.store.is_down = True
    with pytest.raises(StoreUnavailable):
        await node.member.look_now()
    cluster.store.is_down = False
    stopping = node.stop()
    await cluster.advance(1)
    await stopping
    with pytest.raises(Stopping):
        await node.member.look_now()


async def test_nodes_look_for_news_without_being_woken(cluster: FakeCluster):
    """News is found within half a second when a wake-up gets lost, and within 50 ms when there is no line to be woken on."""
    first, second = await start_two(cluster)
    second.process.is_deaf = True
    to = endpoint_in(second.buckets[0])
    first.process.begin(to).commit()
    await cluster.advance(0.5)
    assert second.holder.started == [to.id]
    second.process.cut_line()
    await cluster.quiet()
    assert not second.member.standing.is_listening
    first.process.begin(to).commit()
    await cluster.advance(0.05, step_ms=10)
    assert second.holder.started == [to.id] * 2


async def test_a_dead_line_is_made_anew(cluster: FakeCluster):
    """A node whose line has died can be woken again a moment later."""
    node = await cluster.start("a")
    node.process.cut_line()
    await cluster.advance(1)
    assert node.member.standing.is_listening


async def test_after_too_long_everything_is_read_anew(cluster: FakeCluster):
    """When news is gone before it was read, the node reads all that it holds in memory anew, and what waits for it; when that
    fails, it tries again."""
    first, second = await start_two(cluster)
    to = endpoint_in(second.buckets[0])
    second.freeze()
    first.process.begin(to).commit()
    cluster.store.told[-1] = type(cluster.store.told[-1])(0, first.process, endpoint_in(first.buckets[0]))
    cluster.store.oldest_told = 1
    second.reload_failure = StoreUnavailable("not now")
    cluster.thaw(second)
    await cluster.advance(1)
    assert second.reloads == 0
    second.reload_failure = None
    await cluster.advance(2)
    assert second.reloads == 1
    assert second.holder.started == [to.id]


async def test_a_bug_in_acting_on_news_costs_no_news(cluster: FakeCluster):
    """When acting on news fails, everything is read anew, and the node goes on."""
    first, second = await start_two(cluster)

    def crash(_: object) -> None:
        second.member._news._heard = second._hear
        raise RuntimeError("a bug")

    second.member._news._heard = crash
    to = endpoint_in(second.buckets[0])
    first.process.begin(to).commit()
    with capture_logs() as logs:
        await cluster.advance(3)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["news.crashed"]
    assert second.reloads == 1
    assert second.holder.started == [to.id]
