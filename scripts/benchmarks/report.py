"""What was measured, set against the baseline and the targets: as a table for people, as structs for JSON."""

import os
import platform
import sqlite3
import statistics
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from scripts.benchmarks.file_system import FileSystem
from scripts.benchmarks.phase import Measurement
from scripts.benchmarks.start_up import StartUp

IDLE_CPU_TARGET = 0.01
FIRST_DELIVERY_TARGET_SECONDS = 1.0


class Spread(msgspec.Struct, frozen=True):
    """The median of some runs, and the range they lie in."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        known = list(values)
        return cls(statistics.median(known), min(known), max(known))

    def text(self, form: str) -> str:
        """As in `8,100 (7,900-8,200)`; a single run has no range."""
        median, low, high = (format(value, form) for value in (self.median, self.low, self.high))
        return median if low == high else f"{median} ({low}-{high})"


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured."""

    cpus: int
    processor: str
    system: str
    versions: dict[str, str]


class CaseReport(msgspec.Struct, frozen=True):
    """One line of the table."""

    title: str
    deliveries_per_second: Spread
    deliveries_per_cpu_second: Spread
    p50_ms: Spread
    p99_ms: Spread
    peak_memory_mib: Spread
    cpu: Spread  # CPU seconds a second of the measured process
    receiver_cpu: Spread  # the same of the receiver: near 1 it would be the limit
    ratio: Spread  # of rates, to the baseline of the same round
    cpu_ratio: Spread  # of rates by CPU second
    target: float | None
    met: bool | None
    deliveries_verified: int  # of all runs; each arrived exactly once


class StartReport(msgspec.Struct, frozen=True):
    """Starting and idling, against their targets."""

    first_delivery_seconds: Spread
    first_delivery_met: bool
    idle_cpu: float
    idle_seconds: float
    idle_met: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    machine: Machine
    file_system: FileSystem
    sync_ms: float
    rounds: int
    seconds: float
    receivers: int
    receiver_capacity: float
    cases: list[CaseReport]
    start: StartReport | None


def machine() -> Machine:
    """This machine."""
    versions = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    versions |= {package: version(package) for package in ("aiohttp", "uvloop")}
    return Machine(len(os.sched_getaffinity(0)), _processor(), f"{platform.system()} {platform.release()}", versions)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def report_on(title: str, target: float | None, runs: Sequence[Measurement], baseline: Sequence[Measurement]) -> CaseReport:
    """A case of which *runs* were measured, one in each round, beside those of the *baseline*."""

    def spread(value: Callable[[Measurement], float]) -> Spread:
        return Spread.of(map(value, runs))

    def ratio(value: Callable[[Measurement], float]) -> Spread:
        return Spread.of(value(run) / value(base) for run, base in zip(runs, baseline, strict=True))

    by_rate = ratio(lambda run: run.deliveries_per_second)
    by_cpu = ratio(lambda run: run.deliveries_per_cpu_second)
    return CaseReport(
        title=title,
        deliveries_per_second=spread(lambda run: run.deliveries_per_second),
        deliveries_per_cpu_second=spread(lambda run: run.deliveries_per_cpu_second),
        p50_ms=spread(lambda run: run.p50_ms),
        p99_ms=spread(lambda run: run.p99_ms),
        peak_memory_mib=spread(lambda run: run.peak_memory_mib),
        cpu=spread(lambda run: run.cpu),
        receiver_cpu=spread(lambda run: run.receiver_cpu),
        ratio=by_rate,
        cpu_ratio=by_cpu,
        target=target,
        met=None if target is None else max(by_rate.median, by_cpu.median) >= target,
        deliveries_verified=sum(run.deliveries_verified for run in runs),
    )


def report_start(start: StartUp) -> StartReport:
    """The starts against their targets."""
    first = Spread.of(start.first_delivery_seconds)
    return StartReport(
        first,
        first.median < FIRST_DELIVERY_TARGET_SECONDS,
        start.idle_cpu,
        start.idle_seconds,
        start.idle_cpu < IDLE_CPU_TARGET,
    )


_UNDISTURBED = 0.05  # of the time
_HEADINGS = ("", "deliveries/s", "per CPU second", "p50 ms", "p99 ms", "memory MiB", "ratio", "ratio by CPU", "target")


def as_text(report: Report) -> str:
    """The report as people read it."""
    where = report.machine
    versions = ", ".join(f"{name} {number}" for name, number in where.versions.items())
    lines = [
        f"{where.cpus} CPUs ({where.processor}), {where.system}, {versions}",
        f"store on {report.file_system.type} ({report.file_system.source}), median fdatasync {report.sync_ms:.2f} ms",
        (
            f"receiver: {report.receivers} process(es), {report.receiver_capacity:,.0f} requests/s with a bare client, "
            f"in the runs at most {max(case.receiver_cpu.high for case in report.cases):.0%} of one CPU"
        ),
        (
            f"medians (and ranges) of {report.rounds} runs of {report.seconds:g} s, ratios to the baseline of the same round; "
            "latency is from publish to arrival"
        ),
        "",
        *table([_HEADINGS, *map(_row, report.cases)]),
    ]
    lines += disturbance(report.cases[0].cpu.median)
    if report.start is not None:
        start = report.start
        lines += [
            "",
            (
                f"start to first delivery: {start.first_delivery_seconds.text('.2f')} s, "
                f"target < {FIRST_DELIVERY_TARGET_SECONDS:g} s {verdict(met=start.first_delivery_met)}"
            ),
            (
                f"idle CPU over {start.idle_seconds:g} s: {start.idle_cpu:.2%}, "
                f"target < {IDLE_CPU_TARGET:.0%} {verdict(met=start.idle_met)}"
            ),
        ]
    verified = sum(case.deliveries_verified for case in report.cases)
    lines += ["", f"{verified:,} deliveries, each arrived exactly once."]
    return "\n".join(lines)


def _row(case: CaseReport) -> tuple[str, ...]:
    return (
        case.title,
        case.deliveries_per_second.text(",.0f"),
        case.deliveries_per_cpu_second.text(",.0f"),
        case.p50_ms.text(".1f"),
        case.p99_ms.text(".1f"),
        f"{case.peak_memory_mib.high:.0f}",
        case.ratio.text(".2f"),
        case.cpu_ratio.text(".2f"),
        "" if case.target is None or case.met is None else f">= {case.target:.2f} {verdict(met=case.met)}",
    )


def disturbance(baseline_cpu: float) -> list[str]:
    """A warning when the baseline's process, which is busy all the time when it is alone, used less than that of a CPU."""
    if 1 - baseline_cpu <= _UNDISTURBED:
        return []
    return [
        "",
        f"The baseline had to wait for a CPU {1 - baseline_cpu:.0%} of the time: something else was running, measure again.",
    ]


def verdict(*, met: bool) -> str:
    """A target's fate, in the same word everywhere."""
    return "met" if met else "MISSED"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; also a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
