"""The dispatcher with the writer and the real store: what is sent when, under which limits, and what becomes of it."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from gateway import signing
from gateway.clock import HOUR, MINUTE, SECOND
from gateway.delivery.endpoint_test import EndpointTester
from gateway.delivery.lanes import BUFFER, BUFFER_BYTES
from gateway.errors import EndpointNotFound
from gateway.model import AcceptedEvent, AttemptError, AttemptTrigger, Delivery, DeliveryState, DisabledReason, Endpoint, Reason
from gateway.registry.endpoints import deleted
from gateway.store.protocol import Effects, NewEvent
from gateway.store.sqlite import SqliteStore
from tests.fakes import PATIENCE_SECONDS, START, Crash, FakeClock, ScriptedSender, due, failure, hold, ok, status, tenant
from tests.integration.core.conftest import URL, Node, Nothing, run_node

OTHER = "https://other.example/hook"
PENDING, DELIVERED, FAILED, CANCELED = DeliveryState


# First attempts


async def test_fresh_deliveries_are_sent(node: Node):
    """What is published is sent at once to each endpoint that wants it, signed for it, and recorded as delivered."""
    await node.create()
    other = await node.create(OTHER, events=("customer.*",))
    (paid,) = await node.publish()
    (made,) = await node.publish(type="customer.created")
    await node.quiet()
    assert [(request.url, request.event_id) for request in node.sender.requests] == [
        (URL, paid.id),
        (URL, made.id),
        (OTHER, made.id),
    ]
    assert json.loads(node.sender.requests[0].body)["id"] == paid.id
    assert await node.states() == {DELIVERED: 3}
    (delivery,) = await node.deliveries(endpoint_id=other.id)
    (attempt,) = await node.attempts(delivery)
    assert (attempt.number, attempt.trigger, attempt.status, attempt.url) == (1, AttemptTrigger.AUTOMATIC, 200, OTHER)
    assert (delivery.attempt_count, delivery.scheduled_count, delivery.last_status) == (1, 1, 200)


async def test_events_of_an_endpoint_are_started_in_order(store: SqliteStore):
    """A lane with one request at a time sends events in the order in which they were published."""
    async with run_node(store, max_in_flight_per_endpoint=1) as node:
        await node.create()
        events = await node.publish(50)
        await node.quiet()
        assert [request.event_id for request in node.sender.requests] == [event.id for event in events]


async def test_a_tenants_events_go_to_its_own_endpoints(node: Node):
    """No event reaches an endpoint of another organization or mode."""
    await node.create()
    await node.create(OTHER, of=tenant("other"))
    await node.publish()
    await node.quiet()
    assert {request.url for request in node.sender.requests} == {URL}


# Retries


async def test_a_retry_comes_at_its_time_and_not_before(node: Node):
    """A failed attempt is repeated a minute after it ended, not a millisecond before, with the same body and a new signature."""
    node.sender.script(URL, status(500), ok())
    await node.create()
    await node.publish()
    await node.quiet()
    assert (await node.only_delivery()).due_at == START + MINUTE
    await node.advance(MINUTE - 1)
    assert len(node.sender.requests) == 1
    await node.advance(1)
    first, second = node.sender.requests
    assert first.body == second.body
    assert first.headers["X-Commet-Signature"] == second.headers["X-Commet-Signature"]
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 60
    delivery = await node.only_delivery()
    assert (delivery.state, delivery.attempt_count) == (DELIVERED, 2)
    await node.advance(10 * HOUR)
    assert len(node.sender.requests) == 2


async def test_the_whole_schedule(node: Node):
    """Eight attempts at the contract's times, then the delivery is failed and nothing more is sent."""
    node.sender.script(URL, failure())
    await node.create()
    await node.publish()
    await node.quiet()
    for count, minutes in enumerate((1, 5, 15, 30, 60, 60, 60), 1):
        await node.advance(minutes * MINUTE - 1)
        assert len(node.sender.requests) == count
        await node.advance(1)
        assert len(node.sender.requests) == count + 1
    delivery = await node.only_delivery()
    assert (delivery.state, delivery.reason, delivery.attempt_count) == (FAILED, Reason.ATTEMPTS_EXHAUSTED, 8)
    assert (delivery.due_at, delivery.last_error) == (None, "timeout")
    await node.advance(24 * HOUR)
    assert len(node.sender.requests) == 8
    assert [attempt.number for attempt in await node.attempts(delivery)] == list(range(1, 9))


async def test_delays_run_from_the_end_of_an_attempt(node: Node):
    """An attempt that takes ten seconds is repeated a minute after it ended."""
    node.sender.script(URL, hold(failure()), ok())
    await node.create()
    await node.publish()
    await node.quiet()
    await node.advance(10 * SECOND)
    node.sender.release()
    await node.quiet()
    assert (await node.only_delivery()).due_at == START + 10 * SECOND + MINUTE


