"""The operations on API keys and organizations."""

import pytest

from gateway.model import Mode, Tenant
from tests.integration.api.conftest import Api


async def test_a_new_key_is_shown_once_and_works_at_once(api: Api):
    """Full access to the maker's own tenant, when nothing else is said."""
    made = await api.json("POST", "/keys", {"name": "deploy", "expiresInDays": 1}, status=201)
    text = made.pop("apiKey")
    assert text.startswith("ck_live_")
    assert made == {
        "id": made["id"],
        "object": "api_key",
        "name": "deploy",
        "prefix": text[:12],
        "permissions": None,
        "organizationId": "acme",
        "mode": "live",
        "createdAt": "2026-03-25T14:30:00.000Z",
        "expiresAt": "2026-03-26T14:30:00.000Z",
        "lastUsedAt": None,
    }
    await api.json("GET", "/webhooks", key=text)
    page = await api.json("GET", "/keys?limit=1", key=text)
    assert page["data"] == [made]
    assert len((await api.json("GET", f"/keys?cursor={page['nextCursor']}"))["data"]) == 1


async def test_a_restricted_key_shows_its_permissions(api: Api):
    """In the order of the resources, each verb once."""
    permissions = {"delivery": ["write", "read", "read"], "webhook": ["read"]}
    made = await api.json("POST", "/keys", {"permissions": permissions}, status=201)
    assert made["apiKey"].startswith("rk_live_")
    assert made["permissions"] == {"webhook": ["read"], "delivery": ["read", "write"]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "n" * 101}, "name"),
        ({"permissions": {}}, "permissions"),
        ({"permissions": ["webhook"]}, "permissions"),
        ({"permissions": {"webhook": 5}}, "permissions.webhook"),
        ({"permissions": {"webhook": []}}, "permissions.webhook"),
        ({"permissions": {"webhook": [["read"]]}}, "permissions.webhook"),
        ({"permissions": {"planet": ["read"]}}, "permissions.planet"),
        ({"expiresInDays": 0}, "expiresInDays"),
        ({"expiresInDays": 1.5}, "expiresInDays"),
        ({"expiresInDays": True}, "expiresInDays"),
        ({"expiresInDays": 10**30}, "expiresInDays"),
        ({"service": "yes"}, "service"),
        ({"mode": 5}, "mode"),
        ({"mode": "prod"}, "mode"),
        ({"organizationId": 5}, "organizationId"),
        ({"organizationId": {}}, "organizationId"),
    ],
)
async def test_a_bad_value_is_a_400(api: Api, body: dict[str, object], field: str):
    """That names its field."""
    error = (await api.json("POST", "/keys", body, status=400))["error"]
    assert error["param"] == field


async def test_a_key_never_makes_a_stronger_one(api: Api):
    """Neither with more permissions, nor for longer, nor one that reaches every organization."""
    maker = await api.make_key(permissions=("key:write", "webhook:read"), days=2)
    for body in ({}, {"permissions": {"webhook": ["read", "write"]}}, {"permissions": {"webhook": ["read"]}, "expiresInDays": 3}):
        await api.json("POST", "/keys", body, key=maker, status=403)
    made = await api.json("POST", "/keys", {"permissions": {"webhook": ["read"]}}, key=maker, status=201)
    assert made["expiresAt"] == "2026-03-27T14:30:00.000Z"
    await api.json("POST", "/keys", {"service": True}, status=403)


async def test_a_key_ends_at_its_very_time(api: Api):
    """A millisecond before it is taken, and from that time on it is not."""
    made = await api.json("POST", "/keys", {"expiresInDays": 1}, status=201)
    api.clock.advance(86_400 - 0.001)
    await api.json("GET", "/webhooks", key=made["apiKey"])
    api.clock.advance(0.001)
    error = (await api.json("GET", "/webhooks", key=made["apiKey"], status=401))["error"]
    assert error["code"] == "unauthorized"


async def test_a_revoked_key_is_refused_from_the_next_request_on(api: Api):
    """Also by itself, with its last request."""
    made = await api.json("POST", "/keys", {}, status=201)
    await api.json("DELETE", f"/keys/{made['id']}", key=made["apiKey"])
    await api.json("GET", "/webhooks", key=made["apiKey"], status=401)


async def test_only_service_keys_make_service_keys(api: Api):
    """For every tenant too, which they have to name; a service key has none."""
    service = await api.make_key(None)
    made = await api.json("POST", "/keys", {"service": True}, key=service, status=201)
    assert (made["apiKey"][:3], made["organizationId"], made["mode"]) == ("sk_", None, None)
    await api.json("POST", "/keys", {"service": True, "organizationId": "x"}, key=service, status=400)
    error = (await api.json("POST", "/keys", {}, key=service, status=400))["error"]
    assert error["param"] == "organizationId"
    error = (await api.json("POST", "/keys", {"organizationId": 5, "mode": "x"}, key=service, status=400))["error"]
    assert error["param"] == "organizationId"
    made = await api.json("POST", "/keys", {"organizationId": "new", "mode": "sandbox"}, key=service, status=201)
    assert made["apiKey"].startswith("ck_sandbox_")
    assert (await api.json("GET", "/webhooks", key=made["apiKey"]))["data"] == []


async def test_keys_of_others_are_out_of_reach(api: Api):
    """A tenant's key sees and ends its own tenant's alone; a service key everybody's, or those it names."""
    other = await api.make_key(Tenant("other", Mode.LIVE))
    service = await api.make_key(None)
    others = (await api.json("GET", "/keys?organizationId=other", key=service))["data"]
    assert len(others) == 1
    error = (await api.json("DELETE", f"/keys/{others[0]['id']}", status=404))["error"]
    assert error["code"] == "not_found"
    assert len((await api.json("GET", "/keys"))["data"]) == 1
    assert len((await api.json("GET", "/keys", key=service))["data"]) == 3
    gone = await api.json("DELETE", f"/keys/{others[0]['id']}", key=service)
    assert gone == {"id": others[0]["id"], "deleted": True, "object": "api_key"}
    await api.json("GET", "/webhooks", key=other, status=401)
    await api.json("DELETE", f"/keys/{others[0]['id']}", key=service, status=404)
    await api.json("DELETE", "/keys/%00", status=404)


async def test_organizations_are_for_those_who_reach_all(api: Api):
    """Listed by id, page by page, with what they are pinned to."""
    await api.json("GET", "/organizations", status=403)
    await api.json("PUT", "/organizations/acme", {"apiVersion": None}, status=403)
    service = await api.make_key(None)
    pinned = await api.json("PUT", "/organizations/zebra", {"apiVersion": "2026-07-24"}, key=service)
    assert pinned == {"id": "zebra", "object": "organization", "apiVersion": "2026-07-24"}
    page = await api.json("GET", "/organizations?limit=1", key=service)
    assert [organization["id"] for organization in page["data"]] == ["acme"]
    page = await api.json("GET", f"/organizations?cursor={page['nextCursor']}", key=service)
    assert page["data"] == [pinned]
    assert page["hasMore"] is False


@pytest.mark.parametrize("body", [{}, {"apiVersion": "1999-01-01"}, {"apiVersion": 5}])
async def test_an_organization_is_pinned_to_a_known_version(api: Api, body: dict[str, object]):
    """Or to none; an absent one is a 400."""
    service = await api.make_key(None)
    error = (await api.json("PUT", "/organizations/acme", body, key=service, status=400))["error"]
    assert error["param"] == "apiVersion"
