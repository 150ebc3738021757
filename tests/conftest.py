"""The PostgreSQL of a test run, for those tests that ask for it."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

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
    offset = postgres_server.log.stat().st_size
    postgres_server.ensure_running()
    url = postgres_server.create_database()
    yield url
    postgres_server.ensure_running()
    postgres_server.drop_database(url)
    sys.stdout.write(postgres_server.log_since(offset))


@pytest.fixture(scope="session")
def pgbouncer(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """One PgBouncer before the server, for all tests."""
    with ExitStack() as opened:
        try:
            bouncer = opened.enter_context(PgBouncer.open(postgres_server))
        except BinariesMissingError as missing:
            pytest.skip(f"needs a PgBouncer of its own: {missing}")
        yield bouncer