async def test_due_times_do_not_jump_with_the_wall_clock(node: Node):
    """A wall clock that is set ahead by a day makes no retry due."""
    node.sender.script(URL, status(500), ok())
    await node.create()
    await node.publish()
    await node.quiet()
    node.clock.set_wall(START + 24 * HOUR)
    await node.advance(MINUTE - 1)
    assert len(node.sender.requests) == 1
    await node.advance(1)
    assert len(node.sender.requests) == 2


async def test_retries_of_many_deliveries(node: Node):
    """Deliveries that failed at different times are each repeated at their own."""
    node.sender.script(URL, *[status(404)] * 5, ok())
    await node.create()
    for _ in range(5):
        await node.publish()
        await node.advance(SECOND)
    for count in range(5):
        await node.advance(MINUTE - 5 * SECOND if count == 0 else SECOND)
        assert len(node.sender.requests) == 5 + count + 1
    assert await node.states() == {DELIVERED: 5}
    events = [request.event_id for request in node.sender.requests]
    assert events[:5] == events[5:]


async def test_a_fault_of_the_gateway_hurts_nobody_else(node: Node):
    """An attempt that fails for a bug of ours is on record and repeated; the others go on."""
    node.sender.script(URL, Crash(), ok())
    await node.create()
    await node.create(OTHER)
    with capture_logs() as logs:
        await node.publish()
        await node.quiet()
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["attempt.crashed"]
    assert await node.states() == {PENDING: 1, DELIVERED: 1}
    await node.advance(MINUTE)
    assert await node.states() == {DELIVERED: 2}


async def test_a_change_holds_from_the_next_attempt_on(node: Node):
    """A retry goes to the endpoint's new URL, with the body that was made for it at first."""
    node.sender.script(URL, status(500))
    made = await node.create()
    await node.publish()
    await node.quiet()
    await node.update(made, url=OTHER, api_version="2026-05-25")
    await node.advance(MINUTE)
    assert [request.url for request in node.sender.requests] == [URL, OTHER]
    assert node.sender.requests[0].body == node.sender.requests[1].body


# Retry-After


@pytest.mark.parametrize("code", [429, 503])
async def test_retry_after_pauses_the_lane(node: Node, code: int):
    """An endpoint that asks for ten minutes gets nothing automatic for ten minutes, retries and new events alike; others do."""
    node.sender.script(URL, status(code, retry_after="600"), ok())
    made = await node.create()
    await node.publish()
    await node.quiet()
    assert (await node.endpoint(made)).paused_until == START + 10 * MINUTE
    await node.create(OTHER)
    await node.publish(3)
    await node.advance(10 * MINUTE - 1)
    assert Counter(request.url for request in node.sender.requests) == {URL: 1, OTHER: 3}
    await node.advance(1)
    assert Counter(request.url for request in node.sender.requests) == {URL: 5, OTHER: 3}
    assert await node.states() == {DELIVERED: 7}


async def test_a_pause_survives_a_restart(store: SqliteStore):
    """A node that starts anew keeps the pause that the endpoint asked for."""
    clock, sender = FakeClock(), ScriptedSender()
    sender.script(URL, status(429, retry_after="600"), ok())
    async with run_node(store, clock=clock, sender=sender) as node:
        await node.create()
        await node.publish(2)
        await node.quiet()
        sent = len(sender.requests)
    async with run_node(store, clock=clock, sender=sender) as node:
        await node.advance(10 * MINUTE - 1)
        assert len(sender.requests) == sent
        await node.advance(1)
        assert await node.states() == {DELIVERED: 2}


async def test_a_new_url_ends_the_pause(node: Node):
    """A pause that the old receiver asked for does not keep the new one waiting."""
    node.sender.script(URL, status(429, retry_after="3600"))
    made = await node.create()
    await node.publish()
    await node.quiet()
    await node.update(made, url=OTHER)
    await node.publish()
    await node.quiet()
    assert len(node.sender.to(OTHER)) == 1


@pytest.mark.parametrize("turned", [{"url": OTHER}, {"is_active": False}], ids=["another url", "enabled again"])
async def test_what_the_old_receiver_asks_for_does_not_pause_the_new_one(node: Node, turned: dict[str, object]):
    """An attempt that was under way when its endpoint changed, or was disabled and enabled, pauses nothing by its answer."""
    node.sender.script(URL, hold(status(503, retry_after="3600")), ok())
    made = await node.create()
    await node.publish()
    await node.quiet()
    await node.update(made, **turned)
    await node.update(made, is_active=True)
    node.sender.release()
    await node.quiet()
    assert (await node.endpoint(made)).paused_until is None
    (fresh,) = await node.publish()
    await node.quiet()
    assert [request.event_id for request in node.sender.requests[1:]] == [fresh.id]


