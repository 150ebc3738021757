"""The operator is told of endpoints that were disabled, and of deliveries that failed, whatever happens meanwhile; and endpoints
that failures disabled recover by themselves when that is wished."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import standardwebhooks

from gateway.model import OPERATIONS_ENDPOINT
from gateway.signing import new_secret
from tests.receiver import Receiver, hang, ok, reset, status
from tests.system.cluster import Cluster
from tests.system.gateway_process import Client, Installation, JsonObject, eventually

OWN = "$operations"
BOTH = ["delivery.failed", "webhook.disabled"]


def tell(receiver: Receiver) -> dict[str, object]:
    """Settings by which the operator is told at *receiver*. Deliveries have few attempts, soon after one another."""
    return {
        "operations.url": receiver.url("/told"),
        "operations.secret": new_secret(),
        "delivery.retry_delays": "0.2,0.2,0.2",
        "delivery.jitter": 0,
    }


async def operator(installation: Installation) -> Client:
    """Somebody who reaches every organization, and the gateway's own."""
    return Client(installation, (await installation.command("keys", "create", "--service")).stdout.strip())


async def fail(client: Client, count: int = 3) -> None:
    """Events, each of which has failed for good before the next."""
    before = len(await client.every("/deliveries"))
    for number in range(1, count + 1):
        await client.publish()
        await client.settled(before + number)


async def shown(client: Client, endpoint: JsonObject) -> JsonObject:
    return await client.good("GET", f"/webhooks/{endpoint['id']}")


def told(receiver: Receiver, secret: object) -> list[dict[str, Any]]:
    """What the operator was told, verified with the library of Standard Webhooks; each event once, oldest first."""
    webhook = standardwebhooks.Webhook(str(secret))
    bodies = [webhook.verify(request.body, dict(request.headers)) for request in receiver.requests_for("/told")]
    return sorted({body["id"]: body for body in bodies}.values(), key=lambda body: str(body["id"]))


async def all_told(client: Client, receiver: Receiver, events: Sequence[str]) -> list[dict[str, Any]]:
    """What the operator was told, once it is all of *events*, and on record as delivered. On a slow machine a minute may pass,
    and with it more is told of failures that were counted: that is left out."""
    wanted = Counter(events)

    async def is_all_told() -> bool:
        deliveries = await client.every("/deliveries", organizationId=OWN)
        made = Counter(each["event"] for each in deliveries if each["state"] == "delivered")
        return made >= wanted and len(deliveries) == made.total()

    await eventually(is_all_told, f"the operator to be told {', '.join(events)}")
    found = told(receiver, client.installation.settings["operations.secret"])
    counts = Counter(body["event"] for body in found)
    assert {**counts, "delivery.failed": 0} == {**wanted, "delivery.failed": 0}
    return [body for body in found if body["event"] != "delivery.failed" or body["data"]["count"] == 1]


async def test_an_endpoint_that_was_disabled_is_told_of(installation: Installation, receiver: Receiver):
    """Three events in a row fail for good: the endpoint is disabled, and the operator has it signed, with the reason. What was
    told can be looked at with the operators' commands."""
    installation.settings |= tell(receiver)
    receiver.script("/hook", [status(503)])
    await installation.start()
    client = await installation.client()
    endpoint = await client.create_endpoint(receiver.url("/hook"))
    await fail(client)
    failed, disabled = await all_told(await operator(installation), receiver, BOTH)
    assert (failed["organizationId"], failed["data"]["count"], failed["data"]["attempts"]) == (OWN, 1, 4)
    about = {"webhookId": endpoint["id"], "organizationId": "acme", "mode": "live", "url": endpoint["url"]}
    assert failed["data"].items() >= about.items()
    assert disabled["data"].items() >= {**about, "reason": "failures", "failedInRow": 3, "lastStatus": 503}.items()
    assert (await shown(client, endpoint))["disabledReason"] == "failures"
    listed = await installation.command("deliveries", "list", "--organization", OWN, "--json")
    assert {each["webhookId"] for each in json.loads(listed.stdout)} == {OPERATIONS_ENDPOINT}, listed.stderr


