"""Under which limits the dispatcher sends, and what becomes of what does not fit."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from gateway.clock import HOUR, SECOND
from gateway.delivery.lanes import BUFFER, BUFFER_BYTES
from gateway.model import DeliveryState, DisabledReason, Endpoint, Tenant
from gateway.store.sqlite import SqliteStore
from tests.fakes import failure, hold, ok, status, tenant
from tests.integration.core.conftest import URL, Node, differences, run_node

OTHER = "https://other.example/hook"
PENDING, DELIVERED, FAILED, CANCELED = DeliveryState


# Limits


async def test_the_limit_of_a_lane(store: SqliteStore):
    """A lane starts at two requests, grows with successes, and never passes its limit."""
    async with run_node(store, max_in_flight_per_endpoint=4) as node:
        node.sender.script(URL, hold())
        await node.create()
        await node.publish(20)
        await node.quiet()
        assert node.sender.held_requests == 2
        node.sender.release(count=1)
        await node.quiet()
        assert node.sender.held_requests == 3
        while node.sender.held_requests:
            node.sender.release()
            await node.quiet()
        assert node.sender.most_open == 4
        assert await node.states() == {DELIVERED: 20}


async def test_the_limit_of_the_node(store: SqliteStore):
    """However many endpoints have work, no more requests are open than the node may have, and all are served in the end."""
    async with run_node(store, max_in_flight=10) as node:
        await create_prompt(node, [f"{URL}/{number}" for number in range(20)])
        await node.publish(3)
        await node.quiet()
        assert node.sender.held_requests == 10
        assert max(node.sender.most_open_of.values()) == 1  # lanes take turns
        while node.sender.held_requests:
            node.sender.release(count=4)
            await node.quiet()
        assert node.sender.most_open == 10
        assert await node.states() == {DELIVERED: 80}


async def test_an_organization_holds_at_most_half(store: SqliteStore):
    """While another organization waits, one holds at most half of the node's requests, however many endpoints it has."""
    async with run_node(store, max_in_flight=10) as node:
        for name in ("greedy", "modest"):
            await create_prompt(node, [f"https://{name}.example/{number}" for number in range(10)], of=tenant(name))
        await node.publish(3, tenant=tenant("greedy"))
        await node.quiet()
        assert node.sender.held_requests == 10  # nobody else waits
        await node.publish(3, tenant=tenant("modest"))
        for _ in range(5):
            node.sender.release(count=2)
            await node.quiet()
        assert held_by_host(node) == {"greedy.example": 5, "modest.example": 5}
        while node.sender.held_requests:
            node.sender.release()
            await node.quiet()
        for name in ("greedy", "modest"):
            assert await node.states(of=tenant(name)) == {DELIVERED: 40}


async def test_half_holds_for_a_third_organization(store: SqliteStore):
    """With two organizations at half each, what is freed goes to the third that waits, not to either of them."""
    async with run_node(store, max_in_flight=5) as node:
        for name in ("a", "b", "c"):
            await create_prompt(node, [f"https://{name}.example/{number}" for number in range(5)], of=tenant(name))
        await asyncio.gather(node.publish(tenant=tenant("a")), node.publish(tenant=tenant("b")))
        await node.quiet()
        await node.publish(tenant=tenant("c"))
        await node.quiet()
        before = held_by_host(node)
        assert sorted(before.values()) == [2, 3]
        most = max(before, key=lambda host: before[host])
        node.sender.release(next(url for url, count in node.sender.open_of.items() if count and most in url))
        await node.quiet()
        assert held_by_host(node) == {"a.example": 2, "b.example": 2, "c.example": 1}


async def create_prompt(node: Node, urls: Sequence[str], *, of: Tenant | None = None) -> None:
    """Endpoints that have answered one event at once, and hold what comes after it."""
    for url in urls:
        node.sender.script(url, ok(), hold())
        await node.create(url, of=of)
    await node.publish(tenant=of or tenant())
    await node.quiet()


def held_by_host(node: Node) -> Counter[str]:
    return Counter(url.split("/")[2] for url, count in node.sender.open_of.items() for _ in range(count))


