"""What the kernel knows of a process: its CPU seconds and its memory."""

import contextlib
import os
from pathlib import Path

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
"""What CPU time is counted in."""


def cpu_seconds(pid: int) -> float:
    """CPU time that all threads of *pid* have used so far, in user and kernel mode."""
    return sum(_ticks(pid)[:2]) * TICK_SECONDS


def family_cpu_seconds(pid: int) -> float:
    """The same of *pid* and all of its children, those that have ended included."""
    # A child that ends between the two readings is missed this once; the other way round it would count twice.
    ticks = sum(_ticks(pid))
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            ticks += sum(_ticks(int(child)))
    return ticks * TICK_SECONDS


def _ticks(pid: int) -> list[int]:
    """User and kernel time, its own and that of its children that have ended."""
    # The name of the command stands in parentheses and may hold anything, spaces too.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return [int(field) for field in fields[11:15]]


def peak_memory_mib(pid: int) -> float:
    """The most memory that *pid* has held at once."""
    return _status_mib(pid, "VmHWM:")


def memory_mib(pid: int) -> float:
    """The memory that *pid* holds now."""
    return _status_mib(pid, "VmRSS:")


def _status_mib(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)
