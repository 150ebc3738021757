"""The processes that the benchmark starts, and the promise that it ends each of them, and no other."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from scripts.benchmarks.phase import Assignment, Measurement
from scripts.benchmarks.tally import Tally

_END_SECONDS = 30.0
_LOG_TAIL = 2_000


class ChildFailed(Exception):
    """A process of the benchmark failed; the sentence ends with what it logged last."""


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    fds: Sequence[int] = (),
    pipe: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """A child that runs within the block, and is asked to end after it, then made to. Its output goes to *log*.

    With *pipe* its standard input and output belong to the caller.
    """
    with log.open("ab") as output:
        # The context manager of Popen would wait for ever on an error; this one ends the child first.
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipe else output,
            stderr=output,
            env=environment,
            pass_fds=tuple(fds),
        )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()


def failure(what: str, log: Path) -> ChildFailed:
    """An error that quotes the end of *log*."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL))
        tail = file.read().decode(errors="replace")
    return ChildFailed(f"{what}; its log ends:\n{tail}")


class Receivers(msgspec.Struct, frozen=True):
    """The running receivers, which share one port."""

    port: int
    pids: tuple[int, ...]
    tally: Tally

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def receivers(count: int, *, log: Path) -> Iterator[Receivers]:
    """*count* receivers on a free port."""
    tally = Tally.create(count)
    with contextlib.ExitStack() as stack:
        # Listening before they start, so that nobody has to wait until they are ready.
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        fds = (listener.fileno(), tally.fd)
        children = [
            stack.enter_context(running([*module_command("receiver"), *map(str, (*fds, number))], log=log, fds=fds, pipe=True))
            for number in range(count)
        ]
        yield Receivers(listener.getsockname()[1], tuple(child.pid for child in children), tally)
    os.close(tally.fd)


def carry_out(module: str, assignment: Assignment, *, log: Path) -> Measurement:
    """Has a process of its own, the *module* of this package, carry *assignment* out.

    Raises ChildFailed when it fails or takes much longer than it should.
    """
    phase = assignment.phase
    allowed = phase.warm_up_seconds + phase.seconds + 60
    answer = ask(module, assignment, log=log, seconds=allowed, fds=[assignment.tally_fd])
    return msgspec.json.decode(answer, type=Measurement)


def ask(module: str, request: msgspec.Struct, *, log: Path, seconds: float, fds: Sequence[int] = ()) -> bytes:
    """What a process of its own, the *module* of this package, answers to *request*.

    Raises ChildFailed when it fails, or has not answered after *seconds*.
    """
    with running(module_command(module), log=log, fds=fds, pipe=True) as child:
        try:
            answer, _ = child.communicate(msgspec.json.encode(request), timeout=seconds)
        except subprocess.TimeoutExpired:
            raise failure(f"{module} was not done after {seconds:.0f} s", log) from None
        if child.returncode != 0:
            raise failure(f"{module} failed", log)
    return answer


def module_command(name: str) -> list[str]:
    """What starts the module *name* of this package."""
    return [sys.executable, "-m", f"scripts.benchmarks.{name}"]
