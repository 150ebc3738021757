"""Recovery: endpoints that were disabled by failures are probed, and enabled again when they answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.clock import DAY, HOUR, MINUTE, SECOND
from gateway.delivery.recovery import PROBES_AT_ONCE, Recovery, SetProbes, pause_after
from gateway.errors import StoreUnavailable
from gateway.model import DeliveryState, DeliveryTrigger, DisabledReason, Endpoint, Reason, RevisionCause, Tenant
from gateway.registry.endpoints import disabled
from gateway.settings import Operations
from gateway.store.sqlite import SqliteStore
from tests.fakes import PATIENCE_SECONDS, SECRET, START, FakeClock, endpoint, hold, ok, status, tenant
from tests.integration.core.conftest import URL, Node, Nothing, WatchedClock, run_node

TOLD_AT = "https://operator.example/told"


class Prober:
    """Recovery beside a node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.leads = True
        self.looks = 0
        self.clock = WatchedClock(node.clock)
        self.recovery = Recovery(
            changer=node.writer,
            to_probe=self._to_probe,
            tester=node.tester,
            operator=node.operator,
            clock=self.clock,
            pinned=lambda _organization_id: None,
            leads=lambda: self.leads,
            test_seconds=80,
        )
        node.writer.listen(self.recovery.committed)

    async def _to_probe(self, *, limit: int) -> Sequence[Endpoint]:
        self.looks += 1
        return await self.node.store.endpoints_to_probe(limit=limit)

    async def resting(self) -> None:
        """Returns when nothing moves any more but the requests that are held."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (
                not self.clock.is_resting
                or self.recovery._wake.is_set()
                or self.node.clock.is_waking
                or len(self.recovery._under_way) != self.node.sender.held_requests
            ):
                await self.node.writer.change(Nothing())

    async def advance(self, ms: int) -> None:
        await self.resting()
        self.node.clock.advance(ms)
        await self.resting()


@asynccontextmanager
async def probing(node: Node) -> AsyncIterator[Prober]:
    prober = Prober(node)
    running = asyncio.create_task(prober.recovery.run())
    try:
        yield prober
    finally:
        running.cancel()
        await asyncio.wait([running], timeout=PATIENCE_SECONDS)


@pytest.fixture
async def node(store: SqliteStore) -> AsyncIterator[Node]:
    """A node that has failing endpoints probed; one event that fails disables its endpoint."""
    async with run_node(store, recovery="probe", retry_delays=(), disable_after_failed_events=1) as running:
        yield running


async def failed(node: Node, url: str = URL) -> Endpoint:
    """An endpoint that was just disabled by failures."""
    made = await node.create(url)
    node.sender.script(url, status(500))
    await node.publish()
    await node.quiet()
    found = await node.endpoint(made)
    assert found.disabled_reason is DisabledReason.FAILURES
    return found


def probes_of(node: Node, url: str = URL) -> int:
    return sum(json.loads(request.body)["event"] == "webhook.test" for request in node.sender.to(url))


def test_pauses_double_up_to_a_day():
    """After 1 minute comes 2, 4 and so on; from the twelfth on it is a day."""
    pauses = [pause_after(probes) for probes in range(14)]
    assert pauses[:11] == [MINUTE << probes for probes in range(11)]
    assert pauses[11:] == [DAY] * 3
    assert pause_after(10**6) == DAY


async def test_an_endpoint_that_answers_is_enabled(node: Node):
    """A minute after it was disabled an endpoint gets a test; when it answers 2xx, it gets what is published from then on."""
    before = await failed(node)
    assert before.probe_at == START + MINUTE
    node.sender.script(URL, ok())
    async with probing(node) as prober:
        await prober.advance(MINUTE - 1)
        assert probes_of(node) == 0
        with capture_logs() as logs:
            await prober.advance(1)
        after = await node.endpoint(before)
        assert (after.is_active, after.disabled_reason, after.failed_in_row) == (True, None, 0)
        assert (after.probe_at, after.probe_count) == (None, 0)
        assert [(log["event"], log["probes"]) for log in logs] == [("endpoint.recovered", 1)]
        await node.publish()
        await node.quiet()
        await prober.advance(2 * DAY)
        assert probes_of(node) == 1
    test = (await node.deliveries(event_type="webhook.test"))[0]
    assert (test.trigger, test.state) == (DeliveryTrigger.TEST, DeliveryState.DELIVERED)
    revision = (await node.store.revisions(tenant(), after=0, limit=10))[-1]
    assert (revision.cause, revision.actor) == (RevisionCause.ENABLED, "gateway")
    assert await node.states(event_type="invoice.paid") == {DeliveryState.FAILED: 1, DeliveryState.DELIVERED: 1}


async def test_pauses_grow_while_it_does_not(node: Node):
    """Each probe that fails doubles the time to the next one, and is on record as a test that failed."""
    before = await failed(node)
    async with probing(node) as prober:
        for count, pause in enumerate((1, 2, 4, 8, 16), start=1):
            await prober.advance(pause * MINUTE - 1)
            assert probes_of(node) == count - 1
            await prober.advance(1)
            assert probes_of(node) == count
        after = await node.endpoint(before)
        assert (after.is_active, after.probe_count, after.probe_at) == (False, 5, node.clock.now() + 32 * MINUTE)
    assert {each.reason for each in await node.deliveries(event_type="webhook.test")} == {Reason.TEST_FAILED}


async def test_probing_goes_on_after_a_restart(store: SqliteStore):
    """When the next probe is due is in the store: a restart neither forgets it nor begins anew."""
    clock = FakeClock()
    settings: dict[str, Any] = {"recovery": "probe", "retry_delays": (), "disable_after_failed_events": 1}
    async with run_node(store, clock=clock, **settings) as node:
        await failed(node)
        async with probing(node) as prober:
            await prober.advance(MINUTE)
            assert probes_of(node) == 1
    async with run_node(store, clock=clock, **settings) as node, probing(node) as prober:
        await prober.advance(2 * MINUTE - 1)
        assert probes_of(node) == 0
        await prober.advance(1)
        assert probes_of(node) == 1


@pytest.mark.parametrize("reason", [DisabledReason.USER, DisabledReason.GONE])
async def test_others_are_never_probed(node: Node, reason: DisabledReason):
    """What a user turned off, or what said that it is gone, is left alone."""
    made = await node.create()
    if reason is DisabledReason.USER:
        await node.update(made, is_active=False)
    else:
        node.sender.script(URL, status(410))
        await node.publish()
        await node.quiet()
    found = await node.endpoint(made)
    assert (found.disabled_reason, found.probe_at) == (reason, None)


async def test_410_ends_the_probing(node: Node):
    """An endpoint that answers a probe with 410 is gone, still since it was disabled, and is not asked again."""
    before = await failed(node)
    node.sender.script(URL, status(410))
    async with probing(node) as prober:
        await prober.advance(MINUTE)
        after = await node.endpoint(before)
        assert (after.is_active, after.disabled_reason, after.probe_at) == (False, DisabledReason.GONE, None)
        assert after.disabled_at == before.disabled_at
        await prober.advance(2 * DAY)
        assert probes_of(node) == 1


async def test_the_operator_hears_of_it(store: SqliteStore):
    """That an endpoint is back in service, or gone for good, is told to the operator."""
    operations = Operations(url=TOLD_AT, secret=SECRET)
    async with run_node(store, operations=operations, recovery="probe", retry_delays=(), disable_after_failed_events=1) as node:
        back, gone = await failed(node), await failed(node, "https://gone.example/")
        node.sender.script(URL, ok())
        node.sender.script("https://gone.example/", status(410))
        async with probing(node) as prober:
            await prober.advance(MINUTE)
        await node.quiet()
        bodies = [json.loads(request.body) for request in node.sender.to(TOLD_AT)]
        (enabled,) = [body["data"] for body in bodies if body["event"] == "webhook.enabled"]
        assert (enabled["webhookId"], enabled["probes"]) == (back.id, 1)
        assert (enabled["disabledAt"], enabled["enabledAt"]) == ("2026-03-25T14:30:00.000Z", "2026-03-25T14:31:00.000Z")
        disablings = [
            (body["data"]["webhookId"], body["data"]["reason"]) for body in bodies if body["event"] == "webhook.disabled"
        ]
        assert disablings == [(back.id, "failures"), (gone.id, "failures"), (gone.id, "gone")]


Act = Callable[[Node, Endpoint], Awaitable[Endpoint]]


async def enable(node: Node, subject: Endpoint) -> Endpoint:
    return await node.update(subject, is_active=True)


async def disable(node: Node, subject: Endpoint) -> Endpoint:
    return await node.update(subject, is_active=False)


async def delete(node: Node, subject: Endpoint) -> Endpoint:
    return await node.delete(subject)


@pytest.mark.parametrize("act", [enable, disable, delete])
async def test_what_a_user_does_ends_the_probing(node: Node, act: Act):
    """Somebody who enables, disables or deletes the endpoint decides; no probe changes that."""
    now = await act(node, await failed(node))
    assert (now.probe_at, now.probe_count) == (None, 0)
    async with probing(node) as prober:
        await prober.advance(DAY)
    assert probes_of(node) == 0


@pytest.mark.parametrize("act", [enable, disable, delete])
async def test_what_a_user_does_during_a_probe_holds(node: Node, act: Act):
    """A probe that is answered 2xx after somebody has decided otherwise changes nothing; the test is on record all the same."""
    before = await failed(node)
    node.sender.script(URL, hold(ok()))
    async with probing(node) as prober:
        await prober.advance(MINUTE)
        now = await act(node, before)
        node.sender.release()
        await prober.resting()
    async with node.store.transaction() as transaction:
        assert await transaction.endpoint_by_id(before.id) == now
    (test,) = await node.deliveries(event_type="webhook.test")
    assert test.state is DeliveryState.DELIVERED


async def test_who_says_that_it_is_to_be_off_turned_it_off(node: Node):
    """`isActive: false` for an endpoint that failures have disabled makes it one that a user has disabled, since when it was."""
    before = await failed(node)
    now = await disable(node, before)
    assert (now.disabled_reason, now.disabled_at) == (DisabledReason.USER, before.disabled_at)


async def test_a_new_url_begins_anew(node: Node):
    """Another URL is another receiver: its first probe comes a minute later, whatever the old one answers meanwhile."""
    before = await failed(node)
    async with probing(node) as prober:
        await prober.advance(MINUTE)
        await prober.advance(2 * MINUTE)
        node.sender.script(URL, hold(ok()))
        await prober.advance(4 * MINUTE)
        now = await node.update(before, url="https://new.example/")
        assert (now.probe_count, now.probe_at) == (0, node.clock.now() + MINUTE)
        node.sender.release()
        await prober.resting()
        assert not (await node.endpoint(before)).is_active
        await prober.advance(MINUTE)
        assert (await node.endpoint(before)).is_active
    assert probes_of(node, "https://new.example/") == 1


async def test_a_new_url_of_what_is_not_probed_is_not_probed(node: Node):
    """An endpoint that a user turned off stays off with another URL."""
    made = await node.create()
    await node.update(made, is_active=False)
    assert (await node.update(made, url="https://new.example/")).probe_at is None


async def test_only_the_node_that_leads_probes(node: Node):
    """A node that does not lead makes no probes; once it does, it makes those that are due."""
    await failed(node)
    async with probing(node) as prober:
        prober.leads = False
        await prober.advance(HOUR)
        assert probes_of(node) == 0
        prober.leads = True
        await prober.advance(MINUTE)
        assert probes_of(node) == 1


async def test_two_that_lead_for_a_moment_make_a_probe_once(node: Node):
    """When two nodes take themselves for the one that leads, the probe is made by the one that takes it first."""
    await failed(node)
    async with probing(node) as first, probing(node) as second:
        node.clock.advance(MINUTE)
        await first.resting()
        await second.resting()
        assert probes_of(node) == 1
        assert len(await node.deliveries(event_type="webhook.test")) == 1


async def test_a_node_that_dies_during_a_probe_delays_it(node: Node):
    """A probe whose node went down is made again when its time is over."""
    before = await failed(node)
    node.sender.script(URL, hold())
    async with probing(node) as prober:
        await prober.advance(MINUTE)
        held = await node.endpoint(before)
        assert held.probe_at == node.clock.now() + 80 * SECOND
        async with probing(node) as next_to_lead:
            prober.leads = False
            node.clock.advance(80 * SECOND)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while node.sender.held_requests < 2:
                    await node.writer.change(Nothing())
            node.sender.release()
            await next_to_lead.resting()
            assert (await node.endpoint(before)).is_active


async def test_a_stop_during_a_probe_costs_no_pause(node: Node):
    """A probe that a stop cuts off is recorded as interrupted, does not count, and is due at once at the next start."""
    before = await failed(node)
    node.sender.script(URL, hold())
    async with probing(node) as prober:
        await prober.advance(MINUTE)
    after = await node.endpoint(before)
    assert (after.probe_count, after.probe_at) == (0, node.clock.now())
    (test,) = await node.deliveries(event_type="webhook.test")
    assert (test.state, test.reason) == (DeliveryState.FAILED, Reason.INTERRUPTED)


async def test_many_are_probed_a_few_at_a_time(store: SqliteStore):
    """However many endpoints are due, few probes are under way at once, and all have their turn."""
    count = 3 * PROBES_AT_ONCE
    failing = [
        disabled(endpoint(url=f"https://{number}.example/"), DisabledReason.FAILURES, START, probe_at=START)
        for number in range(count)
    ]
    async with store.transaction() as transaction:
        for each in failing:
            await transaction.add_endpoint(each)
    async with run_node(store, recovery="probe") as node:
        for each in failing:
            node.sender.script(each.url, hold())
        async with probing(node) as prober:
            await prober.advance(0)
            for _ in range(3):
                assert node.sender.held_requests == PROBES_AT_ONCE
                node.sender.release()
                await prober.resting()
            assert node.sender.most_open == PROBES_AT_ONCE
            assert all([(await node.endpoint(each)).is_active for each in failing])


async def test_an_unavailable_store_stops_nothing(node: Node):
    """Probes that the store stands in the way of are made later; meanwhile nobody asks again and again."""
    before = await failed(node)
    node.sender.script(URL, ok())
    async with probing(node) as prober:
        await prober.resting()
        node.scripted.break_down()
        node.clock.advance(MINUTE)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not prober.recovery._rests_until:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
        looks = prober.looks
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                await node.writer.change(Nothing())
        assert prober.looks == looks
        node.scripted.recover()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while node.writer.unavailable is not None:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        await prober.advance(2 * MINUTE)
        assert (await node.endpoint(before)).is_active


# Switching it on and off


async def test_without_recovery_nothing_is_scheduled(store: SqliteStore):
    """With recovery off an endpoint that failures disable is not probed."""
    async with run_node(store, retry_delays=(), disable_after_failed_events=1) as node:
        assert (await failed(node)).probe_at is None


async def test_switching_on_holds_for_what_was_disabled_before(store: SqliteStore):
    """With recovery switched on at a start, endpoints that failures disabled before are probed from a minute later on; with it
    switched off again, none is."""
    clock = FakeClock()
    async with run_node(store, clock=clock, retry_delays=(), disable_after_failed_events=1) as node:
        before = await failed(node)
        await node.writer.change(SetProbes(clock.steady() + MINUTE))
        async with probing(node) as prober:
            await prober.advance(MINUTE)
            assert probes_of(node) == 1
        assert (await node.endpoint(before)).probe_at is not None
        await node.writer.change(SetProbes(None))
        assert (await node.endpoint(before)).probe_at is None


async def test_every_tenant_is_probed(node: Node):
    """Endpoints of all organizations are probed, each with a test of its own tenant."""
    other = Tenant("other", tenant().mode)
    made = await node.create(of=other)
    node.sender.script(URL, status(500))
    await node.publish(tenant=other)
    await node.quiet()
    node.sender.script(URL, ok())
    async with probing(node) as prober:
        await prober.advance(MINUTE)
    assert (await node.endpoint(made)).is_active
    assert [each.trigger for each in await node.deliveries(other, event_type="webhook.test")] == [DeliveryTrigger.TEST]