async def test_enabling_ends_the_pause(node: Node):
    """An endpoint that was disabled and enabled gets new events at once, whatever it had asked for before."""
    node.sender.script(URL, status(429, retry_after="3600"), ok())
    made = await node.create()
    await node.publish()
    await node.quiet()
    await node.update(made, is_active=False)
    await node.update(made, is_active=True)
    (fresh,) = await node.publish()
    await node.quiet()
    assert [request.event_id for request in node.sender.requests[1:]] == [fresh.id]


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
        for number in range(20):
            node.sender.script(f"{URL}/{number}", hold())
            await node.create(f"{URL}/{number}")
        await node.publish(3)
        await node.quiet()
        assert node.sender.held_requests == 10
        assert max(node.sender.most_open_of.values()) == 1  # lanes take turns
        while node.sender.held_requests:
            node.sender.release(count=4)
            await node.quiet()
        assert node.sender.most_open == 10
        assert await node.states() == {DELIVERED: 60}


async def test_an_organization_holds_at_most_half(store: SqliteStore):
    """While another organization waits, one holds at most half of the node's requests, however many endpoints it has."""
    async with run_node(store, max_in_flight=10) as node:
        for number in range(10):
            url = f"https://greedy.example/{number}"
            node.sender.script(url, hold())
            await node.create(url, of=tenant("greedy"))
        for number in range(10):
            url = f"https://modest.example/{number}"
            node.sender.script(url, hold())
            await node.create(url, of=tenant("modest"))
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
            assert await node.states(of=tenant(name)) == {DELIVERED: 30}


async def test_half_holds_for_a_third_organization(store: SqliteStore):
    """With two organizations at half each, what is freed goes to the third that waits, not to either of them."""
    async with run_node(store, max_in_flight=5) as node:
        for name in ("a", "b", "c"):
            for number in range(5):
                url = f"https://{name}.example/{number}"
                node.sender.script(url, hold())
                await node.create(url, of=tenant(name))
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


def differences(sent: Sequence[str], events: Sequence[AcceptedEvent]) -> list[tuple[str, int]]:
    """Events that were not sent once, with how often they were; the first few."""
    counts = Counter(sent)
    expected = {event.id for event in events}
    wrong = [(event_id, counts[event_id]) for event_id in expected if counts[event_id] != 1]
    return [*wrong, *((event_id, count) for event_id, count in counts.items() if event_id not in expected)][:10]


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


# Endpoints that change


async def test_disabling_cancels_what_waits(node: Node):
    """What waits for an endpoint is canceled the moment it is disabled, in the buffer and in the store, and never sent;
    what is under way is recorded."""
    node.sender.script(URL, hold())
    made = await node.create()
    await node.publish(400)
    await node.quiet()
    await node.update(made, is_active=False)
    assert await node.states() == {CANCELED: 400}  # also what is under way, unless it succeeds
    assert {delivery.reason for delivery in await node.deliveries()} == {Reason.ENDPOINT_DISABLED}
    node.sender.release()
    await node.advance(10 * HOUR)
    assert len(node.sender.requests) == 2
    assert await node.states() == {CANCELED: 398, DELIVERED: 2}


async def test_disabling_cancels_retries(node: Node):
    """A retry that is to come is canceled with its endpoint."""
    node.sender.script(URL, status(500))
    made = await node.create()
    await node.publish()
    await node.quiet()
    await node.update(made, is_active=False)
    await node.advance(10 * HOUR)
    assert len(node.sender.requests) == 1
    assert (await node.only_delivery()).state is CANCELED


async def test_a_failure_under_way_does_not_come_back(node: Node):
    """An attempt that was under way when its endpoint was disabled, and fails, is not repeated, enabled again or not."""
    node.sender.script(URL, hold(status(500)), ok())
    made = await node.create()
    await node.publish()
    await node.quiet()
    await node.update(made, is_active=False)
    await node.update(made, is_active=True)
    node.sender.release()
    await node.advance(10 * HOUR)
    delivery = await node.only_delivery()
    assert (delivery.state, delivery.attempt_count) == (CANCELED, 1)
    assert len(node.sender.requests) == 1


async def test_enabling_revives_nothing(node: Node):
    """After an endpoint is enabled it gets what is published from then on, and nothing of what was canceled or missed."""
    node.sender.script(URL, hold())
    made = await node.create()
    await node.publish(300)
    await node.quiet()
    await node.update(made, is_active=False)
    await node.publish(5)  # matched against nobody
    await node.update(made, is_active=True)
    fresh = await node.publish(2)
    node.sender.script(URL, ok())
    node.sender.release()
    await node.advance(10 * HOUR)
    assert [request.event_id for request in node.sender.requests[2:]] == [event.id for event in fresh]
    assert await node.states() == {CANCELED: 298, DELIVERED: 4}


