"""How a process that carries out a phase is told what to do, and how it answers: JSON on its standard input and output."""

import contextlib
import cProfile
import os
import sys
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import uvloop

from scripts.benchmarks.phase import Assignment, Measurement, Publish, Run
from scripts.benchmarks.tally import Tally


def work(carry_out: Callable[[Assignment], Awaitable[Measurement]]) -> None:
    """The whole life of such a process."""
    # What anybody prints belongs in the log; only the answer goes to the driver.
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    assignment = msgspec.json.decode(sys.stdin.buffer.read(), type=Assignment)

    with cProfile.Profile() if assignment.profile else contextlib.nullcontext() as profile:
        measurement = uvloop.run(_first_error_alone(carry_out(assignment)))
    if profile is not None:
        profile.dump_stats(assignment.profile or "")
    os.write(answer, msgspec.json.encode(measurement))


async def _first_error_alone(measuring: Awaitable[Measurement]) -> Measurement:
    """When all publishers fail for the same reason, one traceback is enough."""
    try:
        return await measuring
    except ExceptionGroup as group:
        first: Exception = group
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def measure(assignment: Assignment, publish: Sequence[Publish]) -> Measurement:
    """Carries out the assignment's phase with these publishers."""
    run = Run(assignment.phase, publish, Tally(assignment.tally_fd))
    processes = assignment.processes
    if not processes.measured:
        processes = msgspec.structs.replace(processes, measured=(os.getpid(),))
    return await run.measure(processes)
