"""`gateway backup` and `gateway nodes`, beside a gateway that runs and without one."""

import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.version import VERSION
from tests.postgres import PostgresServer
from tests.receiver import Receiver, hang
from tests.system.gateway_process import Installation, PostgresDatabase, SqliteFile
from tests.system.trouble import small_disk


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Installation]:
    """On the embedded store."""
    async with Installation.open(tmp_path, SqliteFile(tmp_path / "gateway.db")) as opened:
        yield opened


async def test_a_backup_of_a_running_gateway_takes_its_place(embedded: Installation, receiver: Receiver):
    """What was accepted before the command began is delivered by a gateway on the copy, though the first one never did."""
    receiver.script("/hook", [hang()])
    await embedded.start()
    client = await embedded.client()
    await client.create_endpoint(receiver.url("/hook"))
    published = {(await client.publish(data={"weight": "x" * 50_000}))["id"] for _ in range(40)}
    copy = embedded.store.with_name("copy.db")
    made = await embedded.command("backup", str(copy), "--json")
    assert made.code == 0, made.stderr
    assert json.loads(made.stdout)["bytes"] == copy.stat().st_size
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    await embedded.process.kill()

    receiver.script("/hook", [])
    before = len(receiver.requests)
    for path in embedded.store.parent.glob("gateway.db*"):
        path.unlink()
    copy.rename(embedded.store)
    await embedded.start()
    await receiver.wait_until(
        lambda: published <= {request.headers["webhook-id"] for request in receiver.requests[before:]}, "all have arrived"
    )


async def test_a_backup_without_a_gateway(embedded: Installation):
    """The command opens the store itself; and makes none where there is none."""
    target = embedded.store.with_name("copy.db")
    refused = await embedded.command("backup", str(target))
    assert refused.code == 1
    assert "there is no store at" in refused.stderr
    await embedded.command("keys", "create", "--service")
    made = await embedded.command("backup", str(target))
    assert made.code == 0, made.stderr
    assert made.stdout.startswith(f"Backed the store up to {target}: ")
    again = await embedded.command("backup", str(target))
    assert (again.code, "is there already" in again.stderr) == (1, True)


async def test_a_backup_for_which_there_is_no_room_is_a_sentence(embedded: Installation):
    """Nothing is left of it, and the gateway goes on."""
    await embedded.start()
    client = await embedded.client()
    for _ in range(20):
        await client.publish(data={"weight": "x" * 200_000})
    with small_disk(embedded.store.with_name("disk"), mebibytes=1) as disk:
        refused = await embedded.command("backup", str(disk / "copy.db"))
        assert refused.code == 1
        assert refused.stderr.startswith(f"Error: the backup {disk / 'copy.db'} was not made: ")
        assert list(disk.iterdir()) == []
    await client.publish()


async def test_a_node_alone_is_shown_to_hold_everything(installation: Installation):
    """On either store."""
    await installation.start()
    (node,) = json.loads((await installation.command("nodes", "--json")).stdout)
    assert (node["object"], node["version"], node["buckets"], node["isThis"]) == ("node", VERSION, 64, True)


async def test_a_command_is_no_node(postgres_url: str, tmp_path: Path, postgres_server: PostgresServer):
    """It opens the shared store itself, beside the nodes; those that have stopped are gone."""
    async with Installation.open(tmp_path, PostgresDatabase(postgres_server, postgres_url)) as installation:
        await installation.start()
        assert await installation.process.stop() == 0
        assert json.loads((await installation.command("nodes", "--json")).stdout) == []
