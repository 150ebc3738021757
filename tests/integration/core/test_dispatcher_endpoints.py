"""What becomes of deliveries when their endpoint is changed, disabled or deleted, or fails too often."""

from collections import Counter

from gateway import signing
from gateway.clock import HOUR
from gateway.model import DeliveryState, DisabledReason, Reason
from gateway.registry.endpoints import deleted
from gateway.store.protocol import Effects, NewEvent
from gateway.store.sqlite import SqliteStore
from tests.fakes import START, due, hold, ok, status
from tests.integration.core.conftest import URL, Node, run_node, run_through_schedule

PENDING, DELIVERED, FAILED, CANCELED = DeliveryState


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
