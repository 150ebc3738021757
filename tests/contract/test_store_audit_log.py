"""The store contract: the audit log. An entry is committed with what it tells of, or neither is."""

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from gateway import ids
from gateway.clock import DAY
from gateway.delivery.manual_retry import QueueRetry
from gateway.errors import DeliveryNotFound, EndpointNotFound, GatewayError, KeyNotFound, TooManyEndpoints
from gateway.model import Actor, AuditAction, AuditEntry, DisabledReason, Mode, Organization, Tenant
from gateway.registry.endpoints import CreateEndpoint, DeleteEndpoint, EndpointPatch, UpdateEndpoint, disable
from gateway.registry.keys import AddKey, RevokeKey
from gateway.registry.organizations import PinOrganization
from gateway.store.protocol import SCAN_LIMIT, AuditFilter, Change, Store
from tests.contract.acts import change, deliver_to, walk
from tests.fakes import ACTOR, SECRET, START, api_key, endpoint, make_id, tenant

OTHERS = (tenant("other"), tenant(mode=Mode.SANDBOX))
NOW = START + 7


def entry(**fields: Any) -> AuditEntry:
    """Of `acme`, unless *fields* say otherwise."""
    made = AuditEntry(
        make_id(ids.AUDIT_ENTRY, fields.get("at", START)),
        tenant(),
        START,
        ACTOR,
        AuditAction.WEBHOOK_UPDATED,
        "wh_1",
        {"url": {"from": "https://ünï.example/\0", "to": None}, "events": {"from": ["a.b"], "to": []}},
    )
    return replace(made, **fields)


async def add(store: Store, *entries: AuditEntry) -> None:
    async with store.transaction() as transaction:
        for each in entries:
            await transaction.add_audit_entry(each)
        assert transaction.effects.audited == list(entries)


async def entries(store: Store, of: Tenant | None = None, **only: Any) -> Sequence[AuditEntry]:
    """All of them, newest first."""
    return await walk(lambda below: store.audit_log(of, AuditFilter(**only), below=below, limit=3))


async def test_add_audit_entry(store: Store):
    """An entry comes back as it was stored, every field of it, for its tenant alone and for those who see everybody's."""
    plain = entry()
    others = [entry(tenant=other, actor=Actor("gateway"), changes={}) for other in OTHERS]
    nobodys = entry(tenant=None, actor=Actor("operator"), action=AuditAction.BACKUP_CREATED, target_id="/x/ü")
    await add(store, plain, *others, nobodys)
    assert await entries(store, tenant()) == [plain]
    for other, of in zip(others, OTHERS, strict=True):
        assert await entries(store, of) == [other]
    assert await entries(store) == [nobodys, *others[::-1], plain]


async def test_audit_log(store: Store):
    """Newest first, a page at a time; each filter leaves out what it says, and several leave out what any of them does."""
    made = [
        entry(at=START + hour, actor=actor, action=action, target_id=target)
        for hour, (actor, action, target) in enumerate(
            (actor, action, target)
            for actor in (ACTOR, Actor("gateway"))
            for action in (AuditAction.WEBHOOK_CREATED, AuditAction.WEBHOOK_DELETED)
            for target in ("wh_1", "wh_2")
        )
    ]
    await add(store, *made)
    newest_first = made[::-1]
    for of in (tenant(), None):
        assert await entries(store, of) == newest_first
        for only in (
            {"actor": "gateway"},
            {"action": AuditAction.WEBHOOK_DELETED},
            {"target_id": "wh_2"},
            {"actor": ACTOR.id, "target_id": "wh_1"},
            {"actor": "nobody"},
        ):
            assert await entries(store, of, **only) == [each for each in newest_first if _passes(each, only)]
        assert await entries(store, of, since=START + 2, until=START + 5) == made[4:1:-1]
        assert await entries(store, of, since=START + 2, until=START + 5, target_id="wh_1") == [made[4], made[2]]


