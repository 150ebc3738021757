"""`gateway copy` as a person runs it: refused, interrupted, killed, cut off from its database, and complete."""

import asyncio
import contextlib
import os
import pty
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from gateway import settings
from gateway.store.postgres.connection import Database
from gateway.store.postgres.migration import migrate
from gateway.store.postgres.partitions import Partitions
from tests.postgres import PostgresServer
from tests.receiver import Receiver, ok, status
from tests.system.gateway_process import Client, Finished, Installation, SqliteFile, eventually

EVENTS = 25


class Move:
    """A store with deliveries that wait, and the command that copies it."""

    def __init__(self, installation: Installation, client: Client, url: str) -> None:
        self.installation = installation
        self.client = client
        self.url = url

    async def start(self, *, stderr: int = PIPE) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "gateway", "copy", "--from", f"sqlite:///{self.installation.store}"),
            env=self.installation.environment | {"GATEWAY_COPY_TO": self.url},
            stdout=PIPE,
            stderr=stderr,
        )

    async def run(self) -> Finished:
        return await finished(await self.start())

    @contextlib.asynccontextmanager
    async def held_at(self, table: str) -> AsyncIterator[Process]:
        """The command, stopped by a lock before it stores the first rows of *table*; what comes before is committed."""
        configured = settings.Store(url=self.url)
        await migrate(configured)
        # Today's partitions are made beforehand, so that nothing but the rows has to wait.
        await Partitions(Database(configured)).ensure_ahead()
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(f"BEGIN; LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
            process = await self.start()
            await eventually(lambda: self._waits(connection, table), f"the copy to come to {table}")
            yield process
        finally:
            connection.terminate()

    async def _waits(self, connection: asyncpg.Connection, table: str) -> bool:
        sql = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = $1::text::regclass"
        return bool(await connection.fetchval(sql, table))

    async def deliveries(self) -> int:
        connection = await asyncpg.connect(self.url)
        try:
            return int(await connection.fetchval("SELECT count(*) FROM deliveries"))
        finally:
            await connection.close()


async def finished(process: Process) -> Finished:
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return Finished(process.returncode, stdout.decode(), (stderr or b"").decode())


@pytest.fixture
def database(tmp_path: Path) -> SqliteFile:
    """What is copied is the embedded store."""
    return SqliteFile(tmp_path / "gateway.db")


@pytest.fixture
async def move(installation: Installation, receiver: Receiver, postgres_url: str) -> Move:
    """Its gateway has ended; what was sent once, and refused, is to be sent again in an hour."""
    installation.settings["delivery.retry_delays"] = "3600"
    await installation.start()
    client = await installation.client()
    await client.create_endpoint(receiver.url())
    receiver.script("/", [status(500)])
    for number in range(EVENTS):
        await client.publish(data={"number": number}, externalId=str(number))

    async def all_tried() -> bool:
        return installation.database.rows("SELECT count(*) FROM attempts") == [(EVENTS,)]

    await eventually(all_tried, "an attempt of each")
    await installation.process.stop()
    return Move(installation, client, postgres_url)


def assert_complete(done: Finished, url: str) -> None:
    assert done.code == 0, done.stderr
    assert "Everything is there" in done.stdout
    assert "deliveries" in done.stdout
    assert_no_secret(done, url)


def assert_no_secret(done: Finished, url: str) -> None:
    password = url.partition("@")[0].rpartition(":")[2]
    assert len(password) > 8
    assert password not in done.stdout + done.stderr


async def test_everything_moves(move: Move):
    """The command says what it copies, how far it is, what it compared, and that all is there; then that it was done before."""
    done = await move.run()
    assert_complete(done, move.url)
    for words in ("Copying", "rows/s", "Verifying", "into postgresql://127.0.0.1:"):
        assert words in done.stderr
    assert await move.deliveries() == EVENTS
    again = await move.run()
    assert again.code == 0
    assert "was copied into this database before" in again.stdout


async def test_a_terminal_gets_a_bar(move: Move):
    """On a terminal a bar shows how far the copy is."""
    ours, theirs = pty.openpty()
    try:
        process = await move.start(stderr=theirs)
        assert (await finished(process)).code == 0
        shown = os.read(ours, 2**16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    for work in ("Copying", "Verifying", "Waiting work"):
        assert re.search(rf"{work}  \[#+\]  (\d+)/\1", shown), shown


async def test_a_running_gateway_keeps_its_store(move: Move):
    """While a gateway holds the store it is not copied, and a sentence says who has it."""
    await move.installation.start()
    done = await move.run()
    assert done.code == 1
    assert f"another gateway (process {move.installation.process.pid})" in done.stderr
    assert_no_secret(done, move.url)


async def test_a_copy_that_was_killed_goes_on(move: Move):
    """Killed with SIGKILL between two tables, the command begins the next time where it was."""
    async with move.held_at("attempts") as process:
        process.kill()
        assert (await finished(process)).code == -signal.SIGKILL
    assert await move.deliveries() == EVENTS
    done = await move.run()
    assert_complete(done, move.url)
    assert "rows were done before" in done.stderr


async def test_a_copy_that_was_interrupted_goes_on(move: Move):
    """Ctrl-C ends the command with a sentence, and the next one goes on."""
    async with move.held_at("attempts") as process:
        process.send_signal(signal.SIGINT)
        done = await finished(process)
    assert done.code == 130
    assert "the same command goes on from here" in done.stderr
    assert "Traceback" not in done.stderr
    assert_complete(await move.run(), move.url)


async def test_a_copy_whose_database_was_restarted_goes_on(move: Move, postgres_server: PostgresServer):
    """The database's crash ends the command with a sentence, and the next one goes on from what was committed."""
    async with move.held_at("attempts") as process:
        await postgres_server.restart("immediate")
        done = await finished(process)
    assert done.code == 1
    assert "the store" in done.stderr
    assert "the same command goes on from here" in done.stderr
    assert "Traceback" not in done.stderr
    assert_no_secret(done, move.url)
    assert_complete(await move.run(), move.url)


async def test_a_node_does_not_start_on_half_a_copy(move: Move):
    """`gateway serve` on a database that is being copied into ends with a sentence, and starts once the copy is complete."""
    async with move.held_at("attempts") as process:
        process.kill()
        await finished(process)
    file_url = move.installation.settings["store.url"]
    move.installation.settings["store.url"] = move.url
    refused = await move.installation.spawn()
    assert await refused.ended() == 1
    assert "run the same `gateway copy`" in refused.tail
    move.installation.settings["store.url"] = file_url
    assert_complete(await move.run(), move.url)
    move.installation.settings["store.url"] = move.url
    await move.installation.start()
    assert await move.installation.process.stop() == 0


async def test_the_gateway_goes_on_in_its_new_store(move: Move, receiver: Receiver):
    """A gateway on the database knows the keys and the record, takes no event twice, and sends what still waited."""
    before = {request.headers["webhook-id"] for request in receiver.requests}
    assert len(before) == EVENTS
    assert_complete(await move.run(), move.url)
    move.installation.settings |= {"store.url": move.url, "http.socket": move.installation.socket}
    receiver.script("/", [ok()])
    await move.installation.start()
    assert (await move.client.publish(data={}, externalId="7"))["duplicate"] is True
    waiting = await move.client.every("/deliveries", state="pending")
    assert len(waiting) == EVENTS
    for delivery in waiting:
        await move.client.good("POST", f"/deliveries/{delivery['id']}/retry")
    deliveries = await move.client.settled(EVENTS)
    assert {(each["state"], len(each["attempts"])) for each in deliveries} == {("delivered", 2)}
    assert sorted(request.headers["webhook-id"] for request in receiver.requests) == sorted([*before, *before])


@pytest.mark.parametrize(
    "arguments",
    [
        ["copy"],
        ["copy", "--from", "sqlite:///x.db"],
        ["copy", "--from", "postgresql://h/d", "--to", "postgresql://u:s3cret-word@h/d"],
        ["copy", "--from", "sqlite:///x.db", "--to", "mysql://u:s3cret-word@h/d"],
    ],
)
async def test_wrong_usage(installation: Installation, arguments: list[str]):
    """A missing or wrong URL is wrong usage, and no part of one that may hold a password is shown."""
    done = await installation.command(*arguments)
    assert done.code == 2
    assert "s3cret-word" not in done.stdout + done.stderr


async def test_a_missing_store_is_a_sentence(installation: Installation):
    """Where there is no store none is made."""
    path = installation.store.with_name("nothing.db")
    done = await installation.command("copy", "--from", f"sqlite:///{path}", "--to", "postgresql://u:s3cret-word@127.0.0.1:9/d")
    assert (done.code, done.stderr) == (1, f"Error: there is no store {path}\n")
    assert not path.exists()


async def test_a_database_that_is_not_there_is_a_sentence(move: Move):
    """Nobody listens at the URL: the sentence says so without showing it."""
    move.url = "postgresql://u:s3cret-word@127.0.0.1:9/d"
    done = await move.run()
    assert done.code == 1
    assert done.stderr.startswith("Error: the store")
    assert "s3cret-word" not in done.stderr
