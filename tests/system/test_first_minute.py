"""What somebody meets who has just installed it: how fast it starts, what it costs at rest, what it logs, its commands."""

import asyncio
import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from tests.receiver import Receiver, Request, garbage, ok, reset, status
from tests.system.gateway_process import ON_THE_EMBEDDED_STORE, Finished, Installation, eventually
from tests.system.load import event_of

FIRST_DELIVERY_SECONDS = 2.0
IDLE_SECONDS = 4.0
IDLE_CPU = 0.01  # CPU seconds a second
ACME = ("--organization", "acme")


async def test_the_first_delivery_comes_within_two_seconds_of_the_start(
    installation: Installation, receiver: Receiver, capsys: pytest.CaptureFixture[str]
):
    """From the start of the process on a store with an endpoint until the request has arrived."""
    await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    assert await installation.process.stop() == 0

    started_at = time.monotonic()
    await installation.start()
    ready_at = time.monotonic()
    await client.publish()
    [request] = await receiver.wait_for(1)
    took_seconds = request.arrived_at - started_at
    with capsys.disabled():
        sys.stdout.write(f"\nready after {ready_at - started_at:.2f} s, first delivery after {took_seconds:.2f} s\n")
    assert took_seconds < FIRST_DELIVERY_SECONDS


async def test_a_gateway_without_work_costs_next_to_nothing(
    installation: Installation, receiver: Receiver, capsys: pytest.CaptureFixture[str]
):
    """Less than 1 % of a CPU, with deliveries behind it and a retry that is due in an hour."""
    installation.settings["delivery.retry_delays"] = "3600"
    receiver.script("/hook", [*[ok()] * 10, status(500)])
    gateway = await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    for _ in range(11):
        await client.publish()

    async def all_are_on_record() -> bool:
        return all(each["attemptCount"] for each in await client.every("/deliveries"))

    await eventually(all_are_on_record, "an attempt of each delivery is on record")
    before = _cpu_seconds(gateway.pid)
    assert before > 0
    await asyncio.sleep(IDLE_SECONDS)  # this is what is measured
    cpu = (_cpu_seconds(gateway.pid) - before) / IDLE_SECONDS
    with capsys.disabled():
        sys.stdout.write(f"\nidle: {cpu:.2%} of a CPU over {IDLE_SECONDS:g} s\n")
    assert cpu < IDLE_CPU


def _cpu_seconds(pid: int) -> float:
    """What the process has used: user and system time, fields 14 and 15 of proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_a_run_with_errors_logs_json_lines_without_secrets(installation: Installation, receiver: Receiver):
    """At the level that says most, and with secrets put wherever a caller or a receiver can put them."""
    installation.settings |= {"log.level": "debug", "delivery.retry_delays": "0.05", "delivery.disable_after_failed_events": 1}
    gateway = await installation.start()
    client = await installation.client()
    endpoint = await client.create_endpoint(receiver.url("/broken"))
    key, secret = client.key, endpoint["secretKey"]
    receiver.script("/broken", [reset(), garbage(secret.encode()), status(500, body=secret.encode(), headers={"x-key": key})])
    await client.create_endpoint("http://127.0.0.1:9/refused")
    for number in range(3):
        await client.publish("secret.leaked", {"secret": secret, "key": key}, externalId=f"{secret} {number}")
    await client.ask("GET", f"/webhooks/{key}", headers={"x-request-id": key})
    await client.ask("GET", f"/deliveries/{secret}")
    await client.ask("GET", "/webhooks", headers={"x-api-key": f"{key}0"})
    await client.ask("POST", "/events", {"event": secret, "data": key})
    await client.ask("POST", "/webhooks", f'{{"url": "{secret}", "events": ["{key}"]'.encode())
    await client.good("POST", f"/webhooks/{endpoint['id']}/test")
    assert (await installation.command("deliveries", "show", secret, *ACME)).code == 1
    await client.settled(3)
    assert await gateway.stop() == 0

    lines = [json.loads(line) for line in gateway.log]
    assert all({"at", "level", "event"} <= line.keys() for line in lines)
    assert {"gateway.started", "request.finished", "attempt.finished", "gateway.stopping"} <= {line["event"] for line in lines}
    log = "\n".join(gateway.log)
    assert key.removeprefix("ck_live_") not in log
    assert secret.removeprefix("whsec_") not in log
    assert not re.search(r"whsec_[^*]", log)


@ON_THE_EMBEDDED_STORE
async def test_a_typo_in_a_setting_stops_the_start_with_a_sentence(installation: Installation):
    misspelt = await installation.command("serve", "--set", "http.prot=1")
    assert misspelt.code == 1
    assert misspelt.stdout == ""
    assert "http.prot" in misspelt.stderr
    assert "did you mean `port`?" in misspelt.stderr
    assert len(misspelt.stderr.splitlines()) == 1
    assert not installation.store.exists()


class Shell:
    """Somebody who types commands, and expects them to work."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    async def text(self, *arguments: str, environment: dict[str, str] | None = None, stdin: bytes = b"") -> str:
        done = await self._installation.command(*arguments, environment=environment, stdin=stdin)
        assert done.code == 0, f"gateway {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    async def json(self, *arguments: str, environment: dict[str, str] | None = None) -> "dict[str, str]":
        answer: dict[str, str] = json.loads(await self.text(*arguments, "--json", environment=environment))
        return answer

    async def list(self, *arguments: str, environment: dict[str, str] | None = None) -> "list[dict[str, str]]":
        answer: list[dict[str, str]] = json.loads(await self.text(*arguments, "--json", environment=environment))
        return answer