def _passes(subject: AuditEntry, only: dict[str, Any]) -> bool:
    fields = {"actor": subject.actor.id, "action": subject.action, "target_id": subject.target_id}
    return all(fields[name] == value for name, value in only.items())


async def test_a_filter_that_matches_little_ends_its_page(store: Store):
    """At most SCAN_LIMIT entries are walked for one page, which then has a place to go on; nothing is skipped."""
    first = entry(target_id="wh_wanted")
    await add(store, first, *(entry(changes={}) for _ in range(SCAN_LIMIT + 5)))
    for of in (tenant(), None):
        page = await store.audit_log(of, AuditFilter(target_id="wh_wanted"), below=None, limit=10)
        assert list(page.items) == []
        assert page.next_below is not None
        page = await store.audit_log(of, AuditFilter(target_id="wh_wanted"), below=page.next_below, limit=10)
        assert (list(page.items), page.next_below) == ([first], None)


async def test_forget_audit_entries(store: Store):
    """Old entries are deleted in steps, the oldest first; those that are young enough stay."""
    old = [entry(at=START + number) for number in range(5)]
    young = entry(at=START + DAY)
    await add(store, young, *old)
    steps = []
    for _ in range(3):
        async with store.transaction() as transaction:
            steps.append(await transaction.forget_audit_entries(START + DAY, limit=3))
        if len(steps) == 1:
            assert await entries(store) == [young, *old[:2:-1]]
    assert steps == [3, 2, 0]
    assert await entries(store) == [young]


# What changes write


async def last(store: Store) -> tuple[str, str, Tenant | None, dict[str, Any]]:
    """What the newest entry says, all of which have an actor and a time."""
    newest = (await entries(store))[0]
    assert (newest.actor, newest.at) in {(ACTOR, START), (ACTOR, NOW)}
    return newest.action, newest.target_id, newest.tenant, dict(newest.changes)


async def test_every_change_of_an_endpoint_is_in_the_audit_log(store: Store):
    """Each field from what to what; of headers the names; of secrets nothing."""
    made = await change(store, CreateEndpoint(endpoint(url="https://a.example", events=("a.b", "c.*")), ACTOR, 10))
    assert await last(store) == (
        "webhook.created",
        made.id,
        made.tenant,
        {
            "url": {"from": None, "to": "https://a.example"},
            "events": {"from": None, "to": ["a.b", "c.*"]},
            "isActive": {"from": None, "to": True},
        },
    )
    patches: list[tuple[EndpointPatch, str, dict[str, Any]]] = [
        (
            EndpointPatch(url="https://b.example", description="d"),
            "webhook.updated",
            {
                "url": {"from": "https://a.example", "to": "https://b.example"},
                "description": {"from": None, "to": "d"},
            },
        ),
        (
            EndpointPatch(is_active=False, events=("*",)),
            "webhook.disabled",
            {
                "events": {"from": ["a.b", "c.*"], "to": ["*"]},
                "isActive": {"from": True, "to": False},
                "disabledReason": {"from": None, "to": "user"},
            },
        ),
        (
            EndpointPatch(is_active=True),
            "webhook.enabled",
            {"isActive": {"from": False, "to": True}, "disabledReason": {"from": "user", "to": None}},
        ),
    ]
    for patch, action, changes in patches:
        await change(store, UpdateEndpoint(made.tenant, made.id, patch, ACTOR, NOW))
        assert await last(store) == (action, made.id, made.tenant, changes)
    async with store.transaction() as transaction:
        now = await transaction.endpoint_by_id(made.id)
        assert now is not None
        await disable(transaction, now, DisabledReason.GONE, actor=ACTOR, at=NOW)
    assert (await last(store))[3]["disabledReason"] == {"from": None, "to": "gone"}
    await change(store, DeleteEndpoint(made.tenant, made.id, ACTOR, NOW))
    action, _, _, changes = await last(store)
    assert action == "webhook.deleted"
    assert changes["url"] == {"from": "https://b.example", "to": None}
    assert SECRET not in repr(await entries(store))