async def test_deleting_cancels_what_waits(node: Node):
    """What waits for an endpoint is canceled when it is deleted; what is under way is recorded, and nothing more is sent."""
    node.sender.script(URL, hold())
    made = await node.create()
    await node.publish(10)
    await node.quiet()
    await node.delete(made)
    node.sender.release()
    await node.publish()
    await node.advance(10 * HOUR)
    assert len(node.sender.requests) == 2
    assert await node.states() == {CANCELED: 8, DELIVERED: 2}
    assert {delivery.reason for delivery in await node.deliveries(state=CANCELED)} == {Reason.ENDPOINT_DELETED}


async def test_an_attempt_that_starts_as_its_endpoint_is_deleted(node: Node):
    """The race: an attempt is started, and its endpoint deleted before the attempt has taken its first step. It is made as
    it was started, and not with what is left of the endpoint."""
    made = await node.create()
    started = due(made)
    async with node.store.transaction() as transaction:
        await transaction.add_events([NewEvent(started.event, 1)])
        await transaction.add_deliveries([(made.tenant, started)])
        await transaction.save_endpoint(gone := deleted(made, START))
    node.dispatcher.committed([(made, started)], [], Effects())
    node.dispatcher.committed([], [], Effects(endpoints=[gone]))
    await node.quiet()
    (request,) = node.sender.requests
    assert signing.verify_hex(made.secret, request.body, request.headers["X-Commet-Signature"])
    assert await node.states() == {DELIVERED: 1}


async def test_410_disables(node: Node):
    """410 fails the delivery for good and disables its endpoint: what else waits for it is canceled."""
    node.sender.script(URL, status(410))
    made = await node.create()
    await node.publish(5)
    await node.quiet()
    gone = await node.endpoint(made)
    assert (gone.is_active, gone.disabled_reason) == (False, DisabledReason.GONE)
    reasons = Counter(delivery.reason for delivery in await node.deliveries())
    assert reasons[Reason.ENDPOINT_GONE] >= 1
    assert reasons[Reason.ENDPOINT_GONE] + reasons[Reason.ENDPOINT_DISABLED] == 5
    sent = len(node.sender.requests)
    await node.advance(10 * HOUR)
    assert len(node.sender.requests) == sent


async def run_through_schedule(node: Node) -> None:
    for minutes in (0, 1, 5, 15, 30, 60, 60, 60):
        await node.advance(minutes * MINUTE)


async def test_three_failed_events_in_a_row_disable(store: SqliteStore):
    """When three events in a row have failed for good, their endpoint is disabled, and not before."""
    async with run_node(store) as node:
        node.sender.script(URL, status(500))
        made = await node.create()
        for failed in range(1, 4):
            assert (await node.endpoint(made)).is_active
            await node.publish()
            await run_through_schedule(node)
            assert (await node.endpoint(made)).failed_in_row == failed
        disabled = await node.endpoint(made)
        assert (disabled.is_active, disabled.disabled_reason) == (False, DisabledReason.FAILURES)
        assert await node.states() == {FAILED: 3}
        await node.publish()
        await node.quiet()
        assert len(node.sender.requests) == 24


async def test_a_success_in_between_starts_over(node: Node):
    """A success between failed events sets the count to zero."""
    made = await node.create()
    for answer in (status(500), status(500), ok(), status(500), status(500)):
        node.sender.script(URL, answer)
        await node.publish()
        await run_through_schedule(node)
    assert (await node.endpoint(made)).is_active
    assert (await node.endpoint(made)).failed_in_row == 2
    assert await node.states() == {FAILED: 4, DELIVERED: 1}


# Retries by hand


async def fail_once(node: Node) -> Delivery:
    """A delivery whose first attempt has failed."""
    node.sender.script(URL, status(500))
    await node.create()
    await node.publish()
    await node.quiet()
    return await node.only_delivery()


async def test_a_retry_by_hand_is_made_at_once(node: Node):
    """A retry by hand is one more attempt, now; when it succeeds the delivery is delivered and nothing more is sent."""
    delivery = await fail_once(node)
    node.sender.script(URL, ok())
    await node.retry(delivery)
    await node.quiet()
    delivery = await node.only_delivery()
    assert (delivery.state, delivery.attempt_count, delivery.scheduled_count, delivery.due_at) == (DELIVERED, 2, 1, None)
    assert [attempt.trigger for attempt in await node.attempts(delivery)] == [AttemptTrigger.AUTOMATIC, AttemptTrigger.MANUAL]
    await node.advance(10 * HOUR)
    assert len(node.sender.requests) == 2


