"""The store contract: events."""

from typing import Any

import pytest

from gateway.clock import DAY
from gateway.model import AcceptedEvent, Mode, Tenant
from gateway.store.protocol import SCAN_LIMIT, EventFilter, NewEvent, Page, Store
from tests.contract.acts import add_events, ids, walk
from tests.fakes import START, event, tenant

OTHERS = [tenant("other"), tenant(mode=Mode.SANDBOX)]


async def events(
    store: Store, below: str | None = None, *, limit: int = 10, of: Tenant | None = None, **only: Any
) -> Page[AcceptedEvent]:
    return await store.events(of or tenant(), EventFilter(**only), below=below, limit=limit)


async def test_event(store: Store):
    """An event comes back with its data to the byte, for its tenant and nobody else."""
    subject = event(type="a.b.c", timestamp=START - 5, external_id="ext ' é", data=b'{ "b":1.10,\n"a":"\\u00e9\xc3\xa9" }')
    await add_events(store, subject)
    assert await store.event(tenant(), subject.id) == subject
    for other in OTHERS:
        assert await store.event(other, subject.id) is None
    assert await store.event(tenant(), "whev_none") is None


@pytest.mark.parametrize("size", [0, 1, 256 * 1024])
async def test_data_of_any_size(store: Store, size: int):
    """Data is kept whatever its size, also bytes that are no text."""
    subject = event(data=b"\x00\xff" * (size // 2) + b"x" * (size % 2))
    await add_events(store, subject)
    found = await store.event(tenant(), subject.id)
    assert found is not None
    assert found.data == subject.data


@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 1_000])
async def test_add_events(store: Store, count: int):
    """However many events a transaction stores, all of them are there."""
    made = [event() for _ in range(count)]
    await add_events(store, *made)
    assert ids(await walk(lambda below: events(store, below, limit=400))) == ids(made)[::-1]


async def test_events(store: Store):
    """Events are listed newest first without their data, each tenant's own."""
    made = [event() for _ in range(5)]
    await add_events(store, *made, event(tenant=OTHERS[0]), event(tenant=OTHERS[1]))
    page = await events(store, limit=3)
    assert ids(page.items) == ids(made[:1:-1])
    assert all(found.data == b"" for found in page.items)
    assert page.items[0].type == made[4].type
    rest = await events(store, page.next_below, limit=3)
    assert (ids(rest.items), rest.next_below) == (ids(made[1::-1]), None)


async def test_a_page_that_ends_with_the_list_is_the_last(store: Store):
    """A page that holds exactly what is left names no place to go on."""
    await add_events(store, *(event() for _ in range(6)))
    page = await events(store, limit=3)
    assert page.next_below is not None
    assert (await events(store, page.next_below, limit=3)).next_below is None


async def test_filters(store: Store):
    """Events are found by type, by external id, and by both."""
    paid, void = event(external_id="x"), event(type="invoice.void")
    await add_events(store, paid, void, event(tenant=OTHERS[0], external_id="x"))
    assert ids((await events(store, type="invoice.void")).items) == [void.id]
    assert ids((await events(store, external_id="x")).items) == [paid.id]
    assert ids((await events(store, external_id="x", type="invoice.paid")).items) == [paid.id]
    assert ids((await events(store, external_id="x", type="invoice.void")).items) == []
    assert ids((await events(store, external_id="y")).items) == []
    assert ids((await events(store, external_id="x", since=START + 1)).items) == []
    assert ids((await events(store, paid.id, external_id="x")).items) == []


async def test_spans_of_time(store: Store):
    """`since` is inclusive and `until` exclusive, on the time of acceptance; both go with pages and types."""
    made = [event(at=START + place) for place in range(6)]
    await add_events(store, *made)
    assert ids((await events(store, since=START + 2)).items) == ids(made[:1:-1])
    assert ids((await events(store, until=START + 2)).items) == ids(made[1::-1])
    assert ids((await events(store, since=START + 1, until=START + 4)).items) == ids(made[3:0:-1])
    assert ids((await events(store, since=START + 4, until=START + 4)).items) == []
    assert ids((await events(store, made[3].id, since=START + 1, until=START + 5)).items) == ids(made[2:0:-1])
    assert ids((await events(store, since=START + 1, until=START + 4, type="invoice.paid")).items) == ids(made[3:0:-1])


