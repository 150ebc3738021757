"""A private PostgreSQL server for tests, in memory where that can be, with what only tests do to one."""

import asyncio
import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from scripts.benchmarks import postgres_server
from scripts.benchmarks.postgres_server import (
    Binaries,
    BinariesMissingError,
    ServerError,
    StopMode,
    database_of,
    find_program,
    free_port,
    own_folder,
    start_server,
    wait_until,
)

__all__ = [
    "BinariesMissingError",
    "PostgresServer",
    "ServerError",
    "StopMode",
    "by_way_of",
    "find_program",
    "free_port",
    "own_folder",
    "private_directory",
    "start_server",
    "wait_until",
]

_ROOM_BYTES = 4 * 2**30  # a GiB of write-ahead log, and the databases of tests


def by_way_of(port: int, url: str) -> str:
    """*url*'s database, reached through what listens on *port* of loopback."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()


def private_directory(folder: str, pid_file: str, end: str) -> AbstractContextManager[Path]:
    """See `postgres_server.private_directory`; in memory where there is room."""
    return postgres_server.private_directory(folder, pid_file, end, parent=_memory())


def _memory() -> Path | None:
    memory = Path("/dev/shm")
    # In a container it may hold 64 MiB.
    has_room = os.access(memory, os.W_OK | os.X_OK) and shutil.disk_usage(memory).free >= _ROOM_BYTES
    return memory if has_room else None


class PostgresServer(postgres_server.PostgresServer):
    """A server that tests start and stop. What is awaited works beside the event loop and belongs to none."""

    def __init__(self, binaries: Binaries, directory: Path, settings: Mapping[str, str]) -> None:
        super().__init__(binaries, directory, settings)
        self._numbers = itertools.count(1)

    @classmethod
    @contextlib.contextmanager
    def open(cls, parent: Path | None = None, settings: Mapping[str, str] | None = None) -> Iterator[Self]:
        with super().open(parent or _memory(), settings) as server:
            yield server

    def create_database(self, name: str | None = None) -> str:
        return super().create_database(name or f"test_{next(self._numbers)}")

    def copy_database(self, url: str) -> str:
        """The URL of a new database that is as the one of *url*, to which nobody is connected."""
        name = f"test_{next(self._numbers)}"
        # Whole files, with what connections would otherwise have to make anew; checkpoints cost little in memory.
        strategy = "STRATEGY file_copy" if self.version >= 15 else ""
        self.run_sql(self.admin_url(), f"CREATE DATABASE {name} OWNER gateway TEMPLATE {database_of(url)} {strategy}")
        return self.url(name)

    async def start(self) -> None:
        """Starts it on its port; returns once it takes connections."""
        await asyncio.to_thread(self._start)

    async def stop(self, mode: StopMode = "fast") -> None:
        """Stops it and returns once it has ended: `immediate` as in a crash, `fast` ends connections, `smart` waits for them."""
        await asyncio.to_thread(self._stop, mode)

    async def restart(self, mode: StopMode = "immediate") -> None:
        """Stops it, and starts it on the same port; after `immediate` it recovers from its log first."""
        await self.stop(mode)
        await self.start()

    async def terminate_connections(self, url: str) -> int:
        """Cuts everybody's connections to the database of *url*, as an administrator does, and returns how many those were."""
        sql = (
            "SELECT count(pg_terminate_backend(pid, 30000)) FROM pg_stat_activity "
            f"WHERE datname = '{database_of(url)}' AND pid <> pg_backend_pid()"
        )
        return int(await asyncio.to_thread(self.run_sql, self.admin_url(), sql))
