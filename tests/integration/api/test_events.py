"""The operations on events."""

import asyncio
import json
from pathlib import Path

import pytest

from gateway.errors import QueueFull, Stopping, StoreUnavailable
from gateway.model import Mode, Tenant
from gateway.publishing.event_types import Catalogue
from gateway.settings import Events, Settings
from tests.integration.api.conftest import Api, serve


async def test_an_event_is_answered_once_it_is_committed(api: Api):
    """202 with the event, whose id is the gateway's."""
    event = await api.publish(timestamp="2026-01-02T03:04:05+01:00", externalId="order-1")
    assert event["id"].startswith("whev_")
    assert event == {
        "id": event["id"],
        "object": "event",
        "event": "invoice.paid",
        "timestamp": "2026-01-02T02:04:05.000Z",
        "externalId": "order-1",
        "organizationId": "acme",
        "mode": "live",
        "livemode": True,
        "createdAt": "2026-03-25T14:30:00.000Z",
    }


async def test_data_stays_as_it_was_sent(api: Api):
    """Spaces, escapes, repeated keys and the spelling of numbers are kept, byte for byte."""
    data = b'{ "a" : 1.50e1,\t"b":"\\u00e9\xc3\xa9", "a":2 , "big":12345678901234567890123}'
    response = await api.ask("POST", "/events", data=b'{"event":"invoice.paid" , "data" :  ' + data + b"  }")
    event = await response.json()
    assert response.status == 202
    body = await (await api.ask("GET", f"/events/{event['id']}")).read()
    assert data in body


async def test_an_external_id_happens_once(api: Api):
    """A repeat is answered 200 with the first event, in the other mode it is another one."""
    first = await api.publish(externalId="x", data={"n": 1})
    again = await api.json("POST", "/events", {"event": "invoice.paid", "data": {"n": 2}, "externalId": "x"})
    assert again == {**first, "duplicate": True}
    sandbox = await api.make_key(Tenant("acme", Mode.SANDBOX))
    other = await api.json("POST", "/events", {"event": "a.b", "data": {}, "externalId": "x"}, key=sandbox, status=202)
    assert other["id"] != first["id"]


async def test_everything_wrong_with_an_event_is_told(api: Api):
    """Faults of types, of values and absent fields come in one answer."""
    body = {"event": "nodots", "data": [], "timestamp": "yesterday", "externalId": "e" * 256, "mode": "prod"}
    error = (await api.json("POST", "/events", body, status=400))["error"]
    assert {detail["field"] for detail in error["details"]} == {"event", "data", "timestamp", "externalId", "mode"}
    error = (await api.json("POST", "/events", {"event": 5, "externalId": {}, "timestamp": 1.5}, status=400))["error"]
    assert [detail["field"] for detail in error["details"]] == ["event", "timestamp", "externalId", "data"]


@pytest.mark.parametrize(
    "timestamp", ["", "2026-01-01", "0001-01-01T00:00:00", "9999-12-31T23:59:59-12:00", "2026-13-01T00:00:00Z", "T"]
)
async def test_a_timestamp_is_a_date_and_a_time(api: Api, timestamp: str):
    """Anything else is a 400, also at the ends of what a date can be."""
    error = (await api.json("POST", "/events", {"event": "a.b", "data": {}, "timestamp": timestamp}, status=400))["error"]
    assert error["param"] == "timestamp"


async def test_null_is_as_good_as_absent(api: Api):
    """For what may be absent; `data` may not."""
    await api.publish(timestamp=None, externalId=None, organizationId=None, mode=None)
    await api.publish(events=None)
    error = (await api.json("POST", "/events", {"event": "a.b", "events": None, "mode": None}, status=400))["error"]
    assert error["param"] == "data"
    error = (await api.json("POST", "/events", {"event": 5, "data": {}, "events": None}, status=400))["error"]
    assert error["param"] == "event"
    await api.json("POST", "/events", {"event": "a.b", "data": None}, status=400)
    await api.json("POST", "/events", {"event": None, "data": {}}, status=400)


async def test_data_over_its_limit_is_a_413(tmp_path: Path):
    """In a batch it is its item's error, and the others go on."""
    async with serve(tmp_path, Settings(events=Events(max_data_bytes=20))) as api:
        large = {"event": "a.b", "data": {"text": "x" * 20}}
        error = (await api.json("POST", "/events", large, status=413))["error"]
        assert (error["code"], error["param"], error["details"]) == ("payload_too_large", "data", None)
        answer = await api.json("POST", "/events", {"events": [large, {"event": "a.b", "data": {}}]}, status=202)
        assert answer["data"][0]["error"]["code"] == "payload_too_large"
        assert answer["data"][1]["object"] == "event"


