"""Trouble with the embedded store while the gateway runs, made for real: publishers are told, nothing that was accepted is lost,
/health/ready says why, and when it ends all goes on by itself."""

import contextlib
import resource
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from gateway.errors import StoreTrouble
from tests.receiver import Receiver
from tests.system import trouble
from tests.system.gateway_process import Answer, Client, Installation, SqliteFile, eventually
from tests.system.trouble import Trouble

TROUBLES: list[tuple[str, Trouble, StoreTrouble]] = [
    ("the disk is full", trouble.full, StoreTrouble.FULL),
    ("another file is in its place", trouble.replaced, StoreTrouble.MOVED),
    ("another process has locked it", trouble.locked, StoreTrouble.LOCKED),
    ("the disk takes its time", trouble.faulty("fdatasync:delay_enter=6000000"), StoreTrouble.SLOW),
    ("the disk does not sync", trouble.faulty("fdatasync:error=EIO"), StoreTrouble.DAMAGED),
    ("the disk does not write", trouble.faulty("pwrite64:error=EIO"), StoreTrouble.DAMAGED),
    (
        "the file system has become read-only",
        trouble.faulty("pwrite64:error=EROFS", "ftruncate:error=EROFS"),
        StoreTrouble.DAMAGED,
    ),
    ("no file can be opened", trouble.faulty("openat:error=EMFILE", "pwrite64:error=EIO"), StoreTrouble.DAMAGED),
]


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    """On a small disk of its own."""
    with trouble.small_disk(tmp_path / "disk", mebibytes=12) as disk:
        async with Installation.open(disk, SqliteFile(disk / "gateway.db")) as opened:
            yield opened


