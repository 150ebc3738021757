"""What system tests start from: an installation of the gateway, or several nodes on one database, and a receiver beside them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.postgres import PostgresServer
from tests.receiver import Receiver
from tests.system.cluster import Cluster
from tests.system.gateway_process import Database, Installation, PostgresDatabase, SqliteFile


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty one, of each kind in turn."""
    if request.param == "sqlite":
        return SqliteFile(tmp_path / "gateway.db")
    # Asked for only here: most of a test run may do without a PostgreSQL.
    return PostgresDatabase(request.getfixturevalue("postgres_server"), request.getfixturevalue("postgres_url"))


@pytest.fixture
async def installation(database: Database, tmp_path: Path) -> AsyncIterator[Installation]:
    """Nothing runs on it yet, so that a test may change its settings first. Deliveries may go to loopback."""
    async with Installation.open(tmp_path, database) as opened:
        yield opened


@pytest.fixture
async def cluster(postgres_server: PostgresServer, postgres_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    """It has no nodes yet."""
    async with Cluster.open(tmp_path, PostgresDatabase(postgres_server, postgres_url)) as opened:
        yield opened


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver.open() as opened:
        yield opened
