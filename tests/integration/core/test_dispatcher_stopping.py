"""The dispatcher beside a store that fails, at a stop, and after a start."""

import asyncio
from collections import Counter

from gateway.clock import HOUR, MINUTE, SECOND
from gateway.delivery.lanes import BUFFER
from gateway.model import AttemptError, AttemptTrigger, DeliveryState, Reason
from gateway.store.sqlite import SqliteStore
from tests.fakes import PATIENCE_SECONDS, START, FakeClock, ScriptedSender, hold, ok, status
from tests.integration.core.conftest import URL, Node, Nothing, differences, run_node

OTHER = "https://other.example/hook"
PENDING, DELIVERED, FAILED, CANCELED = DeliveryState


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
