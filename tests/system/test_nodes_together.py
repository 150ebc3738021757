"""What is said to one node holds on every other: endpoints, keys, repeats, retries, tests. And work finds its node."""

import asyncio
import itertools
import statistics
import sys
import time
import uuid
from collections.abc import Sequence

import pytest

from gateway.cluster.news import DEAF_SECONDS
from tests.pgbouncer import PgBouncer
from tests.receiver import Receiver, hang, status
from tests.system.cluster import Cluster, make_endpoints
from tests.system.gateway_process import Client, eventually
from tests.system.load import event_of
from tests.system.witness import life_of

ROUNDS = 12
EVENTS = 300
PAUSE_SECONDS = 0.015
AGREED_SECONDS = 0.05
"""How soon a delivery for another node's bucket starts there at p99. The median must keep to it on the busiest machine; by
looking alone it would take five times as long."""


@pytest.fixture
async def clients(cluster: Cluster) -> list[Client]:
    """Of two nodes."""
    await cluster.grow(2)
    return await cluster.clients()


async def test_an_endpoints_changes_hold_for_every_event_published_afterwards(
    cluster: Cluster, clients: Sequence[Client], receiver: Receiver
):
    """Made, changed, disabled, enabled, deleted through one node: an event that is published through the other right after the
    answer, goes where it then belongs and nowhere else."""
    expected: set[tuple[str, str]] = set()

    async def publish(through: Client, event: str, path: str | None) -> None:
        published = await through.publish(event)
        if path is not None:
            expected.add((path, published["id"]))
            # What has not arrived yet follows the endpoint's next change; this is about what comes after one.
            await receiver.wait_until(lambda: len(receiver.requests) == len(expected), "the events so far")

    for number in range(ROUNDS):
        one, other = clients if number % 2 else reversed(clients)
        path = f"/{number}"
        endpoint = f"/webhooks/{(await one.create_endpoint(receiver.url(path), f'made.{number}'))['id']}"
        await publish(other, f"made.{number}", path)
        await one.good("PATCH", endpoint, {"events": [f"changed.{number}"]})
        await publish(other, f"changed.{number}", path)
        await publish(other, f"made.{number}", None)
        await one.good("PATCH", endpoint, {"isActive": False})
        await publish(other, f"changed.{number}", None)
        await one.good("PATCH", endpoint, {"isActive": True})
        await publish(other, f"changed.{number}", path)
        await one.good("DELETE", endpoint)
        await publish(other, f"changed.{number}", None)

    await cluster.settled()
    assert sorted((request.path, event_of(request)) for request in receiver.requests) == sorted(expected)
    assert cluster.database.rows("SELECT count(*) FROM deliveries") == [(len(expected),)]


async def test_a_new_url_is_obeyed_within_a_second(clients: Sequence[Client], receiver: Receiver):
    """Whichever node it was given to, and whichever serves the endpoint: what is published a second later, through whichever
    node, goes to the new one."""
    for number in range(ROUNDS):
        one, other = clients if number % 2 else reversed(clients)
        endpoint = await one.create_endpoint(receiver.url(f"/{number}/old"), f"round.{number}")
        await other.publish(f"round.{number}")
        await receiver.wait_for(1, f"/{number}/old")
        await one.good("PATCH", f"/webhooks/{endpoint['id']}", {"url": receiver.url(f"/{number}/new")})
    await asyncio.sleep(1)  # this is what is promised
    for number in range(ROUNDS):
        for client in clients:
            await client.publish(f"round.{number}")
        await receiver.wait_for(len(clients), f"/{number}/new")
        assert len(receiver.requests_for(f"/{number}/old")) == 1


async def test_keys_hold_on_every_node(cluster: Cluster, clients: Sequence[Client]):
    """A key that one node has made is taken by the other at once; one that was revoked is refused there within a second."""
    for number in range(ROUNDS):
        one, other = clients if number % 2 else reversed(clients)
        key = await one.good("POST", "/keys", {})
        stranger = Client(other.installation, key["apiKey"])
        assert (await stranger.ask("GET", "/webhooks")).status == 200
        await one.good("DELETE", f"/keys/{key['id']}")
        revoked_at = time.monotonic()
        while (await stranger.ask("GET", "/webhooks")).status == 200:
            assert time.monotonic() - revoked_at < 1
        assert (await stranger.ask("GET", "/webhooks")).status == 401


async def test_a_request_is_done_once_whichever_node_its_repeats_reach(clients: Sequence[Client], receiver: Receiver):
    """The same idempotency key gives the same answer on another node, secret and all; while the first request is under way
    there is a 409 for it."""
    one, other = clients
    for path, body in (
        ("/webhooks", {"url": receiver.url("/hook"), "events": ["invoice.paid"]}),
        ("/events", {"event": "invoice.paid", "data": {}}),
    ):
        key = {"Idempotency-Key": str(uuid.uuid4())}
        first, again = [await client.ask("POST", path, body, headers=key) for client in (one, other)]
        assert first.status in {201, 202}
        assert (again.status, again.body) == (first.status, first.body)
    assert len(await receiver.wait_for(1)) == 1

    receiver.script("/hook", [hang()])
    endpoint_id = (await one.every("/webhooks"))[0]["id"]
    key = {"Idempotency-Key": "under way"}
    test = asyncio.create_task(one.ask("POST", f"/webhooks/{endpoint_id}/test", headers=key))
    await receiver.wait_for(2)
    refused = await other.ask("POST", f"/webhooks/{endpoint_id}/test", headers=key)
    assert (refused.status, refused.body["error"]["code"]) == (409, "idempotency_in_progress")
    test.cancel()


