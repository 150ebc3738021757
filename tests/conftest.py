"""The PostgreSQL of a test run, for those tests that ask for it."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from gateway import ids, settings
from gateway.store.postgres import migrate
from gateway.store.postgres.connection import Database
from gateway.store.postgres.partitions import Partitions
from tests.fakes import START, make_id
from tests.pgbouncer import PgBouncer
from tests.postgres import BinariesMissingError, PostgresServer


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One private server for all tests; a test that stops it starts it again."""
    with ExitStack() as opened:
        try:
            server = opened.enter_context(PostgresServer.open())
        except BinariesMissingError as missing:
            pytest.skip(f"needs a PostgreSQL of its own: {missing}")
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database of the test's own; should the test fail, its report has what the server logged meanwhile."""
    with _database(postgres_server, postgres_server.create_database) as url:
        yield url


@pytest.fixture(scope="session")
def template_url(postgres_server: PostgresServer) -> str:
    """The URL of a migrated database, with the days that tests write to, which is there to be copied."""
    postgres_server.ensure_running()
    url = postgres_server.create_database("template")
    asyncio.run(_migrate(settings.Store(url=url)))
    return url


async def _migrate(configured: settings.Store) -> None:
    await migrate(configured)
    partitions = Partitions(Database(configured))
    await partitions.ensure_ahead()
    await partitions.ensure([make_id(ids.EVENT, START)])


@pytest.fixture
def migrated_url(postgres_server: PostgresServer, template_url: str) -> Iterator[str]:
    """As `postgres_url`, of a database that is migrated."""
    with _database(postgres_server, lambda: postgres_server.copy_database(template_url)) as url:
        yield url


@contextmanager
def _database(server: PostgresServer, make: Callable[[], str]) -> Iterator[str]:
    offset = server.log.stat().st_size
    server.ensure_running()
    url = make()
    yield url
    server.ensure_running()
    server.drop_database(url)
    sys.stdout.write(server.log_since(offset))


@pytest.fixture(scope="session")
def pgbouncer(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """One PgBouncer before the server, for all tests."""
    with ExitStack() as opened:
        try:
            bouncer = opened.enter_context(PgBouncer.open(postgres_server))
        except BinariesMissingError as missing:
            pytest.skip(f"needs a PgBouncer of its own: {missing}")
        yield bouncer
