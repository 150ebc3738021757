"""What the kernel knows of a process: its CPU seconds and its peak memory."""

import os
from pathlib import Path

TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
"""What CPU time is counted in."""


def cpu_seconds(pid: int) -> float:
    """CPU time that all threads of *pid* have used so far, in user and kernel mode."""
    # The name of the command stands in parentheses and may hold anything, spaces too.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_SECONDS


def peak_memory_mib(pid: int) -> float:
    """The most memory that *pid* has held at once."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)
