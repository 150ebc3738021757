"""The store contract: endpoints and their revisions."""

import pytest
from msgspec.structs import replace

from gateway.model import DisabledReason, Endpoint, Mode, Organization, Revision, RevisionCause, Tenant
from gateway.registry.endpoints import deleted, disabled, enabled
from gateway.store.protocol import Store
from tests.contract.acts import add_endpoints, deliver_to, ids, save_endpoint, sweep, walk
from tests.fakes import START, endpoint, tenant

OTHERS = [tenant("other"), tenant(mode=Mode.SANDBOX)]


async def stored(store: Store, endpoint_id: str) -> Endpoint:
    async with store.transaction() as transaction:
        found = await transaction.endpoint_by_id(endpoint_id)
    assert found is not None
    return found


async def test_endpoint(store: Store):
    """An endpoint comes back as it was stored, every field of it, for its tenant and nobody else."""
    plain = endpoint()
    full = endpoint(
        url="https://ünïcode.example/hook?a=1",
        events=("invoice.*", "customer.created"),
        description='quotes " and \n newlines',
        api_version="2026-07-11",
        is_active=False,
        disabled_at=START + 1,
        disabled_reason=DisabledReason.FAILURES,
        activation=3,
        deactivated_at=START + 1,
        failed_in_row=2,
        paused_until=START + 2,
        headers={"Authorization": "Bearer ünïcode", "X-Team": "billing"},
    )
    await add_endpoints(store, plain, full)
    for subject in (plain, full):
        assert await store.endpoint(subject.tenant, subject.id) == subject
        async with store.transaction() as transaction:
            assert await transaction.endpoint(subject.tenant, subject.id) == subject
            assert await transaction.endpoint_by_id(subject.id) == subject
    for other in OTHERS:
        assert await store.endpoint(other, plain.id) is None
        async with store.transaction() as transaction:
            assert await transaction.endpoint(other, plain.id) is None


async def test_save_endpoint(store: Store):
    """Saving stores all of an endpoint, and of no other."""
    subject, other = endpoint(), endpoint()
    await add_endpoints(store, subject, other)
    changed = replace(
        disabled(subject, DisabledReason.GONE, START + 5),
        url="https://new.example/",
        events=("a.b",),
        description="d",
        api_version="2026-07-11",
        secret="whsec_" + "A" * 44,
        failed_in_row=2,
        paused_until=START + 9,
    )
    await save_endpoint(store, changed)
    assert await store.endpoint(subject.tenant, subject.id) == changed
    assert await store.endpoint(other.tenant, other.id) == other
    back = replace(enabled(changed), description=None, api_version=None)
    await save_endpoint(store, back)
    assert await store.endpoint(subject.tenant, subject.id) == back


async def test_a_deleted_endpoint_is_gone(store: Store):
    """A deleted endpoint is in no list, no count and no match; only by its id can it still be told what it was."""
    subject = endpoint()
    await add_endpoints(store, subject)
    gone = await save_endpoint(store, deleted(subject, START + 5))
    assert await store.endpoint(subject.tenant, subject.id) is None
    assert (await store.endpoints(subject.tenant, below=None, limit=10)).items == []
    async with store.transaction() as transaction:
        assert await transaction.endpoint(subject.tenant, subject.id) is None
        assert await transaction.endpoint_by_id(subject.id) == gone
        assert await transaction.count_endpoints("acme") == 0
        assert (await transaction.active_endpoints(subject.tenant)).endpoints == ()


async def test_endpoints(store: Store):
    """Endpoints are listed newest first, page by page, each tenant's own."""
    made = [endpoint() for _ in range(7)]
    await add_endpoints(store, *made, endpoint(tenant=OTHERS[0]), endpoint(tenant=OTHERS[1]))
    page = await store.endpoints(tenant(), below=None, limit=3)
    assert list(page.items) == made[:3:-1]
    assert page.next_below == made[4].id
    everything = await walk(lambda below: store.endpoints(tenant(), below=below, limit=3))
    assert everything == made[::-1]
    last = await store.endpoints(tenant(), below=made[3].id, limit=3)
    assert (ids(last.items), last.next_below) == (ids(made[2::-1]), None)


async def test_a_list_of_endpoints_keeps_its_place(store: Store):
    """While some are added and deleted, the pages of a list neither skip nor repeat those that are there throughout."""
    made = [endpoint() for _ in range(9)]
    await add_endpoints(store, *made)
    first = await store.endpoints(tenant(), below=None, limit=3)
    await add_endpoints(store, endpoint(), endpoint())
    await save_endpoint(store, deleted(made[6], START))  # the last of the first page
    await save_endpoint(store, deleted(made[4], START))
    second = await store.endpoints(tenant(), below=first.next_below, limit=3)
    third = await store.endpoints(tenant(), below=second.next_below, limit=3)
    seen = [*first.items, *second.items, *third.items]
    assert ids(seen) == ids([made[place] for place in (8, 7, 6, 5, 3, 2, 1, 0)])
    assert third.next_below is None


async def test_count_endpoints(store: Store):
    """The count is the organization's, in both modes together."""
    await add_endpoints(store, endpoint(), endpoint(is_active=False), endpoint(tenant=OTHERS[0]), endpoint(tenant=OTHERS[1]))
    async with store.transaction() as transaction:
        assert await transaction.count_endpoints("acme") == 3
        assert await transaction.count_endpoints("nobody") == 0


