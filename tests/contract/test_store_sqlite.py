"""What only the embedded store promises: its file, its lock, its indexes, and commits whose end is in doubt."""

import contextlib
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.errors import SchemaMismatch, StoreLocked, StoreUnavailable
from gateway.model import DeliveryState
from gateway.store import queries
from gateway.store.protocol import DeliveryFilter, EventFilter
from gateway.store.sqlite import SqliteStore
from gateway.store.sqlite.connection import Connection, Statement, open_writer
from tests.contract.acts import add_endpoints, add_events, deliver_to, ids, walk
from tests.fakes import START, endpoint, event, tenant


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


# The file


async def test_a_second_process_is_refused(path: Path):
    """Another process that has the file open is named in the refusal."""
    code = (
        "import asyncio, pathlib, sys\n"
        "from gateway.store.sqlite import SqliteStore\n"
        "async def hold():\n"
        "    async with SqliteStore.open(pathlib.Path(sys.argv[1])):\n"
        "        print('open', flush=True)\n"
        "        sys.stdin.read()\n"
        "asyncio.run(hold())\n"
    )
    with subprocess.Popen(  # noqa: ASYNC220 - a test may wait
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(StoreLocked) as refused:
            await SqliteStore.open(path).__aenter__()
        assert f"process {other.pid}" in str(refused.value)
        assert str(path) in str(refused.value)
        other.stdin.close()
    async with SqliteStore.open(path) as store:
        await store.cursor_key()


async def test_a_newer_schema_is_refused(path: Path):
    """A file that a newer version has migrated is refused, and left as it is."""
    async with SqliteStore.open(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        file.execute("INSERT INTO migrations VALUES (99, 'later', 'x')")
    with pytest.raises(SchemaMismatch) as refused:
        await SqliteStore.open(path).__aenter__()
    assert "migration 99" in str(refused.value)


async def test_a_changed_migration_is_refused(path: Path):
    """A file whose migrations are not the ones of this version is refused, and its lock is free again."""
    async with SqliteStore.open(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE migrations SET checksum = 'x' WHERE number = 1")
    for _ in range(2):
        with pytest.raises(SchemaMismatch) as refused:
            await SqliteStore.open(path).__aenter__()
        assert "was changed after it was applied" in str(refused.value)


async def test_a_file_that_is_no_database_is_refused(path: Path):
    """A file of something else is left alone, in a sentence instead of a traceback."""
    write(path, b"this is no database" * 1_000)
    with pytest.raises(StoreUnavailable):
        await SqliteStore.open(path).__aenter__()
    assert read(path).startswith(b"this is no database")


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def read(path: Path) -> bytes:
    return path.read_bytes()


async def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path):
    """A path below a file cannot be opened, and the refusal names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable) as refused:
        await SqliteStore.open(tmp_path / "file" / "gateway.db").__aenter__()
    assert "gateway.db cannot be opened" in str(refused.value)


async def test_folders_are_made(tmp_path: Path):
    """The folders of the file are made when they are missing."""
    async with SqliteStore.open(tmp_path / "a" / "b" / "gateway.db") as store:
        assert await store.cursor_key()


async def test_the_file_is_safe(path: Path):
    """The file is in WAL mode, synced at each commit, and overwrites what is deleted."""
    async with SqliteStore.open(path) as store:
        connection = await store._connection()
        pragmas = {}
        for name in ("journal_mode", "synchronous", "secure_delete", "auto_vacuum"):
            ((pragmas[name],),) = await connection.execute_fetchall(f"PRAGMA {name}")
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "auto_vacuum": 2}


async def test_readers_cannot_write(path: Path):
    """A reading connection refuses to write, and never checkpoints."""
    async with SqliteStore.open(path) as store:
        (reader, *_) = store._readers
        with pytest.raises(StoreUnavailable):
            await reader.rows("DELETE FROM events", {})
        assert await reader.rows("PRAGMA wal_autocheckpoint", {}) == [(0,)]


async def test_a_read_ends_after_a_second(path: Path):
    """A read that would take for ever is ended, and its connection can be used again."""
    forever = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
    async with SqliteStore.open(path) as store:
        (reader, *_) = store._readers
        with pytest.raises(StoreUnavailable):
            await reader.rows(forever, {})
        assert await reader.rows("SELECT 1", {}) == [(1,)]


async def test_a_closed_store_says_so(path: Path):
    """What is asked of a store after it was closed is refused by name."""
    async with SqliteStore.open(path) as store:
        (reader, *_) = store._readers
    with pytest.raises(StoreUnavailable):
        await reader.rows("SELECT 1", {})


# Indexes


SCANS = {"all_keys", "organizations", "lane_work", "sealed_with", "schedule_probes"}
"""Statements that are to see everything: all keys, and all endpoints' secrets and standing, at the start, an operator's list, and
each index's endpoints once."""


def plans() -> dict[str, str]:
    return {name: sql for name, sql in queries.load("sqlite").items() if name not in SCANS}


def statement_of(sql: str, rows: int = 1) -> tuple[str, dict[str, Any] | list[Any]]:
    """The statement for so many rows, with values that look like what it takes."""
    sql = queries.with_rows(sql, rows) if "[[" in sql else sql
    names = set(re.findall(r":(\w+)", sql))
    if names:
        lists = {"held", "under_way", "wanted", "event_ids", "rowids"}
        return sql, {name: "[]" if name in lists else 1 for name in names}
    numbered = re.findall(r"\?(\d)", sql)
    return sql, [1] * (max(map(int, numbered)) if numbered else sql.count("?"))


@pytest.mark.parametrize("rows", [1, 128])
@pytest.mark.parametrize("name", plans())
async def test_every_statement_uses_an_index(path: Path, name: str, rows: int):
    """No statement walks over a whole table: each goes along an index, or by rowid, from a bound."""
    sql, parameters = statement_of(plans()[name], rows)
    async with SqliteStore.open(path) as store:
        connection = await store._connection()
        found = await connection.execute_fetchall("EXPLAIN QUERY PLAN " + sql, parameters)
    steps = [str(step[3]) for step in found]
    tables = "events|deliveries|attempts|endpoints|revisions|retries|api_keys|idempotent_answers|meta|organizations|d|e|f|r|s"
    walks = [step for step in steps if re.fullmatch(rf"SCAN ({tables})( USING (COVERING )?INDEX \w+)?", step)]
    bounded = {
        "old_events": ["SCAN events"],  # by rowid, up to a limit
        "unswept_endpoints": ["SCAN endpoints USING INDEX endpoints_unswept"],  # which holds the unswept ones only
        "interrupt_tests": ["SCAN deliveries USING INDEX pending_tests"],  # which holds pending tests only
    }
    assert walks == bounded.get(name, []), steps


@pytest.mark.parametrize("name", sorted(SCANS))
async def test_statements_that_see_everything(path: Path, name: str):
    """The few that are to see everything never touch events or attempts, and deliveries along an index only."""
    sql, parameters = statement_of(queries.load("sqlite")[name])
    async with SqliteStore.open(path) as store:
        connection = await store._connection()
        found = await connection.execute_fetchall("EXPLAIN QUERY PLAN " + sql, parameters)
    for step in (str(step[3]) for step in found):
        assert not re.fullmatch(r"SCAN (events|attempts|deliveries|d).*", step), step


async def test_claims_walk_in_order(path: Path):
    """Claims take rows in the order of their index: nothing is sorted, however many wait."""
    async with SqliteStore.open(path) as store:
        connection = await store._connection()
        for name, index in (
            ("claim_first", "due_first"),
            ("claim_retries", "due_retries"),
            ("claim_manual", "retries_by_endpoint"),
        ):
            sql, parameters = statement_of(queries.load("sqlite")[name])
            steps = [str(step[3]) for step in await connection.execute_fetchall("EXPLAIN QUERY PLAN " + sql, parameters)]
            assert index in steps[0], steps
            assert not any("TEMP B-TREE" in step for step in steps), steps


# Rows that come while a page is made


class _Interrupted(SqliteStore):
    """A store in which something happens after the first read of each page."""

    then: Callable[[], Any] | None = None

    async def _rows(self, name: str, parameters: Mapping[str, object]) -> list[Any]:
        found = await super()._rows(name, parameters)
        if self.then is not None:
            then, self.then = self.then, None
            await then()
        return found


async def test_rows_that_come_while_a_page_is_made(path: Path):
    """The race: new rows arrive between the two reads of a filtered page. Its scan still ends where the page ends, and
    nothing is skipped or repeated."""
    made = [event(type="rare.one" if place in {1, 5} else "a.b") for place in range(10_003)]
    async with _Interrupted.open(path) as store:
        await add_events(store, *made)
        seen = []
        below: str | None = None
        while True:
            store.then = lambda: add_events(store, *(event(type="a.b") for _ in range(10)))
            page = await store.events(tenant(), EventFilter(type="rare.one"), below=below, limit=10)
            seen += ids(page.items)
            below = page.next_below
            if below is None:
                break
    assert seen == [made[5].id, made[1].id]


# Commits whose end is in doubt


class _Doubtful:
    """A connection whose next commits go as *script* says: "lost" took effect before the error, "failed" did not."""

    def __init__(self, connection: Connection, script: list[str]) -> None:
        self._connection = connection
        self._script = script

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def run(self, statements: Sequence[Statement]) -> list[int]:
        if statements[-1][0] != "COMMIT" or not self._script:
            return await self._connection.run(statements)
        match self._script.pop(0):
            case "lost":
                await self._connection.run(statements)
            case "failed":
                await self._connection.run(statements[:-1])
            case _:
                return await self._connection.run(statements)
        raise sqlite3.OperationalError("disk I/O error")


@pytest.fixture
async def doubtful(path: Path) -> AsyncIterator[tuple[SqliteStore, list[str]]]:
    """A store, and the script of its commits."""
    script: list[str] = []
    opened = 0

    async def connect(path: Path) -> Connection:
        nonlocal opened
        opened += 1
        if script and script[0] == "unreachable":
            script.pop(0)
            raise StoreUnavailable("the file is not there")
        return cast("Connection", _Doubtful(await open_writer(path), script))

    async with SqliteStore.open(path, connect=connect) as store:
        yield store, script


async def test_a_commit_that_took_effect_is_one(doubtful: tuple[SqliteStore, list[str]]):
    """A COMMIT whose error came after it took effect is a commit: its caller is told so, and nothing is stored twice."""
    store, script = doubtful
    made = endpoint()
    script.append("lost")
    await add_endpoints(store, made)
    assert await store.endpoint(tenant(), made.id) == made
    await add_endpoints(store, endpoint())
    assert len(await walk(lambda below: store.endpoints(tenant(), below=below, limit=10))) == 2


async def test_a_commit_that_did_not_take_effect_is_none(doubtful: tuple[SqliteStore, list[str]]):
    """A COMMIT that failed raises StoreUnavailable and leaves nothing; the next transaction works."""
    store, script = doubtful
    script.append("failed")
    with pytest.raises(StoreUnavailable):
        await add_endpoints(store, endpoint())
    kept = endpoint()
    await add_endpoints(store, kept)
    assert await walk(lambda below: store.endpoints(tenant(), below=below, limit=10)) == [kept]


@pytest.mark.parametrize("ending", ["lost", "failed"])
async def test_a_reader_knows_how_a_commit_ended(doubtful: tuple[SqliteStore, list[str]], ending: str):
    """When no fresh connection can be opened, as on a full disk, nobody waits for one: a reader that is open is asked."""
    store, script = doubtful
    made = endpoint()
    script += [ending, "unreachable"]
    with contextlib.nullcontext() if ending == "lost" else pytest.raises(StoreUnavailable):
        await add_endpoints(store, made)
    assert not script
    assert (await store.endpoint(tenant(), made.id) is not None) is (ending == "lost")


async def test_doubts_in_a_row(doubtful: tuple[SqliteStore, list[str]]):
    """Each doubtful commit is judged by itself, whatever the ones before it were."""
    store, script = doubtful
    endings = ["lost", "failed", "failed", "lost", "lost", "sure", "failed", "lost"]
    script += endings
    kept = []
    for ending in endings:
        made = endpoint()
        if ending == "failed":
            with pytest.raises(StoreUnavailable):
                await add_endpoints(store, made)
        else:
            await add_endpoints(store, made)
            kept.append(made)
    assert await walk(lambda below: store.endpoints(tenant(), below=below, limit=3)) == kept[::-1]


async def test_expiry_that_was_not_committed_is_done_again(doubtful: tuple[SqliteStore, list[str]]):
    """A step of expiry whose commit failed is taken again; one whose commit took effect is not."""
    store, script = doubtful
    to = endpoint()
    await add_endpoints(store, to)
    await deliver_to(store, to, 2)
    script += ["failed", "lost"]
    with pytest.raises(StoreUnavailable):
        async with store.transaction() as transaction:
            assert await transaction.expire(START + 1, START, limit=1) == 1
    async with store.transaction() as transaction:
        assert await transaction.expire(START + 1, START, limit=1) == 1
    async with store.transaction() as transaction:
        assert await transaction.expire(START + 1, START, limit=9) == 1
    failed = await store.deliveries(tenant(), DeliveryFilter(state=DeliveryState.FAILED), below=None, limit=9)
    assert len(failed.items) == 2
