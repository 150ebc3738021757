"""The store contract: transactions are all or nothing, effects tell what they did, and reopening keeps everything."""

import asyncio
import contextlib

import pytest
from msgspec.structs import replace

from gateway.errors import StoreLocked
from gateway.model import BUCKETS, DeliveryState, DisabledReason, Endpoint, IdempotentAnswer, Organization
from gateway.registry.endpoints import disabled
from gateway.store.protocol import DeliveryFilter, Effects, EventFilter, NewEvent, Store
from tests.contract.acts import add_endpoints, claim, deliver_to, ids, look_up, record, retry
from tests.contract.conftest import Open
from tests.fakes import START, api_key, due, endpoint, event, result, retry_at, tenant


class Fault(Exception):
    """Something that goes wrong in the middle."""


async def test_rolling_back_leaves_nothing(store: Store):
    """A transaction that raises, after writing to everything there is, has changed nothing."""
    to, pinned = endpoint(), Organization("acme", "2026-07-11")
    await add_endpoints(store, to)
    (made,) = await deliver_to(store, to)
    before = await look_up(store, made)
    with pytest.raises(Fault):
        await _write_everything_and_fail(store, to, made.id)
    assert await store.endpoint(to.tenant, to.id) == to
    assert (await store.endpoints(tenant(), below=None, limit=10)).items == [to]
    assert await look_up(store, made) == before
    assert ids((await store.events(tenant(), EventFilter(), below=None, limit=10)).items) == [made.event.id]
    assert ids((await store.deliveries(tenant(), DeliveryFilter(), below=None, limit=10)).items) == [made.id]
    assert (await claim(store, to)).manual == []
    assert await store.all_keys() == []
    assert pinned not in await store.organizations()
    assert await store.answer(b"k" * 32, START) is None
    assert list(await store.revisions(tenant(), after=0, limit=10)) == []
    assert list(await store.unswept_endpoints()) == []


async def _write_everything_and_fail(store: Store, to: Endpoint, delivery_id: str) -> None:
    async with store.transaction() as transaction:
        found = await transaction.delivery(tenant(), delivery_id)
        assert found is not None
        await transaction.add_endpoint(new := endpoint())
        await transaction.save_endpoint(disabled(to, DisabledReason.USER, START))
        await transaction.pause_endpoints([(to.id, START + 5)])
        await transaction.add_events([NewEvent(subject := event(), 1)])
        await transaction.add_deliveries([(tenant(), due(new, subject))])
        await transaction.add_retry("whrt_1", found, to)
        await transaction.add_key(api_key())
        await transaction.pin_organization(Organization("acme", "2026-07-11"))
        await transaction.save_answer(IdempotentAnswer(b"k" * 32, b"r" * 32, b"a", START + 9))
        assert await transaction.count_endpoints("acme") == 2
        raise Fault


async def test_a_transaction_goes_on_after_one_that_failed(store: Store):
    """A transaction that was rolled back stands in nobody's way."""
    with pytest.raises(Fault):
        await _add_endpoint_and_fail(store)
    await add_endpoints(store, kept := endpoint())
    assert (await store.endpoints(tenant(), below=None, limit=10)).items == [kept]


async def _add_endpoint_and_fail(store: Store) -> None:
    async with store.transaction() as transaction:
        await transaction.add_endpoint(endpoint())
        raise Fault


async def test_a_broken_constraint_breaks_the_whole_transaction(store: Store):
    """When one row cannot be stored, no row of the transaction is."""
    twice = endpoint()
    with pytest.raises(Exception, match=r"(?i)unique") as refused:
        await add_endpoints(store, endpoint(), twice, twice)
    assert not isinstance(refused.value, AssertionError)
    assert (await store.endpoints(tenant(), below=None, limit=10)).items == []


async def test_a_cancelled_transaction_is_rolled_back(store: Store):
    """A transaction whose task is cancelled leaves nothing, and the next one works."""
    begun = asyncio.Event()

    async def hang() -> None:
        async with store.transaction() as transaction:
            await transaction.add_endpoint(endpoint())
            assert await transaction.count_endpoints("acme") == 1
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await add_endpoints(store, kept := endpoint())
    assert (await store.endpoints(tenant(), below=None, limit=10)).items == [kept]