async def test_a_retry_by_hand_that_fails_moves_nothing(node: Node):
    """A retry by hand that fails does not count among the eight, and the next automatic attempt comes when it was due."""
    delivery = await fail_once(node)
    for _ in range(3):
        await node.advance(10 * SECOND)
        await node.retry(delivery)
        await node.quiet()
    assert len(node.sender.requests) == 4
    after = await node.only_delivery()
    assert (after.state, after.due_at, after.scheduled_count) == (PENDING, delivery.due_at, 1)
    await node.advance(30 * SECOND - 1)
    assert len(node.sender.requests) == 4
    await node.advance(1)
    assert len(node.sender.requests) == 5
    for minutes in (5, 15, 30, 60, 60, 60):
        await node.advance(minutes * MINUTE)
    after = await node.only_delivery()
    assert (after.state, after.attempt_count, after.scheduled_count) == (FAILED, 11, 8)


@pytest.mark.parametrize("answer", [ok(), status(500)])
async def test_a_retry_by_hand_of_what_has_ended(node: Node, answer: object):
    """A failed or delivered delivery can be retried by hand: a success delivers it, a failure leaves it as it was."""
    await fail_once(node)
    await run_through_schedule(node)
    failed = await node.only_delivery()
    assert failed.state is FAILED
    node.sender.script(URL, answer)  # type: ignore[arg-type]
    await node.retry(failed)
    await node.quiet()
    after = await node.only_delivery()
    assert after.state is (DELIVERED if answer == ok() else FAILED)
    assert after.attempt_count == 9
    await node.retry(after)
    await node.advance(10 * HOUR)
    assert (await node.only_delivery()).attempt_count == 10
    assert (await node.only_delivery()).state is after.state


async def test_a_retry_by_hand_goes_past_a_pause(node: Node):
    """While an endpoint is paused, a retry by hand is sent at once, and the pause holds for everything else."""
    node.sender.script(URL, status(429, retry_after="3600"), status(500))
    await node.create()
    await node.publish()
    await node.quiet()
    first = await node.only_delivery()
    await node.publish(3)
    await node.retry(first)
    await node.quiet()
    assert [request.event_id for request in node.sender.requests] == [first.event_id, first.event_id]


async def test_a_retry_by_hand_of_what_waits_in_a_paused_lane(node: Node):
    """The race: a delivery waits in the buffer of a lane that is paused. A retry by hand of it is sent at once all the same,
    and its automatic attempt comes when the pause is over, unless it was delivered."""
    node.sender.script(URL, status(429, retry_after="600"), status(500), ok())
    await node.create()
    await node.publish()
    await node.quiet()
    await node.publish(2)
    _, waiting, also = await node.deliveries()
    await node.retry(waiting)
    await node.quiet()
    assert [request.event_id for request in node.sender.requests[1:]] == [waiting.event_id]
    await node.retry(also)
    await node.quiet()
    assert [request.event_id for request in node.sender.requests[2:]] == [also.event_id]
    await node.advance(10 * MINUTE)
    assert await node.states() == {DELIVERED: 3}
    sent = Counter(request.event_id for request in node.sender.requests)
    assert (sent[waiting.event_id], sent[also.event_id]) == (2, 1)


async def test_a_retry_by_hand_goes_past_a_full_and_paused_lane(node: Node):
    """A retry by hand does not wait for room in the buffer of a paused lane."""
    node.sender.script(URL, status(429, retry_after="3600"), ok())
    await node.create()
    await node.publish()
    await node.quiet()
    await node.publish(BUFFER + 50)
    first, *_, last = await node.deliveries()
    await node.retry(first)
    await node.retry(last)
    await node.quiet()
    assert [request.event_id for request in node.sender.requests[1:]] == [first.event_id, last.event_id]


async def test_a_retry_by_hand_goes_first(store: SqliteStore):
    """A retry by hand is next in its lane, before everything that waits there."""
    async with run_node(store, max_in_flight_per_endpoint=1) as node:
        node.sender.script(URL, status(400), hold(), ok())
        await node.create()
        await node.publish()
        await node.quiet()
        first = await node.only_delivery()
        await node.publish(20)
        await node.quiet()
        await node.retry(first)
        await node.quiet()
        node.sender.release()
        await node.quiet()
        assert node.sender.requests[2].event_id == first.event_id
        assert len(node.sender.requests) == 22


