"""The store contract: probes of disabled endpoints, and what is remembered of failures that the operator is told of."""

from collections.abc import Sequence

from msgspec.structs import replace

from gateway.clock import MINUTE
from gateway.model import DisabledReason, Endpoint, FailureNotice
from gateway.registry.endpoints import deleted, disabled
from gateway.store.protocol import Store
from tests.contract.acts import add_endpoints, ids
from tests.fakes import START, endpoint, tenant


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