async def test_what_the_operator_was_to_be_told_survives_a_kill(installation: Installation, receiver: Receiver):
    """A gateway that is killed right after it has disabled an endpoint tells the operator when it is started again."""
    installation.settings |= tell(receiver)
    receiver.script("/hook", [status(500)])
    receiver.script("/told", [hang()])
    await installation.start()
    client = await installation.client()
    endpoint = await client.create_endpoint(receiver.url("/hook"))
    await fail(client)
    assert not (await shown(client, endpoint))["isActive"]
    await installation.process.kill()
    receiver.script("/told", [ok()])
    await installation.start()
    await all_told(await operator(installation), receiver, BOTH)


async def test_an_operator_who_is_away_is_told_later(installation: Installation, receiver: Receiver):
    """What cannot be told at once is tried again, on the schedule of every delivery."""
    installation.settings |= tell(receiver)
    receiver.script("/hook", [status(410)])
    receiver.script("/told", [reset(), status(503), ok()])
    await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    await fail(client, 1)
    _, disabled = await all_told(await operator(installation), receiver, BOTH)
    assert (disabled["data"]["reason"], disabled["data"]["lastStatus"]) == ("gone", 410)
    assert len(receiver.requests_for("/told")) == 4


async def test_without_a_url_nobody_is_told(installation: Installation, receiver: Receiver):
    """When the setting is taken away, what was not told yet is canceled at the next start, and nothing more is told."""
    installation.settings |= {**tell(receiver), "delivery.retry_delays": "3600"}
    receiver.script("/hook", [status(410)])
    receiver.script("/told", [status(500)])
    await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    await fail(client, 1)
    await receiver.wait_for(2, "/told")
    assert await installation.process.stop() == 0
    installation.settings |= {"operations.url": ""}
    await installation.start()
    client, service = await installation.client(), await operator(installation)
    assert {each["state"] for each in await service.every("/deliveries", organizationId=OWN)} == {"canceled"}
    await client.create_endpoint(receiver.url("/hook"))
    await fail(client, 1)
    assert len(await service.every("/deliveries", organizationId=OWN)) == 2


async def test_each_node_tells(cluster: Cluster, receiver: Receiver):
    """Whichever node has disabled an endpoint, and whichever serves the operator's: all of it is told, once."""
    cluster.settings |= tell(receiver)
    receiver.script("/told", [ok()])
    await cluster.grow(2)
    client, other = await cluster.clients()
    service = await operator(cluster.nodes[0])
    assert len(await service.every("/webhooks", organizationId=OWN)) == 1
    endpoints = [await client.create_endpoint(receiver.url(f"/{number}")) for number in range(8)]
    for number in range(8):
        receiver.script(f"/{number}", [status(410)])
    await other.publish()
    found = await all_told(service, receiver, BOTH * 8)
    disabled = [body["data"]["webhookId"] for body in found if body["event"] == "webhook.disabled"]
    assert sorted(disabled) == sorted(endpoint["id"] for endpoint in endpoints)
    assert len(receiver.requests_for("/told")) == 16


async def test_an_endpoint_recovers_by_itself(installation: Installation, receiver: Receiver):
    """With `delivery.recovery` an endpoint that failures have disabled is probed, before or after a restart, and enabled again
    once it answers; the operator hears of that, too."""
    installation.settings |= {**tell(receiver), "delivery.recovery": "probe", "delivery.retry_delays": ""}
    receiver.script("/hook", [status(500)])
    await installation.start()
    client = await installation.client()
    endpoint = await client.create_endpoint(receiver.url("/hook"))
    await fail(client)
    assert (await shown(client, endpoint))["nextProbeAt"] is not None
    await all_told(await operator(installation), receiver, BOTH)
    assert await installation.process.stop() == 0
    # Nobody waits for the minute until the first probe.
    installation.database.change("UPDATE endpoints SET probe_at = 1 WHERE probe_at IS NOT NULL")
    receiver.script("/hook", [ok()])
    await installation.start()

    async def is_back() -> bool:
        return bool((await shown(client, endpoint))["isActive"])

    await eventually(is_back, "the endpoint to be enabled")
    assert (await shown(client, endpoint))["nextProbeAt"] is None
    found = await all_told(await operator(installation), receiver, [*BOTH, "webhook.enabled"])
    assert found[-1]["data"]["webhookId"] == endpoint["id"]
    before = len(receiver.requests_for("/hook"))
    await client.publish()
    await receiver.wait_for(before + 1, "/hook")