async def test_a_retry_by_hand_never_runs_beside_another_attempt(node: Node):
    """While a delivery is being attempted a retry by hand of it waits, and is sent right after; several come one by one."""
    node.sender.script(URL, hold(status(500)))
    await node.create()
    await node.publish()
    await node.quiet()
    delivery = await node.only_delivery()
    for _ in range(3):
        await node.retry(delivery)
    await node.quiet()
    for count in (1, 2, 3, 4):
        assert (len(node.sender.requests), node.sender.held_requests) == (count, 1)
        node.sender.release()
        await node.quiet()
    assert (len(node.sender.requests), node.sender.held_requests) == (4, 0)
    triggers = [attempt.trigger for attempt in await node.attempts(delivery)]
    assert triggers == [AttemptTrigger.AUTOMATIC, *[AttemptTrigger.MANUAL] * 3]


async def test_an_automatic_attempt_never_runs_beside_a_retry_by_hand(node: Node):
    """An automatic attempt that falls due while a retry by hand is under way waits for it."""
    delivery = await fail_once(node)
    node.sender.script(URL, hold(status(500)), hold(status(500)), ok())
    await node.retry(delivery)
    await node.advance(10 * MINUTE)
    assert (len(node.sender.requests), node.sender.held_requests) == (2, 1)
    node.sender.release()
    await node.quiet()
    assert (len(node.sender.requests), node.sender.held_requests) == (3, 1)
    node.sender.release()
    await node.quiet()
    assert (await node.only_delivery()).scheduled_count == 2


async def test_a_retry_by_hand_on_a_disabled_endpoint(node: Node):
    """A retry by hand goes to a disabled endpoint, too; success delivers, failure leaves it canceled, and nothing follows."""
    delivery = await fail_once(node)
    endpoint = (await node.store.endpoints(tenant(), below=None, limit=1)).items[0]
    await node.update(endpoint, is_active=False)
    await node.retry(delivery)
    await node.advance(HOUR)
    assert (await node.only_delivery()).state is CANCELED
    assert len(node.sender.requests) == 2
    node.sender.script(URL, ok())
    await node.retry(delivery)
    await node.advance(HOUR)
    assert (await node.only_delivery()).state is DELIVERED
    assert len(node.sender.requests) == 3
    assert not (await node.endpoint(endpoint)).is_active


async def test_a_retry_by_hand_that_waited_while_its_endpoint_was_disabled(node: Node):
    """The race: a retry by hand of a delivery that waits in a paused lane, and the disabling of its endpoint, in either order
    and in one commit: it is still sent."""
    node.sender.script(URL, status(429, retry_after="3600"), status(500))
    made = await node.create()
    await node.publish()
    await node.quiet()
    await node.publish(2)
    _, first, second = await node.deliveries()
    await asyncio.gather(
        node.writer.change(node.retry_of(first)),
        node.writer.change(node.update_of(made, is_active=False)),
        node.writer.change(node.retry_of(second)),
    )
    await node.quiet()
    assert {request.event_id for request in node.sender.requests[1:]} == {first.event_id, second.event_id}


@pytest.mark.parametrize("fields", [{"url": OTHER}, {"is_active": False}])
async def test_a_retry_by_hand_and_a_change_in_one_commit(store: SqliteStore, fields: dict[str, object]):
    """The race: a retry by hand opens the lane of an endpoint that is changed later in the same commit. The lane has the
    endpoint as it is after the commit: nothing goes to an old URL, and nothing that is canceled is sent."""
    clock, sender = FakeClock(), ScriptedSender()
    sender.script(URL, status(500))
    sender.script(OTHER, status(500))
    async with run_node(store, clock=clock, sender=sender, max_in_flight_per_endpoint=1) as node:
        made = await node.create()
        await node.publish()
        await node.quiet()
        await run_through_schedule(node)
        (failed,) = await node.deliveries()
        assert failed.state is FAILED
        await node.advance(2 * MINUTE)
        assert not node.dispatcher._lanes  # forgotten
        sender.requests.clear()
        await asyncio.gather(node.writer.change(node.retry_of(failed)), node.writer.change(node.update_of(made, **fields)))
        await node.quiet()
        assert [request.url for request in sender.requests] == [fields.get("url", URL)]
        lane = node.dispatcher._lanes[made.id]
        assert lane.endpoint == await node.endpoint(made)


async def test_a_retry_by_hand_for_a_deleted_endpoint_is_refused(node: Node):
    """Once an endpoint is deleted none of its deliveries can be retried, and one that was asked for is not sent."""
    node.sender.script(URL, status(500), hold(status(500)))
    made = await node.create()
    await node.publish()
    await node.quiet()
    delivery = await node.only_delivery()
    await node.retry(delivery)
    await node.quiet()
    await node.retry(delivery)
    await node.delete(made)
    node.sender.release()
    await node.advance(HOUR)
    assert len(node.sender.requests) == 2
    with pytest.raises(EndpointNotFound):
        await node.retry(delivery)