async def test_a_list_of_events_keeps_its_place(store: Store):
    """While events are added and old ones pruned, pages neither skip nor repeat what is there throughout."""
    made = [event(at=START + place - (DAY if place < 2 else 0)) for place in range(9)]
    await add_events(store, *made)
    first = await events(store, limit=3, type="invoice.paid")
    await add_events(store, event(at=START + 20), event(at=START + 21))
    async with store.transaction() as transaction:
        await transaction.prune(START, limit=10)
    rest = await walk(lambda below: events(store, below or first.next_below, limit=3, type="invoice.paid"))
    assert ids([*first.items, *rest]) == ids(made[:1:-1])


async def test_the_scan_of_a_filtered_page_is_bounded(store: Store):
    """A page that would walk over more rows than SCAN_LIMIT ends early, and says where to go on; nothing is skipped."""
    made = [event(type="rare.one"), *(event() for _ in range(SCAN_LIMIT)), event(type="rare.two")]
    rare = [made[0], made[-1]]
    await add_events(store, *made)
    page = await events(store, type="rare.one")
    assert page.items == []
    assert page.next_below is not None
    page = await events(store, page.next_below, type="rare.one")
    assert (ids(page.items), page.next_below) == ([rare[0].id], None)
    found = await walk(lambda below: events(store, below, type="rare.two"))
    assert ids(found) == [rare[1].id]


async def test_a_bounded_page_shows_what_it_found(store: Store):
    """What a page found before its scan ended is on it, and is not repeated on the next."""
    made = [event(type="rare.one"), *(event() for _ in range(SCAN_LIMIT)), event(type="rare.one"), event(type="rare.one")]
    rare = [made[0], *made[-2:]]
    await add_events(store, *made)
    page = await events(store, type="rare.one")
    assert ids(page.items) == [rare[2].id, rare[1].id]
    page = await events(store, page.next_below, type="rare.one")
    assert (ids(page.items), page.next_below) == ([rare[0].id], None)


# External ids


async def test_take_external_ids(store: Store):
    """The events that had the external ids before are found with their data, each tenant's own; the other ids are taken."""
    mine, live, sandbox = event(external_id="x"), event(external_id="y"), event(external_id="x", tenant=OTHERS[1])
    await add_events(store, mine, live, sandbox, event())
    async with store.transaction() as transaction:
        asked = [
            event(external_id="x"),
            event(external_id="x", tenant=OTHERS[1]),
            event(external_id="x", tenant=OTHERS[0]),
            event(external_id="z"),
            event(external_id="' OR 1=1"),
        ]
        found = await transaction.take_external_ids(asked)
        assert found == {(tenant(), "x"): mine, (OTHERS[1], "x"): sandbox}
        assert await transaction.take_external_ids([]) == {}


async def test_an_external_id_is_taken_with_its_event(store: Store):
    """A transaction that takes an external id and is rolled back leaves it to the next."""
    first, second = event(external_id="x"), event(external_id="x")
    with pytest.raises(LookupError):
        await _take_and_fail(store, first)
    await add_events(store, second)
    async with store.transaction() as transaction:
        assert await transaction.take_external_ids([first]) == {(tenant(), "x"): second}


async def _take_and_fail(store: Store, subject: AcceptedEvent) -> None:
    async with store.transaction() as transaction:
        assert await transaction.take_external_ids([subject]) == {}
        await transaction.add_events([NewEvent(subject, 0)])
        raise LookupError


async def test_an_external_id_of_another_tenant(store: Store):
    """An external id is one tenant's: another may use it, too."""
    await add_events(store, event(external_id="x"))
    await add_events(store, event(external_id="x", tenant=OTHERS[0]))
    assert len((await events(store)).items) == 1
