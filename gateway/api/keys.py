"""The operations on API keys. A key never makes a stronger one than itself."""

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from gateway import ids
from gateway.api.auth import Principal, tenant_of
from gateway.api.cursors import Cursors, scope
from gateway.api.dialects import Answer
from gateway.api.idempotency import commit
from gateway.api.operations import Call, Operation, TenantIn
from gateway.api.parameters import is_id
from gateway.api.parts import ApiParts
from gateway.api.problems import forbidden, not_found
from gateway.api.validation import Body
from gateway.clock import DAY, Timestamp, isoformat
from gateway.model import ApiKey, Resource, Tenant
from gateway.registry.keys import PERMISSIONS, VERBS, AddKey, RevokeKey, make_key
from gateway.registry.organizations import RESERVED, is_reserved

MAX_NAME = 100
MAX_DAYS = 3_650
MAX_NAMED = 1_000  # characters; what is too long for its meaning is refused by it

Permissions = dict[str, list[str]]


class KeyView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An API key as the API shows it."""

    id: str
    object: str = "api_key"
    name: str | None
    prefix: str
    permissions: Permissions | None  # null: everything
    organization_id: str | None  # null: a service key, which reaches all
    mode: str | None
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    api_key: str | UnsetType = UNSET  # only in the answer that made it


class DeletedKeyView(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of an API key."""

    id: str
    deleted: bool = True
    object: str = "api_key"


def key_view(key: ApiKey, text: str | UnsetType = UNSET) -> KeyView:
    """*key* as the API shows it."""
    permissions: Permissions | None = None
    if key.permissions is not None:
        permissions = {}
        for permission in key.permissions:
            resource, _, verb = permission.partition(":")
            permissions.setdefault(resource, []).append(verb)
    return KeyView(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        permissions=permissions,
        organization_id=None if key.tenant is None else key.tenant.organization_id,
        mode=None if key.tenant is None else key.tenant.mode,
        created_at=isoformat(key.created_at),
        expires_at=None if key.expires_at is None else isoformat(key.expires_at),
        last_used_at=None if key.last_used_at is None else isoformat(key.last_used_at),
        api_key=text,
    )


class Keys:
    """Makes, shows and revokes API keys."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._cursors = Cursors(parts.cursor_key)

    def operations(self) -> list[Operation]:
        """What can be done with API keys."""
        return [
            Operation(
                name="list_keys",
                method="GET",
                path="/keys",
                permission="key:read",
                handler=self.page,
                summary="List API keys",
                tenant_in=TenantIn.QUERY_OR_ALL,
            ),
            Operation(
                name="create_key",
                method="POST",
                path="/keys",
                permission="key:write",
                handler=self.create,
                summary="Create an API key",
                tenant_in=TenantIn.BODY,
            ),
            Operation(
                name="revoke_key",
                method="DELETE",
                path="/keys/{id}",
                permission="key:write",
                handler=self.revoke,
                summary="Revoke an API key",
                tenant_in=TenantIn.QUERY_OR_ALL,
            ),
        ]

    async def page(self, call: Call) -> Answer:
        limit = call.parameters.limit()
        list_ = scope("keys", call.named_tenant)
        below = call.parameters.cursor(self._cursors, list_)
        call.check()
        page = await self._parts.log.keys(call.named_tenant, below=below, limit=limit)
        return call.dialect.page([key_view(key) for key in page.items], self._cursors.seal(list_, page.next_below))

    async def create(self, call: Call) -> Answer:
        body = call.read_body(null_is_absent=True)
        name = body.text("name", least=1, most=MAX_NAME)
        permissions = _permissions(body)
        days = body.integer("expiresInDays", least=1, most=MAX_DAYS)
        tenant = _tenant(call, body)
        call.check()
        key_id, at = self._parts.ids.next_with_time(ids.API_KEY)
        expires_at = _expiry(call.principal, None if isinstance(days, UnsetType) else at + days * DAY)
        if not _holds(call.principal, permissions):
            raise forbidden("a key cannot make one with more permissions than it has; name `permissions` that it has")
        text, key = make_key(key_id, tenant=tenant, permissions=permissions, name=name or None, at=at)
        return await commit(
            self._parts.writer,
            AddKey(replace(key, expires_at=expires_at), call.actor),
            lambda made: call.dialect.one(key_view(made, text), 201),
            call.ticket,
        )

    async def revoke(self, call: Call) -> Answer:
        call.check()
        if not is_id(call.id):
            raise not_found("API key", call.id)
        gone = await self._parts.writer.change(RevokeKey(call.id, call.named_tenant, call.actor, call.now))
        return call.dialect.one(DeletedKeyView(id=gone.id))


def _tenant(call: Call, body: Body) -> Tenant | None:
    """Whose the new key is; None for a service key, which only one of its kind makes."""
    is_service = body.boolean("service") is True
    own = call.principal.tenant
    if own is not None:
        if is_service:
            raise forbidden("only a service key makes service keys")
        return own
    before = len(call.faults)
    named = {name: text for name in ("organizationId", "mode") if isinstance(text := body.text(name, most=MAX_NAMED), str)}
    if len(call.faults) > before:
        return None
    if not is_service:
        tenant = tenant_of(call.principal, named.get("organizationId"), named.get("mode"), call.faults)
        if tenant is not None and is_reserved(tenant.organization_id):
            body.refuse("organizationId", f"must be another: {RESERVED}")
        return tenant
    for name in named:
        body.refuse(name, "must be absent for a service key, which reaches every organization")
    return None


def _permissions(body: Body) -> tuple[str, ...] | None:
    """The permissions in the order of the model's; None for everything."""
    value = body.value("permissions")
    if isinstance(value, UnsetType):
        return None
    if not isinstance(value, dict) or not value:
        body.refuse("permissions", 'must be an object such as {"webhook": ["read", "write"]}, of at least one permission')
        return ()
    named: set[str] = set()
    for resource, verbs in value.items():
        if resource not in set(Resource):
            body.refuse(f"permissions.{resource}", f"is not a resource; those are {', '.join(Resource)}")
            continue
        allowed = VERBS[Resource(resource)]
        if not isinstance(verbs, list) or not verbs or any(verb not in allowed for verb in verbs):
            both = ", or both" if len(allowed) > 1 else " alone"
            body.refuse(f"permissions.{resource}", f"must be an array of {' or '.join(allowed)}{both}")
        else:
            named.update(f"{resource}:{verb}" for verb in verbs)
    return tuple(permission for permission in PERMISSIONS if permission in named)


def _holds(principal: Principal, permissions: tuple[str, ...] | None) -> bool:
    if principal.permissions is None:
        return True
    return permissions is not None and principal.permissions.issuperset(permissions)


def _expiry(principal: Principal, asked: Timestamp | None) -> Timestamp | None:
    """When the new key expires: with its maker, when nothing is said; never after it."""
    latest = None if principal.key is None else principal.key.expires_at
    if asked is None or latest is None:
        return latest if asked is None else asked
    if asked > latest:
        raise forbidden("a key cannot make one that outlives it")
    return asked
