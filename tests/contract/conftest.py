"""The store contract: what `gateway.store.protocol` promises, once for every backend."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from gateway import settings
from gateway.store.postgres import PostgresStore
from gateway.store.protocol import Store
from gateway.store.sqlite import SqliteStore

Open = Callable[[], AbstractAsyncContextManager[Store]]
"""Opens the test's store; once it is left, opens it again."""


@pytest.fixture(params=["sqlite", "postgres"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param == "sqlite":
        return lambda: SqliteStore.open(tmp_path / "gateway.db")
    configured = settings.Store(url=request.getfixturevalue("migrated_url"))
    return lambda: PostgresStore.open(configured)


@pytest.fixture
async def store(open_store: Open) -> AsyncIterator[Store]:
    async with open_store() as opened:
        yield opened