async def test_a_retry_by_hand_of_a_test_that_is_under_way(node: Node):
    """The race: a test is retried by hand while it is being sent. The retry waits for the test's result, and is sent then."""
    made = await node.create()
    node.sender.script(URL, hold(status(500)), ok())
    tester: EndpointTester = node.tester
    testing = asyncio.create_task(tester.run(made, None))
    await node.sender.received(1)
    (test,) = await node.deliveries()
    await node.retry(test)
    for _ in range(5):
        await node.writer.change(Nothing())
    assert len(node.sender.requests) == 1
    node.sender.release()
    recorded = await node.writer.change(await testing)
    assert not recorded.success
    await node.quiet()
    assert len(node.sender.requests) == 2
    assert (await node.only_delivery()).state is DELIVERED


# Results and the store


async def test_no_attempt_starts_while_too_many_results_wait(store: SqliteStore):
    """While the store cannot commit, no more attempts start than twice the node's limit, and all goes on when it is back."""
    async with run_node(store, max_in_flight=4, max_in_flight_per_endpoint=4) as node:
        await node.create()
        node.sender.script(URL, hold(), hold(), ok())
        await node.publish(100)
        await node.quiet()
        node.scripted.break_down()
        node.sender.release()
        await node.sender.received(9)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while node.dispatcher.open_requests:  # noqa: ASYNC110 - nothing tells of it: no commit, and no more requests
                await asyncio.sleep(0)
        assert 2 * 4 < node.dispatcher._uncommitted <= 2 * 4 + 4
        assert len(node.sender.requests) == node.dispatcher._uncommitted
        node.scripted.recover()
        await node.sender.received(100)
        await node.quiet()
        assert len(node.sender.requests) == 100
        assert await node.states() == {DELIVERED: 100}


async def test_a_delivery_is_not_sent_again_before_its_result_is_committed(node: Node):
    """A delivery whose result waits for the store is held: no claim and no retry by hand sends it meanwhile."""
    await node.create()
    await node.publish(BUFFER * 2)
    await node.quiet()
    node.sender.requests.clear()
    node.sender.script(URL, *[hold()] * 32, ok())
    await node.publish(BUFFER * 2)
    await node.quiet()
    node.scripted.close_gate()
    node.sender.release()
    await node.scripted.gated.wait()
    node.scripted.gate.set()
    await node.quiet()
    assert set(Counter(request.event_id for request in node.sender.requests).values()) == {1}
    assert len(node.sender.requests) == BUFFER * 2


async def test_claims_are_made_again_when_the_store_failed(node: Node):
    """A lane whose claim failed asks again once the store is back, and nothing is lost."""
    node.sender.script(URL, status(500), ok())
    await node.create()
    await node.publish()
    await node.quiet()
    node.scripted.break_down()
    node.claims.asked.clear()
    node.clock.advance(MINUTE)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await node.claims.asked.wait()
    node.scripted.recover()
    await node.sender.received(2)
    await node.quiet()
    assert await node.states() == {DELIVERED: 1}


# Stopping and starting


async def test_nothing_new_starts_after_a_stop(node: Node):
    """A node that is stopping starts nothing, however much waits; what is open ends, and then the dispatcher does."""
    node.sender.script(URL, hold())
    await node.create()
    await node.publish(10)
    await node.quiet()
    node.dispatcher.stop()
    await node.publish(5)
    node.sender.release()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while node.dispatcher.open_requests:
            await node.writer.change(Nothing())
    assert len(node.sender.requests) == 2
    assert await node.states() == {DELIVERED: 2, PENDING: 13}


async def test_an_attempt_that_is_interrupted_before_it_began(store: SqliteStore):
    """The race: attempts are given up before they have taken their first step. The dispatcher still ends, and what was not
    sent stays as it was."""
    async with run_node(store) as node:
        await node.create()
        await node.publish(10)
        node.dispatcher.stop()
        node.dispatcher.interrupt()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while node.dispatcher.open_requests:
                await node.writer.change(Nothing())
    assert (await node.states())[PENDING] >= 8


async def test_an_interrupted_attempt_is_made_again(store: SqliteStore):
    """What a deadline cuts off is recorded as interrupted, counts for nothing, and is sent again by the next node."""
    clock, sender = FakeClock(), ScriptedSender()
    sender.script(URL, hold())
    async with run_node(store, clock=clock, sender=sender) as node:
        await node.create()
        events = await node.publish(3)
        await node.quiet()
        assert sender.held_requests == 2
        clock.advance(SECOND)
        node.dispatcher.stop()
        node.dispatcher.interrupt()
    sender.script(URL, ok())
    clock.advance(SECOND)
    async with run_node(store, clock=clock, sender=sender) as node:
        await node.quiet()
        sent = Counter(request.event_id for request in sender.requests)
        assert [sent[event.id] for event in events] == [2, 2, 1]
        assert await node.states() == {DELIVERED: 3}
        attempts = await node.attempts((await node.deliveries())[0])
        assert [attempt.error for attempt in attempts] == [AttemptError.INTERRUPTED, None]
        # What had been sent when it was cut off is on record, with the time that it had taken.
        assert (attempts[0].started_at, attempts[0].duration_ms) == (START, SECOND)
        assert b"webhook-signature" in attempts[0].request_headers
        assert (await node.deliveries())[0].scheduled_count == 1


