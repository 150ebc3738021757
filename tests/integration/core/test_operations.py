"""What the operator is told: as events of the gateway's own tenant, in the transaction that they speak of."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.clock import HOUR, MINUTE, SECOND
from gateway.delivery.failure_notices import FailureTeller
from gateway.model import OPERATIONS, OPERATIONS_ENDPOINT, DeliveryState, DisabledReason, Endpoint, RevisionCause
from gateway.registry.operations import SetOperationsEndpoint
from gateway.settings import Operations
from gateway.signing import hex_signature
from gateway.store.sqlite import SqliteStore
from tests.fakes import PATIENCE_SECONDS, SECRET, FakeClock, hold, ok, status
from tests.integration.core.conftest import URL, Node, Nothing, WatchedClock, run_node, run_through_schedule

TOLD_AT = "https://operator.example/told"
TOLD = Operations(url=TOLD_AT, secret=SECRET)


@pytest.fixture
async def node(store: SqliteStore) -> AsyncIterator[Node]:
    """A node that tells its operator; an attempt that fails was the last."""
    async with run_node(store, operations=TOLD, retry_delays=()) as running:
        yield running


def told(node: Node) -> list[dict[str, Any]]:
    """The bodies that the operator was sent, oldest first."""
    return [json.loads(request.body) for request in node.sender.to(TOLD_AT)]


def told_of(node: Node, event: str) -> list[dict[str, Any]]:
    return [body["data"] for body in told(node) if body["event"] == event]


async def own_endpoint(node: Node) -> Endpoint | None:
    return await node.store.endpoint(OPERATIONS, OPERATIONS_ENDPOINT)


async def fail(node: Node, count: int = 1) -> None:
    """Events that fail for good, one after another."""
    for _ in range(count):
        await node.publish()
        await node.quiet()


class Teller:
    """What tells of failures that were counted, beside a node."""

    def __init__(self, node: Node) -> None:
        assert node.operator is not None
        self.node = node
        self.leads = True
        self.clock = WatchedClock(node.clock)
        self.teller = FailureTeller(changer=node.writer, operator=node.operator, clock=self.clock, leads=lambda: self.leads)

    async def resting(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self.clock.is_resting or self.node.clock.is_waking:
                await self.node.writer.change(Nothing())
        await self.node.quiet()

    async def advance(self, ms: int) -> None:
        await self.resting()
        self.node.clock.advance(ms)
        await self.resting()


@asynccontextmanager
async def telling(node: Node) -> AsyncIterator[Teller]:
    teller = Teller(node)
    running = asyncio.create_task(teller.teller.run())
    try:
        yield teller
    finally:
        running.cancel()
        await asyncio.wait([running])


# The endpoint


async def test_the_settings_make_the_endpoint(node: Node):
    """`operations.url` is an endpoint of the gateway's own tenant, signed for with `operations.secret`."""
    made = await own_endpoint(node)
    assert made is not None
    assert (made.url, made.secret, made.events, made.is_active) == (TOLD_AT, SECRET, ("*",), True)
    (revision,) = await node.store.revisions(OPERATIONS, after=0, limit=10)
    assert (revision.cause, revision.actor) == (RevisionCause.CREATED, "gateway")


async def set_up(node: Node, settings: Operations) -> None:
    await node.writer.change(SetOperationsEndpoint(settings, node.clock.now()))


async def test_the_same_settings_change_nothing(node: Node):
    """Another start with the same settings, as of several nodes at once, leaves everything as it is."""
    await asyncio.gather(*(set_up(node, TOLD) for _ in range(3)))
    assert len(await node.store.revisions(OPERATIONS, after=0, limit=10)) == 1


async def test_other_settings_hold_from_the_next_start(node: Node):
    """Another URL and another secret take the place of the old ones."""
    node.sender.script(URL, status(500))
    await node.create()
    other_secret = "whsec_" + "B" * 44
    await set_up(node, Operations(url="https://operator.example/new", secret=other_secret))
    await fail(node)
    (request,) = node.sender.to("https://operator.example/new")
    assert request.headers["X-Commet-Signature"] == hex_signature(other_secret, request.body)
    assert node.sender.to(TOLD_AT) == []


