"""The store contract: secrets and headers of endpoints, encrypted where there is a key."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from gateway import settings, signing
from gateway.clock import SECOND
from gateway.errors import SecretUnreadable, SettingsError, StoreUnavailable
from gateway.model import BUCKETS, Endpoint, Node
from gateway.registry.endpoints import deleted
from gateway.registry.reencryption import STEP, Reencrypted, reencrypt
from gateway.store.postgres import PostgresStore
from gateway.store.postgres.connection import Database, opening
from gateway.store.protocol import Change, Store
from gateway.store.sealing import Sealing, name_of, new_key
from gateway.store.sqlite import SqliteStore
from tests.contract import acts
from tests.fakes import SECRET, START, endpoint, make_id, tenant

T = TypeVar("T")

OLD, NEW = new_key(), new_key()
HEADERS = {"Authorization": "Bearer of-the-receiver"}

OpenWith = Callable[..., AbstractAsyncContextManager[Store]]
"""Opens the test's store with these keys."""


@pytest.fixture(params=["sqlite", "postgres"])
def open_with(request: pytest.FixtureRequest, tmp_path: Path) -> OpenWith:
    if request.param == "sqlite":
        return lambda *keys: SqliteStore.open(tmp_path / "gateway.db", Sealing(keys))
    configured = settings.Store(url=request.getfixturevalue("migrated_url"))
    return lambda *keys: PostgresStore.open(configured, Sealing(keys))


async def stored(store: Store) -> list[tuple[Any, ...]]:
    """The three texts of each endpoint as they stand in the store, in the order of ids."""
    sql = "SELECT secret, previous_secret, headers FROM endpoints ORDER BY id"
    if isinstance(store, SqliteStore):
        return [tuple(row) for row in await (await store._connection()).execute_fetchall(sql)]
    assert isinstance(store, PostgresStore)
    database: Database = store._database
    async with database.single() as session:
        await session.begin(opening(seconds=1))
        return [tuple(row) for row in await session.fetch(sql)]


def full_endpoint(**fields: Any) -> Endpoint:
    """One that has everything that is encrypted, like no other's."""
    made = endpoint(headers=HEADERS, previous_secret_until=START + SECOND, **fields)
    return replace(made, secret=signing.new_secret(), previous_secret=signing.new_secret())


def texts_of(*endpoints: Endpoint) -> list[str]:
    """What must not be seen of them."""
    secrets = [text for each in endpoints for text in (each.secret, each.previous_secret) if text]
    return [*secrets, *HEADERS.values()]


async def test_secrets_are_stored_encrypted_and_read_in_clear(open_with: OpenWith):
    """Whichever way an endpoint is read, its secrets and headers are there; what is stored shows nothing of them."""
    plain, full = endpoint(), full_endpoint()
    async with open_with(NEW) as store:
        await acts.add_endpoints(store, plain, full)
        await acts.deliver_to(store, full)
        changed = await acts.save_endpoint(store, replace(plain, headers=HEADERS, previous_secret=plain.secret))
        async with store.transaction() as transaction:
            assert await transaction.endpoint(full.tenant, full.id) == full
            assert await transaction.endpoint_by_id(full.id) == full
            assert await transaction.endpoints_by_id([plain.id, full.id]) == {plain.id: changed, full.id: full}
            assert (await transaction.active_endpoints(tenant())).endpoints == (changed, full)
        assert await store.endpoint(full.tenant, full.id) == full
        assert list((await store.endpoints(tenant(), below=None, limit=10)).items) == [full, changed]
        assert [work.endpoint for work in await store.lane_work(range(BUCKETS))] == [full]
        assert list(await store.ended_overlaps(START + SECOND, limit=10)) == [full]
        found = await stored(store)
        assert not [text for text in texts_of(plain, full) if text in repr(found)]
        assert await store.sealed_with() == {name_of(NEW): 6}
    async with open_with(OLD, NEW) as store:
        assert await store.endpoint(full.tenant, full.id) == full


async def test_what_was_stored_in_clear_is_read(open_with: OpenWith):
    """A key that is set later changes nothing of it, until it is saved again."""
    one, other = full_endpoint(), full_endpoint()
    async with open_with() as store:
        await acts.add_endpoints(store, one, other)
        assert await store.sealed_with() == {None: 6}
    async with open_with(NEW) as store:
        assert await store.endpoint(one.tenant, one.id) == one
        await acts.save_endpoint(store, one)
        assert await store.sealed_with() == {None: 3, name_of(NEW): 3}
        assert await store.endpoint(one.tenant, one.id) == one


