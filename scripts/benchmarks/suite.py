"""What is measured and in which order: rounds of all cases, each beginning with the baseline, so that what slows the machine for
a while slows both sides of a ratio."""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from scripts.benchmarks.children import Receivers, carry_out, receivers
from scripts.benchmarks.file_system import durable_file_system, median_sync_ms
from scripts.benchmarks.gateway_process import serving
from scripts.benchmarks.phase import Assignment, Measurement, Phase, Processes, Target
from scripts.benchmarks.report import Report, machine, report_on, report_start
from scripts.benchmarks.start_up import measure_start_up

BASELINE = "baseline"
START = "start"


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table."""

    title: str
    module: str  # the module of this package whose process publishes
    phase: Phase
    target: float | None = None  # of the baseline's rate, or of its rate by CPU second
    own_process: bool = False  # the gateway is a process of its own


# Larger windows deliver no more and only add latency.
CASES = {
    BASELINE: Case(title="baseline: aiohttp POSTs, 64 at a time", module="baseline", phase=Phase(publishers=64)),
    "in-process-1": Case(title="in process, to 1 endpoint", module="in_process", phase=Phase(publishers=128, window=128)),
    "in-process-10": Case(
        title="in process, to 10 endpoints",
        module="in_process",
        phase=Phase(publishers=32, endpoints=10, window=320),
        target=0.65,
    ),
    "http-1": Case(
        title="HTTP one by one, to 1 endpoint",
        module="http_publisher",
        phase=Phase(publishers=64, window=128),
        target=0.33,
        own_process=True,
    ),
    "http-100": Case(
        title="HTTP batches of 100, to 1 endpoint",
        module="http_publisher",
        phase=Phase(publishers=2, batch=100, window=200),
        target=0.50,
        own_process=True,
    ),
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How thoroughly."""

    rounds: int = 5
    seconds: float = 5.0
    warm_up_seconds: float = 1.0
    idle_seconds: float = 10.0
    starts: int = 5
    receivers: int = 1
    timeout_seconds: float = 10.0  # the gateway's, where endpoints hang
    overload_seconds: float = 60.0
    waiting: int = 1_000_000  # deliveries that wait while something else is measured
    history: int = 200_000  # events that are old enough to be pruned
    only: frozenset[str] = frozenset()  # empty: everything
    profile: Path | None = None  # a directory for cProfile's statistics
    directory: Path = Path("var/bench")

    def includes(self, name: str) -> bool:
        return not self.only or name in self.only


def run(options: Options, progress: Callable[[str], None]) -> Report:
    """Measures everything that *options* include.

    Raises InMemory when the directory would make nothing durable, ChildFailed when a part fails or not all arrived.
    """
    options.directory.mkdir(parents=True, exist_ok=True)
    file_system = durable_file_system(options.directory)
    # Relative when the directory is, as a Unix socket beside the store needs a short path.
    with tempfile.TemporaryDirectory(prefix="run-", dir=options.directory) as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        sync_ms = median_sync_ms(directory)
        progress(f"{directory} on {file_system.type}: fdatasync {sync_ms:.2f} ms")
        crew = stack.enter_context(receivers(options.receivers, log=directory / "receivers.log"))
        bench = _Bench(options, directory, crew)
        capacity = check_receivers(crew, directory, seconds=options.seconds)
        progress(f"receiver: {capacity.deliveries_per_second:,.0f}/s")
        measured: dict[str, list[Measurement]] = {}
        for number in range(1, options.rounds + 1):
            for key, case in CASES.items():
                if key == BASELINE or options.includes(key):
                    measurement = bench.measure(case, f"{key}-{number}")
                    measured.setdefault(key, []).append(measurement)
                    progress(f"round {number} of {options.rounds}, {key}: {measurement.deliveries_per_second:,.0f}/s")
        start = None
        if options.includes(START):
            start = report_start(measure_start_up(directory, crew, starts=options.starts, idle_seconds=options.idle_seconds))
    return Report(
        machine=machine(),
        file_system=file_system,
        sync_ms=sync_ms,
        rounds=options.rounds,
        seconds=options.seconds,
        receivers=options.receivers,
        receiver_capacity=capacity.deliveries_per_second,
        cases=[report_on(CASES[key].title, CASES[key].target, runs, measured[BASELINE]) for key, runs in measured.items()],
        start=start,
    )


def check_receivers(crew: Receivers, directory: Path, *, seconds: float) -> Measurement:
    """What the receivers take from a client that costs next to nothing."""
    phase = Phase(publishers=64, seconds=min(seconds, 2.0))
    assignment = Assignment(phase=phase, tally_fd=crew.tally.fd, processes=Processes(receivers=crew.pids), receiver_url=crew.url)
    return carry_out("receiver_check", assignment, log=directory / "check.log")


class _Bench:
    """The running receivers, and where everything else is put."""

    def __init__(self, options: Options, directory: Path, crew: Receivers) -> None:
        self._options = options
        self._directory = directory
        self._crew = crew

    def measure(self, case: Case, name: str) -> Measurement:
        """Measures one case once, on a store of its own, which is gone afterwards."""
        options = self._options
        phase = msgspec.structs.replace(case.phase, seconds=options.seconds, warm_up_seconds=options.warm_up_seconds)
        profile = None if options.profile is None else options.profile / f"{name}.prof"
        with tempfile.TemporaryDirectory(dir=self._directory) as place:
            directory = Path(place)
            log = directory / f"{name}.log"
            assignment = self._assignment(phase, directory)
            if not case.own_process:
                own_profile = None if profile is None else str(profile)
                return carry_out(case.module, msgspec.structs.replace(assignment, profile=own_profile), log=log)
            with serving(_store_url(directory), log=directory / "gateway.log", profile=profile) as gateway:
                gateway.wait_until_ready()
                api_key = gateway.create_key()
                gateway.create_endpoint(f"{self._crew.url}/0", api_key)
                assignment = msgspec.structs.replace(
                    assignment,
                    processes=msgspec.structs.replace(assignment.processes, measured=(gateway.pid,)),
                    targets=(Target(gateway.port),),
                    api_key=api_key,
                )
                return carry_out(case.module, assignment, log=log)

    def _assignment(self, phase: Phase, directory: Path) -> Assignment:
        crew = self._crew
        return Assignment(
            phase=phase,
            tally_fd=crew.tally.fd,
            processes=Processes(receivers=crew.pids),
            receiver_url=crew.url,
            store_url=_store_url(directory),
        )


def _store_url(directory: Path) -> str:
    return f"sqlite:///{directory / 'gateway.db'}"


def names() -> Sequence[str]:
    """What `Options.only` may hold."""
    return [key for key in CASES if key != BASELINE] + [START]
