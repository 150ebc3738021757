"""The PostgreSQL of the tests, and what stands before it, do what tests rely on."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from tests.pgbouncer import PgBouncer
from tests.postgres import PostgresServer, wait_until
from tests.system.gateway_process import ROOT
from tests.tcp_proxy import TcpProxy


async def test_a_server_comes_back_on_its_port_with_what_was_committed(postgres_server: PostgresServer, postgres_url: str):
    """After a stop as in a crash, the same URL leads to the same rows."""
    postgres_server.run_sql(postgres_url, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
    await postgres_server.restart("immediate")
    assert postgres_server.run_sql(postgres_url, "SELECT n FROM kept") == "1"


def test_commits_are_durable(postgres_server: PostgresServer, postgres_url: str):
    """The server keeps the promises that the gateway asks of one."""
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert postgres_server.run_sql(postgres_url, f"SHOW {setting}") == "on"


def test_the_gateways_role_is_nothing_more(postgres_server: PostgresServer, postgres_url: str):
    """It owns its database, and could not make another one."""
    sql = "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication FROM pg_roles WHERE rolname = current_user"
    assert postgres_server.run_sql(postgres_url, sql) == "f|f|f|f"


def test_the_unix_socket_leads_to_the_same_server(postgres_server: PostgresServer):
    """A client in the same machine needs no port."""
    assert postgres_server.run_sql(postgres_server.socket_url("postgres"), "SELECT inet_server_port() IS NULL") == "t"


async def test_connections_are_cut_as_by_an_administrator(postgres_server: PostgresServer, postgres_url: str):
    """Whoever is connected to a database is so no more, and the count says how many there were."""
    connection = await asyncpg.connect(postgres_url)
    assert await postgres_server.terminate_connections(postgres_url) == 1
    assert await postgres_server.terminate_connections(postgres_url) == 0
    await connection.close()


_KILLED_RUN = """
import os, signal
from tests.pgbouncer import PgBouncer
from tests.postgres import PostgresServer
with PostgresServer.open() as server, PgBouncer.open(server) as bouncer:
    print(server.directory, bouncer.log.parent, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.usefixtures("pgbouncer")
def test_nothing_is_left_of_a_test_run_that_was_killed():
    """A run that ends by SIGKILL takes its servers and their directories with it."""
    killed = subprocess.run([sys.executable, "-c", _KILLED_RUN], cwd=ROOT, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    directories = [Path(word) for word in killed.stdout.split()]
    assert len(directories) == 2
    wait_until(lambda: not any(directory.exists() for directory in directories), "the directories to be removed")
    assert not [process for process in Path("/proc").glob("[0-9]*") if _works_in(process, directories)]


def _works_in(process: Path, directories: list[Path]) -> bool:
    try:
        folder = (process / "cwd").readlink()
    except OSError:
        return False  # has ended
    return any(folder.is_relative_to(directory) for directory in directories)


async def test_a_silent_network_comes_back_with_what_it_held(postgres_server: PostgresServer, postgres_url: str):
    """A query that was sent into the silence is answered after it, on the same connection; so is a client that came meanwhile."""
    async with TcpProxy.open(postgres_server.port) as proxy:
        connection = await asyncpg.connect(proxy.by_way_of(postgres_url))
        proxy.go_silent()
        query = asyncio.create_task(connection.fetchval("SELECT 1"))
        newcomer = asyncio.create_task(asyncpg.connect(proxy.by_way_of(postgres_url)))
        done, _ = await asyncio.wait([query, newcomer], timeout=0.2)
        assert not done
        await proxy.pass_on()
        assert await query == 1
        assert await (await newcomer).fetchval("SELECT 2") == 2
        assert proxy.connections == proxy.accepted == 2
        await connection.close()
        await (await newcomer).close()


async def test_answers_are_held_while_the_server_acts(postgres_server: PostgresServer, postgres_url: str):
    """A client whose answer is held, then lost, has committed nevertheless."""
    postgres_server.run_sql(postgres_url, "CREATE TABLE kept (n int)")
    async with TcpProxy.open(postgres_server.port) as proxy:
        connection = await asyncpg.connect(proxy.by_way_of(postgres_url))
        proxy.hold_answers()
        command = asyncio.create_task(connection.execute("INSERT INTO kept VALUES (1)"))
        until_there = "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM kept) LOOP PERFORM pg_sleep(0.01); END LOOP; END $$"
        await asyncio.to_thread(postgres_server.run_sql, postgres_url, until_there)
        assert not command.done()
        proxy.cut()
        with pytest.raises((OSError, asyncpg.PostgresConnectionError)):
            await command


async def test_a_cut_network_resets_and_a_refusing_one_refuses(postgres_server: PostgresServer, postgres_url: str):
    """Connections that are cut end at once; a new one is refused until the proxy passes on again, on the same port."""
    async with TcpProxy.open(postgres_server.port) as proxy:
        reader, _writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        connection = await asyncpg.connect(proxy.by_way_of(postgres_url))
        await proxy.refuse()
        assert await connection.fetchval("SELECT 1") == 1
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        with pytest.raises((OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError)):
            await connection.fetchval("SELECT 1")
        with pytest.raises(ConnectionRefusedError):
            await asyncpg.connect(proxy.by_way_of(postgres_url))
        await proxy.pass_on()
        again = await asyncpg.connect(proxy.by_way_of(postgres_url))
        assert await again.fetchval("SELECT 1") == 1
        await again.close()


async def test_pgbouncer_shares_a_connection_between_transactions(pgbouncer: PgBouncer, postgres_url: str):
    """Two clients take turns on one server connection, as in transaction mode; nothing is prepared."""
    url = pgbouncer.by_way_of(postgres_url)
    one = await asyncpg.connect(url, statement_cache_size=0)
    other = await asyncpg.connect(url, statement_cache_size=0)
    served_by = set()
    for client in (one, other):
        async with client.transaction():
            served_by.add(await client.fetchval("SELECT pg_backend_pid()"))
    assert len(served_by) == 1
    await one.close()
    await other.close()