async def test_active_endpoints(store: Store):
    """What is matched against: the tenant's active endpoints, its last revision, and the organization's pinned version."""
    on, off = endpoint(), endpoint(is_active=False)
    await add_endpoints(store, on, off, endpoint(tenant=OTHERS[0]), endpoint(tenant=OTHERS[1]))
    async with store.transaction() as transaction:
        before = await transaction.active_endpoints(tenant())
        await transaction.add_revision(revision_of(on))
        await transaction.pin_organization(Organization("acme", "2026-07-11"))
        await transaction.add_endpoint(also_on := endpoint())
        after = await transaction.active_endpoints(tenant())
    assert (before.revision, before.endpoints, before.pinned_version) == (0, (on,), None)
    assert (after.revision, set(ids(after.endpoints)), after.pinned_version) == (1, {on.id, also_on.id}, "2026-07-11")


async def test_reset_failures(store: Store):
    """The failures in a row of the named endpoints are forgotten, and of no other."""
    failing, other = endpoint(failed_in_row=2), endpoint(failed_in_row=1)
    await add_endpoints(store, failing, other)
    async with store.transaction() as transaction:
        await transaction.reset_failures([failing.id])
    assert (await stored(store, failing.id)).failed_in_row == 0
    assert (await stored(store, other.id)).failed_in_row == 1


async def test_pause_endpoints(store: Store):
    """Of two pauses the later one is kept, in whatever order they come."""
    fresh, paused, other = endpoint(), endpoint(paused_until=START + 50), endpoint()
    await add_endpoints(store, fresh, paused, other)
    async with store.transaction() as transaction:
        await transaction.pause_endpoints([(fresh.id, START + 9), (fresh.id, START + 5), (paused.id, START + 40)])
    assert (await stored(store, fresh.id)).paused_until == START + 9
    assert (await stored(store, paused.id)).paused_until == START + 50
    assert (await stored(store, other.id)).paused_until is None


# Revisions


def revision_of(subject: Endpoint, **fields: object) -> Revision:
    made = Revision(
        tenant=subject.tenant,
        number=0,
        endpoint_id=subject.id,
        events=subject.events,
        is_active=subject.is_active,
        cause=RevisionCause.CREATED,
        actor="key_1",
        at=START,
    )
    return replace(made, **fields)


async def add_revision(store: Store, revision: Revision) -> int:
    async with store.transaction() as transaction:
        return await transaction.add_revision(revision)


async def test_add_revision(store: Store):
    """Revisions are numbered from 1 within their tenant, whatever number they claim, and come back as they were."""
    subject = endpoint(events=("a.b", "c.*"))
    causes = list(RevisionCause)
    numbers = [await add_revision(store, revision_of(subject, cause=cause, number=99, is_active=False)) for cause in causes]
    assert numbers == list(range(1, len(causes) + 1))
    assert list(await store.revisions(tenant(), after=0, limit=100)) == [
        revision_of(subject, cause=cause, number=number, is_active=False) for number, cause in enumerate(causes, 1)
    ]


async def test_revisions_of_one_transaction(store: Store):
    """Several revisions in one transaction have numbers of their own."""
    async with store.transaction() as transaction:
        numbers = [await transaction.add_revision(revision_of(endpoint())) for _ in range(3)]
    assert numbers == [1, 2, 3]


@pytest.mark.parametrize("other", OTHERS)
async def test_revisions_are_a_tenants_own(store: Store, other: Tenant):
    """Each tenant counts for itself, and sees its own revisions only."""
    await add_revision(store, revision_of(endpoint()))
    await add_revision(store, revision_of(endpoint()))
    assert await add_revision(store, revision_of(endpoint(tenant=other))) == 1
    assert len(await store.revisions(tenant(), after=0, limit=100)) == 2
    assert len(await store.revisions(other, after=0, limit=100)) == 1


async def test_revisions_go_on(store: Store):
    """Revisions are read in order, from any number on, as many as are asked for."""
    for _ in range(5):
        await add_revision(store, revision_of(endpoint()))
    assert [revision.number for revision in await store.revisions(tenant(), after=2, limit=2)] == [3, 4]
    assert list(await store.revisions(tenant(), after=5, limit=2)) == []


# What is still to be swept


async def test_unswept_endpoints(store: Store):
    """An endpoint is unswept from the moment its activation is raised until it is marked, deleted ones included."""
    off, gone, untouched = endpoint(), endpoint(), endpoint()
    await add_endpoints(store, off, gone, untouched)
    assert await store.unswept_endpoints() == []
    off = await save_endpoint(store, disabled(off, DisabledReason.USER, START))
    gone = await save_endpoint(store, deleted(gone, START))
    assert sorted(ids(await store.unswept_endpoints())) == sorted([off.id, gone.id])
    async with store.transaction() as transaction:
        await transaction.mark_swept(gone)
    assert list(await store.unswept_endpoints()) == [off]


async def test_a_mark_speaks_for_its_activation_only(store: Store):
    """An endpoint that was disabled again while it was swept is still unswept."""
    subject = endpoint()
    await add_endpoints(store, subject)
    first = await save_endpoint(store, disabled(subject, DisabledReason.USER, START))
    second = await save_endpoint(store, disabled(enabled(first), DisabledReason.USER, START + 1))
    async with store.transaction() as transaction:
        await transaction.mark_swept(first)
    assert list(await store.unswept_endpoints()) == [second]


async def test_a_sweep_in_steps(store: Store):
    """What waits is canceled in steps of the size that is asked for, first attempts and retries alike, until none is left."""
    subject, other = endpoint(), endpoint()
    await add_endpoints(store, subject, other)
    await deliver_to(store, subject, 5)
    await deliver_to(store, other, 2)
    off = await save_endpoint(store, disabled(subject, DisabledReason.USER, START))
    assert [await sweep(store, off, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert await sweep(store, other) == 0