async def test_an_interrupted_retry_is_made_again(store: SqliteStore):
    """A later attempt that was cut off is due at once for the next node, and does not count; one by hand is not lost either."""
    clock, sender = FakeClock(), ScriptedSender()
    sender.script(URL, status(500), hold())
    async with run_node(store, clock=clock, sender=sender) as node:
        await node.create()
        await node.publish(2)
        await node.quiet()
        first, second = await node.deliveries()
        sender.script(URL, hold())
        await node.retry(second)
        await node.advance(MINUTE)
    sender.script(URL, ok())
    sender.requests.clear()
    async with run_node(store, clock=clock, sender=sender) as node:
        await node.quiet()
        assert {request.event_id for request in sender.requests} == {first.event_id, second.event_id}
        assert await node.states() == {DELIVERED: 2}
        triggers = [attempt.trigger for attempt in await node.attempts(second)]
        assert AttemptTrigger.MANUAL in triggers


async def test_a_new_node_sends_exactly_what_was_left(store: SqliteStore):
    """A node that starts on a store that another has left sends what was pending, in both modes, and nothing that had ended."""
    clock, sender = FakeClock(), ScriptedSender()
    sender.script(URL, ok(), status(500), hold())
    async with run_node(store, clock=clock, sender=sender, max_in_flight_per_endpoint=1) as node:
        await node.create()
        off = await node.create(OTHER, events=("never.sent",))
        events = await node.publish(600)
        await node.quiet()
        await node.update(off, is_active=False)
    states = await node.states()
    assert (states[DELIVERED], states[PENDING]) == (1, 599)
    sender.script(URL, ok())
    sender.requests.clear()
    async with run_node(store, clock=clock, sender=sender) as node:
        await node.quiet()
        assert differences([request.event_id for request in sender.requests], events[2:]) == []
        await node.advance(MINUTE)
        assert [request.event_id for request in sender.requests[598:]] == [events[1].id]
        assert await node.states() == {DELIVERED: 600}


async def test_a_node_takes_up_retries_by_hand(store: SqliteStore):
    """A retry by hand that was accepted and not yet sent is sent by the next node."""
    clock, sender = FakeClock(), ScriptedSender()
    sender.script(URL, status(500))
    async with run_node(store, clock=clock, sender=sender) as node:
        await node.create()
        await node.publish()
        await node.quiet()
        node.dispatcher.stop()
        await node.retry(await node.only_delivery())
    assert len(sender.requests) == 1
    async with run_node(store, clock=clock, sender=sender) as node:
        await node.quiet()
        assert len(sender.requests) == 2


async def test_a_test_that_was_under_way_is_failed(store: SqliteStore):
    """A test that was being sent when the gateway went down is failed as interrupted by the next, and not sent again."""
    clock, sender = FakeClock(), ScriptedSender()
    sender.script(URL, hold())
    async with run_node(store, clock=clock, sender=sender) as node:
        made = await node.create()
        testing = asyncio.create_task(node.tester.run(made, None))
        await sender.received(1)
        testing.cancel()
        await asyncio.wait([testing])
    async with run_node(store, clock=clock, sender=sender) as node:
        await node.advance(HOUR)
        delivery = await node.only_delivery()
        assert (delivery.state, delivery.reason) == (FAILED, Reason.INTERRUPTED)
        assert len(sender.requests) == 1


async def test_a_test_counts_for_nothing(node: Node):
    """A test is on record like any delivery, is never retried, and says nothing about its endpoint's health."""
    made = await node.create()
    node.sender.script(URL, status(410))
    for _ in range(3):
        answer = await node.writer.change(await node.tester.run(made, None))
        assert not answer.success
    await node.advance(10 * HOUR)
    after = await node.endpoint(made)
    assert (after.is_active, after.failed_in_row) == (True, 0)
    assert len(node.sender.requests) == 3
    assert {delivery.reason for delivery in await node.deliveries()} == {Reason.TEST_FAILED}
    node.sender.script(URL, ok())
    assert (await node.writer.change(await node.tester.run(made, "2026-07-11"))).success
    assert (await node.deliveries())[-1].api_version == "2026-07-11"
