"""The store contract: probes of disabled endpoints, and what is remembered of failures that the operator is told of."""

import asyncio
import json
from collections.abc import Sequence
from typing import ClassVar

from msgspec.structs import replace

from gateway.clock import MINUTE
from gateway.delivery.failure_notices import count_failures
from gateway.delivery.operator_events import OperatorEvents, Told
from gateway.ids import IdMaker
from gateway.model import OPERATIONS, OPERATIONS_ENDPOINT, DisabledReason, Endpoint, FailureNotice, RevisionCause
from gateway.registry.endpoints import deleted, disabled
from gateway.registry.operations import SetOperationsEndpoint
from gateway.settings import Operations
from gateway.store.protocol import Store
from tests.contract.acts import add_endpoints, change, claim, ids
from tests.fakes import API_VERSION, EXHAUSTED, SECRET, START, FakeClock, due, endpoint, result, tenant


async def notices(store: Store, *of: str) -> dict[str, FailureNotice]:
    async with store.transaction() as transaction:
        return await transaction.failure_notices(of)


async def untold(store: Store, told_before: int, limit: int = 10) -> Sequence[FailureNotice]:
    async with store.transaction() as transaction:
        return await transaction.untold_failures(told_before, limit=limit)


async def save(store: Store, *saved: FailureNotice) -> None:
    async with store.transaction() as transaction:
        await transaction.save_failure_notices(saved)


def notice(endpoint_id: str, told_at: int, count: int = 0) -> FailureNotice:
    return FailureNotice(endpoint_id, told_at, count, f"whdl_{endpoint_id}")


async def probed(store: Store, limit: int = 10) -> list[tuple[str, int | None, int]]:
    found = await store.endpoints_to_probe(limit=limit)
    return [(each.id, each.probe_at, each.probe_count) for each in found]


def failing(*, probe_at: int | None = None) -> Endpoint:
    return disabled(endpoint(), DisabledReason.FAILURES, START, probe_at=probe_at)


async def test_endpoints_to_probe(store: Store):
    """Endpoints of all tenants that are probed, with all their fields, in the order in which they are due; no others."""
    late, early = failing(probe_at=START + 9), replace(failing(probe_at=START + 5), tenant=tenant("other"), probe_count=3)
    await add_endpoints(store, late, endpoint(), failing(), early)
    assert list(await store.endpoints_to_probe(limit=10)) == [early, late]
    assert ids(await store.endpoints_to_probe(limit=1)) == [early.id]


async def test_schedule_probes(store: Store):
    """What was disabled by failures, and nothing else, is probed from then on; what is probed already keeps its time."""
    waiting, known = failing(), replace(failing(probe_at=START + 9), probe_count=4)
    others = [disabled(endpoint(), reason, START) for reason in (DisabledReason.USER, DisabledReason.GONE)]
    await add_endpoints(store, endpoint(), waiting, known, *others, deleted(failing(), START))
    async with store.transaction() as transaction:
        await transaction.schedule_probes(START + 5)
    assert await probed(store) == [(waiting.id, START + 5, 0), (known.id, START + 9, 4)]


async def test_end_probes(store: Store):
    """Nothing is probed any more, and nothing else about the endpoints has changed."""
    subject = replace(failing(probe_at=START + 9), probe_count=4)
    await add_endpoints(store, subject)
    async with store.transaction() as transaction:
        await transaction.end_probes()
    assert await probed(store) == []
    assert await store.endpoint(subject.tenant, subject.id) == replace(subject, probe_at=None, probe_count=0)


async def test_failure_notices(store: Store):
    """Notices come back as they were saved last, by their endpoints; an endpoint without one has none."""
    first, second = notice("wh_1", START), notice("wh_2", START + 1, 7)
    await save(store, first, second)
    assert await notices(store, "wh_1", "wh_2", "wh_3") == {"wh_1": first, "wh_2": second}
    assert await notices(store) == {}
    later = FailureNotice("wh_1", START + 5, 2, "whdl_later")
    await save(store, later)
    assert await notices(store, "wh_1", "wh_2") == {"wh_1": later, "wh_2": second}
    async with store.transaction() as transaction:
        await transaction.save_failure_notices([replace(later, untold=9)])
        assert (await transaction.failure_notices(["wh_1"]))["wh_1"].untold == 9


async def test_many_failure_notices_at_once(store: Store):
    """Any number of notices is saved together; none is none."""
    many = [notice(f"wh_{number:03d}", START, number) for number in range(300)]
    await save(store, *many)
    await save(store)
    assert list((await notices(store, *(each.endpoint_id for each in many))).values()) == many


async def test_untold_failures(store: Store):
    """Those with something untold that were told before a time, the earliest first, up to a limit."""
    told, early, late, young = (
        notice("wh_1", START),
        notice("wh_2", START, 1),
        notice("wh_3", START + 1, 1),
        notice("wh_4", START + 2, 1),
    )
    await save(store, told, late, early, young)
    assert list(await untold(store, START + 2)) == [early, late]
    assert list(await untold(store, START + 2, limit=1)) == [early]