async def test_a_batch_is_answered_in_place(api: Api):
    """Each event or its error stands where it was sent; the good ones are accepted whatever the others are."""
    await api.publish(externalId="known")
    batch = [
        {"event": "a.b", "data": {"n": 1}},
        {"event": "bad", "data": {}},
        7,
        {"event": "a.b", "data": {}, "externalId": "known"},
        {"event": "a.b", "data": {}, "organizationId": "other"},
    ]
    answer = await api.json("POST", "/events", {"events": batch}, status=202, version=None)
    assert (answer["success"], answer["hasMore"], answer["nextCursor"]) == (True, False, None)
    objects = [item["object"] for item in answer["data"]]
    assert objects == ["event", "error", "error", "event", "error"]
    assert answer["data"][1]["error"]["param"] == "event"
    assert answer["data"][3]["duplicate"] is True
    assert answer["data"][4]["error"]["code"] == "forbidden"
    assert len((await api.json("GET", "/events"))["data"]) == 2


async def test_a_batch_without_a_good_event_is_a_400(api: Api):
    """Its details name the item of each fault; naming only other tenants is a 403."""
    error = (await api.json("POST", "/events", {"events": [{"event": "a.b"}, {"event": "x", "data": {}}, []]}, status=400))[
        "error"
    ]
    assert [detail["field"] for detail in error["details"]] == ["events[0].data", "events[1].event", "events[2]"]
    stranger = {"event": "a.b", "data": {}, "organizationId": "other"}
    await api.json("POST", "/events", {"events": [stranger]}, status=403)


@pytest.mark.parametrize("events", [[], {}, None, "x", [{"event": "a.b", "data": {}}] * 1001])
async def test_a_batch_holds_1_to_1000_events(api: Api, events: object):
    """Another number of them, or no array, is a 400."""
    await api.json("POST", "/events", {"events": events}, status=400)


async def test_a_batch_of_1000_is_taken(api: Api):
    """The most that a batch may hold, each event with its own id."""
    answer = await api.json("POST", "/events", {"events": [{"event": "a.b", "data": {"n": n}} for n in range(1000)]}, status=202)
    assert len({event["id"] for event in answer["data"]}) == 1000


async def test_a_service_key_names_the_tenant_in_the_body(api: Api):
    """Each event of a batch names its own; live is the default, and no organization at all is a 400."""
    service = await api.make_key(None)
    event = {"event": "a.b", "data": {}, "organizationId": "one"}
    made = await api.json("POST", "/events", event, key=service, status=202)
    assert (made["organizationId"], made["mode"]) == ("one", "live")
    batch = {"events": [event, {**event, "organizationId": "two", "mode": "sandbox"}, {"event": "a.b", "data": {}}]}
    answer = await api.json("POST", "/events", batch, key=service, status=202)
    assert answer["data"][1]["organizationId"] == "two"
    assert answer["data"][2]["error"]["param"] == "organizationId"
    error = (await api.json("POST", "/events", {"event": "a.b", "data": {}}, key=service, status=400))["error"]
    assert error["param"] == "organizationId"


@pytest.mark.parametrize("query", ["organizationId=one", "mode=sandbox", "organizationId=one&mode=sandbox", "mode=odd", "mode="])
async def test_a_tenant_named_in_the_query_of_a_publish_is_a_400(api: Api, query: str):
    """It is not let pass, as the event would then go to another tenant than its publisher thinks."""
    service = await api.make_key(None)
    event = {"event": "a.b", "data": {}, "organizationId": "one"}
    named = {part.partition("=")[0] for part in query.split("&")}
    for body in (event, {"events": [event]}, {"event": "a.b", "data": {}}):
        error = (await api.json("POST", f"/events?{query}", body, key=service, status=400))["error"]
        assert {detail["field"] for detail in error["details"]} - named <= {"organizationId"}
        assert "must be named in the body here, not in the query" in {detail["message"] for detail in error["details"]}
    error = (await api.json("POST", f"/keys?{query}", {"organizationId": "one"}, key=service, status=400))["error"]
    assert {detail["field"] for detail in error["details"]} == named
    assert (await api.json("GET", "/events?organizationId=one", key=service))["data"] == []


async def test_a_fault_of_a_batch_names_its_field_once(tmp_path: Path):
    """In the message as well, whatever the kind of refusal."""
    async with serve(tmp_path, Settings(events=Events(max_data_bytes=20))) as api:
        large = {"event": "a.b", "data": {"text": "x" * 20}}
        error = (await api.json("POST", "/events", {"events": [large]}, status=400))["error"]
        assert error["message"] == "events[0].data has 32 bytes; the limit is 20"
        assert error["details"] == [{"field": "events[0].data", "message": "has 32 bytes; the limit is 20"}]


async def test_lists_filter(api: Api):
    """By type, external id and time; `since` is inclusive, `until` exclusive."""
    first = await api.publish(externalId="one")
    api.clock.advance(60)
    second = await api.publish(event="order.made")

    async def ids(query: str) -> list[str]:
        return [event["id"] for event in (await api.json("GET", f"/events?{query}"))["data"]]

    assert await ids("") == [second["id"], first["id"]]
    assert await ids("event=order.made") == [second["id"]]
    assert await ids("externalId=one&unknown=1&unknown=2") == [first["id"]]
    assert await ids("since=2026-03-25T14:31:00Z") == [second["id"]]
    assert await ids("until=2026-03-25T14:31:00Z") == [first["id"]]
    assert await ids("since=2026-03-25T15:31:00+01:00") == [second["id"]]


