"""The operations on webhooks."""

from pathlib import Path

import pytest

from gateway.model import Mode, Tenant
from gateway.settings import Limits, Settings
from tests.integration.api.conftest import Api, serve


async def test_a_new_webhook_shows_its_secret_once(api: Api):
    """The create answer has `secretKey`; no later answer does."""
    made = await api.create_webhook(description=None, events=["invoice.paid", "invoice.*", "invoice.paid"])
    secret = made.pop("secretKey")
    assert secret.startswith("whsec_")
    assert made == {
        "id": made["id"],
        "object": "webhook",
        "livemode": True,
        "organizationId": "acme",
        "url": "https://example.com/hook",
        "events": ["invoice.paid", "invoice.*"],
        "description": None,
        "isActive": True,
        "disabledAt": None,
        "disabledReason": None,
        "nextProbeAt": None,
        "apiVersion": None,
        "headers": {},
        "createdAt": "2026-03-25T14:30:00.000Z",
        "previousSecretExpiresAt": None,
    }
    assert await api.json("GET", f"/webhooks/{made['id']}") == made


async def test_put_and_patch_change_only_what_is_given(api: Api):
    """Both verbs leave the fields alone that the body does not name; null clears the two that may be empty."""
    made = await api.create_webhook(description="mine", apiVersion="2026-07-24")
    path = f"/webhooks/{made['id']}"
    changed = await api.json("PUT", path, {"isActive": False})
    assert (changed["isActive"], changed["disabledReason"], changed["description"]) == (False, "user", "mine")
    changed = await api.json("PATCH", path, {"description": None, "apiVersion": None, "isActive": True, "unknown": 1})
    assert (changed["isActive"], changed["description"], changed["apiVersion"]) == (True, None, None)


async def test_an_empty_description_is_a_description(api: Api):
    """Kept as it was given, on create as on update; only null is none."""
    made = await api.create_webhook(description="")
    assert made["description"] == ""
    path = f"/webhooks/{made['id']}"
    assert (await api.json("PATCH", path, {"description": None}))["description"] is None
    assert (await api.json("PATCH", path, {"description": ""}))["description"] == ""
    assert (await api.json("GET", path))["description"] == ""


@pytest.mark.parametrize("data", [b"", b"{}", b"  "])
async def test_an_empty_update_changes_nothing(api: Api, data: bytes):
    """An empty or absent body is answered with the webhook as it is."""
    made = await api.create_webhook()
    del made["secretKey"]
    assert await api.json("PATCH", f"/webhooks/{made['id']}", data=data) == made
    assert await api.json("PUT", f"/webhooks/{made['id']}") == made


async def test_everything_wrong_with_a_body_is_told_at_once(api: Api):
    """One fault for each thing, with its field; `param` is null as there are several."""
    body = {"url": "ftp://x", "events": ["*", "bad", 7], "description": "d" * 501, "apiVersion": "1999-01-01", "isActive": "yes"}
    error = (await api.json("POST", "/webhooks", body, status=400))["error"]
    fields = [detail["field"] for detail in error["details"]]
    assert fields == ["url", "events[1]", "events[2]", "description", "apiVersion"]
    assert (error["code"], error["param"], error["doc_url"]) == ("validation_error", None, None)


async def test_a_single_fault_names_its_parameter(api: Api):
    """With exactly one fault, `param` is its field."""
    error = (await api.json("POST", "/webhooks", {"url": "https://x.example"}, status=400))["error"]
    assert error["param"] == "events"
    assert error["details"] == [{"field": "events", "message": "is required"}]


@pytest.mark.parametrize("body", [{"url": None}, {"events": None}, {"isActive": None}, {"events": []}, {"isActive": 1}])
async def test_null_is_no_value_on_update(api: Api, body: dict[str, object]):
    """Where a field cannot be empty, null is a 400; and so is another type."""
    made = await api.create_webhook()
    error = (await api.json("PATCH", f"/webhooks/{made['id']}", body, status=400))["error"]
    assert error["param"] == next(iter(body))


