"""What the contract's tests do to a store, each in a transaction of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg

from gateway.model import AcceptedEvent, Attempt, Delivery, DueDelivery, Endpoint, Result, Tenant
from gateway.registry.endpoints import cancel_reason
from gateway.store.protocol import Change, Claim, Claimed, NewEvent, Page, Store, Transaction
from tests.fakes import PATIENCE_SECONDS, START, due, event, make_id

T = TypeVar("T")


async def change(store: Store, change: Change[T]) -> T:
    """The outcome of *change*."""
    async with store.transaction() as transaction:
        return await change.apply(transaction)


async def add_endpoints(store: Store, *endpoints: Endpoint) -> None:
    async with store.transaction() as transaction:
        for endpoint in endpoints:
            await transaction.add_endpoint(endpoint)


async def save_endpoint(store: Store, endpoint: Endpoint) -> Endpoint:
    async with store.transaction() as transaction:
        await transaction.save_endpoint(endpoint)
    return endpoint


async def add_events(store: Store, *events: AcceptedEvent, revision: int = 0) -> None:
    async with store.transaction() as transaction:
        await _add_events(transaction, events, revision)


async def _add_events(transaction: Transaction, events: Sequence[AcceptedEvent], revision: int = 0) -> None:
    named = [subject for subject in events if subject.external_id is not None]
    assert await transaction.take_external_ids(named) == {}
    await transaction.add_events([NewEvent(subject, revision) for subject in events])


async def add_deliveries(store: Store, *deliveries: DueDelivery) -> None:
    """Stores *deliveries* with their events."""
    events = {delivery.event.id: delivery.event for delivery in deliveries}
    async with store.transaction() as transaction:
        await _add_events(transaction, list(events.values()))
        await transaction.add_deliveries([(delivery.event.tenant, delivery) for delivery in deliveries])


async def deliver_to(store: Store, to: Endpoint, count: int = 1, **fields: Any) -> list[DueDelivery]:
    """*count* new deliveries of events of their own to *to*. *fields* are the deliveries'; `at` is their time."""
    at = fields.pop("at", START)
    made = [due(to, event(tenant=to.tenant, at=at), **fields) for _ in range(count)]
    await add_deliveries(store, *made)
    return made


async def attempts(store: Store, of: Tenant, delivery_id: str) -> list[Attempt]:
    """The attempts on record; none of a delivery that is not there."""
    found = await store.delivery_with_attempts(of, delivery_id)
    return [] if found is None else list(found[1])


async def record(store: Store, *results: Result) -> None:
    async with store.transaction() as transaction:
        await transaction.record_results(results)


async def retry(store: Store, of: DueDelivery, to: Endpoint) -> str:
    """Queues a retry by hand; its id."""
    retry_id = make_id("whrt_")
    async with store.transaction() as transaction:
        delivery = await transaction.delivery(to.tenant, of.id)
        assert delivery is not None
        await transaction.add_retry(retry_id, delivery, to)
    return retry_id


async def sweep(store: Store, endpoint: Endpoint, *, limit: int = 1_000) -> int:
    async with store.transaction() as transaction:
        at = endpoint.deactivated_at or START
        return await transaction.cancel_passed(endpoint, cancel_reason(endpoint), at, limit=limit)


async def look_up(store: Store, of: DueDelivery, tenant: Tenant | None = None) -> Delivery:
    """The delivery as the log shows it, which is also how a transaction sees it."""
    tenant = tenant or of.event.tenant
    found = await store.delivery(tenant, of.id)
    assert found is not None
    async with store.transaction() as transaction:
        assert await transaction.delivery(tenant, of.id) == found
    return found


def ask(to: Endpoint, **fields: Any) -> Claim:
    """A claim for everything that is due now, unless *fields* say otherwise."""
    wanted: dict[str, Any] = {"now": START, "limit": 100, "max_bytes": 10**6, "held": (), "under_way": (), **fields}
    return Claim(endpoint=to, **wanted)


async def claim(store: Store, to: Endpoint, **fields: Any) -> Claimed:
    (answer,) = await store.claim([ask(to, **fields)])
    return answer


def ids(things: Sequence[Any]) -> list[str]:
    return [thing.id for thing in things]


async def walk(pages: Callable[[str | None], Awaitable[Page[T]]]) -> list[T]:
    """All items of a list, page by page."""
    items: list[T] = []
    below: str | None = None
    while True:
        page = await pages(below)
        items.extend(page.items)
        if page.next_below is None:
            return items
        assert below is None or page.next_below < below
        below = page.next_below


async def is_waiting(raw: asyncpg.Connection, count: int = 1) -> None:
    """Returns when so many others wait for a lock."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await raw.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < count:  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.005)
