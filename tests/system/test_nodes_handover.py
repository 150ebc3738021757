"""Buckets go from node to node while all goes on: an endpoint is served by one node at a time, and no publisher notices."""

import asyncio
import contextlib
import itertools
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Self

import aiohttp

from tests.receiver import Receiver
from tests.system.cluster import Cluster, check_record, spread_endpoints
from tests.system.gateway_process import Client
from tests.system.load import Publishers
from tests.system.witness import Witness

LOOK_SECONDS = 0.05


class Balancer:
    """What stands before the nodes: it sends publishers in turn to those that say that they are ready."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = clients
        self._turns = itertools.count()
        self._ready = list(clients)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, clients: Sequence[Client]) -> AsyncIterator[Self]:
        """Looks at the nodes meanwhile."""
        balancer = cls(clients)
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(balancer._look(), name="balancer")
            yield balancer
            looking.cancel()

    def route(self, _tries: int) -> Client:
        """For a publisher."""
        return self._ready[next(self._turns) % len(self._ready)]

    async def _look(self) -> None:
        while True:
            ready = await asyncio.gather(*map(_is_ready, self._clients))
            self._ready = list(itertools.compress(self._clients, ready)) or self._ready
            await asyncio.sleep(LOOK_SECONDS)


async def _is_ready(client: Client) -> bool:
    try:
        return (await client.ask("GET", "/health/ready")).status == 200
    except aiohttp.ClientError:
        return False


async def test_no_two_nodes_send_to_one_endpoint_at_a_time(cluster: Cluster, receiver: Receiver):
    """With one request at a time for each endpoint, slow receivers that always have work see no second one, while nodes join
    and leave and their buckets go from hand to hand; and nothing comes twice."""
    cluster.settings |= {"delivery.max_in_flight_per_endpoint": 1}
    witness = Witness(receiver)
    paths = [f"/{number}" for number in range(6)]
    receiver.script(None, [witness.step(seconds=0.02)])
    first, second = nodes = await cluster.grow(2)
    clients = await cluster.clients()
    await spread_endpoints(nodes, clients[0], receiver, paths)
    publishers = Publishers(pause_seconds=0.25)
    async with Balancer.open(clients) as balancer, publishers.publishing(balancer.route, batch=6):
        await publishers.accept_more(20)
        [third] = await cluster.grow(1)
        for node in (first, third, second):
            assert await node.process.stop() == 0, node.process.tail
            await cluster.shared_out()
            await publishers.accept_more(6)
            await cluster.start(node)
            await cluster.shared_out()
            await publishers.accept_more(6)

    await witness.have_all(publishers.accepted, paths)
    await cluster.settled()
    check_record(cluster, receiver, witness, publishers.accepted, paths)
    assert {path: receiver.overlap(path) for path in paths} == dict.fromkeys(paths, 1)
    assert list(witness.repeats()) == []
    lives = defaultdict(set)
    for arrival in witness.arrivals:
        lives[arrival.delivery[0]].add(arrival.life)
    assert all(len(served_by) > 1 for served_by in lives.values()), "a bucket stayed where it was"
    sys.stdout.write(f"REPORT {len(publishers.accepted)} events; nodes that served each endpoint: {dict(lives)}\n")


async def test_a_rolling_restart_costs_no_publisher_anything(cluster: Cluster, receiver: Receiver):
    """Each of three nodes is stopped and started in turn, with a grace in which the balancer before them notices. A publisher
    meets no more than a connection to a node that is going down, refused or closed without an answer; each event arrives
    once, and is on record with one attempt for each endpoint."""
    cluster.settings |= {"http.grace_seconds": 0.5}
    witness = Witness(receiver)
    paths = [f"/{number}" for number in range(6)]
    receiver.script(None, [witness.step(seconds=0.03)])
    nodes = await cluster.grow(3)
    clients = await cluster.clients()
    await spread_endpoints(nodes, clients[0], receiver, paths)
    publishers = Publishers(pause_seconds=0.1)
    down: list[tuple[Client, float, float]] = []
    async with Balancer.open(clients) as balancer, publishers.publishing(*[balancer.route] * 6):
        for node, client in zip(nodes, clients, strict=True):
            await publishers.accept_more(30)
            asked_at = time.monotonic()
            assert await node.process.stop() == 0, node.process.tail
            await publishers.accept_more(30)
            await cluster.start(node)
            down.append((client, asked_at, time.monotonic()))
            await cluster.shared_out()
        await publishers.accept_more(30)

    await witness.have_all(publishers.accepted, paths)
    await cluster.settled()
    check_record(cluster, receiver, witness, publishers.accepted, paths)
    assert set(witness.count().values()) == {1}
    assert witness.count() == cluster.attempts(receiver.url(""))
    assert {1, 2, 3} < {arrival.life for arrival in witness.arrivals}
    for trouble in publishers.troubles:
        assert any(client is trouble.client and begun <= trouble.at <= over for client, begun, over in down), trouble
    sys.stdout.write(f"REPORT {len(publishers.accepted)} events, troubles: {[each.words for each in publishers.troubles]}\n")