async def test_without_a_url_the_endpoint_goes_out_of_service(store: SqliteStore):
    """When the setting is removed, what waits is canceled and nothing is told any more; when it comes back, telling goes on."""
    clock = FakeClock()
    async with run_node(store, clock=clock, operations=TOLD, retry_delays=(60,)) as node:
        node.sender.script(TOLD_AT, status(500))
        node.sender.script(URL, status(410))
        await node.create()
        await fail(node)
        assert set(await node.deliveries(OPERATIONS))
    async with run_node(store, clock=clock) as node:
        after = await own_endpoint(node)
        assert after is not None
        assert (after.is_active, after.disabled_reason) == (False, DisabledReason.USER)
        assert {each.state for each in await node.deliveries(OPERATIONS)} == {DeliveryState.CANCELED}
        node.sender.script(URL, status(410))
        await node.create()
        await fail(node)
        assert len(await node.deliveries(OPERATIONS)) == 2
    async with run_node(store, clock=clock, operations=TOLD) as node:
        after = await own_endpoint(node)
        assert after is not None
        assert after.is_active
        node.sender.script(URL, status(410))
        await node.create()
        await fail(node)
        assert [body["event"] for body in told(node)] == ["delivery.failed", "webhook.disabled"]


# What is told


async def test_a_disabled_endpoint_is_told(node: Node):
    """With the third event in a row that fails for good the operator learns which endpoint was disabled, and why."""
    node.sender.script(URL, status(503))
    made = await node.create()
    await fail(node, 3)
    (data,) = told_of(node, "webhook.disabled")
    last = (await node.deliveries())[-1]
    assert data == {
        "webhookId": made.id,
        "organizationId": "acme",
        "mode": "live",
        "url": URL,
        "reason": "failures",
        "failedInRow": 3,
        "disabledAt": "2026-03-25T14:30:00.000Z",
        "lastDeliveryId": last.id,
        "lastStatus": 503,
        "lastError": None,
    }


async def test_a_delivery_that_failed_is_told_at_once(node: Node):
    """The first delivery that fails for good is told of with all that says which one."""
    node.sender.script(URL, status(500))
    made = await node.create()
    await fail(node)
    (body,) = told(node)
    (delivery,) = await node.deliveries()
    assert (body["event"], body["organizationId"], body["mode"]) == ("delivery.failed", "$operations", "live")
    assert body["data"] == {
        "webhookId": made.id,
        "organizationId": "acme",
        "mode": "live",
        "url": URL,
        "deliveryId": delivery.id,
        "eventId": delivery.event_id,
        "event": "invoice.paid",
        "reason": "attempts_exhausted",
        "attempts": 1,
        "lastStatus": 500,
        "lastError": None,
        "count": 1,
        "since": "2026-03-25T14:30:00.000Z",
    }


async def test_what_fails_within_the_minute_is_counted(node: Node):
    """Of more failures within a minute the operator hears when it is over: how many, since when, and the last of them."""
    node.sender.script(URL, *[status(500)] * 2, status(200), *[status(500)] * 2, status(200))
    await node.create()
    async with telling(node) as teller:
        await fail(node, 2)
        await teller.advance(30 * SECOND)
        await fail(node, 3)
        await teller.advance(20 * SECOND)
        assert [data["count"] for data in told_of(node, "delivery.failed")] == [1]
        await teller.advance(10 * SECOND)
        first, second = told_of(node, "delivery.failed")
        assert (second["count"], second["since"], second["attempts"]) == (3, "2026-03-25T14:30:00.000Z", 1)
        assert second["deliveryId"] == (await node.deliveries())[-1].id != first["deliveryId"]
        await teller.advance(HOUR)
        assert len(told_of(node, "delivery.failed")) == 2


async def test_a_failure_after_the_minute_brings_along_those_before_it(node: Node):
    """A failure that comes when the minute is over, before anybody has looked, is told at once with those that were counted."""
    node.sender.script(URL, *[status(500)] * 2, status(200), status(500), status(200))
    await node.create()
    await fail(node, 3)
    await node.advance(MINUTE)
    await fail(node)
    assert [(data["count"], data["since"]) for data in told_of(node, "delivery.failed")] == [
        (1, "2026-03-25T14:30:00.000Z"),
        (2, "2026-03-25T14:30:00.000Z"),
    ]


