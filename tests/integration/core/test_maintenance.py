"""What is done beside the deliveries: cancellations are stored, history is pruned, the use of keys is kept."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from gateway.api.auth import Authenticator
from gateway.clock import DAY, HOUR, MINUTE
from gateway.delivery.maintenance import (
    BEHIND_AFTER,
    HASTY_PRUNE_STEP,
    HASTY_REST,
    PRUNE_STEP,
    REST,
    SWEEP_STEP,
    Maintenance,
    Prune,
)
from gateway.errors import StoreUnavailable
from gateway.model import AuditEntry, DeliveryState, Reason
from gateway.registry.keys import AddKey, make_key
from gateway.store.protocol import AuditFilter, Change
from gateway.store.sqlite import SqliteStore
from tests.fakes import ACTOR, PATIENCE_SECONDS, START, hold, status, tenant
from tests.integration.core.conftest import URL, Node, Nothing, WatchedClock, run_node

PENDING, DELIVERED, FAILED, CANCELED = DeliveryState
STEP_MS = 10

T = TypeVar("T")


class SlowPruning:
    """The node's writer, which takes *step_ms* for each step of pruning, as time goes for the node."""

    def __init__(self, node: Node, step_ms: int) -> None:
        self._node = node
        self._step_ms = step_ms
        self.steps = 0

    async def change(self, change: Change[T]) -> T:
        if isinstance(change, Prune):
            self._node.clock.advance(self._step_ms)
            self.steps += 1
        return await self._node.writer.change(change)