async def test_a_store_whose_key_is_lacking_does_not_open(open_with: OpenWith):
    """With another key, with `clear`, or with none; with the right one it does, and nothing was changed meanwhile."""
    made = full_endpoint()
    async with open_with(OLD) as store:
        await acts.add_endpoints(store, made)
        before = await stored(store)
    for keys in ((), ("clear",), (NEW,)):
        with pytest.raises(SecretUnreadable, match=rf"encrypted with the key {name_of(OLD)}, and secrets\.encryption_key has "):
            await open_with(*keys).__aenter__()
    async with open_with("clear", OLD) as store:
        assert await stored(store) == before
        assert await store.endpoint(made.tenant, made.id) == made


async def test_a_store_without_secrets_opens_with_any_key(open_with: OpenWith):
    """What belonged to a deleted endpoint needs none."""
    made = full_endpoint()
    async with open_with(OLD) as store:
        await acts.add_endpoints(store, made)
        await acts.save_endpoint(store, deleted(made, START))
        assert await store.sealed_with() == {}
    async with open_with() as store:
        async with store.transaction() as transaction:
            found = await transaction.endpoint_by_id(made.id)
        assert found is not None
        assert (found.secret, found.previous_secret, found.headers) == ("", None, {})


async def test_a_secret_that_is_damaged_is_not_read(open_with: OpenWith):
    """Nothing is ever signed with what it is not: the sentence says whose it is. All others are read."""
    damaged, sound = endpoint(secret=Sealing([OLD]).seal(SECRET)[:-4]), full_endpoint()
    async with open_with() as store:
        await acts.add_endpoints(store, damaged, sound)
    async with open_with(OLD) as store:
        with pytest.raises(SecretUnreadable, match=f"for the endpoint {damaged.id} is damaged"):
            await store.endpoint(damaged.tenant, damaged.id)
        with pytest.raises(SecretUnreadable, match=f"for the endpoint {damaged.id} is damaged"):
            async with store.transaction() as transaction:
                await transaction.active_endpoints(tenant())
        assert await store.endpoint(sound.tenant, sound.id) == sound


# Encrypting anew


async def reencrypted(store: Store) -> Reencrypted:
    return await reencrypt(Direct(store), store)


