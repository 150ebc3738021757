"""What strace saw of a gateway: which answers were written before what they promise was on the disk.

strace reports the start of a call before the call begins, and its end before the caller goes on. So the order of its lines
is an order of causes: what is written because a sync has ended stands behind the end of that sync.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

_READS = frozenset({"read", "recvfrom", "recvmsg"})
_WRITES = frozenset({"write", "writev", "sendto", "sendmsg"})
_STORES = frozenset({"pwrite64"})
SYNCS = frozenset({"fdatasync", "fsync"})
_ACCEPTED = '"HTTP/1.1 202'

_START = re.compile(r"(?P<thread>\d+) +(?P<name>\w+)\((?P<fd>\d+)<(?P<file>[^>]*)>(?P<rest>.*)")
_RESUMED = re.compile(r"(?P<thread>\d+) +<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
_RESULT = re.compile(r"= (?P<result>-?\d+)")


@dataclass
class Call:
    """A system call: when it started and when it returned, as numbers of lines, and the text of its arguments."""

    name: str
    fd: int
    file: str
    text: str
    started: int
    returned: int | None = None
    result: int | None = None

    def end(self, line: int, text: str) -> None:
        """It returned on *line*, which ends with *text*."""
        self.text += text
        self.returned = line
        if found := _RESULT.search(text[text.rfind(")") :]):
            self.result = int(found["result"])


def command(trace: Path) -> list[str]:
    """The first words of a command line whose system calls go to the file *trace*. See `require_strace`."""
    require_strace("whether answers wait for the disk was not checked")
    names = ",".join(sorted(_READS | _WRITES | _STORES | SYNCS))
    return ["strace", "-f", "-y", "-s", "24", "-e", f"trace={names}", "-e", "signal=none", "-o", str(trace)]


def require_strace(what: str) -> None:
    """Skips the test, saying *what* was left out, when strace cannot be used here; CI does not allow that."""
    reason = _unusable()
    if reason is not None and os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI may leave out nothing")
    if reason is not None:
        pytest.skip(f"{reason}: {what}")


def _unusable() -> str | None:
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-f", "-y", "-o", os.devnull, "true"], capture_output=True, check=False)
    return f"strace does not work here ({tried.stderr.decode().strip()})" if tried.returncode else None


def read_trace(lines: Iterable[str]) -> list[Call]:
    """The calls of a trace, in the order of their starts."""
    calls: list[Call] = []
    unfinished: dict[str, Call] = {}  # by thread
    for number, line in enumerate(lines):
        if found := _RESUMED.match(line):
            if call := unfinished.pop(found["thread"], None):
                call.end(number, found["rest"])
        elif found := _START.match(line):
            rest = found["rest"]
            call = Call(found["name"], int(found["fd"]), found["file"], "", started=number)
            calls.append(call)
            if rest.endswith("<unfinished ...>"):
                call.text = rest.removesuffix("<unfinished ...>")
                unfinished[found["thread"]] = call
            else:
                call.end(number, rest)
    return calls


def syncs_of(calls: Iterable[Call], file: Path) -> list[Call]:
    """The calls that brought *file* to the disk, and succeeded."""
    return [call for call in calls if call.name in SYNCS and call.file == str(file) and call.result == 0]


def accepting_answers(calls: Iterable[Call]) -> list[Call]:
    """The writes of a 202 to a connection."""
    return [call for call in calls if call.name in _WRITES and _ACCEPTED in call.text and (call.result or 0) > 0]


def hasty_answers(calls: list[Call], log: Path) -> list[Call]:
    """The 202s that were written too early: between the end of a request's reading and its answer something has to be
    written to the store's *log*, and after that a sync of it has to start and to end."""
    return [answer for answer in accepting_answers(calls) if not _is_synced(answer, calls, log)]


def _is_synced(answer: Call, calls: list[Call], log: Path) -> bool:
    before = [call for call in calls if call.returned is not None and call.returned < answer.started]
    reads = [call.returned for call in before if call.name in _READS and call.fd == answer.fd and (call.result or 0) > 0]
    if not reads or reads[-1] is None:
        return False
    stored = [call.returned for call in before if call.name in _STORES and call.file == str(log) and call.started > reads[-1]]
    return any(call.started > kept for call in syncs_of(before, log) for kept in stored if kept is not None)
