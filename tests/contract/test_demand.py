"""The store contract between processes: what each of them is asked for with an API key."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from gateway import settings
from gateway.errors import StoreUnavailable
from gateway.store.postgres.cluster import DEMAND_KEPT_FOR, DEMAND_TOLD_FOR, PostgresCluster
from gateway.store.postgres.connection import Database
from tests.contract.acts import is_waiting
from tests.contract.test_cluster import join
from tests.pgbouncer import PgBouncer

AGE = "UPDATE demand SET at = at - $1"


@pytest.fixture
async def one(migrated_url: str) -> AsyncIterator[PostgresCluster]:
    async with PostgresCluster.open(Database(settings.Store(url=migrated_url))) as cluster:
        yield cluster


@pytest.fixture
async def other(migrated_url: str) -> AsyncIterator[PostgresCluster]:
    async with PostgresCluster.open(Database(settings.Store(url=migrated_url))) as cluster:
        yield cluster


@pytest.fixture
async def raw(migrated_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own."""
    connection = await asyncpg.connect(migrated_url)
    yield connection
    await connection.close()


async def test_share_demand(one: PostgresCluster, other: PostgresCluster):
    """Each hears what the others were asked for with the keys that it names, and not of itself or other keys."""
    assert await one.share_demand({"a": 1.5, "b": 2}) == {}
    assert await other.share_demand({"a": 3, "c": 4}) == {"a": [1.5]}
    assert await one.share_demand({"a": 1, "b": 2, "c": 9}) == {"a": [3], "c": [4]}
    assert await one.share_demand({}) == {}


async def test_the_last_demand_counts(one: PostgresCluster, other: PostgresCluster):
    """What a process told before is forgotten, also when it has joined meanwhile and goes by another id."""
    await one.share_demand({"a": 1})
    await join(one)
    assert await one.share_demand({"a": 2}) == {}
    assert await other.share_demand({"a": 0}) == {"a": [2]}


async def test_old_demand_is_forgotten(one: PostgresCluster, other: PostgresCluster, raw: asyncpg.Connection):
    """Who has told nothing for some seconds is not counted, until it tells again."""
    await one.share_demand({"a": 1})
    await raw.execute(AGE, DEMAND_TOLD_FOR)
    assert await other.share_demand({"a": 2}) == {}
    assert await one.share_demand({"a": 1}) == {"a": [2]}
    assert await other.share_demand({"a": 2}) == {"a": [1]}


async def test_rows_of_the_dead_are_deleted(one: PostgresCluster, other: PostgresCluster, raw: asyncpg.Connection):
    """What nobody has told again for a minute goes, and holds nobody up while somebody is just telling it."""
    await one.share_demand({"a": 1, "b": 1})
    await raw.execute(AGE, DEMAND_KEPT_FOR + 1)
    async with raw.transaction():
        await raw.execute("UPDATE demand SET per_second = 5 WHERE key_id = 'a'")
        assert await other.share_demand({"c": 1}) == {}
        assert [row[0] for row in await raw.fetch("SELECT key_id FROM demand ORDER BY key_id")] == ["a", "c"]
    other._prune_demand_at = 0
    await other.share_demand({})
    assert [row[0] for row in await raw.fetch("SELECT key_id FROM demand")] == ["c"]


async def test_many_who_tell_at_once(one: PostgresCluster, other: PostgresCluster):
    """Two that tell of the same keys at the same time, in whatever order, both succeed."""
    keys = [f"key_{number}" for number in range(100)]
    for _ in range(10):
        await asyncio.gather(one.share_demand(dict.fromkeys(keys, 1.0)), other.share_demand(dict.fromkeys(reversed(keys), 2.0)))
    assert await one.share_demand(dict.fromkeys(keys, 1.0)) == {key: [2] for key in keys}


async def test_a_store_that_does_not_answer(migrated_url: str, one: PostgresCluster, raw: asyncpg.Connection):
    """Telling takes no longer than a statement may, and then raises; the next time is answered."""
    async with PostgresCluster.open(Database(settings.Store(url=migrated_url, statement_seconds=0.1))) as hasty:
        async with raw.transaction():
            await raw.execute("LOCK TABLE demand")
            telling = asyncio.create_task(hasty.share_demand({"a": 1}))
            await is_waiting(raw)
            with pytest.raises(StoreUnavailable):
                await telling
        assert await hasty.share_demand({"a": 1}) == {}


async def test_behind_a_pooler(migrated_url: str, pgbouncer: PgBouncer, one: PostgresCluster):
    """Where transactions share connections and no statement is prepared, demand is told as well."""
    configured = settings.Store(url=pgbouncer.by_way_of(migrated_url), prepared_statements=False)
    async with PostgresCluster.open(Database(configured)) as pooled:
        await one.share_demand({"a": 1})
        assert await pooled.share_demand({"a": 2}) == {"a": [1]}
        assert await one.share_demand({"a": 1}) == {"a": [2]}
