"""What the store's directory lies on, and what a sync costs there: the measure of everything durable."""

import os
import re
import statistics
import time
from pathlib import Path

import msgspec

_IN_MEMORY = {"tmpfs", "ramfs"}
_SYNCS = 100
_PAGE = bytes(4096)


class InMemory(Exception):
    """A sync costs nothing in memory, so nothing durable could be measured there."""


class FileSystem(msgspec.Struct, frozen=True):
    """A mounted file system."""

    type: str
    source: str
    mounted_at: str


def find_file_system(path: str, mountinfo: str) -> FileSystem:
    """The file system that the absolute *path* lies on, by the text of /proc/self/mountinfo."""
    best: FileSystem | None = None
    for line in mountinfo.splitlines():
        mount, _, kind = line.partition(" - ")
        mounted_at = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), mount.split()[4])
        below = mounted_at if mounted_at.endswith("/") else f"{mounted_at}/"
        # Of two at the same place the later one covers the earlier.
        if f"{path}/".startswith(below) and (best is None or len(mounted_at) >= len(best.mounted_at)):
            type_, source = kind.split()[:2]
            best = FileSystem(type_, source, mounted_at)
    if best is None:
        raise LookupError(path)
    return best


def durable_file_system(directory: Path) -> FileSystem:
    """The file system of *directory*. Raises InMemory when it keeps nothing on disk."""
    found = find_file_system(str(directory.resolve()), Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    if found.type in _IN_MEMORY:
        raise InMemory(
            f"{directory} lies on a {found.type}, where a sync costs nothing; name a directory on a disk with --directory"
        )
    return found


def median_sync_ms(directory: Path) -> float:
    """The median time of an fdatasync after a page was appended, in milliseconds."""
    path = directory / "sync-time"
    times = []
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for _ in range(_SYNCS):
            os.write(fd, _PAGE)
            begin = time.perf_counter()
            os.fdatasync(fd)
            times.append(time.perf_counter() - begin)
    finally:
        os.close(fd)
        path.unlink()
    return statistics.median(times) * 1_000
