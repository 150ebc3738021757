"""The audit log over the API: who did what, and from where."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.api.auth import OPERATOR
from gateway.model import AuditAction, Mode, Tenant
from gateway.settings import Http, Settings
from tests.integration.api.conftest import Api, serve

OTHER = Tenant("other", Mode.LIVE)


@pytest.fixture
def settings() -> Settings:
    """A reverse proxy on loopback is believed."""
    return Settings(http=Http(trusted_proxies=("127.0.0.0/8",)))


async def entries(api: Api, query: str = "", **kwargs: Any) -> list[dict[str, Any]]:
    """What the log shows, newest first, but for keys that were made to ask with."""
    page = await api.json("GET", f"/audit-log?limit=100{query}", **kwargs)
    return [each for each in page["data"] if each["action"] != AuditAction.KEY_CREATED]


async def test_an_entry_says_who_did_what_when_and_from_where(api: Api):
    """The key's id, and the address that a trusted proxy tells."""
    webhook = await api.create_webhook()
    own = (await api.json("GET", "/keys"))["data"][0]["id"]
    await api.json(
        "PATCH",
        f"/webhooks/{webhook['id']}",
        {"url": "https://example.com/new"},
        headers={"X-Forwarded-For": "192.0.2.1, 203.0.113.9"},
    )
    updated, created = await entries(api)
    assert updated == {
        "id": updated["id"],
        "object": "audit_entry",
        "action": "webhook.updated",
        "targetId": webhook["id"],
        "actor": own,
        "address": "203.0.113.9",
        "changes": {"url": {"from": "https://example.com/hook", "to": "https://example.com/new"}},
        "organizationId": "acme",
        "mode": "live",
        "livemode": True,
        "createdAt": "2026-03-25T14:30:00.000Z",
    }
    assert (created["action"], created["address"]) == ("webhook.created", "127.0.0.1")


async def test_every_change_that_the_api_makes_is_told(api: Api):
    """Of webhooks, deliveries, keys and organizations."""
    service = await api.make_key(None)
    webhook = await api.create_webhook()
    path = f"/webhooks/{webhook['id']}"
    await api.publish()
    (delivery,) = (await api.json("GET", "/deliveries"))["data"]
    await api.json("POST", f"/deliveries/{delivery['id']}/retry", status=202)
    for is_active in (False, True):
        await api.json("PUT", path, {"isActive": is_active})
    rotated = await api.json("POST", f"{path}/rotate-secret")
    await api.json("POST", f"{path}/rotate-secret", {"finish": True})
    await api.json("DELETE", path)
    made = await api.json("POST", "/keys", {"name": "short-lived"}, status=201)
    await api.json("DELETE", f"/keys/{made['id']}")
    await api.json("PUT", "/organizations/acme", {"apiVersion": "2026-07-24"}, key=service)
    everything = (await api.json("GET", "/audit-log?limit=100", key=service))["data"]
    assert [(each["action"], each["targetId"]) for each in everything[:-2]] == [
        ("organization.pinned", "acme"),
        ("key.revoked", made["id"]),
        ("key.created", made["id"]),
        ("webhook.deleted", webhook["id"]),
        ("webhook.rotation_finished", webhook["id"]),
        ("webhook.secret_rotated", webhook["id"]),
        ("webhook.enabled", webhook["id"]),
        ("webhook.disabled", webhook["id"]),
        ("delivery.retried", delivery["id"]),
        ("webhook.created", webhook["id"]),
    ]
    until = rotated["previousSecretExpiresAt"]
    finished, begun = everything[4:6]
    assert begun["changes"] == {"previousSecretUntil": {"from": None, "to": until}}
    assert finished["changes"] == {"previousSecretUntil": {"from": until, "to": None}}
    elsewhere = {AuditAction.WEBHOOK_UPDATED, AuditAction.BACKUP_CREATED, AuditAction.SECRETS_REENCRYPTED}
    assert {each["action"] for each in everything} == set(AuditAction) - elsewhere