async def test_reads_see_what_is_committed(store: Store):
    """The log shows nothing of a transaction until it is committed, and all of it from then on."""
    made = endpoint()
    async with store.transaction() as transaction:
        await transaction.add_endpoint(made)
        assert await transaction.endpoint(made.tenant, made.id) == made
        assert await store.endpoint(made.tenant, made.id) is None
    assert await store.endpoint(made.tenant, made.id) == made


async def test_effects(store: Store):
    """A transaction tells what it did that others hold in memory."""
    to, key = endpoint(), api_key()
    pinned = Organization("acme", "2026-07-11")
    await add_endpoints(store, to)
    (made,) = await deliver_to(store, to)
    off = disabled(to, DisabledReason.USER, START)
    async with store.transaction() as transaction:
        await transaction.add_endpoint(new := endpoint())
        await transaction.save_endpoint(off)
        found = await transaction.delivery(tenant(), made.id)
        assert found is not None
        await transaction.add_retry("whrt_1", found, off)
        await transaction.add_key(key)
        await transaction.revoke_key(key.id, None, START)
        await transaction.pin_organization(pinned)
    assert transaction.effects == Effects(
        endpoints=[new, off],
        retried_endpoints=[off],
        keys=[key, replace(key, revoked_at=START)],
        organizations=[pinned],
    )
    async with store.transaction() as transaction:
        await transaction.reset_failures([to.id])
    assert transaction.effects == Effects()


async def test_reopening_keeps_everything(open_store: Open):
    """A store that is closed and opened again holds what was committed, and goes on where it was."""
    to, key = endpoint(), api_key()
    async with open_store() as store:
        cursor_key = await store.cursor_key()
        await add_endpoints(store, to)
        first, later, by_hand, delivered = await deliver_to(store, to, 4)
        await record(
            store, result(later, to, retry_at(START + 5)), result(by_hand, to, retry_at(START + 9)), result(delivered, to)
        )
        await retry(store, by_hand, to)
        async with store.transaction() as transaction:
            await transaction.add_key(key)
    for _ in range(2):
        async with open_store() as store:
            assert await store.cursor_key() == cursor_key
            assert await store.endpoint(to.tenant, to.id) == to
            assert await store.all_keys() == [key]
            (work,) = await store.lane_work(range(BUCKETS))
            assert (work.has_first_attempts, work.next_retry_at, work.has_manual) == (True, START + 5, True)
            answer = await claim(store, to, now=START + 5)
            assert (ids(answer.manual), ids(answer.retries), ids(answer.first)) == ([by_hand.id], [later.id], [first.id])
            assert (await look_up(store, delivered)).state is DeliveryState.DELIVERED
            assert await store.event(tenant(), first.event.id) == first.event
            await add_endpoints(store, endpoint(tenant=tenant("other")))


async def test_a_second_instance(open_store: Open):
    """A store that belongs to one process cannot be opened again beside, and can once it is closed; one that is shared can
    always."""
    async with open_store() as store:
        with contextlib.nullcontext() if store.cluster else pytest.raises(StoreLocked, match="stop it first"):
            async with open_store() as other:
                assert await other.cursor_key() == await store.cursor_key()
    async with open_store() as store:
        await store.cursor_key()


async def test_many_readers(store: Store):
    """Any number of reads at once are answered, a transaction in between or not."""
    made = endpoint()
    await add_endpoints(store, made)
    async with store.transaction() as transaction:
        await transaction.reset_failures([made.id])
        found = await asyncio.gather(*(store.endpoint(made.tenant, made.id) for _ in range(50)))
    assert found == [made] * 50


async def test_reads_that_are_left_alone(store: Store):
    """A read whose caller goes away does not hurt the next."""
    made = endpoint()
    await add_endpoints(store, made)
    for _ in range(10):
        tasks = [asyncio.create_task(store.endpoint(made.tenant, made.id)) for _ in range(5)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        assert await store.endpoint(made.tenant, made.id) == made
        await asyncio.gather(*tasks, return_exceptions=True)