async def test_what_was_counted_survives_a_restart(store: SqliteStore):
    """Failures that were counted when the gateway went down are told after its start."""
    clock = FakeClock()
    async with run_node(store, clock=clock, operations=TOLD, retry_delays=()) as node:
        node.sender.script(URL, *[status(500)] * 2, status(200))
        await node.create()
        await fail(node, 2)
    async with run_node(store, clock=clock, operations=TOLD, retry_delays=()) as node, telling(node) as teller:
        await teller.advance(MINUTE)
        assert [data["count"] for data in told_of(node, "delivery.failed")] == [1]


async def test_only_the_node_that_leads_tells(node: Node):
    """A node that does not lead leaves what was counted to the one that does."""
    node.sender.script(URL, *[status(500)] * 2, status(200))
    await node.create()
    async with telling(node) as teller:
        teller.leads = False
        await fail(node, 2)
        await teller.advance(2 * MINUTE)
        assert len(told_of(node, "delivery.failed")) == 1
        teller.leads = True
        await teller.advance(MINUTE)
        assert len(told_of(node, "delivery.failed")) == 2


async def test_what_is_long_past_is_forgotten(node: Node):
    """An hour after the last failure of an endpoint nothing is remembered of it."""
    node.sender.script(URL, status(500), status(200))
    made = await node.create()
    async with telling(node) as teller:
        await fail(node)
        await teller.advance(HOUR)
        await teller.advance(2 * HOUR)
    async with node.store.transaction() as transaction:
        assert await transaction.failure_notices([made.id]) == {}


async def test_endpoints_are_counted_by_themselves(node: Node):
    """The minute of one endpoint is not that of another."""
    node.sender.script(URL, status(500))
    node.sender.script("https://other.example/", status(500))
    await node.create()
    await node.create("https://other.example/")
    await fail(node)
    assert {data["url"] for data in told_of(node, "delivery.failed")} == {URL, "https://other.example/"}


async def test_what_is_no_failure_for_good_is_not_told(store: SqliteStore):
    """Attempts that will be repeated, and tests, tell the operator nothing."""
    async with run_node(store, operations=TOLD, retry_delays=(60,)) as node:
        node.sender.script(URL, status(500))
        made = await node.create()
        await node.publish()
        await node.quiet()
        await node.writer.change(await node.tester.run(made, None))
        await node.quiet()
        assert told(node) == []


async def test_a_delivery_that_had_failed_before_is_not_told_again(node: Node):
    """A retry by hand of what has failed, answered 410, tells of the disabling alone."""
    node.sender.script(URL, status(500), status(410))
    await node.create()
    await fail(node)
    await node.advance(MINUTE)
    await node.retry(await node.only_delivery())
    await node.quiet()
    assert [body["event"] for body in told(node)] == ["delivery.failed", "webhook.disabled"]


async def test_what_was_canceled_while_it_was_under_way_is_not_told(node: Node):
    """The last attempt of a delivery whose endpoint was disabled meanwhile fails nothing: it was canceled."""
    node.sender.script(URL, hold(status(500)))
    made = await node.create()
    await node.publish()
    await node.quiet()
    await node.update(made, is_active=False)
    node.sender.release()
    await node.quiet()
    assert (await node.only_delivery()).state is DeliveryState.CANCELED
    assert told(node) == []


async def test_what_a_user_does_is_not_told(node: Node):
    """Somebody who disables an endpoint knows."""
    made = await node.create()
    await node.update(made, is_active=False)
    await node.delete(made)
    await node.quiet()
    assert told(node) == []


async def test_410_tells_both(node: Node):
    """An endpoint that is gone is told of with its delivery that failed."""
    node.sender.script(URL, status(410))
    await node.create()
    await fail(node)
    assert [body["event"] for body in told(node)] == ["delivery.failed", "webhook.disabled"]
    assert [told_of(node, name)[0]["reason"] for name in ("delivery.failed", "webhook.disabled")] == ["endpoint_gone", "gone"]