async def test_a_deleted_webhook_is_gone(api: Api):
    """The answer says so in both shapes, and all that follows is a 404 of its own code."""
    made = await api.create_webhook()
    path = f"/webhooks/{made['id']}"
    answer = await api.json("DELETE", path, version=None)
    assert answer == {"success": True, "data": {"id": made["id"], "deleted": True, "object": "webhook", "livemode": True}}
    for method, suffix in (("GET", ""), ("PUT", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/test")):
        error = (await api.json(method, path + suffix, status=404))["error"]
        assert (error["type"], error["code"]) == ("not_found_error", "webhook_not_found")


async def test_a_body_is_judged_before_the_thing_itself(api: Api):
    """A wrong body to a webhook that does not exist is a 400."""
    await api.json("PATCH", "/webhooks/wh_nothing", {"url": 1}, status=400)


async def test_pages_go_back_in_time_and_keep_their_place(api: Api):
    """Newest first; a webhook deleted or made in between moves nothing."""
    made = [(await api.create_webhook(description=str(number)))["id"] for number in range(5)]
    first = await api.json("GET", "/webhooks?limit=2")
    assert [webhook["id"] for webhook in first["data"]] == [made[4], made[3]]
    assert (first["object"], first["hasMore"]) == ("list", True)
    await api.json("DELETE", f"/webhooks/{made[3]}")
    await api.create_webhook()
    second = await api.json("GET", f"/webhooks?limit=3&cursor={first['nextCursor']}")
    assert [webhook["id"] for webhook in second["data"]] == [made[2], made[1], made[0]]
    assert second["hasMore"] is False
    assert "nextCursor" not in second
    seed = await api.json("GET", f"/webhooks?limit=3&cursor={first['nextCursor']}", version=None)
    assert (seed["success"], seed["hasMore"], seed["nextCursor"]) == (True, False, None)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=", "limit=1x", "limit=1&limit=2", "cursor=", "cursor=abc", "limit=٣"]
)
async def test_a_bad_page_is_a_400(api: Api, query: str):
    """`limit` is 1 to 100 and a cursor the list's own; neither may be repeated."""
    error = (await api.json("GET", f"/webhooks?{query}", status=400))["error"]
    assert error["param"] == query.partition("=")[0]


async def test_a_cursor_is_of_no_use_elsewhere(api: Api):
    """Another list's or another tenant's cursor is a 400."""
    for _ in range(2):
        await api.create_webhook()
    cursor = (await api.json("GET", "/webhooks?limit=1"))["nextCursor"]
    await api.json("GET", f"/events?cursor={cursor}", status=400)
    other = await api.make_key(Tenant("acme", Mode.SANDBOX))
    await api.json("GET", f"/webhooks?cursor={cursor}", key=other, status=400)
    error = (await api.json("GET", f"/webhooks?limit=0&cursor={cursor}x", status=400))["error"]
    assert {detail["field"] for detail in error["details"]} == {"limit", "cursor"}


async def test_nothing_crosses_from_one_tenant_to_another(api: Api):
    """Another organization's or mode's key sees none of it."""
    made = await api.create_webhook()
    for tenant in (Tenant("acme", Mode.SANDBOX), Tenant("other", Mode.LIVE)):
        key = await api.make_key(tenant)
        await api.json("GET", f"/webhooks/{made['id']}", key=key, status=404)
        await api.json("DELETE", f"/webhooks/{made['id']}", key=key, status=404)
        assert (await api.json("GET", "/webhooks", key=key))["data"] == []


async def test_a_test_says_how_it_went(api: Api):
    """Also of a disabled webhook, and once for each idempotency key."""
    made = await api.create_webhook()
    path = f"/webhooks/{made['id']}"
    await api.json("PATCH", path, {"isActive": False})
    headers = {"Idempotency-Key": "once"}
    answer = await api.json("POST", f"{path}/test", headers=headers)
    assert answer == {
        "success": True,
        "deliveryId": answer["deliveryId"],
        "deliveredAt": "2026-03-25T14:30:00.000Z",
        "object": "webhook_delivery",
        "livemode": True,
    }
    assert await api.json("POST", f"{path}/test", headers=headers) == answer
    assert api.tester.tested == [made["id"]]
    api.tester.success = False
    assert (await api.json("POST", f"{path}/test", version=None))["data"]["success"] is False


async def test_an_organization_has_only_so_many_webhooks(tmp_path: Path):
    """One more is a 400, and nothing else; both modes count."""
    async with serve(tmp_path, Settings(limits=Limits(endpoints_per_organization=2))) as api:
        made = await api.create_webhook()
        sandbox = await api.make_key(Tenant("acme", Mode.SANDBOX))
        body = {"url": "https://x.example", "events": ["*"]}
        await api.json("POST", "/webhooks", body, key=sandbox, status=201)
        error = (await api.json("POST", "/webhooks", body, status=400))["error"]
        assert error["code"] == "validation_error"
        await api.json("DELETE", f"/webhooks/{made['id']}")
        await api.create_webhook()
