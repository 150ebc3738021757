"""The embedded store's backup: a whole store under its own name or nothing, while the store goes on."""

import asyncio
import contextlib
import re
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import BackupRefused, StoreUnavailable
from gateway.store.protocol import EventFilter
from gateway.store.sqlite import SqliteStore, backup
from gateway.store.sqlite.connection import Connection, open_writer
from tests.contract.acts import add_events, ids, walk
from tests.fakes import event, tenant

_STEPS = 12  # that a copy of the store takes, at least


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """One of some size."""
    async with SqliteStore.open(tmp_path / "gateway.db") as opened:
        await fill(opened)
        yield opened


async def fill(store: SqliteStore) -> None:
    for _ in range(_STEPS):
        await add_events(store, event(data=b'{"weight":"' + b"x" * 2**20 + b'"}'))


async def events_of(path: Path) -> list[str]:
    """The ids of all events in the store *path*, opened as any other."""
    async with SqliteStore.open(path) as opened:
        return ids(await walk(lambda below: opened.events(tenant(), EventFilter(), below=below, limit=100)))


class Publishing:
    """Commits one event after the other, as fast as it can, until it is told to end."""

    def __init__(self, store: SqliteStore) -> None:
        self.committed: list[str] = []
        self._store = store
        self._is_over = False
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        while not self._is_over:
            made = event(data=b'{"weight":"' + b"y" * 10_000 + b'"}')
            await add_events(self._store, made)
            self.committed.append(made.id)
            async with self._changed:
                self._changed.notify_all()

    async def wait_for(self, count: int) -> None:
        """Returns when so many more have been committed."""
        until = len(self.committed) + count
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.committed) >= until)

    def end(self) -> None:
        self._is_over = True


@contextlib.asynccontextmanager
async def publishing(store: SqliteStore, tasks: int = 4) -> AsyncIterator[Publishing]:
    subject = Publishing(store)
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(subject.run())
        try:
            yield subject
        finally:
            subject.end()


async def test_a_backup_holds_everything_that_was_committed_before(store: SqliteStore, tmp_path: Path):
    """Also while several publishers commit without a pause; what they commit meanwhile is in it whole or not at all, and the
    copy opens as a store."""
    target = tmp_path / "copy.db"
    async with publishing(store) as load:
        await load.wait_for(20)
        before = len(load.committed)
        size = await store.back_up(target)
        meanwhile = len(load.committed) - before
    assert meanwhile >= _STEPS  # each step of the copy lets others have their turn
    assert size == target.stat().st_size > 2**20 * _STEPS
    found = await events_of(target)
    assert set(load.committed[:before]) <= set(found)
    # Without a gap: what was committed last may be missing, and nothing else.
    published = [event_id for event_id in load.committed if event_id in set(found)]
    assert published == load.committed[: len(published)]
    assert len(found) == _STEPS + len(published)


async def test_a_backup_is_for_its_owner_only_and_alone(store: SqliteStore, tmp_path: Path):
    """It holds signing secrets. Nothing else is left beside it."""
    folder = tmp_path / "backups"
    folder.mkdir()
    await store.back_up(folder / "copy.db")
    assert [path.name for path in folder.iterdir()] == ["copy.db"]
    assert stat.S_IMODE((folder / "copy.db").stat().st_mode) == 0o600


async def test_a_backup_overwrites_nothing(store: SqliteStore, tmp_path: Path):
    """Not a file, not a folder, not a link that leads nowhere, and not the store itself."""
    there = tmp_path / "there"
    there.write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for path in (there, tmp_path, tmp_path / "link", tmp_path / "gateway.db"):
        with pytest.raises(BackupRefused) as refused:
            await store.back_up(path)
        assert str(refused.value) == f"names a file that is there already: {path}; a backup overwrites nothing"
    assert there.read_text() == "mine"
    assert (tmp_path / "link").is_symlink()


async def test_what_came_to_its_place_meanwhile_is_not_overwritten(store: SqliteStore, tmp_path: Path):
    """The file is looked for again when the copy is whole."""
    target = tmp_path / "copy.db"
    copying = asyncio.create_task(store.back_up(target))
    await drafted(tmp_path)
    target.write_text("mine")
    with pytest.raises(BackupRefused):
        await copying
    assert target.read_text() == "mine"
    assert drafts(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [("none/copy.db", "No such file"), ("gateway.db/copy.db", "Not a directory"), ("x" * 300, "File name too long")],
)
async def test_a_place_that_takes_no_file_is_named(store: SqliteStore, tmp_path: Path, name: str, reason: str):
    with pytest.raises(BackupRefused) as refused:
        await store.back_up(tmp_path / name)
    assert re.match(rf"cannot be written to: .*{reason}", str(refused.value))


