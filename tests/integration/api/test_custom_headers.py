"""The field `headers` of webhooks."""

from typing import Any

from gateway.model import Mode, Tenant
from tests.integration.api.conftest import Api

HIDDEN = {"Authorization": "***", "X-Team": "***"}
GIVEN = {"Authorization": "Bearer hunter2", "X-Team": "billing"}


async def stored(api: Api, webhook: Any) -> dict[str, str]:
    found = await api.store.endpoint(Tenant("acme", Mode.LIVE), webhook["id"])
    assert found is not None
    return dict(found.headers)


async def test_values_are_taken_and_never_shown_again(api: Api):
    """Neither by the answer that made it, nor by any other."""
    made = await api.create_webhook(headers=GIVEN)
    assert made["headers"] == HIDDEN
    path = f"/webhooks/{made['id']}"
    assert (await api.json("GET", path))["headers"] == HIDDEN
    assert (await api.json("GET", "/webhooks"))["data"][0]["headers"] == HIDDEN
    assert await stored(api, made) == GIVEN


async def test_an_update_replaces_all_of_them(api: Api):
    """Those that are not named go; `***` keeps a value; null clears; leaving the field out changes nothing."""
    made = await api.create_webhook(headers=GIVEN)
    path = f"/webhooks/{made['id']}"
    assert (await api.json("PATCH", path, {"description": "x"}))["headers"] == HIDDEN
    changed = await api.json("PATCH", path, {"headers": {"Authorization": "***", "X-New": "1"}})
    assert changed["headers"] == {"Authorization": "***", "X-New": "***"}
    assert await stored(api, made) == {"Authorization": "Bearer hunter2", "X-New": "1"}
    assert (await api.json("PUT", path, changed))["headers"] == changed["headers"], "what was shown may be given back"
    assert await stored(api, made) == {"Authorization": "Bearer hunter2", "X-New": "1"}
    assert (await api.json("PUT", path, {"headers": None}))["headers"] == {}
    assert await stored(api, made) == {}


async def test_on_create_null_is_no_headers(api: Api):
    assert (await api.create_webhook(headers=None))["headers"] == {}


async def test_every_fault_of_theirs_is_told(api: Api):
    """Beside those of the other fields, and without a value in any."""
    headers = {"Host": "hunter2", "X Y": "1", "X-Break": "hunter2\r\nX-Injected: 1", "X-Number": 1, "X-Kept": "***"}
    response = await api.ask("POST", "/webhooks", {"url": "ftp://x", "events": ["*"], "headers": headers})
    assert response.status == 400
    assert "hunter2" not in await response.text()
    fields = [detail["field"] for detail in (await response.json())["error"]["details"]]
    assert fields == ["url", "headers.Host", "headers.X Y", "headers.X-Break", "headers.X-Number", "headers.X-Kept"]
    wrongs: list[object] = [[], "x", 1, True]
    for wrong in wrongs:
        body = {"url": "https://x.example", "events": ["*"], "headers": wrong}
        assert (await api.json("POST", "/webhooks", body, status=400))["error"]["param"] == "headers"


async def test_a_value_that_is_not_there_cannot_be_kept(api: Api):
    """On update as well, and then nothing is changed."""
    made = await api.create_webhook(headers=GIVEN)
    path = f"/webhooks/{made['id']}"
    error = (await api.json("PATCH", path, {"description": "x", "headers": {"X-Other": "***"}}, status=400))["error"]
    assert error["param"] == "headers.X-Other"
    assert (await api.json("GET", path))["description"] is None
    await api.json("PATCH", "/webhooks/wh_000000000000000000000000", {"headers": {"X-Other": "***"}}, status=404)


async def test_the_headers_go_with_the_webhook(api: Api):
    """Nothing secret is left of one that was deleted."""
    made = await api.create_webhook(headers=GIVEN)
    await api.json("DELETE", f"/webhooks/{made['id']}")
    async with api.store.transaction() as transaction:
        gone = await transaction.endpoint_by_id(made["id"])
    assert gone is not None
    assert (gone.secret, gone.headers) == ("", {})