async def test_probes_hold_at_most_a_quarter(store: SqliteStore):
    """Endpoints that answer nothing hold a quarter of the node at most, once they are down to one probe each; a healthy
    one has the rest, and each of the others gets its turn."""
    async with run_node(store, max_in_flight=16) as node:
        dead = [f"https://dead.example/{number}" for number in range(12)]
        for url in dead:
            node.sender.script(url, failure(), failure(), hold(failure()))
            await node.create(url)
        await node.publish(3)
        await node.quiet()
        assert node.sender.held_requests == 4
        await node.create(URL)
        await node.publish(5)
        await node.quiet()
        assert len(node.sender.to(URL)) == 5
        for _ in range(20):
            node.sender.release()
            await node.quiet()
            assert node.sender.held_requests <= 4
        for url in dead:
            assert len(node.sender.to(url)) >= 3


async def test_those_that_are_not_known_yet_hold_at_most_half(store: SqliteStore):
    """However many new endpoints hang from their first event on, half of the node is left for those that are known to answer,
    from the very beginning."""
    async with run_node(store, max_in_flight=16) as node:
        await node.create(URL)
        await node.publish()
        await node.quiet()
        for number in range(2 * 16):
            node.sender.script(f"https://new.example/{number}", hold(failure()))
            await node.create(f"https://new.example/{number}")
        await node.publish(5)
        await node.quiet()
        assert held_by_host(node) == {"new.example": 8}
        assert len(node.sender.to(URL)) == 6
        for _ in range(12):
            node.sender.release()
            await node.quiet()
            assert node.sender.held_requests <= 8 + 4
        assert all(node.sender.to(f"https://new.example/{number}") for number in range(2 * 16)), "each gets its turn"


async def test_those_that_stop_answering_leave_room(store: SqliteStore):
    """However many endpoints that were prompt begin to hang at once, some requests are left for another, within the time that the
    first of them takes to fail."""
    async with run_node(store, max_in_flight=64, max_in_flight_per_endpoint=32) as node:
        hanging = [f"https://hanging.example/{number}" for number in range(20)]
        for url in hanging:
            node.sender.script(url, *[ok()] * 40, hold(failure()))
            await node.create(url)
        await node.create(URL)
        await node.publish(40)
        await node.quiet()
        await node.publish(40)
        await node.quiet()
        assert held_by_host(node)["hanging.example"] < 64
        assert len(node.sender.to(URL)) == 80


async def test_a_lane_that_failed_before_the_start_begins_with_a_probe(store: SqliteStore):
    """What waits for another attempt when the gateway starts tells that its endpoint failed: it is no new one."""
    async with run_node(store) as node:
        node.sender.script(URL, failure(), hold())
        await node.create()
        await node.publish()
        await node.quiet()
        await node.publish(5)
    async with run_node(store) as node:
        node.sender.script(URL, hold())
        await node.quiet()
        assert node.sender.held_requests == 1


async def test_a_parked_lane_without_work_passes_its_place_on(store: SqliteStore):
    """The race: a lane that waits for room among the probes loses its work. When there is room, the next one gets it, and
    none waits for ever."""
    async with run_node(store, max_in_flight=4) as node:
        made: dict[str, Endpoint] = {}
        for name in ("probing", "disabled", "waiting"):
            url = f"https://{name}.example/"
            node.sender.script(url, failure(), hold(ok()))
            made[name] = await node.create(url)
            await node.publish()  # fails, and leaves the lane with one probe
            await node.quiet()
        await node.update(made["probing"], events=("probe.probing",))
        await node.update(made["disabled"], events=("probe.disabled",))
        await node.update(made["waiting"], events=("probe.waiting",))
        for name in made:
            await node.publish(type=f"probe.{name}")
            await node.quiet()
        assert node.sender.held_requests == 1
        await node.update(made["disabled"], is_active=False)
        node.sender.release()
        await node.quiet()
        assert len(node.sender.to("https://waiting.example/")) == 2
        assert len(node.sender.to("https://disabled.example/")) == 1


async def test_a_parked_lane_that_is_forgotten(store: SqliteStore):
    """The race: a lane that waits for room among the probes loses its work, and is forgotten before there is room. That
    breaks nothing, and its endpoint is served when it is enabled again."""
    async with run_node(store, max_in_flight=4) as node:
        made: dict[str, Endpoint] = {}
        for name in ("probing", "disabled"):
            url = f"https://{name}.example/"
            node.sender.script(url, failure(), hold(ok()))
            made[name] = await node.create(url, events=(f"{name}.*",))
            await node.publish(type=f"{name}.first")
            await node.quiet()
        for name in made:
            await node.publish(type=f"{name}.second")
            await node.quiet()
        await node.update(made["disabled"], is_active=False)
        await node.advance(70 * SECOND)
        node.sender.release()
        await node.advance(70 * SECOND)
        await node.update(made["disabled"], is_active=True)
        await node.publish(type="disabled.third")
        await node.quiet()
        node.sender.release()
        await node.quiet()
        assert len(node.sender.to("https://disabled.example/")) == 2


