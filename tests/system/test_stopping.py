"""Stopping and starting again: nothing that was accepted is lost, and nothing is sent twice but what was cut off."""

import asyncio
import functools
import json
import signal
import time
from collections import Counter

import pytest

from tests.receiver import Receiver, after, hang, ok
from tests.system.gateway_process import ON_THE_EMBEDDED_STORE, PATIENCE_SECONDS, Installation, eventually
from tests.system.load import Load, event_of, number_of

REACTION_SECONDS = 2.0  # how long ending takes besides the waiting that was asked for
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)


@SIGNALS
async def test_a_stop_under_load_loses_nothing_and_repeats_nothing(
    installation: Installation, receiver: Receiver, number: signal.Signals
):
    """Publishers post until they are refused. What they were answered 202 arrives once, before the stop or after the
    restart, and as many attempts are on record as there were requests."""
    installation.settings["delivery.drain_seconds"] = 5
    receiver.script("/slow", [after(0.2)])
    gateway = await installation.start()
    client = await installation.client()
    endpoints = {(await client.create_endpoint(receiver.url(path)))["id"]: path for path in ("/fast", "/slow")}
    load = Load(client)
    async with load.applied(publishers=8):
        await load.reached(200)
        asked_at = time.monotonic()
        code = await gateway.stop(number)
        took_seconds = time.monotonic() - asked_at

    assert code == 0, gateway.tail
    assert took_seconds < 5 + REACTION_SECONDS
    before = len(receiver.requests)
    assert installation.rows("SELECT count(*) FROM attempts WHERE status = 200") == [(before,)]
    assert before < 2 * len(load.accepted), "nothing was left to do: this was no stop under load"

    await installation.start()
    deliveries = await client.settled(2 * len(load.accepted))
    arrivals = Counter((request.path, event_of(request)) for request in receiver.requests)
    attempts = {(endpoints[each["webhookId"]], each["eventId"]): len(each["attempts"]) for each in deliveries}
    assert arrivals == attempts
    assert set(arrivals.values()) == {1}
    arrived = {number_of(request) for request in receiver.requests}
    assert load.accepted.keys() <= arrived <= load.accepted.keys() | load.unsure


@SIGNALS
async def test_what_the_deadline_cuts_off_is_on_record_and_sent_again(
    installation: Installation, receiver: Receiver, number: signal.Signals
):
    """A request without an answer when `drain_seconds` are over is recorded as interrupted, which costs it no attempt."""
    installation.settings |= {"delivery.drain_seconds": 0.5, "delivery.retry_delays": "3600"}
    receiver.script("/hook", [hang(), ok()])
    gateway = await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    event = await client.publish()
    await receiver.wait_for(1)

    asked_at = time.monotonic()
    assert await gateway.stop(number) == 0, gateway.tail
    assert 0.5 <= time.monotonic() - asked_at < 0.5 + REACTION_SECONDS

    await installation.start()
    await receiver.wait_for(2)
    [delivery] = await client.settled(1)
    assert [event_of(request) for request in receiver.requests] == [event["id"]] * 2
    assert delivery["state"] == "delivered"
    assert [(attempt["status"], attempt["error"]) for attempt in delivery["attempts"]] == [(None, "interrupted"), (200, None)]


async def test_a_second_signal_stops_at_once(installation: Installation, receiver: Receiver):
    """Who does not want to wait for the open requests signals again. What was being sent is sent again after the start."""
    installation.settings |= {"delivery.drain_seconds": 60, "delivery.timeout_seconds": 50}
    receiver.script("/hook", [hang(), ok()])
    gateway = await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    await client.publish()
    await receiver.wait_for(1)

    gateway.send(signal.SIGINT)
    await gateway.logged("gateway.stopping")
    assert await gateway.stop(signal.SIGINT, seconds=REACTION_SECONDS) == 130, gateway.tail
    assert not any("Traceback" in line for line in gateway.log), gateway.tail

    await installation.start()
    [delivery] = await client.settled(1)
    assert delivery["state"] == "delivered"
    assert len(receiver.requests) == 2


async def test_within_its_grace_a_stopping_gateway_serves_all_but_readiness(installation: Installation, receiver: Receiver):
    """For `http.grace_seconds` a load balancer sees that it should look away, and whoever does not look is served."""
    installation.settings["http.grace_seconds"] = 1.5
    gateway = await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    asked_at = time.monotonic()
    gateway.send(signal.SIGTERM)
    await gateway.logged("gateway.stopping")

    ready, live = await client.ask("GET", "/health/ready"), await client.ask("GET", "/health/live")
    assert (ready.status, live.status) == (503, 200)
    event = await client.publish()
    [request] = await receiver.wait_for(1)
    assert event_of(request) == event["id"]
    assert gateway.is_running

    assert await gateway.ended() == 0, gateway.tail
    assert 1.5 <= time.monotonic() - asked_at < 1.5 + REACTION_SECONDS


async def test_a_request_that_is_still_being_sent_is_answered_before_the_end(installation: Installation, receiver: Receiver):
    """The listener closes, but a publisher whose request had begun gets its 202, and the event is kept."""
    installation.settings["delivery.drain_seconds"] = 2
    gateway = await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    body = b'{"event": "invoice.paid", "data": {"late": true}}'
    head = f"POST /events HTTP/1.1\r\nHost: gateway\r\nx-api-key: {client.key}\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Expect: 100-continue\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")

    gateway.send(signal.SIGTERM)
    await eventually(functools.partial(_is_closed, gateway.port), "nobody listens any more")
    writer.write(body)
    answer = await reader.read()
    writer.close()
    assert await gateway.ended() == 0, gateway.tail
    assert answer.startswith(b"HTTP/1.1 202")

    await installation.start()
    [request] = await receiver.wait_for(1)
    assert json.loads(request.body)["data"] == {"late": True}


async def _is_closed(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


@ON_THE_EMBEDDED_STORE
async def test_a_second_gateway_on_the_same_store_is_refused(installation: Installation):
    """It ends with 1 and a sentence, and the first one does not notice."""
    await installation.start()
    client = await installation.client()
    second = await installation.command("serve")
    assert second.code == 1
    assert "another gateway" in second.stderr
    assert str(installation.store) in second.stderr
    assert len(second.stderr.splitlines()) == 1, second.stderr
    assert (await client.ask("GET", "/health/ready")).status == 200
    assert (await installation.command("keys", "list")).code == 0, "the operators' socket of the first one is gone"


async def test_a_start_after_an_unclean_end_needs_no_tidying_up(installation: Installation, receiver: Receiver):
    """The socket's file and the lock's that a killed gateway leaves stand in nobody's way; commands work again, too."""
    gateway = await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    await gateway.kill()
    assert installation.socket.is_socket()
    assert await _is_closed(gateway.port)
    listed = await installation.command("keys", "list", "--json")
    assert listed.code == 0, listed.stderr

    await installation.start()
    await client.publish()
    await receiver.wait_for(1, seconds=PATIENCE_SECONDS)  # on PostgreSQL the killed node's lease has to end first
    listed = await installation.command("keys", "list", "--json")
    assert [key["organizationId"] for key in json.loads(listed.stdout)] == ["acme"]