async def test_a_retry_by_hand_fails_only_what_was_waiting(store: SqliteStore):
    """A 410 to a retry by hand is told as the disabling that it is; as a failed delivery only if that was still waiting."""
    async with run_node(store, operations=TOLD, retry_delays=(60,)) as node:
        node.sender.script(URL, ok(), status(500), status(410))
        made = await node.create()
        await node.publish()
        await node.quiet()
        await node.advance(MINUTE)
        await node.publish()
        await node.quiet()
        first, second = await node.deliveries()
        assert (first.state, second.state) == (DeliveryState.DELIVERED, DeliveryState.PENDING)
        await node.retry(second)
        await node.quiet()
        assert [body["event"] for body in told(node)] == ["delivery.failed", "webhook.disabled"]
        await node.update(made, is_active=True)
        await node.advance(MINUTE)
        await node.retry(first)
        await node.quiet()
        assert [body["event"] for body in told(node)] == ["delivery.failed", "webhook.disabled", "webhook.disabled"]


# The operator's own deliveries


async def test_operational_deliveries_are_retried(store: SqliteStore):
    """An operator who does not answer is told later, on the schedule of every delivery, and it is on record."""
    async with run_node(store, operations=TOLD) as node:
        node.sender.script(URL, status(410))
        node.sender.script(TOLD_AT, *[status(500)] * 6, status(200))
        await node.create()
        await fail(node)
        await run_through_schedule(node)
        assert {each.state for each in await node.deliveries(OPERATIONS)} == {DeliveryState.DELIVERED}
        ids = {request.event_id for request in node.sender.to(TOLD_AT)}
        assert (len(ids), len(node.sender.to(TOLD_AT))) == (2, 8)


@pytest.mark.parametrize("code", [500, 410])
async def test_the_operators_endpoint_is_never_disabled(node: Node, code: int):
    """Neither failures nor a 410 disable it; what fails there is in the log, and makes no events of its own."""
    node.sender.script(TOLD_AT, status(code))
    for number in range(4):
        url = f"https://{number}.example/"
        node.sender.script(url, status(410))
        await node.create(url)
    with capture_logs() as logs:
        await fail(node)
    own = await own_endpoint(node)
    assert own is not None
    assert (own.is_active, own.failed_in_row) == (True, 0)
    assert {each.state for each in await node.deliveries(OPERATIONS)} == {DeliveryState.FAILED}
    assert len(node.sender.to(TOLD_AT)) == 8
    assert sum(log["event"] == "operations.undelivered" for log in logs) == 8
    async with node.store.transaction() as transaction:
        assert await transaction.failure_notices([OPERATIONS_ENDPOINT]) == {}


async def test_an_operational_delivery_can_be_retried_by_hand(node: Node):
    """What did not reach the operator is retried like any delivery."""
    node.sender.script(TOLD_AT, status(500), status(200))
    node.sender.script(URL, status(500))
    await node.create()
    await fail(node)
    (delivery,) = await node.deliveries(OPERATIONS)
    assert delivery.state is DeliveryState.FAILED
    await node.retry(delivery)
    await node.quiet()
    (delivery,) = await node.deliveries(OPERATIONS)
    assert delivery.state is DeliveryState.DELIVERED


async def test_without_operations_nothing_is_kept(store: SqliteStore):
    """With no `operations.url` there is no tenant, no event, and nothing counted."""
    async with run_node(store, retry_delays=()) as node:
        node.sender.script(URL, status(410))
        made = await node.create()
        await fail(node)
        assert await own_endpoint(node) is None
        assert await node.deliveries(OPERATIONS) == []
        async with store.transaction() as transaction:
            assert await transaction.failure_notices([made.id]) == {}


async def test_what_is_told_commits_with_what_it_tells_of(node: Node):
    """When the commit fails, neither the disabling nor its telling has happened; both are there when it succeeds."""
    node.sender.script(URL, status(410))
    made = await node.create()
    node.scripted.close_gate()
    publishing = asyncio.create_task(node.publish())
    await node.scripted.gated.wait()
    node.scripted.gate.set()
    await publishing
    node.scripted.break_down()
    await node.sender.received(1)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while node.writer.unavailable is None:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
    assert (await node.endpoint(made)).is_active
    assert await node.deliveries(OPERATIONS) == []
    node.scripted.recover()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(node.sender.to(TOLD_AT)) < 2:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    assert not (await node.endpoint(made)).is_active