class Cleaner:
    """Maintenance beside a node."""

    def __init__(self, node: Node, days: int, step_ms: int) -> None:
        self.node = node
        self.keys = Authenticator()
        self.clock = WatchedClock(node.clock)
        self.pruning = SlowPruning(node, step_ms)
        self.maintenance = Maintenance(
            changer=self.pruning,
            unswept=node.store.unswept_endpoints,
            ended_overlaps=node.store.ended_overlaps,
            clock=self.clock,
            retention_days=days,
            audit_days=2 * days,
            test_seconds=60,
            used_keys=self.keys,
            leads=lambda: self.leads,
        )
        self.leads = True
        node.writer.listen(self.maintenance.committed)

    async def resting(self) -> None:
        """Returns when there is nothing left to do for now."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self.clock.is_resting or self.maintenance._wake.is_set() or self.node.clock.is_waking:
                await self.node.writer.change(Nothing())
        await self.node.quiet()


@asynccontextmanager
async def cleaning(node: Node, *, days: int = 30, step_ms: int = 0) -> AsyncIterator[Cleaner]:
    cleaner = Cleaner(node, days, step_ms)
    for each in await node.store.unswept_endpoints():
        cleaner.maintenance.sweep(each)
    running = asyncio.create_task(cleaner.maintenance.run())
    try:
        yield cleaner
    finally:
        running.cancel()
        await asyncio.wait([running])


async def stored_states(store: SqliteStore) -> dict[str, int]:
    """States as they are stored, which reads do not show."""
    connection = await store._connection()
    return {
        str(state): int(count)
        for state, count in await connection.execute_fetchall("SELECT state, COUNT(*) FROM deliveries GROUP BY 1")
    }


async def test_cancellations_are_stored_in_steps(node: Node):
    """What waited for an endpoint that went out of service is stored as canceled, however much it was, and is done with."""
    node.sender.script(URL, hold(status(500)))
    made = await node.create()
    await node.publish(SWEEP_STEP + 500)
    await node.quiet()
    async with cleaning(node) as cleaner:
        await node.update(made, is_active=False)
        await cleaner.resting()
        assert await stored_states(node.store) == {"canceled": SWEEP_STEP + 500}
        assert list(await node.store.unswept_endpoints()) == []
        node.sender.release()
        await node.quiet()
        assert await node.states() == {CANCELED: SWEEP_STEP + 500}


async def test_a_sweep_goes_on_after_a_restart(store: SqliteStore):
    """What was not stored as canceled when the node stopped is found and stored by the next."""
    async with run_node(store) as node:
        node.sender.script(URL, hold())
        made = await node.create()
        await node.publish(10)
        await node.quiet()
        await node.delete(made)
    async with run_node(store) as node, cleaning(node) as cleaner:
        await cleaner.resting()
        assert await stored_states(store) == {"canceled": 10}
        assert {delivery.reason for delivery in await node.deliveries()} == {Reason.ENDPOINT_DELETED}


async def test_enabling_during_a_sweep_loses_nothing(node: Node):
    """What is published after an endpoint was enabled again is not swept with what was canceled before."""
    node.sender.script(URL, hold())
    made = await node.create()
    await node.publish(20)
    await node.quiet()
    await node.update(made, is_active=False)
    await node.update(made, is_active=True)
    await node.publish(5)
    async with cleaning(node) as cleaner:
        await cleaner.resting()
        await node.quiet()
        while node.sender.held_requests:
            node.sender.release()
            await node.quiet()
    assert await node.states() == {CANCELED: 18, DELIVERED: 7}


async def test_history_is_pruned_by_age(node: Node):
    """Events older than the retention go with all that belongs to them; what still waits fails first, where it can be seen
    for an hour."""
    node.sender.script(URL, hold())
    await node.create()
    await node.publish(3)
    await node.quiet()
    async with cleaning(node, days=1) as cleaner:
        await cleaner.resting()
        assert len(await node.deliveries()) == 3
        node.clock.advance(DAY)
        await cleaner.resting()
        node.clock.advance(HOUR)
        await cleaner.resting()
        assert {delivery.reason for delivery in await node.deliveries()} == {Reason.EXPIRED}
        node.clock.advance(2 * HOUR)
        await cleaner.resting()
        assert await node.deliveries() == []


async def test_pruning_rests_between_its_steps(node: Node):
    """After each step of pruning others have their turn for some times as long as it took; what else there is to do is done
    meanwhile."""
    made = await node.create()
    await node.publish(PRUNE_STEP)  # two steps, with their deliveries
    await node.quiet()
    node.clock.advance(2 * DAY)
    async with cleaning(node, days=1, step_ms=STEP_MS) as cleaner:
        await cleaner.resting()
        assert cleaner.pruning.steps == 1
        assert len(await node.deliveries()) == PRUNE_STEP / 2
        node.clock.advance(REST * STEP_MS - 1)
        await node.delete(made)
        await cleaner.resting()
        assert list(await node.store.unswept_endpoints()) == []
        assert cleaner.pruning.steps == 1
        node.clock.advance(1)
        await cleaner.resting()
        assert cleaner.pruning.steps == 2
        assert await node.deliveries() == []


async def test_pruning_that_falls_behind_hurries(node: Node):
    """When history is not pruned after some hours, larger steps and shorter rests follow."""
    await node.create()
    await node.publish(PRUNE_STEP + HASTY_PRUNE_STEP)
    await node.quiet()
    node.clock.advance(2 * DAY)
    async with cleaning(node, days=1, step_ms=STEP_MS) as cleaner:
        await cleaner.resting()
        left = PRUNE_STEP / 2 + HASTY_PRUNE_STEP
        assert len(await node.deliveries()) == left
        node.clock.advance(BEHIND_AFTER)
        await cleaner.resting()
        assert len(await node.deliveries()) == left - HASTY_PRUNE_STEP / 2
        node.clock.advance(HASTY_REST * STEP_MS)
        await cleaner.resting()
        assert len(await node.deliveries()) == left - HASTY_PRUNE_STEP


async def test_pruning_ends_with_the_lead(node: Node):
    """A node that no longer leads goes on with nothing; when it leads again it does."""
    await node.create()
    await node.publish(PRUNE_STEP)
    await node.quiet()
    node.clock.advance(2 * DAY)
    async with cleaning(node, days=1, step_ms=STEP_MS) as cleaner:
        await cleaner.resting()
        cleaner.leads = False
        node.clock.advance(HOUR)
        await cleaner.resting()
        assert cleaner.pruning.steps == 1
        cleaner.leads = True
        node.clock.advance(MINUTE)
        await cleaner.resting()
        assert cleaner.pruning.steps == 2


async def test_the_use_of_keys_is_kept(node: Node):
    """When keys were last used is stored every minute, and no more often, however much there is to sweep."""
    text, key = make_key("key_1", tenant=tenant(), permissions=None, name=None, at=START)
    await node.writer.change(AddKey(key, ACTOR))
    async with cleaning(node) as cleaner:
        cleaner.keys.changed(key)
        await cleaner.resting()
        cleaner.keys.authenticate(text, START + 5)
        for _ in range(3):
            await node.delete(await node.create())
            await cleaner.resting()
            assert (await node.store.all_keys())[0].last_used_at is None
        node.clock.advance(MINUTE)
        await cleaner.resting()
        assert (await node.store.all_keys())[0].last_used_at == START + 5


async def test_the_use_of_keys_outlasts_a_store_that_is_away(node: Node):
    """What could not be stored is stored once the store is back; a later use is not undone by an earlier one."""
    text, key = make_key("key_1", tenant=tenant(), permissions=None, name=None, at=START)
    other_text, other = make_key("key_2", tenant=tenant(), permissions=None, name=None, at=START)
    for each in (key, other):
        await node.writer.change(AddKey(each, ACTOR))
    async with cleaning(node) as cleaner:
        await cleaner.resting()
        for each in (key, other):
            cleaner.keys.changed(each)
        cleaner.keys.authenticate(text, START + 5)
        cleaner.keys.authenticate(other_text, START + 5)
        node.scripted.break_down()
        with pytest.raises(StoreUnavailable):
            await cleaner.maintenance.touch_keys()
        cleaner.keys.authenticate(text, START + 9)
        node.scripted.recover()
        await cleaner.maintenance.touch_keys()
        assert {each.id: each.last_used_at for each in await node.store.all_keys()} == {"key_1": START + 9, "key_2": START + 5}


async def test_the_audit_log_is_pruned_by_an_age_of_its_own(node: Node):
    """What has happened outlives the history of deliveries, and goes in steps when its own time has come."""
    made = await node.create()
    for number in range(PRUNE_STEP):
        await node.update(made, description=str(number))
    async with cleaning(node, days=1) as cleaner:
        node.clock.advance(2 * DAY)
        await cleaner.resting()
        assert len(await audit_log(node)) == PRUNE_STEP + 1
        await node.update(made, description=None)
        node.clock.advance(HOUR)
        await cleaner.resting()
        assert [entry.changes for entry in await audit_log(node)] == [{"description": {"from": str(PRUNE_STEP - 1), "to": None}}]


async def audit_log(node: Node) -> Sequence[AuditEntry]:
    return (await node.store.audit_log(tenant(), AuditFilter(), below=None, limit=1_000)).items


async def test_an_unavailable_store_stops_nothing(node: Node):
    """Maintenance that finds the store unavailable says so and goes on later."""
    made = await node.create()
    async with cleaning(node) as cleaner:
        await cleaner.resting()
        node.scripted.break_down()
        cleaner.maintenance.sweep(await node.endpoint(made))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while node.writer.unavailable is None or not cleaner.clock.is_resting:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0)
        node.scripted.recover()
        node.clock.advance(2 * MINUTE)
        await cleaner.resting()
        assert not cleaner.maintenance._unswept
    assert await node.store.endpoint(tenant(), made.id) is not None


@pytest.mark.parametrize("count", [SWEEP_STEP - 1, SWEEP_STEP, SWEEP_STEP + 1])
async def test_a_sweep_of_just_a_step(node: Node, count: int):
    """A number of deliveries at the border of a step is swept like any other."""
    node.sender.script(URL, hold(status(500)))
    made = await node.create()
    await node.publish(count)
    async with cleaning(node) as cleaner:
        await node.update(made, is_active=False)
        await cleaner.resting()
        assert await stored_states(node.store) == {"canceled": count}
        assert list(await node.store.unswept_endpoints()) == []
