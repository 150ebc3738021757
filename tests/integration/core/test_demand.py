"""The limit of an API key, shared by nodes on one store."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from gateway.api.rate_limit import RateLimiter
from gateway.cluster.demand import SHARE_SECONDS, DemandSharing
from tests.cluster_fakes import STEP_MS, FakeCluster, FakeNode, run_cluster

LIMIT = 20


class Limiting:
    """A node that limits, and shares."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.limiter = RateLimiter(LIMIT)
        self._sharing = DemandSharing(cluster=node.process, limiter=self.limiter, clock=node.clock, pause=node._pause)
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self._sharing.run())

    def use(self, count: int, key: str = "key") -> int:
        """How many of so many requests pass now."""
        return sum(self.limiter.take(key, self.node.clock.monotonic()).allowed for _ in range(count))


class Nodes:
    """Some that limit, which share at different moments of each second."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.all: list[Limiting] = []

    async def start(self, count: int) -> Sequence[Limiting]:
        for number in range(count):
            limiting = Limiting(await self.cluster.start(f"node{number}"))
            self.all.append(limiting)
            limiting.start()
            await self.cluster.advance(SHARE_SECONDS / count)
        return self.all

    async def hammer(self, seconds: float, using: Sequence[Limiting], count: int = 10) -> list[int]:
        """How many requests pass at each, when each is asked for so many in every step of time."""
        passed = [0] * len(using)
        for _ in range(round(seconds * 1_000 / STEP_MS)):
            for place, limiting in enumerate(using):
                passed[place] += limiting.use(count)
            await self.cluster.advance(STEP_MS / 1_000)
        return passed


@pytest.fixture
async def nodes() -> AsyncIterator[Nodes]:
    async with run_cluster() as cluster:
        nodes = Nodes(cluster)
        yield nodes
        for limiting in nodes.all:
            assert limiting.task is not None
            limiting.task.cancel()


@pytest.mark.parametrize("count", [2, 3, 10])
async def test_a_key_that_hammers_all_nodes_gets_its_limit_in_sum(nodes: Nodes, count: int):
    """Two seconds after it began all of them together let pass what one alone would, each an equal part."""
    await nodes.start(count)
    await nodes.hammer(2, nodes.all)
    for _ in range(5):
        passed = await nodes.hammer(2, nodes.all)
        assert sum(passed) == pytest.approx(2 * LIMIT, rel=0.05)
        assert max(passed) - min(passed) <= 1


async def test_a_node_gets_what_the_others_do_not_need(nodes: Nodes):
    """A key that uses one node much and another little has its whole limit, and is never refused by the other."""
    much, little = await nodes.start(2)
    await nodes.hammer(2, [much])
    used = 0
    for _ in range(5):
        used += little.use(2)
        await nodes.hammer(0.5, [much])
    assert used == 10
    passed = 0
    for _ in range(10):
        used += little.use(2)
        passed += (await nodes.hammer(0.5, [much]))[0]
    assert used == 30
    assert passed == pytest.approx(5 * LIMIT - 20, rel=0.1)


async def test_who_stays_has_everything_soon_after_the_others_stopped(nodes: Nodes):
    """A key that turns from many nodes to one has its whole limit there within a few seconds, whether they stopped or died."""
    first, *others = await nodes.start(4)
    await nodes.hammer(3, nodes.all)
    for other in others[:2]:
        assert other.task is not None
        other.task.cancel()
    await nodes.hammer(5, [first])
    (passed,) = await nodes.hammer(2, [first])
    assert passed == pytest.approx(2 * LIMIT, rel=0.05)


async def test_other_keys_are_not_slowed(nodes: Nodes):
    """A key that uses one node has its limit there, whatever others use."""
    first, _ = await nodes.start(2)
    await nodes.hammer(3, nodes.all)
    assert first.use(100, "another") == LIMIT


async def test_nothing_is_asked_of_the_store_for_keys_that_rest(nodes: Nodes):
    """Keys are told of once a second while they are used and for a few seconds more, however many requests there are."""
    (node,) = await nodes.start(1)
    calls = node.node.process.calls
    await nodes.cluster.advance(10)
    assert calls["share_demand"] == 0
    await nodes.hammer(10, nodes.all)
    assert calls["share_demand"] == pytest.approx(10, abs=1)
    await nodes.cluster.advance(10)
    rested = calls["share_demand"]
    await nodes.cluster.advance(10)
    assert calls["share_demand"] == rested


async def test_without_the_store_each_limits_by_itself(nodes: Nodes):
    """While the store is away every node lets the whole limit pass, and none fails; when it is back they share again."""
    await nodes.start(2)
    await nodes.hammer(3, nodes.all)
    nodes.cluster.store.is_down = True
    await nodes.hammer(6, nodes.all)
    passed = await nodes.hammer(2, nodes.all)
    assert passed == [pytest.approx(2 * LIMIT, rel=0.05)] * 2
    nodes.cluster.store.is_down = False
    await nodes.hammer(2, nodes.all)
    assert sum(await nodes.hammer(2, nodes.all)) == pytest.approx(2 * LIMIT, rel=0.05)