@pytest.mark.parametrize(("make", "reason"), [case[1:] for case in TROUBLES], ids=[case[0] for case in TROUBLES])
async def test_trouble_costs_answers_but_no_events(
    installation: Installation, receiver: Receiver, make: Trouble, reason: StoreTrouble
):
    """Publishers get 503 with Retry-After, /health/ready says why, and when it is over all goes on: what was accepted arrives,
    and the file is sound, whatever then ends the process."""
    gateway = await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    accepted = [(await client.publish())["id"] for _ in range(3)]
    await receiver.wait_for(3)

    async with make(installation):
        refused = await publish_until_refused(client, accepted)
        assert (refused.status, refused.body["error"]["code"]) == (503, "unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        await eventually(lambda: says(client, reason), f"the gateway says: {reason}")
    await eventually(lambda: says(client, None), "the gateway has recovered")
    accepted.append((await client.publish())["id"])
    await receiver.wait_until(lambda: set(accepted) <= ids(receiver), "every accepted event has arrived")

    await gateway.kill()
    assert_sound(installation.store)
    await installation.start()
    assert {each["eventId"] for each in await client.settled(len(accepted))} >= set(accepted)


async def test_a_deleted_file_is_put_back(installation: Installation, receiver: Receiver):
    """Somebody deletes the store's files: what is open is written anew, so that the end of the process costs nothing."""
    gateway = await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    accepted = [(await client.publish())["id"] for _ in range(3)]
    await receiver.wait_for(3)
    for file in installation.store.parent.glob("gateway.db*"):
        if not file.is_socket():
            file.unlink()
    await gateway.logged("store.put_back")
    await eventually(lambda: says(client, None), "the gateway takes work")
    accepted.append((await client.publish())["id"])
    await receiver.wait_until(lambda: set(accepted) <= ids(receiver), "every accepted event has arrived")
    await gateway.kill()
    assert_sound(installation.store)
    await installation.start()
    assert {each["eventId"] for each in await client.settled(len(accepted))} == set(accepted)


async def test_a_deleted_lock_is_locked_anew(installation: Installation):
    """Nobody else gets at the store for longer than a moment, though somebody deletes the file that keeps them out."""
    await installation.start()
    lock = installation.store.with_name("gateway.db.lock")
    lock.unlink()

    async def is_back() -> bool:
        return lock.exists()

    await eventually(is_back, "the lock is there again")
    second = await installation.spawn("--set", "http.socket=" + str(installation.store.with_name("other.sock")))
    assert await second.ended() == 1
    assert "another gateway" in second.tail


async def test_a_deleted_log_is_put_back(installation: Installation, receiver: Receiver):
    """The write-ahead log alone is deleted, with everything in it: it is not missed."""
    gateway = await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    accepted = [(await client.publish())["id"] for _ in range(3)]
    await receiver.wait_for(3)
    installation.store.with_name("gateway.db-wal").unlink()
    await gateway.logged("store.put_back")
    accepted.append((await client.publish())["id"])
    await receiver.wait_for(4)
    await gateway.kill()
    assert_sound(installation.store)
    await installation.start()
    assert {each["eventId"] for each in await client.settled(len(accepted))} == set(accepted)


async def test_a_file_is_put_back_in_the_midst_of_work(installation: Installation, receiver: Receiver):
    """The file is deleted again and again under load: every accepted event arrives, and none is refused for long."""
    gateway = await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    accepted: list[str] = []
    for _ in range(5):
        installation.store.unlink()
        for _ in range(20):
            answer = await client.ask("POST", "/events", {"event": "invoice.paid", "data": {}})
            assert answer.status in {202, 503}
            if answer.status == 202:
                accepted.append(answer.body["id"])
    await eventually(lambda: says(client, None), "the gateway takes work")
    await gateway.kill()
    await installation.start()
    await receiver.wait_until(lambda: set(accepted) <= ids(receiver), "every accepted event has arrived")
    assert len(accepted) > 50


async def test_a_disk_that_can_only_be_read_is_refused_at_the_start(installation: Installation):
    """The start says in a sentence that the store cannot be written to."""
    await (await installation.start()).stop()
    disk = installation.store.parent
    with trouble.read_only(disk):
        process = await installation.spawn()
        assert await process.ended() == 1
    assert "cannot be opened: Read-only file system" in process.tail
    assert "Traceback" not in process.tail


async def test_a_full_disk_does_not_keep_the_gateway_from_stopping(installation: Installation, receiver: Receiver):
    """SIGTERM ends it within its deadlines, though nothing more can be stored."""
    installation.settings["delivery.drain_seconds"] = 1
    gateway = await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    async with trouble.full(installation):
        await publish_until_refused(client, [])
        asked_at = time.monotonic()
        await gateway.stop()
        assert time.monotonic() - asked_at < 15


@pytest.mark.parametrize("room", [0, 40_960], ids=["none left", "a little left"])
async def test_a_file_that_cannot_grow(installation: Installation, receiver: Receiver, room: int):
    """A limit on the size of files (`ulimit -f`) is as good as a full disk."""
    gateway = await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    trouble.limit_files_to(gateway.pid, trouble.size_of_store(installation.store) + room)
    accepted: list[str] = []
    await publish_until_refused(client, accepted)
    await eventually(lambda: says(client, StoreTrouble.FULL, StoreTrouble.DAMAGED), "the gateway says why")
    trouble.limit_files_to(gateway.pid, resource.RLIM_INFINITY)
    await eventually(lambda: says(client, None), "the gateway has recovered")
    await receiver.wait_until(lambda: set(accepted) <= ids(receiver), "every accepted event has arrived")


async def publish_until_refused(client: Client, accepted: list[str]) -> Answer:
    """The first answer that is no 202; the ids of the events before it go to *accepted*."""
    for number in range(2_000):
        answer = await client.ask("POST", "/events", {"event": "invoice.paid", "data": {"number": number, "weight": "x" * 8_000}})
        if answer.status != 202:
            return answer
        accepted.append(answer.body["id"])
    raise AssertionError("everything was accepted")


async def says(client: Client, *reasons: StoreTrouble | None) -> bool:
    """Whether /health/ready gives one of *reasons*; None: that it is ready."""
    with contextlib.suppress(aiohttp.ClientConnectionError):
        answer = await client.ask("GET", "/health/ready")
        return (answer.body.get("reason") if answer.status == 503 else None) in reasons
    return False


def ids(receiver: Receiver) -> set[str]:
    return {request.headers["webhook-id"] for request in receiver.requests}


def assert_sound(store: Path) -> None:
    with contextlib.closing(sqlite3.connect(store)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
