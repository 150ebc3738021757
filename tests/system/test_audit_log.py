"""The audit log and the keys of real processes: what is told of those who change something, and how soon a key's end holds."""

import json
import sys
import time

from tests.receiver import Receiver, status
from tests.system.cluster import Cluster
from tests.system.gateway_process import Client, Installation, JsonObject, eventually


async def told(installation: Installation, *options: str) -> list[JsonObject]:
    """What `gateway audit-log` prints, newest first."""
    done = await installation.command("audit-log", *options, "--json")
    assert done.code == 0, done.stderr
    entries: list[JsonObject] = json.loads(done.stdout)
    return entries


async def test_operators_read_who_did_what(installation: Installation, receiver: Receiver):
    """What was done with a key tells its id and address; what a command did is the operator's, and what the gateway disabled is
    its own. Nothing else is in the log. The commands say the same once the gateway has stopped."""
    gone = receiver.url("/gone")
    receiver.script("/gone", [status(410)])
    await installation.start()
    client = await installation.client()
    own = (await client.good("GET", "/keys"))["data"][0]["id"]
    endpoint = await client.create_endpoint(gone)
    await client.publish()
    await installation.process.logged("endpoint.disabled")
    enabled = await installation.command("endpoints", "update", endpoint["id"], "--enable", "--organization", "acme")
    assert enabled.code == 0, enabled.stderr

    by_command = await told(installation, "--target", endpoint["id"])
    assert [(each["action"], each["actor"], each["address"]) for each in by_command] == [
        ("webhook.enabled", "operator", None),
        ("webhook.disabled", "gateway", None),
        ("webhook.created", own, "127.0.0.1"),
    ]
    assert by_command[1]["changes"]["disabledReason"] == {"from": None, "to": "gone"}
    everything = await told(installation)
    assert everything == [*by_command, everything[-1]]
    assert (everything[-1]["action"], everything[-1]["actor"]) == ("key.created", "operator")
    assert await client.every("/audit-log") == everything  # all of it is acme's

    elsewhere = {"GATEWAY_URL": installation.url, "GATEWAY_API_KEY": client.key}
    table = await installation.command("audit-log", "--action", "webhook.enabled", environment=elsewhere)
    heading, row = table.stdout.splitlines()
    assert heading.split()[:4] == ["WHEN", "ACTION", "TARGET", "BY"]
    assert "isActive: no → yes, disabledReason: gone → -" in row
    recorded = [json.loads(line) for line in installation.process.log if '"event":"audit.recorded"' in line]
    assert [line["action"] for line in recorded] == [each["action"] for each in everything[::-1]]

    await installation.process.stop()
    assert await told(installation) == everything
    output = "".join([table.stdout, *installation.process.log, json.dumps(everything)])
    assert endpoint["secretKey"] not in output
    assert client.key not in output


async def test_the_last_use_of_a_key_outlasts_a_restart(installation: Installation):
    """A gateway that stops stores what it has not stored yet."""
    await installation.start()
    client = await installation.client()
    used_at = time.time()
    await client.good("GET", "/webhooks")
    await installation.process.stop()
    await installation.start()
    (key,) = json.loads((await installation.command("keys", "list", "--json")).stdout)
    assert key["lastUsedAt"] is not None
    stored = installation.rows("SELECT last_used_at FROM api_keys")[0][0] / 1_000
    assert used_at - 1 < stored < used_at + 5


async def test_a_revoked_key_is_refused_at_once(installation: Installation):
    """By the node that was told, from the next request on: by another client as well as by a command."""
    await installation.start()
    client, other = await installation.client(), await installation.client()
    ids = {each["prefix"]: each["id"] for each in (await client.good("GET", "/keys"))["data"]}
    await client.good("DELETE", f"/keys/{ids[other.key[:12]]}")
    assert (await other.ask("GET", "/webhooks")).status == 401
    revoked = await installation.command("keys", "revoke", ids[client.key[:12]])
    assert revoked.code == 0, revoked.stderr
    assert (await client.ask("GET", "/webhooks")).status == 401


async def test_another_node_tells_what_was_done_and_refuses_a_revoked_key(cluster: Cluster):
    """The audit log is one; and a key that was revoked through one node is refused by the other within a second."""
    one, other = await cluster.grow(2)
    admin, there = await cluster.clients()
    made = await admin.good("POST", "/keys", {})
    user = Client(other, made["apiKey"])
    await user.good("GET", "/webhooks")
    await admin.good("DELETE", f"/keys/{made['id']}")
    revoked_at = time.monotonic()

    async def is_refused() -> bool:
        return (await user.ask("GET", "/webhooks")).status == 401

    await eventually(is_refused, "the revoked key is refused", seconds=1)
    sys.stdout.write(f"refused by the other node after {(time.monotonic() - revoked_at) * 1_000:.0f} ms\n")
    entries = await there.every("/audit-log", targetId=made["id"])
    assert [each["action"] for each in entries] == ["key.revoked", "key.created"]
    assert await told(one, "--target", made["id"]) == await told(other, "--target", made["id"]) == entries
