"""Retries by hand: next in their lane, beside no other attempt, and moving nothing."""

import asyncio
from collections import Counter

import pytest

from gateway.clock import HOUR, MINUTE, SECOND
from gateway.delivery.endpoint_test import EndpointTester
from gateway.delivery.lanes import BUFFER
from gateway.errors import EndpointNotFound
from gateway.model import AttemptTrigger, Delivery, DeliveryState
from gateway.store.sqlite import SqliteStore
from tests.fakes import FakeClock, ScriptedSender, hold, ok, status, tenant
from tests.integration.core.conftest import URL, Node, Nothing, run_node, run_through_schedule

OTHER = "https://other.example/hook"
PENDING, DELIVERED, FAILED, CANCELED = DeliveryState


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
