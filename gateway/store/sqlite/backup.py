"""A copy of the store's file, made while the store goes on.

The copy is made in steps on the connection that writes: what it commits in between goes into the copy by itself (the backup
API of SQLite), so that the copy ends under any load. Each step has a turn of its own among the transactions.
"""

import asyncio
import contextlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import quote

from gateway.errors import BackupRefused, StoreUnavailable
from gateway.store.sqlite.connection import Connection

T = TypeVar("T")

_PAGES_AT_ONCE = 256  # a mebibyte: some milliseconds
_SERIALIZED = 3  # of `sqlite3.threadsafety`: threads may share a connection
_STEPS_BETWEEN_LOOKS = 100_000  # of SQLite's virtual machine
# Nothing is synced before the copy is whole, or the last step would keep everybody waiting while all of it goes to disk.
_COPY_PRAGMAS = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"


async def back_up(
    connect: Callable[[], Awaitable[Connection]],
    target: Path,
    *,
    turn: asyncio.Lock,
    goes_on: Callable[[], bool],
    threadsafety: int = sqlite3.threadsafety,
) -> int:
    """Copies a store into the new file *target*, for its owner only; how many bytes it has.

    *connect* is asked for the connection that writes by one who has *turn*, and so the connection to himself. The file is there
    once it is whole, sound and on disk, and not before. When *goes_on* no longer holds, the backup is broken off.
    Raises BackupRefused and StoreUnavailable.
    """
    if threadsafety != _SERIALIZED:
        raise StoreUnavailable("this Python's SQLite does not let threads share a connection, which a backup needs")
    stop = _Stop(goes_on)
    with _translated(target), _draft(target) as draft:
        async with _Pace(turn, stop) as pace:
            stop.check()
            source = await connect()
            await _in_thread(lambda: _copy(source, draft, pace), stop)
        await _in_thread(lambda: _verify(draft, stop), stop)
        return await _in_thread(lambda: _publish(draft, target), stop)


class _BrokenOff(Exception):
    """The backup is to end before it is whole."""


class _Stop:
    """Whether to go on: asked by the threads that work, told by the task that waits for them."""

    def __init__(self, goes_on: Callable[[], bool]) -> None:
        self._goes_on = goes_on
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set or not self._goes_on()

    def check(self) -> None:
        if self.is_set():
            raise _BrokenOff


@contextlib.contextmanager
def _translated(target: Path) -> Iterator[None]:
    try:
        yield
    except _BrokenOff as error:
        raise StoreUnavailable("the backup was broken off: the store was closed or opened anew meanwhile") from error
    except (sqlite3.Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreUnavailable(f"the backup {target} was not made: {reason}") from error


@contextlib.contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """An empty file beside *target*, for its owner only, that is gone in the end unless it has become *target*."""
    _check_free(target)
    try:
        file, name = tempfile.mkstemp(prefix=".gateway-backup-", suffix=".partial", dir=target.parent)
    except OSError as error:
        raise BackupRefused(f"cannot be written to: {target.parent}: {error.strerror}") from error
    os.close(file)
    draft = Path(name)
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _check_free(target: Path) -> None:
    try:
        target.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BackupRefused(f"cannot be written to: {error.strerror}") from error
    raise BackupRefused(f"names a file that is there already: {target}; a backup overwrites nothing")


class _Pace:
    """Lets the steps of a copy take turns with the store's own work. After each one the copy rests for as long as it took."""

    def __init__(self, turn: asyncio.Lock, stop: _Stop) -> None:
        self._turn = turn
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._has_turn = False
        self._began = 0.0

    async def __aenter__(self) -> Self:
        await self._take_turn()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end_turn()

    def after_step(self, meanwhile: Callable[[], None]) -> None:
        """Called in the thread that copies; does *meanwhile* while others have their turn. Raises _BrokenOff."""
        took = time.monotonic() - self._began
        asyncio.run_coroutine_threadsafe(self._rest(), self._loop).result()
        meanwhile()
        time.sleep(took)
        asyncio.run_coroutine_threadsafe(self._take_turn(), self._loop).result()
        self._stop.check()

    async def _rest(self) -> None:
        self._end_turn()

    async def _take_turn(self) -> None:
        await self._turn.acquire()
        self._has_turn = True
        self._began = time.monotonic()

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._turn.release()


def _copy(source: Connection, draft: Path, pace: _Pace) -> None:
    def after_step(_status: int, _remaining: int, _total: int) -> None:
        # Little by little: all at once in the end would keep the disk from every commit for as long as it takes.
        pace.after_step(lambda: sync(draft))
        if not source.is_open:  # a commit has failed, and the next one began on another connection
            raise _BrokenOff

    with contextlib.closing(sqlite3.connect(draft, isolation_level=None, check_same_thread=False)) as copy:
        copy.executescript(_COPY_PRAGMAS)
        source.driver.backup(copy, pages=_PAGES_AT_ONCE, progress=after_step)


def _verify(draft: Path, stop: _Stop) -> None:
    """Looks whether a copy is sound, before anybody relies on it."""
    # Immutable: the copy is in WAL mode, as the store is, and to be opened without making files beside it.
    uri = f"file:{quote(os.fsencode(draft))}?mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as copy:
        copy.set_progress_handler(stop.is_set, _STEPS_BETWEEN_LOOKS)
        try:
            ((verdict,),) = copy.execute("PRAGMA quick_check(1)").fetchall()
            ((migrations,),) = copy.execute("SELECT count(*) FROM migrations").fetchall()
        except sqlite3.OperationalError:
            stop.check()
            raise
    if verdict != "ok":
        raise StoreUnavailable(f"the backup was not kept, since it is damaged, as the store may be: {verdict}")
    if not migrations:
        raise StoreUnavailable("the backup was not kept, since it is no store")


def _publish(draft: Path, target: Path) -> int:
    """Gives *draft* its name, once it is on disk; its size."""
    sync(draft)
    size = draft.stat().st_size
    # A hard link would not overwrite what has come there this very moment, but not every file system has them.
    _check_free(target)
    draft.rename(target)
    sync(target.parent)
    return size


def sync(path: Path) -> None:
    """Returns once what is in the file, or the folder, is on disk."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


async def _in_thread(work: Callable[[], T], stop: _Stop) -> T:
    """The result of *work*, done in a thread, which is told to stop, and waited for, when the caller is cancelled."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([running])
        raise
