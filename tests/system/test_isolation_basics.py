"""One endpoint does not hurt another, and no delivery reaches inside."""

import time

import pytest

from tests.receiver import Receiver, hang, ok, redirect
from tests.system.gateway_process import ON_THE_EMBEDDED_STORE, Client, Installation, JsonObject

EVENTS = 100
TOGETHER_SECONDS = 5.0  # half of what one unanswered request takes


async def test_a_hanging_endpoint_does_not_delay_the_others(installation: Installation, receiver: Receiver):
    """One that answered well and then stops answering has as many requests open as it may have; the deliveries of the other
    arrive long before the first of them times out, and so do those of another organization."""
    installation.settings |= {"delivery.max_in_flight": 64, "delivery.max_in_flight_per_endpoint": 16}
    receiver.script("/hanging", [*[ok()] * EVENTS, hang()])
    await installation.start()
    client, stranger = await installation.client(), await installation.client("globex")
    await client.create_endpoint(receiver.url("/hanging"), "first.half", "second.half")
    await _publish(client, "first.half")
    await receiver.wait_for(EVENTS, "/hanging")
    await client.create_endpoint(receiver.url("/healthy"), "second.half")
    await stranger.create_endpoint(receiver.url("/elsewhere"))

    started_at = time.monotonic()
    await _publish(client, "second.half")
    await _publish(stranger, "second.half")
    for path in ("/healthy", "/elsewhere"):
        await receiver.wait_for(EVENTS, path, seconds=TOGETHER_SECONDS)
    assert time.monotonic() - started_at < TOGETHER_SECONDS
    hanging = await receiver.wait_for(EVENTS + 1, "/hanging")
    assert EVENTS < len(hanging) <= EVENTS + 16
    assert receiver.open_connections >= len(hanging) - EVENTS, "the requests had been given up: nothing hung"


async def _publish(client: Client, event: str) -> None:
    await client.good("POST", "/events", {"events": [{"event": event, "data": {}}] * EVENTS})


async def _failed(client: Client) -> JsonObject:
    """The one delivery, which has failed, and its only attempt's findings."""
    [delivery] = await client.settled(1)
    [attempt] = delivery["attempts"]
    assert (delivery["state"], delivery["reason"]) == ("failed", "attempts_exhausted")
    return attempt


@ON_THE_EMBEDDED_STORE
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0"])
async def test_an_endpoint_at_a_forbidden_address_is_refused(installation: Installation, receiver: Receiver, host: str):
    """With nothing allowed, loopback is a 400 in every spelling of its address, and is never connected to."""
    installation.settings["egress.allow"] = ""
    await installation.start()
    client = await installation.client()
    refused = await client.ask("POST", "/webhooks", {"url": receiver.url("/hook", host=host), "events": ["*"]})
    assert refused.status == 400, refused.body
    assert [detail["field"] for detail in refused.body["error"]["details"]] == ["url"]
    assert await client.every("/webhooks") == []
    assert receiver.connections == 0


@ON_THE_EMBEDDED_STORE
async def test_a_name_that_leads_to_a_forbidden_address_is_not_connected_to(installation: Installation, receiver: Receiver):
    """A name cannot be judged before it is resolved. The delivery is on record with the reason, without an address in it."""
    installation.settings |= {"egress.allow": "", "delivery.retry_delays": ""}
    await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook", host="localhost"))
    await client.publish()
    attempt = await _failed(client)
    assert (attempt["status"], attempt["error"]) == (None, "address_forbidden")
    assert "127.0.0.1" not in attempt["errorMessage"]
    assert receiver.connections == 0


@ON_THE_EMBEDDED_STORE
async def test_what_was_allowed_once_is_judged_again_at_each_attempt(installation: Installation, receiver: Receiver):
    """An endpoint that was made under other settings is no way in after these have changed."""
    installation.settings["delivery.retry_delays"] = ""
    gateway = await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    assert await gateway.stop() == 0
    installation.settings["egress.allow"] = ""
    await installation.start()
    await client.publish()
    assert (await _failed(client))["error"] == "address_forbidden"
    assert receiver.connections == 0


@ON_THE_EMBEDDED_STORE
@pytest.mark.parametrize("target", ["127.0.0.2", "127.0.0.1"], ids=["forbidden", "allowed"])
async def test_a_redirect_is_not_followed(installation: Installation, receiver: Receiver, target: str):
    """Wherever it leads to: it is a failed attempt, with its status on record."""
    installation.settings |= {"egress.allow": "127.0.0.1/32", "delivery.retry_delays": ""}
    async with Receiver.open(host=target) as inside:
        receiver.script("/hook", [redirect(inside.url("/secrets"))])
        await installation.start()
        client = await installation.client()
        await client.create_endpoint(receiver.url("/hook"))
        await client.publish()
        attempt = await _failed(client)
    assert (attempt["status"], attempt["error"]) == (302, "redirect")
    assert len(receiver.requests) == 1
    assert inside.connections == 0
