"""The operation that gives a webhook a new secret."""

from typing import Any

import pytest

from gateway.model import Mode, Tenant
from tests.integration.api.conftest import Api

A_DAY_LATER = "2026-03-26T14:30:00.000Z"


async def rotate(api: Api, webhook_id: str, body: object = None, **kwargs: Any) -> Any:
    return await api.json("POST", f"/webhooks/{webhook_id}/rotate-secret", body, **kwargs)


async def test_a_rotation_shows_the_new_secret_once(api: Api):
    """With the webhook, and until when the old one is in force: a day later, unless it is said otherwise. The time is shown from
    then on, and neither secret is."""
    made = await api.create_webhook()
    rotated = await rotate(api, made["id"])
    assert rotated.pop("secretKey") not in {made.pop("secretKey"), None}
    assert rotated == {**made, "previousSecretExpiresAt": A_DAY_LATER}
    for seen in (
        await api.json("GET", f"/webhooks/{made['id']}"),
        (await api.json("GET", "/webhooks"))["data"][0],
        await api.json("PATCH", f"/webhooks/{made['id']}", {}),
        await api.json("PATCH", f"/webhooks/{made['id']}", {"description": None}),
    ):
        assert seen == rotated


async def test_the_seeds_shape_holds_for_a_rotation(api: Api):
    """As for any webhook."""
    made = await api.create_webhook()
    rotated = await rotate(api, made["id"], {"overlapSeconds": 60}, version=None)
    assert rotated["success"] is True
    assert rotated["data"]["previousSecretExpiresAt"] == "2026-03-25T14:31:00.000Z"


async def test_two_secrets_are_the_most(api: Api):
    """During an overlap a rotation is a conflict, which changes nothing; after it, or its end by hand, one may begin again."""
    made = await api.create_webhook()
    first = await rotate(api, made["id"], {"overlapSeconds": 60})
    for body in (None, {"overlapSeconds": 0}, {"finish": False}):
        error = (await rotate(api, made["id"], body, status=409))["error"]
        assert (error["type"], error["code"]) == ("conflict_error", "rotation_in_progress")
    stored = await api.store.endpoint(Tenant("acme", Mode.LIVE), made["id"])
    assert stored is not None
    assert (stored.secret, stored.previous_secret) == (first["secretKey"], made["secretKey"])
    api.clock.advance(60)
    assert (await api.json("GET", f"/webhooks/{made['id']}"))["previousSecretExpiresAt"] is None
    second = await rotate(api, made["id"])
    await rotate(api, made["id"], {"finish": True})
    third = await rotate(api, made["id"])
    assert len({each["secretKey"] for each in (made, first, second, third)}) == 4


async def test_the_end_of_an_overlap_shows_no_secret(api: Api):
    """The answer is the webhook, as it is also when there was none to end."""
    made = await api.create_webhook()
    del made["secretKey"]
    assert await rotate(api, made["id"], {"finish": True}) == made
    await rotate(api, made["id"])
    assert await rotate(api, made["id"], {"finish": True}) == made
    assert await rotate(api, made["id"], {"finish": True}) == made


async def test_without_an_overlap_the_old_secret_goes_at_once(api: Api):
    """Nothing is left of it."""
    made = await api.create_webhook()
    rotated = await rotate(api, made["id"], {"overlapSeconds": 0})
    assert rotated["previousSecretExpiresAt"] is None
    stored = await api.store.endpoint(Tenant("acme", Mode.LIVE), made["id"])
    assert stored is not None
    assert (stored.secret, stored.previous_secret) == (rotated["secretKey"], None)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"overlapSeconds": -1}, ["overlapSeconds"]),
        ({"overlapSeconds": 604_801}, ["overlapSeconds"]),
        ({"overlapSeconds": 1.5}, ["overlapSeconds"]),
        ({"overlapSeconds": "60"}, ["overlapSeconds"]),
        ({"overlapSeconds": True}, ["overlapSeconds"]),
        ({"overlapSeconds": None, "finish": None}, ["overlapSeconds", "finish"]),
        ({"finish": 1}, ["finish"]),
        ({"finish": True, "overlapSeconds": 60}, ["overlapSeconds"]),
    ],
)
async def test_a_bad_rotation_is_a_400(api: Api, body: dict[str, object], fields: list[str]):
    """All that is wrong with it is told, before anybody looks for the webhook."""
    error = (await rotate(api, "wh_nothing", body, status=400))["error"]
    assert [detail["field"] for detail in error["details"]] == fields


async def test_a_rotation_needs_its_webhook_and_the_permission(api: Api):
    """Another tenant's is not there; who may only read may not rotate."""
    made = await api.create_webhook()
    for body in (None, {"finish": True}):
        error = (await rotate(api, "wh_nothing", body, status=404))["error"]
        assert error["code"] == "webhook_not_found"
        other = await api.make_key(Tenant("other", Mode.LIVE))
        await rotate(api, made["id"], body, key=other, status=404)
        reader = await api.make_key(permissions=("webhook:read",))
        await rotate(api, made["id"], body, key=reader, status=403)
    await rotate(api, made["id"], key=await api.make_key(permissions=("webhook:write",)))


async def test_a_repeated_rotation_gives_the_same_secret_again(api: Api):
    """With an idempotency key; without one it is another rotation, and too early."""
    made = await api.create_webhook()
    headers = {"Idempotency-Key": "once"}
    first = await rotate(api, made["id"], headers=headers)
    assert await rotate(api, made["id"], headers=headers) == first
    await rotate(api, made["id"], status=409)


async def test_a_deleted_webhook_has_no_secret_left(api: Api):
    """Neither of the two."""
    made = await api.create_webhook()
    await rotate(api, made["id"])
    await api.json("DELETE", f"/webhooks/{made['id']}")
    async with api.store.transaction() as transaction:
        gone = await transaction.endpoint_by_id(made["id"])
    assert gone is not None
    assert (gone.secret, gone.previous_secret, gone.previous_secret_until) == ("", None, None)
    await rotate(api, made["id"], status=404)
