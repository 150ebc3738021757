"""The place of the store's files: whether what lies there is still what is open, and how it is put back when it is not.

SQLite goes on in a file that was deleted, and all of it would be gone with the process. What is open still holds everything,
so a deleted file is written anew from that; while another one is in its place nothing is written at all.
"""

import asyncio
import contextlib
import os
import sqlite3
from enum import Enum
from pathlib import Path

from gateway.errors import StoreTrouble, StoreUnavailable
from gateway.store.sqlite.backup import sync
from gateway.store.sqlite.connection import Connection

Identity = tuple[int, int]
"""Device and inode: what tells one file from another that has its name."""


class Standing(Enum):
    """What is at the place."""

    OURS = "what is open"
    EMPTY = "something of it is missing, and nothing is in its way"
    TAKEN = "another file"


def _identity(path: Path) -> Identity | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Place:
    """Where a store's file and its write-ahead log are."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = path.with_name(path.name + "-wal")
        self._open: tuple[Identity | None, Identity | None] = (None, None)

    def note(self) -> None:
        """What is there now is what is open."""
        self._open = _identity(self._path), _identity(self._log)

    @property
    def is_noted(self) -> bool:
        """Whether it is known what is open."""
        return self._open != (None, None)

    def standing(self) -> Standing:
        """What is there now, in the time of two looks at a folder."""
        found = _identity(self._path), _identity(self._log)
        if found == self._open:
            return Standing.OURS
        is_taken = any(now is not None and now != before for now, before in zip(found, self._open, strict=True))
        return Standing.TAKEN if is_taken else Standing.EMPTY

    async def put_back(self, source: Connection) -> None:
        """Writes the file anew, synced, from what *source* has open; nobody writes meanwhile. Raises StoreUnavailable."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(_write_anew, source.driver, self._path)
        except (sqlite3.Error, OSError) as error:
            raise moved(f"it could not be written anew: {error}") from error


def _write_anew(source: sqlite3.Connection, path: Path) -> None:
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    try:
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as target:
            source.backup(target)
        sync(draft)
        draft.replace(path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def moved(what: str) -> StoreUnavailable:
    """The store's file is not where it was."""
    return StoreUnavailable(f"the store's file was deleted or replaced while it was open, and {what}", StoreTrouble.MOVED)
