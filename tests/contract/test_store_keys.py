"""The store contract: API keys, organizations, and the answers to idempotent requests."""

from msgspec.structs import replace

from gateway.model import ApiKey, IdempotentAnswer, Mode, Organization, Tenant
from gateway.store.protocol import Store
from tests.contract.acts import add_endpoints, walk
from tests.fakes import START, api_key, endpoint, tenant

SANDBOX = tenant(mode=Mode.SANDBOX)


async def add_keys(store: Store, *keys: ApiKey) -> None:
    async with store.transaction() as transaction:
        for key in keys:
            await transaction.add_key(key)


async def test_add_key(store: Store):
    """A key comes back as it was stored, every field of it."""
    plain = api_key()
    full = api_key(name=None, permissions=("webhook:read", "event:write"), expires_at=START + 9, tenant=SANDBOX)
    service = api_key(tenant=None, permissions=())
    await add_keys(store, plain, full, service)
    assert sorted(await store.all_keys(), key=lambda key: key.id) == [plain, full, service]


async def test_keys(store: Store):
    """A tenant's keys are listed newest first, its own only; everybody's are all of them, service keys included."""
    made = [api_key() for _ in range(5)]
    others = [api_key(tenant=tenant("other")), api_key(tenant=SANDBOX), api_key(tenant=None)]
    await add_keys(store, *made, *others)
    assert await walk(lambda below: store.keys(tenant(), below=below, limit=2)) == made[::-1]
    assert await walk(lambda below: store.keys(None, below=below, limit=3)) == [*others[::-1], *made[::-1]]
    page = await store.keys(tenant(), below=made[2].id, limit=2)
    assert (list(page.items), page.next_below) == ([made[1], made[0]], None)


async def test_revoke_key(store: Store):
    """A revoked key is in no list any more, and cannot be revoked twice."""
    key, other = api_key(), api_key()
    await add_keys(store, key, other)
    async with store.transaction() as transaction:
        assert await transaction.revoke_key(key.id, None, START + 5) == replace(key, revoked_at=START + 5)
    assert await store.all_keys() == [other]
    assert (await store.keys(tenant(), below=None, limit=9)).items == [other]
    assert (await store.keys(None, below=None, limit=9)).items == [other]
    async with store.transaction() as transaction:
        assert await transaction.revoke_key(key.id, None, START + 6) is None
        assert await transaction.revoke_key("key_none", None, START + 6) is None


async def test_a_tenant_revokes_its_own_keys(store: Store):
    """With a tenant only its own keys are in reach, neither another's nor a service key."""
    key, service = api_key(), api_key(tenant=None)
    await add_keys(store, key, service)
    async with store.transaction() as transaction:
        for other in (tenant("other"), SANDBOX):
            assert await transaction.revoke_key(key.id, other, START) is None
        assert await transaction.revoke_key(service.id, tenant(), START) is None
        assert await transaction.revoke_key(key.id, tenant(), START) is not None
    assert await store.all_keys() == [service]


async def test_touch_keys(store: Store):
    """The last use of a key is kept, and never goes back."""
    key, other = api_key(), api_key()
    await add_keys(store, key, other)
    async with store.transaction() as transaction:
        await transaction.touch_keys([(key.id, START + 9), (key.id, START + 5), ("key_none", START)])
    assert {found.id: found.last_used_at for found in await store.all_keys()} == {key.id: START + 9, other.id: None}


async def test_pin_organization(store: Store):
    """An organization's version is stored, replaced, and taken away."""
    for version in ("2026-07-11", "2026-08-27", None):
        async with store.transaction() as transaction:
            await transaction.pin_organization(Organization("acme", version))
        assert await store.organizations() == [Organization("acme", version)]


async def test_organizations(store: Store):
    """Organizations are known once each, by id, from a pin, an endpoint or a key; service keys belong to none."""
    await add_endpoints(store, endpoint(tenant=tenant("b")), endpoint(tenant=Tenant("b", Mode.SANDBOX)))
    await add_keys(store, api_key(tenant=tenant("c")), api_key(tenant=None))
    async with store.transaction() as transaction:
        await transaction.pin_organization(Organization("a", "2026-07-11"))
        await transaction.pin_organization(Organization("b", "2026-08-27"))
    assert await store.organizations() == [
        Organization("a", "2026-07-11"),
        Organization("b", "2026-08-27"),
        Organization("c", None),
    ]


# Idempotent answers


def answer(number: int = 1, *, expires_at: int = START + 100, content: bytes = b"sealed") -> IdempotentAnswer:
    return IdempotentAnswer(bytes([number]) * 32, b"r" * 32, content, expires_at)


async def save(store: Store, *answers: IdempotentAnswer) -> None:
    async with store.transaction() as transaction:
        for each in answers:
            await transaction.save_answer(each)


async def test_save_answer(store: Store):
    """An answer is found by its key until it expires."""
    kept = answer()
    await save(store, kept)
    assert await store.answer(kept.key_hash, START + 99) == kept
    assert await store.answer(kept.key_hash, START + 100) is None
    assert await store.answer(b"x" * 32, START) is None


async def test_a_new_answer_takes_the_place_of_an_expired_one(store: Store):
    """A key whose answer has expired can be used again."""
    await save(store, answer(expires_at=START))
    again = answer(content=b"another", expires_at=START + 200)
    await save(store, again)
    assert await store.answer(again.key_hash, START + 1) == again


async def test_forget_answers(store: Store):
    """Expired answers are deleted in steps; those that still hold stay."""
    held = answer(9)
    await save(store, held, *(answer(number, expires_at=START) for number in range(5)))
    steps = []
    for _ in range(4):
        async with store.transaction() as transaction:
            steps.append(await transaction.forget_answers(START + 1, limit=2))
    assert steps == [2, 2, 1, 0]
    assert await store.answer(held.key_hash, START) == held


async def test_cursor_key(store: Store):
    """The store holds 32 random bytes for cursors, the same each time."""
    key = await store.cursor_key()
    assert len(key) == 32
    assert await store.cursor_key() == key