@pytest.mark.parametrize(
    "query", ["event=x", "externalId=", "externalId=%00", "since=x", "until=2026-01-01", "event=a.b&event=a.b"]
)
async def test_a_bad_filter_is_a_400(api: Api, query: str):
    """The answer names it."""
    error = (await api.json("GET", f"/events?{query}", status=400))["error"]
    assert error["param"] == query.partition("=")[0]


async def test_a_cursor_is_bound_to_its_filters(api: Api):
    """The next page of one filter is none of another."""
    for _ in range(3):
        await api.publish()
    page = await api.json("GET", "/events?event=invoice.paid&limit=1")
    cursor = page["nextCursor"]
    assert (await api.json("GET", f"/events?event=invoice.paid&limit=2&cursor={cursor}"))["hasMore"] is False
    await api.json("GET", f"/events?cursor={cursor}", status=400)


async def test_an_event_shows_its_data_and_deliveries(api: Api):
    """With a delivery for each webhook that wanted it."""
    webhook = await api.create_webhook()
    event = await api.publish(data={"text": "é"})
    shown = await api.json("GET", f"/events/{event['id']}")
    deliveries = shown.pop("deliveries")
    assert shown.pop("data") == {"text": "é"}
    assert shown == event
    assert [(delivery["webhookId"], delivery["state"]) for delivery in deliveries] == [(webhook["id"], "pending")]
    error = (await api.json("GET", "/events/whev_unknown", status=404))["error"]
    assert error["code"] == "not_found"


async def test_the_catalogue_decides(tmp_path: Path):
    """Types and patterns that it does not know are refused; `GET /event-types` shows it page by page."""
    catalogue = Catalogue({"invoice.paid": "Paid", "invoice.voided": "Voided", "order.made": "Made"})
    async with serve(tmp_path, Settings(), catalogue=catalogue) as api:
        await api.publish()
        await api.json("POST", "/events", {"event": "other.type", "data": {}}, status=400)
        body = {"url": "https://x.example", "events": ["invoice.*", "nothing.*", "order.lost"]}
        error = (await api.json("POST", "/webhooks", body, status=400))["error"]
        assert [detail["field"] for detail in error["details"]] == ["events[1]", "events[2]"]
        page = await api.json("GET", "/event-types?limit=2")
        assert page["data"][0] == {"object": "event_type", "event": "invoice.paid", "description": "Paid"}
        rest = await api.json("GET", f"/event-types?cursor={page['nextCursor']}")
        assert [item["event"] for item in rest["data"]] == ["order.made"]


async def test_without_a_catalogue_there_are_no_event_types(api: Api):
    """An empty page."""
    assert await api.json("GET", "/event-types") == {"data": [], "hasMore": False, "object": "list"}


@pytest.mark.parametrize(
    ("failure", "code", "after"),
    [(QueueFull(), "overloaded", "1"), (StoreUnavailable("no disk"), "unavailable", "2"), (Stopping(), "unavailable", "2")],
)
async def test_what_cannot_be_taken_now_is_a_503(api: Api, failure: Exception, code: str, after: str):
    """With the time after which to try again, and nothing kept."""
    api.publisher.failure = failure
    response = await api.ask("POST", "/events", {"event": "a.b", "data": {}})
    assert (response.status, response.headers["Retry-After"]) == (503, after)
    error = (await response.json())["error"]
    assert error["code"] == code
    assert "no disk" not in error["message"]  # what the store says of itself is for the log


async def test_under_overload_a_body_is_not_even_read(api: Api):
    """Refusing costs as little as it can: whatever the body holds, the answer is the 503."""
    api.publisher.is_full = True
    response = await api.ask("POST", "/events", {"nothing": "that an event has"})
    assert (response.status, response.headers["Retry-After"]) == (503, "1")
    assert (await response.json())["error"]["code"] == "overloaded"


async def test_a_client_that_leaves_does_not_stop_the_commit(api: Api):
    """The connection is closed while the event waits; it is committed all the same."""
    api.publisher.open.clear()
    assert api.client.port is not None
    _, writer = await asyncio.open_connection("127.0.0.1", api.client.port)
    body = json.dumps({"event": "a.b", "data": {}}).encode()
    writer.write(
        b"POST /events HTTP/1.1\r\nHost: x\r\nx-api-key: %s\r\nContent-Length: %d\r\n\r\n%s" % (api.key.encode(), len(body), body)
    )
    await writer.drain()
    await api.publisher.reached.wait()
    writer.transport.abort()
    await api.json("GET", "/events")  # by now the server has seen it go
    api.publisher.open.set()
    await api.publisher.committed.wait()
    assert len((await api.json("GET", "/events"))["data"]) == 1