class Direct:
    """See `store.protocol.Changer`; without a writer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def change(self, change: Change[T]) -> T:
        return await acts.change(self._store, change)


async def test_everything_is_encrypted_anew(open_with: OpenWith):
    """What was in clear and what another key had encrypted, in steps, deleted endpoints passed over; afterwards the first key is
    all that is needed, and nothing else of the endpoints has changed."""
    before = [full_endpoint(failed_in_row=2) for _ in range(STEP)]
    async with open_with(OLD) as store:
        await acts.add_endpoints(store, *before)
    clear = [endpoint(), full_endpoint(), full_endpoint(deleted_at=START)]
    async with open_with("clear", OLD) as store:
        await acts.add_endpoints(store, *clear)
        gone = await acts.save_endpoint(store, deleted(clear[-1], START))
    async with open_with(NEW, OLD) as store:
        await acts.add_endpoints(store, new := full_endpoint())
        texts = texts_of(*before, *clear, new)
        assert await reencrypted(store) == Reencrypted(name_of(NEW), seen=STEP + 4, resealed=STEP + 2)
        assert await store.sealed_with() == {name_of(NEW): 3 * STEP + 1 + 3 + 3}
        assert not [text for text in texts if text in repr(await stored(store))]
    async with open_with(NEW) as store:
        everything = [*before, *clear[:-1], new]
        assert (await acts.walk(lambda below: store.endpoints(tenant(), below=below, limit=50)))[::-1] == everything
        async with store.transaction() as transaction:
            assert await transaction.endpoint_by_id(gone.id) == gone
        assert await reencrypted(store) == Reencrypted(name_of(NEW), seen=STEP + 4, resealed=0)


async def test_encryption_is_taken_back(open_with: OpenWith):
    """With `clear` as the first of the keys; then none is needed any more."""
    made = full_endpoint()
    async with open_with(OLD) as store:
        await acts.add_endpoints(store, made)
    async with open_with("clear", OLD) as store:
        assert await reencrypted(store) == Reencrypted(None, seen=1, resealed=1)
    async with open_with() as store:
        assert await store.endpoint(made.tenant, made.id) == made


async def test_a_change_at_the_same_time_is_not_undone(open_with: OpenWith):
    """A step reads and writes within one transaction: what an endpoint is changed to before it or after it stays."""
    made = full_endpoint()
    async with open_with("clear", OLD) as store:
        await acts.add_endpoints(store, made)
    async with open_with(OLD) as store:
        changed = replace(made, secret=signing.new_secret(), description="changed")

        async def change() -> None:
            await acts.save_endpoint(store, changed)

        await asyncio.gather(reencrypted(store), change(), reencrypted(store))
        assert await store.endpoint(made.tenant, made.id) == changed
        assert await store.sealed_with() == {name_of(OLD): 3}


# The files of the embedded store


async def test_nothing_in_clear_stays_in_the_files(tmp_path: Path):
    """Once everything is encrypted anew, neither the file nor its log holds a byte of what was in clear, nor of what another key
    had encrypted: also of endpoints that were changed and deleted before."""
    path = tmp_path / "gateway.db"
    endpoints = [full_endpoint(description="d" * (number % 400)) for number in range(1_500)]
    async with SqliteStore.open(path) as store:
        for start in range(0, len(endpoints), 100):
            await acts.add_endpoints(store, *endpoints[start : start + 100])
        changed = [await acts.save_endpoint(store, replace(each, url=each.url * 9)) for each in endpoints[::7]]
        for each in changed[::5]:
            await acts.save_endpoint(store, deleted(each, START))
    texts = [text.encode() for text in texts_of(*endpoints)]
    assert sum(text in path.read_bytes() for text in texts) > len(endpoints)
    async with SqliteStore.open(path, Sealing([OLD])) as store:
        await reencrypted(store)
        assert not seen_in(path, texts)
        tokens = [text.encode() for row in await stored(store) for text in row if text]
    async with SqliteStore.open(path, Sealing([NEW, OLD])) as store:
        await reencrypted(store)
        assert not seen_in(path, [*texts, *tokens])


def seen_in(path: Path, texts: Sequence[bytes]) -> list[bytes]:
    """Which of *texts* are in the files of the store in *path*."""
    content = b"".join(file.read_bytes() for file in path.parent.iterdir())
    return [text for text in texts if text in content]


async def test_a_log_that_is_being_read_is_said_to_be_left(tmp_path: Path):
    """Nobody is told that nothing is left while it may be."""
    path = tmp_path / "gateway.db"
    async with SqliteStore.open(path) as store:
        await acts.add_endpoints(store, full_endpoint())
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM endpoints").fetchall()
            await acts.add_endpoints(store, full_endpoint())
            with pytest.raises(StoreUnavailable, match="could not be emptied, since it is being read"):
                await store.wipe()
        await store.wipe()
        assert path.with_name("gateway.db-wal").stat().st_size == 0


# Several processes on one PostgreSQL


async def test_news_under_a_key_that_is_lacking_is_not_passed_over(migrated_url: str):
    """Another process encrypts with a key that this one lacks: it hears so, again and again, instead of not hearing of the
    change."""
    configured = settings.Store(url=migrated_url)
    async with (
        PostgresStore.open(configured, Sealing([OLD])) as store,
        PostgresStore.open(configured, Sealing([NEW, OLD])) as other,
    ):
        assert store.cluster is not None
        await acts.add_endpoints(other, made := full_endpoint())
        for _ in range(2):
            with pytest.raises(SecretUnreadable, match=name_of(NEW)):
                await store.cluster.news()
        with pytest.raises(SecretUnreadable, match=name_of(NEW)):
            await store.endpoint(made.tenant, made.id)
        assert await other.endpoint(made.tenant, made.id) == made


def node_of(name: str) -> Node:
    return Node(id=make_id("node_"), name=name, version="1", started_at=START, lease_seconds=5)


async def test_a_node_tells_of_its_keys(migrated_url: str):
    """Who encrypts with a key that a node which lives lacks, or lacks the one that it encrypts with, is refused; keys that both
    have are no reason, and neither is a node that has left, or whose lease has ended."""
    configured = settings.Store(url=migrated_url)
    async with PostgresStore.open(configured, Sealing([OLD])) as store:
        assert store.cluster is not None
        await store.cluster.join(node := node_of("first"))
        with pytest.raises(SettingsError, match=f"its first key, {name_of(NEW)}, is not known to first"):
            await PostgresStore.open(configured, Sealing([NEW, OLD])).__aenter__()
        with pytest.raises(SettingsError, match=f"lacks the key {name_of(OLD)}, with which first encrypts"):
            await PostgresStore.open(configured).__aenter__()
        async with PostgresStore.open(configured, Sealing([OLD, NEW])):
            pass
        async with store._database.single() as session:
            await session.begin(opening(seconds=1))
            await session.script("UPDATE nodes SET renewed_at = renewed_at - 5000")
            await session.end()
        async with PostgresStore.open(configured, Sealing([NEW])):
            pass
        await store.cluster.renew(node.id)
        with pytest.raises(SettingsError):
            await PostgresStore.open(configured, Sealing([NEW])).__aenter__()
        await store.cluster.leave(node.id)
    async with PostgresStore.open(configured, Sealing([NEW])) as store:
        assert store.cluster is not None
        await store.cluster.join(node_of("second"))
        async with store._database.single() as session:
            await session.begin(opening(seconds=1))
            kept = await session.fetch("SELECT name FROM meta WHERE name LIKE 'keys of %'")
        assert len(kept) == 1
