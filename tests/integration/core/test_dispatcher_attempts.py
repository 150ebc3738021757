"""What the dispatcher sends when: first attempts, retries, and what `Retry-After` asks for."""

import json
from collections import Counter

import pytest
from structlog.testing import capture_logs

from gateway.clock import HOUR, MINUTE, SECOND
from gateway.model import AttemptTrigger, DeliveryState, Reason
from gateway.store.sqlite import SqliteStore
from tests.fakes import START, Crash, FakeClock, ScriptedSender, failure, hold, ok, status, tenant
from tests.integration.core.conftest import URL, Node, run_node

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
