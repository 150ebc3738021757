"""Who may do what: every operation that the server has, with keys of every kind. A new operation is in all of these tests; one
that needs a body, or is of a new noun, has to be described here."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from gateway.api.operations import Operation, TenantIn
from gateway.api.server import operations
from gateway.model import Mode, Tenant
from gateway.registry.keys import PERMISSIONS
from tests.integration.api.conftest import ACME, Api

OTHERS = (Tenant("other", Mode.LIVE), Tenant("acme", Mode.SANDBOX))


BODIES: Mapping[str, Mapping[str, object]] = {
    "create_webhook": {"url": "https://example.com/hook", "events": ["*"]},
    "publish_events": {"event": "invoice.paid", "data": {}},
    "create_key": {"permissions": {"key": ["write"]}},
    "pin_organization": {"apiVersion": "2026-07-24"},
}
"""What is sent to be answered 2xx, where an empty body would not be."""


class Things(msgspec.Struct, frozen=True):
    """One of each noun, of one tenant: what the ids in paths are of."""

    webhooks: str
    events: str
    deliveries: str
    keys: str
    organizations: str = "acme"


async def make_things(api: Api) -> Things:
    """New ones of acme, live."""
    webhook = await api.create_webhook(events=["invoice.paid"])
    event = await api.publish()
    (delivery,) = (await api.json("GET", f"/deliveries?eventId={event['id']}&webhookId={webhook['id']}"))["data"]
    key = await api.json("POST", "/keys", {}, status=201)
    return Things(webhook["id"], event["id"], delivery["id"], key["id"])


def path_of(operation: Operation, things: Things) -> str:
    return operation.path.replace("{id}", getattr(things, operation.path.split("/")[1], ""))


class Request(msgspec.Struct, frozen=True):
    """What is asked for an operation."""

    method: str
    path: str
    body: Mapping[str, object] | None


def request_for(operation: Operation, things: Things, *, names: Tenant | None) -> Request:
    """A good one. It *names* the tenant, where a key that reaches all has to."""
    body = BODIES.get(operation.name)
    path = path_of(operation, things)
    if names is not None and operation.tenant_in is TenantIn.BODY:
        body = {**(body or {}), "organizationId": names.organization_id, "mode": names.mode}
    elif names is not None and operation.tenant_in is not TenantIn.NOWHERE:
        path += f"?organizationId={names.organization_id}&mode={names.mode}"
    return Request(operation.method, path, body)


async def outcome(api: Api, request: Request, key: str) -> tuple[int, Any]:
    response = await api.ask(request.method, request.path, request.body, key=key)
    return response.status, await response.json()


def for_keys(api: Api) -> Iterator[Operation]:
    """The operations that keys may have to do with."""
    return (operation for operation in operations(api.parts) if not operation.for_operators)


@pytest.mark.parametrize("tenant", [ACME, None], ids=["rk_", "sk_"])
async def test_an_operation_takes_its_permission_and_no_other(api: Api, tenant: Tenant | None):
    """A key with exactly that one may; one with all the others is refused, so that write does not imply read."""
    for operation in for_keys(api):
        things = await make_things(api)
        request = request_for(operation, things, names=ACME if tenant is None else None)
        if operation.permission is not None:
            others = tuple(permission for permission in PERMISSIONS if permission != operation.permission)
            status, body = await outcome(api, request, await api.make_key(tenant, permissions=others))
            assert (status, body["error"]["code"]) == (403, "forbidden"), operation.name
            assert f"`{operation.permission}`" in body["error"]["message"]
        only = () if operation.permission is None else (operation.permission,)
        status, body = await outcome(api, request, await api.make_key(tenant, permissions=only))
        if tenant is not None and operation.for_all_tenants:
            assert (status, body["error"]["code"]) == (403, "forbidden"), operation.name
            assert "service key" in body["error"]["message"]
        else:
            assert status < 300, (operation.name, body)


async def test_every_permission_opens_something(api: Api):
    """None is on the list that no operation asks for, and none is asked for that no key can have."""
    assert {operation.permission for operation in operations(api.parts)} - {None} == set(PERMISSIONS)


async def test_what_is_for_operators_takes_no_key(api: Api):
    """Not even one that may do everything, everywhere; each hears why, whatever else is wrong with the request."""
    for_operators = [operation for operation in operations(api.parts) if operation.for_operators]
    assert for_operators
    for operation in for_operators:
        for tenant in (ACME, None):
            for headers in ({}, {"Content-Type": "text/plain"}):
                key = await api.make_key(tenant)
                response = await api.ask(operation.method, operation.path, {}, key=key, headers=headers)
                error = (await response.json())["error"]
                assert (response.status, error["code"]) == (403, "forbidden"), operation.name
                assert error["message"] == "this is for operators at the gateway's machine, and no API key reaches it"


@pytest.mark.parametrize("other", OTHERS, ids=["another organization", "the other mode"])
async def test_a_tenants_key_never_reaches_another_tenant_by_its_ids(api: Api, other: Tenant):
    """What another has is not there: no operation shows or changes any of it."""
    stranger = await api.make_key(other)
    things = await make_things(api)
    before = await api.json("GET", "/audit-log?limit=100")
    for operation in for_keys(api):
        status, body = await outcome(api, request_for(operation, things, names=None), stranger)
        if operation.for_all_tenants:
            assert status == 403, operation.name
        elif "{id}" in operation.path:
            assert status == 404, (operation.name, body)
        else:
            shown = msgspec.json.encode(body).decode()
            assert status < 300, (operation.name, body)
            assert not any(thing in shown for thing in (things.webhooks, things.events, things.deliveries, things.keys))
    assert await api.json("GET", "/audit-log?limit=100") == before


@pytest.mark.parametrize("other", OTHERS, ids=["another organization", "the other mode"])
async def test_a_tenants_key_never_reaches_another_tenant_by_its_name(api: Api, other: Tenant):
    """Named in the query, or in a body that is read, it is refused."""
    stranger = await api.make_key(other)
    things = await make_things(api)
    before = await api.json("GET", "/audit-log?limit=100")
    named = {"organizationId": ACME.organization_id, "mode": ACME.mode}
    for operation in for_keys(api):
        request = request_for(operation, things, names=None)
        in_query = replace(request, path=f"{request.path}?organizationId=acme&mode=live")
        in_body = replace(request, body={**(request.body or {}), **named})
        status, body = await outcome(api, in_query, stranger)
        assert (status, body["error"]["code"]) == (403, "forbidden"), operation.name
        if operation.takes_body:
            status, _ = await outcome(api, in_body, stranger)
            assert status == 403 or (status == 404 and operation.name not in BODIES), operation.name
    assert await api.json("GET", "/audit-log?limit=100") == before


@pytest.mark.parametrize("tenant", [ACME, None], ids=["rk_", "sk_"])
async def test_a_key_makes_none_that_may_more(api: Api, tenant: Tenant | None):
    """With each permission beside `key:write`, it can give those two and no other, one by one and together."""
    named = {} if tenant is not None else {"organizationId": "acme", "mode": "live"}
    for held in PERMISSIONS:
        maker = await api.make_key(tenant, permissions=tuple({"key:write", held}))
        for asked in PERMISSIONS:
            status = 201 if asked in {"key:write", held} else 403
            for permissions in ({asked}, {asked, "key:write"}):
                await api.json("POST", "/keys", {**named, "permissions": by_resource(permissions)}, key=maker, status=status)
        await api.json("POST", "/keys", named, key=maker, status=403)  # one that may do everything
        service = {"service": True, "permissions": by_resource({held})}
        await api.json("POST", "/keys", service, key=maker, status=201 if tenant is None else 403)
        await api.json("POST", "/keys", {"service": True}, key=maker, status=403)


def by_resource(permissions: set[str]) -> dict[str, list[str]]:
    verbs: dict[str, list[str]] = {}
    for resource, verb in (permission.split(":") for permission in permissions):
        verbs.setdefault(resource, []).append(verb)
    return verbs


async def test_only_a_service_key_makes_service_keys(api: Api):
    """Whatever a tenant's key may, and however little the new one should; and it makes none for another tenant."""
    full = await api.make_key()
    for body in ({"service": True}, {"service": True, "permissions": {"webhook": ["read"]}}):
        await api.json("POST", "/keys", body, key=full, status=403)
    for other in OTHERS:
        await api.json("POST", "/keys", {"organizationId": other.organization_id, "mode": other.mode}, key=full, status=403)
    made = await api.json("POST", "/keys", {"service": True}, key=await api.make_key(None), status=201)
    assert made["apiKey"].startswith("sk_")