async def test_forget_failure_notices(store: Store):
    """What was told long ago and has nothing untold is forgotten; the rest is not."""
    old, waiting, young = notice("wh_1", START), notice("wh_2", START, 1), notice("wh_3", START + MINUTE)
    await save(store, old, waiting, young)
    async with store.transaction() as transaction:
        await transaction.forget_failure_notices(START + MINUTE)
    assert set(await notices(store, "wh_1", "wh_2", "wh_3")) == {"wh_2", "wh_3"}


OPERATOR = Operations(url="https://operator.example/told", secret=SECRET)


async def own_revisions(store: Store) -> list[RevisionCause]:
    return [revision.cause for revision in await store.revisions(OPERATIONS, after=0, limit=10)]


async def set_up(store: Store, settings: Operations) -> Endpoint | None:
    """What a start with *settings* does; the operator's endpoint after it."""
    await change(store, SetOperationsEndpoint(settings, START))
    return await store.endpoint(OPERATIONS, OPERATIONS_ENDPOINT)


async def test_starts_at_the_same_time_make_one_endpoint(store: Store):
    """However many nodes start at once with `operations.url`, the operator's endpoint is made once, and none of them fails."""
    await asyncio.gather(*(set_up(store, OPERATOR) for _ in range(6)))
    assert await own_revisions(store) == [RevisionCause.CREATED]


async def test_what_settings_say_of_the_operator_holds_from_the_next_start(store: Store):
    """Another URL or secret is stored, no URL disables, a URL again enables; the same settings change nothing."""
    assert await set_up(store, Operations()) is None
    made = await set_up(store, OPERATOR)
    assert made is not None
    assert await set_up(store, OPERATOR) == made
    changed = await set_up(store, Operations(url="https://new.example/", secret="whsec_" + "A" * 44))
    assert changed is not None
    assert (changed.url, changed.secret, changed.activation) == ("https://new.example/", "whsec_" + "A" * 44, made.activation)
    off = await set_up(store, Operations())
    assert off is not None
    assert (off.is_active, off.activation) == (False, made.activation + 1)
    assert await set_up(store, Operations()) == off
    back = await set_up(store, OPERATOR)
    assert back is not None
    assert (back.is_active, back.url, back.disabled_at) == (True, OPERATOR.url, None)
    created, updated, disabled_, enabled = (
        RevisionCause.CREATED,
        RevisionCause.UPDATED,
        RevisionCause.DISABLED,
        RevisionCause.ENABLED,
    )
    assert await own_revisions(store) == [created, updated, disabled_, enabled]


class Notice(Told, frozen=True, kw_only=True, rename="camel"):
    """Something to tell."""

    type: ClassVar[str] = "test.told"


async def test_what_is_told_is_an_event_with_its_delivery(store: Store):
    """Telling stores an event of the gateway's own tenant and a delivery that its lane can claim, and says that there is work;
    when the operator's endpoint is out of service it stores nothing."""
    operator = OperatorEvents(ids=IdMaker(FakeClock()), current_version=API_VERSION)
    about = [
        Notice(webhook_id=f"wh_{number}", organization_id="acme", mode="live", url="https://x.example/") for number in range(3)
    ]

    async def tell() -> Sequence[Endpoint]:
        async with store.transaction() as transaction:
            await operator.tell(transaction, about)
        return transaction.effects.new_work

    assert await tell() == []
    own = await set_up(store, OPERATOR)
    assert own is not None
    assert await tell() == [own]
    claimed = (await claim(store, own, now=START + MINUTE)).first
    assert [json.loads(each.event.data)["webhookId"] for each in claimed] == ["wh_0", "wh_1", "wh_2"]
    assert {(each.event.type, each.event.tenant, each.api_version) for each in claimed} == {
        ("test.told", OPERATIONS, API_VERSION)
    }
    await set_up(store, Operations())
    assert await tell() == []


async def test_transactions_that_count_failures_of_the_same_endpoints_lose_none(store: Store):
    """Failures that are counted side by side, in whatever order, add up."""
    subjects = [endpoint() for _ in range(4)]
    await add_endpoints(store, *subjects)
    await save(store, *(notice(each.id, START) for each in subjects))

    async def count(order: Sequence[Endpoint]) -> None:
        results = [(each, [result(due(each), each, EXHAUSTED)]) for each in order]
        async with store.transaction() as transaction:
            await transaction.endpoints_by_id([each.id for each in order])
            assert await count_failures(transaction, results, START + 1) == []

    await asyncio.gather(*(count(subjects[:: 1 if number % 2 else -1]) for number in range(10)))
    assert [each.untold for each in (await notices(store, *ids(subjects))).values()] == [10] * 4
