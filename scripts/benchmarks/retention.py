"""What pruning costs the deliveries beside it: the same store with the same old events, in turn while they are pruned and while
they are young enough to stay."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from scripts.benchmarks.children import Receivers, ask, receivers
from scripts.benchmarks.file_system import durable_file_system, median_sync_ms
from scripts.benchmarks.old_history import Order
from scripts.benchmarks.phase import Assignment, Phase, Processes
from scripts.benchmarks.pruning import PruningOrder, Window
from scripts.benchmarks.report import machine
from scripts.benchmarks.retention_report import LoadReport, Pair, RetentionReport, report_on
from scripts.benchmarks.suite import CASES, Options

FULL, PACED = "full", "paced"
_TITLES = {FULL: "as much as it can take", PACED: "half of that, evenly"}
_PHASE = CASES["in-process-10"].phase
_PACED_SHARE = 0.5  # of the rate while nothing is pruned: latency is not mere queueing then
_MAKING_SECONDS = 1_800.0
_GRACE_SECONDS = 120.0


def run(options: Options, progress: Callable[[str], None]) -> RetentionReport:
    """Measures every load that *options* include. Raises InMemory, and ChildFailed when a part fails or not all arrived."""
    options.directory.mkdir(parents=True, exist_ok=True)
    file_system = durable_file_system(options.directory)
    with tempfile.TemporaryDirectory(prefix="run-", dir=options.directory) as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        sync_ms = median_sync_ms(directory)
        crew = stack.enter_context(receivers(options.receivers, log=directory / "receivers.log"))
        bench = _Bench(options, directory, crew)
        bench.make_history(progress)
        loads: list[LoadReport] = []
        full = bench.measure(FULL, _PHASE, progress)
        if options.includes(FULL):
            loads.append(report_on(_TITLES[FULL], full, is_even=False))
        if options.includes(PACED):
            rates = sorted(pair.without.measurement.deliveries_per_second for pair in full)
            per_second = _PACED_SHARE * rates[len(rates) // 2] / _PHASE.endpoints
            paced = bench.measure(PACED, msgspec.structs.replace(_PHASE, per_second=per_second), progress)
            loads.append(report_on(_TITLES[PACED], paced, is_even=True))
    return RetentionReport(
        machine=machine(),
        file_system=file_system,
        sync_ms=sync_ms,
        rounds=options.rounds,
        seconds=options.seconds,
        history=options.history,
        loads=loads,
    )


class _Bench:
    """A store with history, of which each measurement gets a copy."""

    def __init__(self, options: Options, directory: Path, crew: Receivers) -> None:
        self._options = options
        self._directory = directory
        self._crew = crew
        self._history = directory / "history.db"

    def make_history(self, progress: Callable[[str], None]) -> None:
        """Old events, each delivered once."""
        begin = time.monotonic()
        crew = self._crew
        order = Order(f"sqlite:///{self._history}", crew.url, 1, self._options.history, crew.tally.fd)
        ask("old_history", order, log=self._directory / "old_history.log", seconds=_MAKING_SECONDS, fds=[crew.tally.fd])
        progress(
            f"{self._options.history:,} old events, {self._history.stat().st_size / 1_048_576:,.0f} MiB, were made in "
            f"{time.monotonic() - begin:.0f} s"
        )

    def measure(self, key: str, phase: Phase, progress: Callable[[str], None]) -> list[Pair]:
        """One pair for each round; who is first changes from round to round."""
        pairs: list[Pair] = []
        for number in range(1, self._options.rounds + 1):
            first = self._measure_once(phase, prunes=number % 2 == 0)
            second = self._measure_once(phase, prunes=number % 2 == 1)
            pair = Pair(second, first) if number % 2 == 0 else Pair(first, second)
            pairs.append(pair)
            without, pruning = pair.without.measurement, pair.pruning.measurement
            progress(
                f"round {number} of {self._options.rounds}, {key}: {pruning.deliveries_per_second:,.0f}/s of "
                f"{without.deliveries_per_second:,.0f}/s, p99 {pruning.p99_ms:.1f} ms of {without.p99_ms:.1f} ms, "
                f"{pair.pruning.pruned_per_second:,.0f} events/s pruned, {pair.pruning.left:,} left"
            )
        return pairs

    def _measure_once(self, phase: Phase, *, prunes: bool) -> Window:
        options, crew = self._options, self._crew
        with tempfile.TemporaryDirectory(dir=self._directory) as place:
            path = Path(place) / "gateway.db"
            shutil.copyfile(self._history, path)
            os.sync()  # what is being copied would be in the way of every commit
            assignment = Assignment(
                phase=msgspec.structs.replace(phase, seconds=options.seconds, warm_up_seconds=options.warm_up_seconds),
                tally_fd=crew.tally.fd,
                processes=Processes(receivers=crew.pids),
                receiver_url=crew.url,
                store_url=f"sqlite:///{path}",
            )
            order = PruningOrder(assignment, str(path), options.history, prunes)
            seconds = options.warm_up_seconds + options.seconds + _GRACE_SECONDS
            answer = ask("pruning", order, log=Path(place) / "pruning.log", seconds=seconds, fds=[crew.tally.fd])
        return msgspec.json.decode(answer, type=Window)


def names() -> Sequence[str]:
    """What `Options.only` may hold."""
    return list(_TITLES)
