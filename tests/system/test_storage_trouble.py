"""The file of the store cannot grow any more, as on a full disk: a limit on the size of files does it to the real process."""

import functools
import resource
import time
from pathlib import Path

import pytest

from tests.receiver import Receiver
from tests.system.gateway_process import ON_THE_EMBEDDED_STORE, Client, Installation, eventually

KIB = 1024


@ON_THE_EMBEDDED_STORE
@pytest.mark.parametrize("room", [0, 40 * KIB], ids=["none left", "a little left"])
async def test_a_full_disk_costs_answers_but_no_events(installation: Installation, receiver: Receiver, room: int):
    """Publishers get 503 with Retry-After, /health/ready says why, and when there is room again all goes on: what was accepted
    arrives, what was refused does not."""
    gateway = await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    accepted = [(await client.publish())["id"] for _ in range(3)]
    await receiver.wait_for(3)

    limit_files_to(gateway.pid, size_of_store(installation.store) + room)
    refused = None
    for number in range(3, 200):
        answer = await client.ask("POST", "/events", {"event": "invoice.paid", "data": {"number": number, "weight": "x" * 8_000}})
        if answer.status != 202:
            refused = answer
            break
        accepted.append(answer.body["id"])
    assert refused is not None
    assert (refused.status, refused.body["error"]["code"]) == (503, "unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    await eventually(functools.partial(is_ready, client, ready=False), "the gateway says that it is not ready")

    limit_files_to(gateway.pid, resource.RLIM_INFINITY)
    await eventually(functools.partial(is_ready, client, ready=True), "the gateway has recovered")
    accepted.append((await client.publish())["id"])
    await receiver.wait_until(lambda: set(accepted) <= ids(receiver), "every accepted event has arrived")
    assert ids(receiver) == set(accepted)


@ON_THE_EMBEDDED_STORE
async def test_a_full_disk_does_not_keep_the_gateway_from_stopping(installation: Installation, receiver: Receiver):
    """SIGTERM ends it within its deadlines, though nothing more can be stored."""
    installation.settings["delivery.drain_seconds"] = 1
    gateway = await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    limit_files_to(gateway.pid, size_of_store(installation.store))
    answer = await client.ask("POST", "/events", {"event": "invoice.paid", "data": {"weight": "x" * 100_000}})
    assert answer.status == 503
    asked_at = time.monotonic()
    await gateway.stop()
    assert time.monotonic() - asked_at < 15


def size_of_store(path: Path) -> int:
    """The size of the largest of the store's files: a limit of that much leaves no room to any."""
    return max(path.stat().st_size, path.with_name(path.name + "-wal").stat().st_size)


def limit_files_to(pid: int, size: int) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def ids(receiver: Receiver) -> set[str]:
    return {request.headers["webhook-id"] for request in receiver.requests}


async def is_ready(client: Client, *, ready: bool) -> bool:
    answer = await client.ask("GET", "/health/ready")
    return (answer.status == 200) is ready