@pytest.mark.parametrize("runs", [True, False], ids=["beside a running gateway", "without one"])
async def test_every_command_works(installation: Installation, receiver: Receiver, *, runs: bool):
    """The same commands with the same results, whether a gateway runs on the store or the command opens it itself."""
    shell = Shell(installation)
    if runs:
        await installation.start()
    else:
        assert "Made the store" in await shell.text("migrate")

    key = await shell.text("keys", "create", *ACME, "--mode", "live")
    assert re.fullmatch(r"ck_live_\w{20,}", key)
    restricted = await shell.json("keys", "create", *ACME, "--mode", "live", "--permission", "event:write", "--name", "publisher")
    assert restricted["apiKey"].startswith("rk_live_")
    assert {each["name"] for each in await shell.list("keys", "list", *ACME)} == {None, "publisher"}
    await shell.text("keys", "revoke", restricted["id"])
    assert [each["prefix"] for each in await shell.list("keys", "list")] == [key[:12]]

    webhook = await shell.json("endpoints", "create", receiver.url("/hook"), "--event", "invoice.*", *ACME)
    updated = await shell.json("endpoints", "update", webhook["id"], "--description", "Billing", *ACME)
    assert await shell.list("endpoints", "list", *ACME) == [updated]
    assert await shell.json("endpoints", "show", webhook["id"], *ACME) == updated
    await shell.text("organizations", "pin", "acme", "2026-07-11")
    assert await shell.list("organizations", "list") == [{"id": "acme", "object": "organization", "apiVersion": "2026-07-11"}]
    assert "ok" in await shell.text("check")

    assert "Delivered" in await shell.text("endpoints", "test", webhook["id"], *ACME)
    [tested] = receiver.requests
    assert json.loads(tested.body)["apiVersion"] == "2026-07-11"
    secret = {"GATEWAY_WEBHOOK_SECRET": webhook["secretKey"]}
    assert (await shell.text("verify", *_headers(tested), environment=secret, stdin=tested.body)).count("holds") == 2
    forged = await installation.command("verify", *_headers(tested), environment=secret, stdin=tested.body + b" ")
    assert forged.code == 1

    event_id = await shell.text("events", "publish", "invoice.paid", "--data", '{"amount":  1.50}', *ACME)
    [delivery] = await shell.list("deliveries", "list", "--event-id", event_id, *ACME)
    if runs:
        await receiver.wait_for(2)
    await shell.text("deliveries", "retry", delivery["id"], *ACME)
    if not runs:
        await installation.start()
    await receiver.wait_for(3 if runs else 2)
    assert {event_of(request) for request in receiver.requests[1:]} == {event_id}
    assert receiver.requests[-1].body.endswith(b'"data":{"amount":  1.50}}')
    await eventually(lambda: _is_delivered(shell, delivery["id"]), "the delivery is on record as delivered")
    await shell.text("endpoints", "delete", webhook["id"], *ACME)
    assert await shell.list("endpoints", "list", *ACME) == []


def _headers(request: Request) -> list[str]:
    return [word for name, value in request.headers.items() for word in ("--header", f"{name}: {value}")]


async def _is_delivered(shell: Shell, delivery_id: str) -> bool:
    return (await shell.json("deliveries", "show", delivery_id, *ACME))["state"] == "delivered"


async def test_commands_talk_to_a_gateway_elsewhere(installation: Installation, receiver: Receiver, tmp_path: Path):
    """With GATEWAY_URL and GATEWAY_API_KEY they need neither the store nor the socket, and the key says whose data it is."""
    await installation.start()
    client = await installation.client()
    endpoint = await client.create_endpoint(receiver.url("/hook"))
    elsewhere = {
        "GATEWAY_URL": installation.url,
        "GATEWAY_API_KEY": client.key,
        "GATEWAY_STORE__URL": f"sqlite:///{tmp_path / 'nowhere' / 'gateway.db'}",
    }
    shell = Shell(installation)
    event_id = await shell.text("events", "publish", "invoice.paid", "--data", "{}", environment=elsewhere)
    [request] = await receiver.wait_for(1)
    assert event_of(request) == event_id
    assert [each["id"] for each in await shell.list("endpoints", "list", environment=elsewhere)] == [endpoint["id"]]
    assert not (tmp_path / "nowhere").exists()


@ON_THE_EMBEDDED_STORE
async def test_commands_that_fail_say_why_in_a_sentence(installation: Installation):
    """Exit code 1 for a refusal and 2 for wrong usage, the reason on standard error, nothing on standard output."""
    await installation.start()
    unknown, unnamed, taken = await asyncio.gather(
        installation.command("deliveries", "show", "whdl_unknown", *ACME),
        installation.command("deliveries", "list"),
        installation.command("migrate"),
    )
    assert [done.code for done in (unknown, unnamed, taken)] == [1, 2, 1]
    assert "not_found" in unknown.stderr
    assert "--organization" in unnamed.stderr
    assert "another gateway" in taken.stderr
    assert not any(_is_unhandled(done) for done in (unknown, unnamed, taken))


def _is_unhandled(done: Finished) -> bool:
    return bool(done.stdout) or "Traceback" in done.stderr