async def test_what_is_refused_repeated_or_without_effect_is_not_told(api: Api):
    """A repeat of an idempotent request gets the first answer, and no entry of its own."""
    key = {"Idempotency-Key": "once"}
    body = {"url": "https://example.com/hook", "events": ["*"]}
    first = await api.json("POST", "/webhooks", body, headers=key, status=201)
    assert await api.json("POST", "/webhooks", body, headers=key, status=201) == first
    path = f"/webhooks/{first['id']}"
    weak = await api.make_key(permissions=("webhook:read",))
    await api.json("PATCH", path, {})
    await api.json("PATCH", path, body)
    await api.json("PATCH", path, {"url": "nonsense"}, status=400)
    await api.json("DELETE", path, key=weak, status=403)
    await api.json("DELETE", path, key="ck_live_nobody", status=401)
    await api.json("DELETE", "/webhooks/wh_none", status=404)
    await api.json("POST", f"{path}/test")
    await api.publish()
    assert [each["action"] for each in await entries(api)] == ["webhook.created"]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("", 3),
        ("&action=webhook.disabled", 1),
        ("&actor=operator", 0),
        ("&targetId=wh_none", 0),
        ("&since=2026-03-25T14:30:01Z", 2),
        ("&until=2026-03-25T14:30:01Z", 1),
        ("&since=2026-03-25T14:30:01Z&action=webhook.created", 1),
    ],
)
async def test_filters(api: Api, query: str, count: int):
    """By actor, action, target and time; together they narrow."""
    webhook = await api.create_webhook()
    api.clock.advance(1)
    await api.json("PATCH", f"/webhooks/{webhook['id']}", {"isActive": False})
    await api.create_webhook()
    assert len(await entries(api, query)) == count


async def test_pages(api: Api):
    """A cursor goes on in the same list with the same filters, and is of no use in another."""
    for _ in range(3):
        await api.create_webhook()
    one, rest = "/audit-log?action=webhook.created&limit=2", []
    page = await api.json("GET", one)
    rest += page["data"]
    page = await api.json("GET", f"{one}&cursor={page['nextCursor']}")
    assert page["hasMore"] is False
    assert [each["id"] for each in (*rest, *page["data"])] == [each["id"] for each in await entries(api)]
    first = await api.json("GET", one)
    for other in ("/audit-log?limit=2", "/audit-log?action=webhook.deleted", "/keys?limit=2"):
        await api.json("GET", f"{other}&cursor={first['nextCursor']}", status=400)


@pytest.mark.parametrize(
    "query", ["action=webhook.painted", "actor=a%20b", "targetId=", "since=yesterday", "limit=0", "cursor=x"]
)
async def test_a_bad_parameter_is_a_400(api: Api, query: str):
    """That names it."""
    error = (await api.json("GET", f"/audit-log?{query}", status=400))["error"]
    assert error["param"] == query.partition("=")[0]


async def test_who_sees_what(api: Api):
    """A tenant's key its tenant's entries alone; a service key everybody's, those of none too, or those of whom it names."""
    service = await api.make_key(None)
    other = await api.make_key(OTHER)
    await api.create_webhook()
    await api.json("POST", "/webhooks", {"url": "https://example.com/", "events": ["*"]}, key=other, status=201)
    await api.json("PUT", "/organizations/acme", {"apiVersion": None}, key=service)
    await api.json("PUT", "/organizations/acme", {"apiVersion": "2026-07-24"}, key=service)
    assert [each["organizationId"] for each in await entries(api)] == ["acme"]
    assert [each["organizationId"] for each in await entries(api, key=other)] == ["other"]
    assert [each["organizationId"] for each in await entries(api, key=service)] == [None, "other", "acme"]
    assert [each["organizationId"] for each in await entries(api, "&organizationId=other", key=service)] == ["other"]
    assert await entries(api, "&organizationId=other&mode=sandbox", key=service) == []
    await api.json("GET", "/audit-log?organizationId=other", status=403)


async def test_it_cannot_be_written(api: Api):
    """There is no permission to, and no method."""
    error = (await api.json("POST", "/keys", {"permissions": {"audit": ["read", "write"]}}, status=400))["error"]
    assert error["message"] == "permissions.audit must be an array of read alone"
    made = await api.json("POST", "/keys", {"permissions": {"audit": ["read"]}}, status=201)
    assert made["permissions"] == {"audit": ["read"]}
    await api.json("GET", "/audit-log", key=made["apiKey"])
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        await api.json(method, "/audit-log", status=405)


async def test_no_secret_and_no_key_is_in_it(api: Api):
    """Neither an endpoint's secret nor the text of a key."""
    webhook = await api.create_webhook()
    made = await api.json("POST", "/keys", {}, status=201)
    await api.json("DELETE", f"/keys/{made['id']}")
    await api.json("DELETE", f"/webhooks/{webhook['id']}")
    told = await (await api.ask("GET", "/audit-log?limit=100")).text()
    assert webhook["secretKey"] not in told
    assert made["apiKey"] not in told
    assert made["prefix"] in told


async def test_backups_are_told(tmp_path: Path, settings: Settings):
    """By an operator, from this machine, in no tenant; one that was refused is not."""
    async with serve(tmp_path, settings, authority=OPERATOR) as api:
        path = str(tmp_path / "copy.db")
        await api.json("POST", "/backups", {"path": path}, status=201)
        await api.json("POST", "/backups", {"path": path}, status=400)
        (entry,) = await entries(api)
    wanted: Mapping[str, object] = {"action": "backup.created", "targetId": path, "actor": "operator", "organizationId": None}
    assert {name: entry[name] for name in wanted} == wanted
