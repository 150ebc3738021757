"""A look at the file that changes nothing, for `gateway check`."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.errors import StoreUnavailable
from gateway.store import migrate, queries
from gateway.store.sqlite.connection import FileLock, Reader, open_reader

_DIALECT = "sqlite"


class Inspection(msgspec.Struct, frozen=True):
    """What was found."""

    migration: int  # the last one that was applied; 0: the file is empty
    pending: int  # migrations that are still to be applied
    sealed_with: Mapping[str | None, int]  # see `Log.sealed_with`; empty when migrations are to be applied
    damage: str | None  # what SQLite's quick check found first; None also when it did not finish within a read's second


def exists(path: Path) -> bool:
    """Whether there is a file *path*. Raises StoreUnavailable when this process may not know."""
    try:
        return path.exists()
    except OSError as error:
        raise StoreUnavailable(f"the store {path} cannot be looked for: {error.strerror}") from error


async def sealed_beside(path: Path) -> Mapping[str | None, int]:
    """See `Log.sealed_with`: of the store in the file *path*, which a running gateway has open. Empty when migrations are to be
    applied. Raises SchemaMismatch, StoreUnavailable."""
    reader = await open_reader(path)
    try:
        return {} if migrate.pending(migrate.available(_DIALECT), await _applied(reader)) else await _sealed_with(reader)
    finally:
        await reader.close()


async def _applied(reader: Reader) -> dict[int, str]:
    has_table = await reader.rows("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'migrations'", {})
    return dict(await reader.rows("SELECT number, checksum FROM migrations", {})) if has_table else {}


async def _sealed_with(reader: Reader) -> dict[str | None, int]:
    return dict(await reader.rows(queries.load(_DIALECT)["sealed_with"], {}))


async def look_at(path: Path) -> Inspection:
    """The state of the store in the file *path*, which exists. Holds the file's lock meanwhile.

    Raises StoreLocked, SchemaMismatch, StoreUnavailable.
    """
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(FileLock(path, makes_file=False))
        except OSError as error:
            raise StoreUnavailable(f"the store {path} cannot be opened: {error.strerror}") from error
        reader = await open_reader(path)
        try:
            applied = await _applied(reader)
            pending = migrate.pending(migrate.available(_DIALECT), applied)
            sealed_with = {} if pending else await _sealed_with(reader)
            try:
                (verdict,) = (await reader.rows("PRAGMA quick_check(1)", {}))[0]
            except StoreUnavailable:
                verdict = "ok"  # too large to be checked in a second
        finally:
            await reader.close()
    return Inspection(max(applied, default=0), len(pending), sealed_with, None if verdict == "ok" else str(verdict))