async def test_a_place_that_may_not_be_written_to_is_named(store: SqliteStore):
    """Here one that takes no files from anybody, root included."""
    with pytest.raises(BackupRefused) as refused:
        await store.back_up(Path("/proc/copy.db"))
    assert str(refused.value).startswith("cannot be written to: /proc: ")


def drafts(folder: Path) -> list[Path]:
    return list(folder.glob(".gateway-backup-*"))


async def drafted(folder: Path) -> None:
    """Returns when a copy has begun in *folder*."""
    while not drafts(folder):  # noqa: ASYNC110 - a folder has no event to wait for
        await asyncio.sleep(0)


async def test_a_backup_that_is_left_leaves_nothing(store: SqliteStore, tmp_path: Path):
    """Its caller is cancelled: no file is there, and the store goes on."""
    copying = asyncio.create_task(store.back_up(tmp_path / "copy.db"))
    await drafted(tmp_path)
    copying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert drafts(tmp_path) == []
    assert not (tmp_path / "copy.db").exists()
    await add_events(store, event())
    await store.back_up(tmp_path / "copy.db")


async def test_closing_the_store_breaks_a_backup_off(tmp_path: Path):
    """It ends at its next step, with a sentence, before the file is closed; and none begins any more."""
    async with SqliteStore.open(tmp_path / "gateway.db") as store:
        await fill(store)
        copying = asyncio.create_task(store.back_up(tmp_path / "copy.db"))
        await drafted(tmp_path)
    for backing_up in (copying, store.back_up(tmp_path / "copy.db")):
        with pytest.raises(StoreUnavailable) as refused:
            await backing_up
        assert "broken off" in str(refused.value)
    assert drafts(tmp_path) == []
    assert not (tmp_path / "copy.db").exists()


async def test_a_commit_that_fails_breaks_a_backup_off(tmp_path: Path):
    """The store goes on with another connection, whose commits the copy would miss."""
    connections: list[Connection] = []

    async def connect(path: Path) -> Connection:
        connections.append(await open_writer(path))
        return connections[-1]

    async with SqliteStore.open(tmp_path / "gateway.db", connect=connect) as store:
        await fill(store)
        copying = asyncio.create_task(store.back_up(tmp_path / "copy.db"))
        await drafted(tmp_path)
        with pytest.raises(StoreUnavailable):
            async with store.transaction():
                raise StoreUnavailable("the disk has gone")
        made = event()
        await add_events(store, made)
        assert len(connections) == 2
        with pytest.raises(StoreUnavailable) as refused:
            await copying
        assert "opened anew meanwhile" in str(refused.value)
        assert drafts(tmp_path) == []
        await store.back_up(tmp_path / "copy.db")
    assert made.id in await events_of(tmp_path / "copy.db")


async def test_backups_are_made_one_after_the_other(store: SqliteStore, tmp_path: Path):
    """Two at the same moment to the same place: one is made, the other refused."""
    outcomes = await asyncio.gather(*(store.back_up(tmp_path / "copy.db") for _ in range(2)), return_exceptions=True)
    assert isinstance(outcomes[0], int)
    assert isinstance(outcomes[1], BackupRefused)


async def test_a_copy_of_a_damaged_store_is_not_kept(store: SqliteStore, tmp_path: Path):
    """Nobody shall rely on it."""
    async with store.transaction() as transaction:  # everything that waits for its checkpoint goes to the file
        assert not transaction.has_begun
        await (await store._connection()).execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        ((page,),) = await (await store._connection()).execute_fetchall(
            "SELECT rootpage FROM sqlite_schema WHERE type = 'table' AND name = 'events'"
        )
    with (tmp_path / "gateway.db").open("r+b") as file:
        file.seek((page - 1) * 4_096)
        file.write(b"\xff" * 4_096)
    async with store.transaction():
        await store._close_writer()  # with the pages that it remembers
    with pytest.raises(StoreUnavailable) as refused:
        await store.back_up(tmp_path / "copy.db")
    assert "damaged" in str(refused.value) or "malformed" in str(refused.value)
    assert drafts(tmp_path) == []
    assert not (tmp_path / "copy.db").exists()


async def test_a_driver_whose_threads_may_not_share_is_refused(tmp_path: Path):
    """Plainly, before anything is touched."""

    async def connect() -> Connection:
        raise AssertionError("nobody asks")

    with pytest.raises(StoreUnavailable) as refused:
        await backup.back_up(connect, tmp_path / "copy.db", turn=asyncio.Lock(), goes_on=lambda: True, threadsafety=1)
    assert "which a backup needs" in str(refused.value)
    assert sqlite3.threadsafety == 3
