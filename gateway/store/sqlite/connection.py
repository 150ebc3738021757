"""Connections to the file: how they are set up, and what their errors mean."""

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import aiosqlite

from gateway.errors import StoreLocked, StoreTrouble, StoreUnavailable

READ_SECONDS = 1.0
"""A read that takes longer is ended."""

_WRITER_PRAGMAS = """
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA secure_delete = ON;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -65536;
PRAGMA wal_autocheckpoint = 4000;
PRAGMA journal_size_limit = 67108864;
PRAGMA trusted_schema = OFF;
PRAGMA busy_timeout = 5000;
"""
# SQLite before 3.51.3 can corrupt a WAL file when two connections commit and checkpoint at once: readers do neither.
_READER_PRAGMAS = """
PRAGMA query_only = ON;
PRAGMA wal_autocheckpoint = 0;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -16384;
PRAGMA trusted_schema = OFF;
PRAGMA busy_timeout = 1000;
"""
_TROUBLES = {
    sqlite3.SQLITE_FULL: StoreTrouble.FULL,
    sqlite3.SQLITE_READONLY: StoreTrouble.READ_ONLY,
    sqlite3.SQLITE_BUSY: StoreTrouble.LOCKED,
    sqlite3.SQLITE_LOCKED: StoreTrouble.LOCKED,
    sqlite3.SQLITE_IOERR: StoreTrouble.DAMAGED,
    sqlite3.SQLITE_CANTOPEN: StoreTrouble.DAMAGED,
    sqlite3.SQLITE_CORRUPT: StoreTrouble.DAMAGED,
    sqlite3.SQLITE_NOTADB: StoreTrouble.DAMAGED,
    sqlite3.SQLITE_INTERRUPT: StoreTrouble.SLOW,
}
_CACHED_STATEMENTS = 256
_ROWS_AT_ONCE = 64
_STEPS_BETWEEN_LOOKS = 10_000  # of SQLite's virtual machine; under a millisecond


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turns the driver's errors about the file and the machine into StoreUnavailable; errors of the statement stay."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except sqlite3.Error as error:
        # The driver gives the extended code, whose lowest byte is the kind.
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        raise StoreUnavailable(f"the store does not answer: {error}", _TROUBLES.get(code, StoreTrouble.OTHER)) from error
    except ValueError as error:
        if str(error) in {"Connection closed", "no active connection"}:
            raise StoreUnavailable("the store is closed") from error
        raise


Statement = tuple[str, Sequence[object] | Mapping[str, object]]
"""SQL with its parameters."""


class Connection(aiosqlite.Connection):
    """A connection that can run several statements in one hop to its thread: a hop costs more than most statements."""

    async def run(self, statements: Sequence[Statement]) -> list[int]:
        """How many rows each of *statements* changed. When one fails, the transaction it is part of is rolled back."""
        counts: list[int] = await self._execute(_run, self._conn, statements)  # type: ignore[no-untyped-call]
        return counts

    async def snapshot(self, statements: Sequence[Statement]) -> list[list[Any]]:
        """The rows of each of *statements*, read in one transaction."""
        found: list[list[Any]] = await self._execute(_snapshot, self._conn, statements)  # type: ignore[no-untyped-call]
        return found

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    @property
    def driver(self) -> sqlite3.Connection:
        """The driver's own connection, for one who sees to it that nobody uses this one meanwhile."""
        return self._conn


def _snapshot(connection: sqlite3.Connection, statements: Sequence[Statement]) -> list[list[Any]]:
    connection.execute("BEGIN")
    try:
        return [connection.execute(sql, parameters).fetchall() for sql, parameters in statements]
    finally:
        connection.rollback()


def _run(connection: sqlite3.Connection, statements: Sequence[Statement]) -> list[int]:
    try:
        return [connection.execute(sql, parameters).rowcount for sql, parameters in statements]
    except BaseException:
        connection.rollback()
        raise


async def open_writer(path: Path) -> Connection:
    """The connection that writes. Raises StoreUnavailable."""
    return await _open(path, _WRITER_PRAGMAS)


async def open_reader(path: Path) -> "Reader":
    """A connection that only reads. Raises StoreUnavailable."""
    connection = await _open(path, _READER_PRAGMAS)
    reader = Reader(connection)
    await connection.set_progress_handler(reader.is_late, _STEPS_BETWEEN_LOOKS)
    return reader


async def _open(path: Path, pragmas: str) -> Connection:
    def connect() -> sqlite3.Connection:
        # A backup uses the connection of the writer from a thread of its own, in turns with it.
        return sqlite3.connect(path, isolation_level=None, cached_statements=_CACHED_STATEMENTS, check_same_thread=False)

    with translated():
        connection = Connection(connect, iter_chunk_size=_ROWS_AT_ONCE)
        await connection
        try:
            await connection.executescript(pragmas)
        except BaseException:
            await connection.close()
            raise
    return connection


class Reader:
    """A reading connection whose reads end after READ_SECONDS. One caller at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._deadline = 0.0

    def is_late(self) -> bool:
        """Asked by SQLite while it works; True ends the statement."""
        return time.monotonic() > self._deadline

    async def rows(self, sql: str, parameters: Mapping[str, object]) -> list[Any]:
        """The rows of one statement. Raises StoreUnavailable, also when it took too long."""
        self._deadline = time.monotonic() + READ_SECONDS
        with translated():
            return list(await self._connection.execute_fetchall(sql, parameters))

    async def snapshot(self, statements: Sequence[Statement]) -> list[list[Any]]:
        """The rows of each of *statements*, all as of the same moment. Raises StoreUnavailable, also when it took too long."""
        self._deadline = time.monotonic() + READ_SECONDS
        with translated():
            return await self._connection.snapshot(statements)

    @property
    def connection(self) -> Connection:
        """For one who sees to it that nobody reads meanwhile; nothing ends what it does."""
        self._deadline = float("inf")
        return self._connection

    async def close(self) -> None:
        """Closes the connection."""
        self._deadline = float("inf")
        await self._connection.close()


class FileLock:
    """Keeps a second process from the same file for as long as this one lives. With *makes_file* false, a lock that nobody
    has ever held is left unmade: it would belong to whoever only looks."""

    def __init__(self, path: Path, *, makes_file: bool = True) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._makes_file = makes_file
        self._file: int | None = None

    def __enter__(self) -> Self:
        """Raises StoreLocked."""
        if not self._makes_file and not self._path.exists():
            return self
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._file, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise StoreLocked(
                f"another gateway (process {holder}) has the store {self._path.with_suffix('')} open; stop it first, "
                f"or give this one a `store.url` of its own"
            ) from error
        os.truncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())
        return self

    def renew(self) -> None:
        """Locks anew when the lock's file was deleted. Raises StoreLocked when another process was quicker."""
        if self._path.exists() and self._file is not None:
            return
        if self._file is not None:
            held, self._file = self._file, None
            os.close(held)
        self.__enter__()

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
