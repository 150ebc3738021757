"""The database goes away while every node works: publishers are told to come again, and nothing that was accepted is lost."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import pytest

from tests.postgres import PostgresServer
from tests.receiver import Receiver
from tests.system.cluster import Cluster, always, check_record, make_endpoints
from tests.system.gateway_process import Client
from tests.system.load import Publishers
from tests.system.witness import Witness
from tests.tcp_proxy import TcpProxy

AWAY_SECONDS = 7.0
RECOVERY_SECONDS = 5.0
LONGEST_ANSWER_SECONDS = 6.0
"""A second more than `store.connect_seconds` or `store.statement_seconds`, and what a busy machine takes."""
BACKLOG = 60
CUTS = 5
QUICK = [f"/quick/{number}" for number in range(4)]
BUSY = [f"/busy/{number}" for number in range(4)]
PATHS = QUICK + BUSY


@dataclass
class Scene:
    """Two nodes that reach their database through a proxy, under load on both."""

    cluster: Cluster
    receiver: Receiver
    server: PostgresServer
    proxy: TcpProxy
    clients: list[Client]
    witness: Witness
    publishers: Publishers = field(default_factory=lambda: Publishers(pause_seconds=0.4, bears=("503 unavailable",)))

    @contextlib.asynccontextmanager
    async def under_load(self) -> AsyncIterator[None]:
        """Publishers are at work meanwhile. Half of the endpoints answer slowly and always have work that waits in memory."""
        async with self.publishers.publishing(*(always(client) for client in self.clients * 3)):
            await self.publishers.publish(always(self.clients[0]), BACKLOG)
            await self.publishers.accept_more(20)
            yield

    async def recovered(self, back_at: float) -> None:
        """Returns when each node has accepted events again, and everything has arrived. Each was soon after *back_at*."""
        await self.publishers.reach(lambda: all(self._fresh(client, back_at) for client in self.clients))
        await self.publishers.accept_more(20)
        self.publishers.enough = True
        await self.witness.have_all(self.publishers.accepted, PATHS)
        for client in self.clients:
            fresh = self._fresh(client, back_at)
            accepted_after = min(fresh.values()) - back_at
            arrived_after = min(arrival.at for arrival in self.witness.arrivals if arrival.number in fresh) - back_at
            sys.stdout.write(f"REPORT accepted after {accepted_after:.2f} s, arrived after {arrived_after:.2f} s\n")
            assert accepted_after < RECOVERY_SECONDS
            assert arrived_after < RECOVERY_SECONDS

    def _fresh(self, client: Client, back_at: float) -> dict[int, float]:
        """When the events were accepted that were published to *client* after *back_at*, by number."""
        accepted = self.publishers.accepted.items()
        return {number: each.at for number, each in accepted if each.client is client and each.asked_at > back_at}

    async def check_record(self) -> None:
        """Nothing is lost, and nothing came twice."""
        await self.cluster.settled()
        check_record(self.cluster, self.receiver, self.witness, self.publishers.accepted, PATHS)
        assert list(self.witness.repeats()) == []
        assert self.witness.count() == self.cluster.attempts(self.receiver.url(""))
        assert all(int(trouble.retry_after or 0) > 0 for trouble in self.publishers.troubles)


@pytest.fixture
async def scene(cluster: Cluster, receiver: Receiver, postgres_server: PostgresServer) -> AsyncIterator[Scene]:
    witness = Witness(receiver)
    for path in QUICK:
        receiver.script(path, [witness.step()])
    for path in BUSY:
        receiver.script(path, [witness.step(seconds=0.1)])
    async with TcpProxy.open(postgres_server.port) as proxy:
        cluster.settings |= {
            "store.url": proxy.by_way_of(cluster.database.url),
            "node.lease_seconds": 15,
            "store.statement_seconds": 3,
            "delivery.max_in_flight_per_endpoint": 2,
        }
        await cluster.grow(2)
        clients = await cluster.clients()
        await make_endpoints(clients[0], receiver, PATHS)
        yield Scene(cluster, receiver, postgres_server, proxy, clients, witness)


Fault = Callable[[Scene], AbstractAsyncContextManager[None]]
"""The database is away meanwhile."""


@contextlib.asynccontextmanager
async def crashed(scene: Scene) -> AsyncIterator[None]:
    """It stops as in a crash, and recovers when it starts again."""
    await scene.server.stop("immediate")
    yield
    await scene.server.start()


@contextlib.asynccontextmanager
async def silent(scene: Scene) -> AsyncIterator[None]:
    """Nothing gets through, in either direction, and nobody is told so."""
    scene.proxy.go_silent()
    yield
    await scene.proxy.pass_on()


@contextlib.asynccontextmanager
async def unheard(scene: Scene) -> AsyncIterator[None]:
    """What is sent takes effect and no answer comes back; then connections end, and new ones are refused."""
    scene.proxy.hold_answers()
    await asyncio.sleep(0.5)  # a part of what is tried
    await scene.proxy.refuse()
    scene.proxy.cut()
    yield
    await scene.proxy.pass_on()


@pytest.mark.parametrize("fault", [crashed, silent, unheard], ids=["crashed", "silent", "unheard"])
async def test_a_database_that_was_away_finds_everything_going_on(scene: Scene, fault: Fault):
    """While it is away publishers get 503 with Retry-After in good time, from each node, and deliveries go on from memory. Within
    five seconds of its return each node accepts events, and delivers what it accepts. Nothing that was accepted is lost, and
    nothing comes twice."""
    publishers = scene.publishers
    async with scene.under_load():
        away_at = time.monotonic()
        async with fault(scene):
            await asyncio.sleep(AWAY_SECONDS)  # this is what is tried
            refused = {trouble.client for trouble in publishers.troubles}
            from_memory = [arrival for arrival in scene.witness.arrivals if arrival.at > away_at + 1]
        await scene.recovered(time.monotonic())
    await scene.check_record()
    # Who asked before that may have been in a commit, and is told nothing until it is known what became of it.
    longest = max(seconds for asked_at, seconds in publishers.waits if asked_at > away_at)
    sys.stdout.write(
        f"REPORT from memory {len(from_memory)}, longest wait {longest:.2f} s, troubles {len(publishers.troubles)}\n"
    )
    assert refused == set(scene.clients)
    assert len(from_memory) > 10
    assert longest < LONGEST_ANSWER_SECONDS


async def test_connections_that_are_cut_cost_no_more_than_a_second_try(scene: Scene):
    """An administrator ends every connection, again and again: some publishers are told to come again, the others notice
    nothing. Afterwards all is there, once."""
    async with scene.under_load():
        for _ in range(CUTS):
            assert await scene.server.terminate_connections(scene.cluster.database.url) > 0
            await scene.publishers.accept_more(10)
        await scene.recovered(time.monotonic())
    await scene.check_record()
    longest = max(seconds for _, seconds in scene.publishers.waits)
    sys.stdout.write(f"REPORT longest wait {longest:.2f} s, troubles {len(scene.publishers.troubles)}\n")
    assert longest < LONGEST_ANSWER_SECONDS
