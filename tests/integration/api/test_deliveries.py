"""The operations on deliveries."""

import json

import pytest

from gateway.model import (
    Attempt,
    AttemptTrigger,
    DeliveryState,
    DueDelivery,
    Reason,
    Result,
    Verdict,
)
from gateway.store.protocol import Transaction
from tests.integration.api.conftest import ACME, Api


async def test_a_delivery_shows_what_was_sent_and_answered(api: Api):
    """Its body as text, and each attempt with headers, also when the endpoint answered no text."""
    webhook = await api.create_webhook(apiVersion="2026-07-24")
    event = await api.publish(data={"text": "é"})
    (listed,) = (await api.json("GET", "/deliveries"))["data"]
    assert listed == {
        "id": listed["id"],
        "object": "delivery",
        "webhookId": webhook["id"],
        "eventId": event["id"],
        "event": "invoice.paid",
        "state": "pending",
        "reason": None,
        "trigger": "event",
        "attemptCount": 0,
        "nextAttemptAt": listed["nextAttemptAt"],
        "lastStatus": None,
        "lastError": None,
        "createdAt": "2026-03-25T14:30:00.000Z",
        "finishedAt": None,
        "organizationId": "acme",
        "mode": "live",
        "livemode": True,
    }
    await fail(api, listed["id"])
    shown = await api.json("GET", f"/deliveries/{listed['id']}")
    assert (shown["state"], shown["reason"], shown["lastStatus"]) == ("failed", "attempts_exhausted", 503)
    assert shown["nextAttemptAt"] is None
    await api.json("GET", "/deliveries/whdl_none", status=404)
    assert shown["apiVersion"] == "2026-07-24"
    assert json.loads(shown["body"])["data"] == {"text": "é"}
    assert shown["attempts"] == [
        {
            "number": 1,
            "trigger": "automatic",
            "startedAt": "2026-03-25T14:30:00.000Z",
            "durationMs": 12,
            "status": 503,
            "error": None,
            "errorMessage": None,
            "url": "https://example.com/hook",
            "requestHeaders": {"webhook-id": event["id"]},
            "resent": False,
            "fenced": False,
            "responseHeaders": [["Server", "x"]],
            "responseBody": "no \ufffd text\x00",
        }
    ]


async def test_a_retry_by_hand_is_taken(api: Api):
    """202 with the delivery, as it stands; a 404 when it or its webhook is no more."""
    webhook = await api.create_webhook()
    await api.publish()
    (delivery,) = (await api.json("GET", "/deliveries"))["data"]
    headers = {"Idempotency-Key": "k"}
    first = await api.json("POST", f"/deliveries/{delivery['id']}/retry", headers=headers, status=202)
    assert first == delivery
    assert await api.json("POST", f"/deliveries/{delivery['id']}/retry", headers=headers, status=202) == first
    error = (await api.json("POST", "/deliveries/whdl_none/retry", status=404))["error"]
    assert error["code"] == "not_found"
    await api.json("DELETE", f"/webhooks/{webhook['id']}")
    error = (await api.json("POST", f"/deliveries/{delivery['id']}/retry", status=404))["error"]
    assert error["code"] == "webhook_not_found"
    reader = await api.make_key(permissions=("delivery:read",))
    await api.json("POST", f"/deliveries/{delivery['id']}/retry", key=reader, status=403)


async def test_lists_filter(api: Api):
    """By webhook, event, type, state and time."""
    webhooks = [await api.create_webhook(events=[pattern]) for pattern in ("*", "order.*")]
    first = await api.publish()
    second = await api.publish(event="order.made")

    async def events(query: str) -> list[str]:
        return [delivery["eventId"] for delivery in (await api.json("GET", f"/deliveries?{query}"))["data"]]

    assert await events(f"webhookId={webhooks[1]['id']}") == [second["id"]]
    assert await events(f"eventId={second['id']}&limit=1") == [second["id"]]
    assert await events("event=invoice.paid&state=pending&since=2026-03-25T14:30:00Z") == [first["id"]]
    assert await events("state=delivered") == []
    assert await events("until=2026-03-25T14:30:00Z") == []


@pytest.mark.parametrize("query", ["state=lost", "webhookId=%00", "eventId=", "event=*", "since=1", "state=failed&state=failed"])
async def test_a_bad_filter_is_a_400(api: Api, query: str):
    """The answer names it."""
    error = (await api.json("GET", f"/deliveries?{query}", status=400))["error"]
    assert error["param"] == query.partition("=")[0]


class Failed:
    """A change that records a last attempt that failed."""

    def __init__(self, result: Result) -> None:
        self._result = result

    async def apply(self, transaction: Transaction) -> None:
        await transaction.record_results([self._result])


async def fail(api: Api, delivery_id: str) -> None:
    """Puts a last attempt that failed on record."""
    at = api.clock.now()
    delivery = await api.store.delivery(ACME, delivery_id)
    assert delivery is not None
    event = await api.store.event(ACME, delivery.event_id)
    assert event is not None
    due = DueDelivery(
        id=delivery.id,
        endpoint_id=delivery.endpoint_id,
        event=event,
        api_version=delivery.api_version,
        activation=delivery.activation,
        attempt_count=0,
        scheduled_count=0,
        due_at=at,
        created_at=at,
    )
    attempt = Attempt(
        delivery_id=delivery.id,
        number=1,
        trigger=AttemptTrigger.AUTOMATIC,
        started_at=at,
        duration_ms=12,
        status=503,
        error=None,
        error_message=None,
        url="https://example.com/hook",
        request_headers=json.dumps({"webhook-id": event.id}).encode(),
        resent=False,
        response_headers=b'[["Server","x"]]',
        response_body=b"no \xff text\x00",
    )
    verdict = Verdict(DeliveryState.FAILED, reason=Reason.ATTEMPTS_EXHAUSTED)
    await api.writer.change(Failed(Result(due, ACME, attempt, verdict, at)))
