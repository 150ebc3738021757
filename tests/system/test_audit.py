"""`gateway audit` beside a gateway at work: nothing that is merely under way is told of."""

import asyncio
import itertools
import json
from random import Random

import pytest

from tests.receiver import Receiver, after, ok, status
from tests.system.gateway_process import Client, Installation, JsonObject
from tests.system.load import Publishers

AUDITS = 4


@pytest.mark.timeout(180)
async def test_audits_beside_a_gateway_at_work_find_nothing(installation: Installation, receiver: Receiver):
    """Events come in, attempts fail, deliveries are retried by hand, endpoints are made, tested, disabled by hand and by their
    failures, enabled and deleted: an audit at any moment of it finds nothing, nor does one when the gateway is stopped."""
    installation.settings |= {"delivery.retry_delays": "0.1,0.1", "delivery.max_in_flight": 32}
    receiver.script("/good", [ok()])
    receiver.script("/slow", [after(0.02)])
    receiver.script("/failing", [status(500), status(500), status(500), ok()])
    receiver.script("/broken", [status(500)])
    receiver.script("/gone", [status(410)])
    await installation.start()
    client = await installation.client()
    endpoints = [await client.create_endpoint(receiver.url(path)) for path in ("/good", "/slow", "/failing", "/broken", "/gone")]
    publishers = Publishers(pause_seconds=0.01)
    routes = [lambda _: client] * 3
    async with publishers.publishing(*routes), asyncio.TaskGroup() as group:
        restless = group.create_task(_keep_changing(client, receiver, endpoints), name="an operator who cannot keep still")
        for _ in range(AUDITS):
            await publishers.accept_more(30)
            _check(await _audit(installation))
        restless.cancel()
    assert await installation.process.stop() == 0
    report = await _audit(installation)
    _check(report)
    assert report["events"] >= len(publishers.accepted)
    states = dict(installation.rows("SELECT state, count(*) FROM deliveries GROUP BY state"))
    assert {"delivered", "failed", "canceled"} <= states.keys(), states


async def _keep_changing(client: Client, receiver: Receiver, endpoints: list[JsonObject]) -> None:
    chance = Random(4)
    for number in itertools.count():
        endpoint = endpoints[number % len(endpoints)]
        path = f"/webhooks/{endpoint['id']}"
        await client.good(
            "PATCH", path, {"isActive": chance.random() < 0.8, "events": chance.choice([["*"], ["load.*"], ["a.b"]])}
        )
        await client.good("POST", f"{path}/test")
        extra = await client.create_endpoint(receiver.url("/slow"))
        for delivery in (await client.good("GET", "/deliveries", query={"limit": "5"}))["data"]:
            # It may be of an endpoint that was deleted just before.
            await client.ask("POST", f"/deliveries/{delivery['id']}/retry")
        await client.good("DELETE", f"/webhooks/{extra['id']}")


async def _audit(installation: Installation) -> JsonObject:
    done = await installation.command("audit", "--json")
    assert done.stdout, done.stderr
    report: JsonObject = json.loads(done.stdout)
    return report | {"code": done.code}


def _check(report: JsonObject) -> None:
    assert report["findings"] == []
    assert report["code"] == 0
    assert report["events"] > 0