async def test_idle_lanes_are_forgotten(node: Node):
    """A lane without work is forgotten after a while, one that has work or a retry to come is not."""
    node.sender.script(OTHER, status(500))
    await node.create()
    await node.create(OTHER)
    await node.publish()
    await node.quiet()
    assert len(node.dispatcher._lanes) == 2
    await node.advance(59 * SECOND)
    assert len(node.dispatcher._lanes) == 2
    await node.advance(2 * SECOND)
    assert len(node.dispatcher._lanes) == 1
    await node.publish()
    await node.quiet()
    assert len(node.sender.to(URL)) == 2


async def test_the_memory_of_due_times_is_bounded(node: Node):
    """A lane that has one retry far ahead and much traffic meanwhile remembers one time, not one for each request."""
    node.sender.script(URL, status(400), ok())
    await node.create()
    await node.publish()
    await node.quiet()
    await node.publish(500)
    await node.quiet()
    assert len(node.dispatcher._looks) <= 2


# Spilling


async def test_nothing_is_lost_or_sent_twice_when_a_lane_spills(node: Node):
    """2,000 deliveries through a buffer of 256: each is sent once, in order, though most of them waited in the store."""
    node.sender.script(URL, hold(), hold(), ok())
    await node.create()
    events = []
    for _ in range(20):
        events += await node.publish(100)
    lane = next(iter(node.dispatcher._lanes.values()))
    assert lane.buffered <= BUFFER
    assert lane.has_more_first
    node.sender.release()
    await node.quiet()
    sent = [request.event_id for request in node.sender.requests]
    assert differences(sent, events) == []
    places = {event.id: place for place, event in enumerate(events)}
    # Requests that are open together may be written in any order; beyond that it is the order of publication.
    assert all(abs(places[event_id] - at) <= 32 for at, event_id in enumerate(sent))
    assert await node.states() == {DELIVERED: 2_000}
    assert node.claims.count >= 2_000 // BUFFER


async def test_spilling_while_events_come(store: SqliteStore):
    """While a lane drains its backlog and more comes all the time, each delivery is still sent once."""
    async with run_node(store, max_in_flight_per_endpoint=8) as node:
        node.sender.script(URL, hold())
        await node.create()
        events = await node.publish(600)
        for _ in range(60):
            publishing = asyncio.create_task(node.publish(15))
            node.sender.release(count=30)
            events += await publishing
        node.sender.script(URL, ok())
        node.sender.release()
        await node.quiet()
        assert differences([request.event_id for request in node.sender.requests], events) == []


async def test_large_events_spill_by_their_size(node: Node):
    """A lane's buffer is bounded in bytes, too."""
    node.sender.script(URL, hold(), hold(), ok())
    await node.create()
    events = [event for _ in range(12) for event in await node.publish(data=b'"%s"' % (b"x" * (BUFFER_BYTES // 4)))]
    lane = next(iter(node.dispatcher._lanes.values()))
    assert lane.buffered <= 5
    node.sender.release()
    await node.quiet()
    assert differences([request.event_id for request in node.sender.requests], events) == []


async def test_a_backlog_stands_in_front_of_nobody(node: Node):
    """While a hanging endpoint has 1,000 deliveries waiting, another one's are sent at once."""
    node.sender.script(URL, hold(failure()))
    await node.create()
    await node.create(OTHER)
    await node.publish(1_000)
    await node.quiet()
    assert len(node.sender.to(OTHER)) == 1_000
    assert len(node.sender.to(URL)) == 2


async def test_the_oldest_events_of_a_dead_endpoint_run_on_time(node: Node):
    """An endpoint that answers nothing, with a long queue, is down to one probe: due retries go before the first attempts
    that fill its buffer, so that it is disabled about four hours after its last success, however long the queue is."""
    node.sender.script(URL, failure(), failure(), hold(failure()))
    made = await node.create()
    await node.publish(1_000)
    await node.quiet()
    elapsed = 0
    while (await node.endpoint(made)).is_active and elapsed < 8 * HOUR:
        await node.advance(10 * SECOND)
        elapsed += 10 * SECOND
        node.sender.release()
        await node.quiet()
    assert (await node.endpoint(made)).disabled_reason is DisabledReason.FAILURES
    assert 3.5 * HOUR < elapsed < 4.5 * HOUR
    assert (await node.states())[FAILED] >= 3