async def test_keys_pins_and_retries_are_in_the_audit_log(store: Store):
    """Each with what it was; in no tenant, when it concerns no one."""
    key, service = api_key(permissions=("webhook:read",)), api_key(tenant=None, name=None, expires_at=NOW)
    for each in (key, service):
        await change(store, AddKey(each, ACTOR))
    assert await last(store) == (
        "key.created",
        service.id,
        None,
        {
            "prefix": {"from": None, "to": service.prefix},
            "permissions": {"from": None, "to": "everything"},
            "expiresAt": {"from": None, "to": "2026-03-25T14:30:00.007Z"},
        },
    )
    await change(store, RevokeKey(key.id, None, ACTOR, NOW))
    assert await last(store) == (
        "key.revoked",
        key.id,
        key.tenant,
        {
            "name": {"from": "a key", "to": None},
            "prefix": {"from": key.prefix, "to": None},
            "permissions": {"from": ["webhook:read"], "to": None},
        },
    )
    for before, after in ((None, "2026-07-11"), ("2026-07-11", "2026-08-27"), ("2026-08-27", None)):
        await change(store, PinOrganization(Organization("acme", after), ACTOR, NOW))
        assert await last(store) == ("organization.pinned", "acme", None, {"apiVersion": {"from": before, "to": after}})
    to = await change(store, CreateEndpoint(endpoint(), ACTOR, 10))
    (delivery,) = await deliver_to(store, to)
    await change(store, QueueRetry("whrt_1", to.tenant, delivery.id, ACTOR, NOW))
    assert await last(store) == ("delivery.retried", delivery.id, to.tenant, {})


async def test_what_changes_nothing_is_not_in_the_audit_log(store: Store):
    """The same again, nothing at all, or only the count of failures."""
    made = await change(store, CreateEndpoint(endpoint(), ACTOR, 10))
    await change(store, PinOrganization(Organization("acme", "2026-07-11"), ACTOR, NOW))
    before = await entries(store)
    for patch in (EndpointPatch(), EndpointPatch(url=made.url, is_active=True)):
        await change(store, UpdateEndpoint(made.tenant, made.id, patch, ACTOR, NOW))
    await change(store, PinOrganization(Organization("acme", "2026-07-11"), ACTOR, NOW))
    await change(store, PinOrganization(Organization("never seen", None), ACTOR, NOW))
    async with store.transaction() as transaction:
        await transaction.save_endpoint(replace(made, failed_in_row=1))
    assert await entries(store) == before


@pytest.mark.parametrize(
    ("refused", "error"),
    [
        (CreateEndpoint(endpoint(), ACTOR, 0), TooManyEndpoints),
        (UpdateEndpoint(tenant(), "wh_none", EndpointPatch(is_active=False), ACTOR, NOW), EndpointNotFound),
        (DeleteEndpoint(tenant(), "wh_none", ACTOR, NOW), EndpointNotFound),
        (RevokeKey("key_none", None, ACTOR, NOW), KeyNotFound),
        (QueueRetry("whrt_1", tenant(), "whdl_none", ACTOR, NOW), DeliveryNotFound),
    ],
)
async def test_what_is_refused_is_not_in_the_audit_log(store: Store, refused: Change[object], error: type[GatewayError]):
    """A change that raises leaves no entry, even if what it was in is committed."""
    async with store.transaction() as transaction:
        with pytest.raises(error):
            await refused.apply(transaction)
        await transaction.add_key(api_key())
    assert await entries(store) == []


async def test_an_entry_goes_with_its_change(store: Store):
    """When the transaction is rolled back neither of the two is there."""

    async def fail() -> None:
        async with store.transaction() as transaction:
            await CreateEndpoint(endpoint(), ACTOR, 10).apply(transaction)
            await transaction.count_endpoints("acme")  # all of it has reached the database
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await entries(store) == []
    assert (await store.endpoints(tenant(), below=None, limit=10)).items == []
