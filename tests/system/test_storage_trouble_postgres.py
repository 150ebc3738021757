"""Trouble with the PostgreSQL that the store is in, made for real: as `test_storage_trouble` has it for the embedded store. How
it goes away as a whole (a crash, cut connections, silence) is in `test_nodes_database`."""

import asyncio
import contextlib
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from gateway.errors import StoreTrouble
from scripts.benchmarks.postgres_server import database_of
from tests.postgres import BinariesMissingError, PostgresServer, own_folder
from tests.receiver import Receiver
from tests.system import trouble
from tests.system.gateway_process import Installation, PostgresDatabase, eventually
from tests.system.test_storage_trouble import ids, publish_until_refused, says

SETTINGS = {
    "fsync": "on",  # a server without it is refused
    "shared_buffers": "16MB",
    "min_wal_size": "32MB",
    "max_wal_size": "48MB",
    "listen_addresses": "127.0.0.1",
}


class Scene:
    """A server on a small disk of its own."""

    def __init__(self, server: PostgresServer, disk: Path) -> None:
        self.server = server
        self.disk = disk


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with (
        tempfile.TemporaryDirectory() as parent,
        trouble.small_disk(own_folder(Path(parent)), mebibytes=256) as disk,
    ):
        own_folder(disk)
        try:
            with PostgresServer.open(disk) as server:
                yield Scene(server, disk)
        except BinariesMissingError as missing:
            pytest.skip(f"needs a PostgreSQL of its own: {missing}")


@contextlib.contextmanager
def read_only(scene: Scene, _url: str) -> Iterator[None]:
    """As a primary that became a standby."""
    _configure(scene, "default_transaction_read_only", "on")
    yield
    _configure(scene, "default_transaction_read_only", "off")


def _configure(scene: Scene, name: str, value: str) -> None:
    for sql in (f"ALTER SYSTEM SET {name} = '{value}'", "SELECT pg_reload_conf()"):
        scene.server.run_sql(scene.server.admin_url(), sql)


@contextlib.contextmanager
def locked(scene: Scene, url: str) -> Iterator[None]:
    """Somebody works on the table that each transaction writes to, and lets nobody near it."""
    command = ["psql", "-XAtq", "-d", scene.server.admin_url(database_of(url))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write("BEGIN; LOCK TABLE commits IN ACCESS EXCLUSIVE MODE; SELECT 'locked';\n")
        other.stdin.flush()
        assert other.stdout.readline() == "locked\n"
        yield
        other.stdin.close()  # which ends it, and with it the lock


@contextlib.contextmanager
def full(scene: Scene, _url: str) -> Iterator[None]:
    """Not a byte is left on the server's disk."""
    with trouble.filled(scene.disk):
        yield


Trouble = Callable[[Scene, str], AbstractContextManager[None]]


@pytest.fixture
async def installation(scene: Scene, tmp_path: Path) -> AsyncIterator[Installation]:
    async with Installation.open(tmp_path, PostgresDatabase(scene.server, scene.server.create_database())) as opened:
        yield opened


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(read_only, StoreTrouble.READ_ONLY, id="it can only be read"),
        pytest.param(locked, StoreTrouble.LOCKED, id="somebody has locked a table"),
        pytest.param(full, StoreTrouble.FULL, id="its disk is full"),
    ],
)
async def test_trouble_costs_answers_but_no_events(
    installation: Installation, receiver: Receiver, scene: Scene, make: Trouble, reason: StoreTrouble
):
    """Publishers get 503 with Retry-After, /health/ready says why, and when it is over all goes on: what was accepted arrives."""
    await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url("/hook"))
    accepted = [(await client.publish())["id"] for _ in range(3)]
    await receiver.wait_for(3)
    with make(scene, installation.database.url):
        refused = await publish_until_refused(client, accepted)
        assert (refused.status, refused.body["error"]["code"]) == (503, "unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        await eventually(lambda: says(client, reason), f"the gateway says: {reason}")
    await asyncio.to_thread(scene.server.ensure_running)
    await eventually(lambda: says(client, None), "the gateway has recovered")
    accepted.append((await client.publish())["id"])
    await receiver.wait_until(lambda: set(accepted) <= ids(receiver), "every accepted event has arrived")