async def test_of_many_at_once_on_two_nodes_one_does_the_work(clients: list[Client]):
    """However the same request hits both nodes at the same moment, there is one endpoint in the end."""
    for number in range(ROUNDS):
        body = {"url": f"http://127.0.0.1:9/{number}", "events": ["*"]}
        key = {"Idempotency-Key": f"number {number}"}
        answers = await asyncio.gather(*(client.ask("POST", "/webhooks", body, headers=key) for client in clients * 3))
        assert {answer.status for answer in answers} <= {201, 409}
        made = {answer.body["id"] for answer in answers if answer.status == 201}
        assert len(made) == 1
    assert len(await clients[0].every("/webhooks")) == ROUNDS


async def recorded(client: Client, delivery_id: str, *, attempts: int) -> None:
    """Returns when so many attempts of a delivery are on record."""

    async def are_recorded() -> bool:
        return int((await client.good("GET", f"/deliveries/{delivery_id}"))["attemptCount"]) >= attempts

    await eventually(are_recorded, f"{attempts} attempts on record")


async def test_any_node_takes_a_retry_by_hand_and_sends_a_test(cluster: Cluster, clients: Sequence[Client], receiver: Receiver):
    """The retry is made by the node that serves the endpoint, whichever was asked; a test by the one that was asked."""
    lives = {client: node.life for client, node in zip(clients, cluster.nodes, strict=True)}
    receiver.script(None, [status(410)])
    paths = [f"/{number}" for number in range(4)]
    endpoints = await make_endpoints(clients[0], receiver, paths)
    await clients[0].publish()
    deliveries = {each["webhookId"]: each["id"] for each in await clients[0].settled(len(paths))}
    receiver.script(None, [status(200)])
    for path, endpoint_id in endpoints.items():
        [holder] = [node for node in cluster.nodes if await node.holds(endpoint_id)]
        for client in clients:
            before = len(receiver.requests_for(path))
            await client.good("POST", f"/deliveries/{deliveries[endpoint_id]}/retry")
            *_, retried = await receiver.wait_for(before + 1, path)
            assert life_of(retried) == holder.life
            tested = await client.good("POST", f"/webhooks/{endpoint_id}/test")
            assert tested["success"]
            *_, test = await receiver.wait_for(before + 2, path)
            assert life_of(test) == lives[client]
            # Until its success is on record, another retry would be one that was asked for before it, and not be made.
            await recorded(client, deliveries[endpoint_id], attempts=2 + clients.index(client))
    assert {each["state"] for each in await clients[1].settled(len(paths))} == {"delivered"}


async def test_a_delivery_for_another_nodes_endpoint_starts_at_once(cluster: Cluster, clients: list[Client], receiver: Receiver):
    """The node that has taken the event wakes the one that serves the endpoint: half of the deliveries arrive within the time
    that is agreed for nearly all of them."""
    delays = await _delays(cluster, clients, receiver)
    assert statistics.median(delays) < AGREED_SECONDS


async def test_nodes_behind_a_pooler_look_often(cluster: Cluster, receiver: Receiver, pgbouncer: PgBouncer):
    """Through a PgBouncer in transaction mode, where nobody can be woken, two nodes deliver everything, and what is for the
    other one starts after a look or two."""
    cluster.settings |= {
        "store.url": pgbouncer.by_way_of(cluster.database.url),
        "store.migrate_url": cluster.database.url,
        "store.prepared_statements": "false",
        "store.listen": "false",
    }
    await cluster.grow(2)
    delays = await _delays(cluster, await cluster.clients(), receiver)
    assert statistics.median(delays) < 2 * DEAF_SECONDS + AGREED_SECONDS


async def _delays(cluster: Cluster, clients: list[Client], receiver: Receiver) -> list[float]:
    """Seconds from an event's acceptance by one node to its arrival from the other, which serves its endpoint; of many, in no
    hurry. Each of them arrives, once."""
    types: dict[Client, str] = {}  # what to publish to whom
    for number in itertools.count():
        endpoint = await clients[0].create_endpoint(receiver.url(f"/{number}"), f"round.{number}")
        holders = [await node.holds(endpoint["id"]) for node in cluster.nodes]
        types[clients[holders.index(False)]] = f"round.{number}"
        if len(types) == len(clients):
            break
    accepted: dict[str, float] = {}
    for client in clients * (EVENTS // 2):
        published = await client.publish(types[client])
        accepted[published["id"]] = time.monotonic()
        await asyncio.sleep(PAUSE_SECONDS)
    await receiver.wait_until(lambda: len(receiver.requests) >= EVENTS, "every event", seconds=10)
    await cluster.settled()
    arrived = {event_of(request): request.arrived_at for request in receiver.requests}
    assert len(receiver.requests) == len(arrived) == EVENTS
    delays = sorted(arrived[event_id] - at for event_id, at in accepted.items())
    half, most = delays[EVENTS // 2] * 1000, delays[EVENTS * 99 // 100] * 1000
    sys.stdout.write(f"REPORT across nodes: median {half:.1f} ms, p99 {most:.1f} ms\n")
    return delays
