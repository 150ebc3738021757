"""Trouble with the embedded store, made for real around a running gateway: it begins where a block begins, and ends with it."""

import asyncio
import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.system.gateway_process import PATIENCE_SECONDS, Installation
from tests.system.sync_trace import require_strace

Trouble = Callable[[Installation], AbstractAsyncContextManager[None]]


@contextlib.contextmanager
def small_disk(at: Path, *, mebibytes: int) -> Iterator[Path]:
    """A file system at the folder *at*, in memory. Skips the test where none can be mounted, which CI does not allow."""
    at.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0755", "small", at], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs a small disk: {mounted.stderr.decode().strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


@contextlib.asynccontextmanager
async def full(installation: Installation) -> AsyncIterator[None]:
    """Not a byte is left on the disk of the store."""
    with filled(installation.store.parent):
        yield


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Not a byte is left on the *disk*."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for block in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * block)
    assert shutil.disk_usage(disk).free == 0
    yield
    filler.unlink()


@contextlib.asynccontextmanager
async def replaced(installation: Installation) -> AsyncIterator[None]:
    """Somebody has put another file in the place of the store's."""
    store, aside, other = (installation.store.with_name(name) for name in ("gateway.db", "aside", "other"))
    other.write_bytes(b"something else")
    os.link(store, aside)
    other.replace(store)  # at once: there is no moment without a file
    yield
    aside.replace(store)


@contextlib.asynccontextmanager
async def locked(installation: Installation) -> AsyncIterator[None]:
    """Somebody else is in the middle of writing to the file."""
    with contextlib.closing(sqlite3.connect(installation.store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def size_of_store(path: Path) -> int:
    """The size of the largest of the store's files: a limit of that much leaves no room to any."""
    return max(path.stat().st_size, path.with_name(path.name + "-wal").stat().st_size)


def limit_files_to(pid: int, size: int) -> None:
    """The process *pid* cannot make any file larger than *size* bytes."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def faulty(*faults: str) -> Trouble:
    """The system's calls end as each of *faults* says, as strace injects them: `fdatasync:error=EIO`."""

    @contextlib.asynccontextmanager
    async def trouble(installation: Installation) -> AsyncIterator[None]:
        require_strace("trouble with system calls was not made")
        calls = ",".join(fault.partition(":")[0] for fault in faults)
        injected = [word for fault in faults for word in ("-e", f"inject={fault}")]
        command = ["strace", "-f", "-p", str(installation.process.pid), "-o", os.devnull, "-e", f"trace={calls}", *injected]
        strace = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stderr=PIPE)
        assert strace.stderr is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b"attached" not in (line := await strace.stderr.readline()):
                assert line, "strace has ended"
        try:
            yield
        finally:
            strace.terminate()
            await strace.communicate()

    return trouble


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Nothing on the *disk* can be changed, or made."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
