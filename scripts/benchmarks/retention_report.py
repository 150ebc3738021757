"""What pruning costs, set against how far the runs without it differ: as a table for people, as structs for JSON."""

from collections.abc import Sequence

import msgspec

from scripts.benchmarks.file_system import FileSystem
from scripts.benchmarks.pruning import Window
from scripts.benchmarks.report import Machine, Spread, table, verdict


class Pair(msgspec.Struct, frozen=True):
    """The same load, one after the other, on the same store."""

    without: Window  # everything is young enough to stay
    pruning: Window


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table."""

    title: str
    without_per_second: Spread
    pruning_per_second: Spread
    dip: float  # of the median, while old events are pruned: 0.05 is 5 % less
    spread: float  # from the lowest to the highest run without, as a share of their median
    met: bool | None  # the dip is not beyond the spread; None for an even load, whose rate is given
    without_p99_ms: Spread
    pruning_p99_ms: Spread
    pruned_per_second: Spread  # events
    left: int  # events still to be pruned in the end, in the run that had fewest left
    deliveries_verified: int


class RetentionReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    machine: Machine
    file_system: FileSystem
    sync_ms: float
    rounds: int
    seconds: float
    history: int
    loads: list[LoadReport]


def report_on(title: str, pairs: Sequence[Pair], *, is_even: bool) -> LoadReport:
    """A load, and what was measured of it in each round."""
    without = Spread.of(pair.without.measurement.deliveries_per_second for pair in pairs)
    pruning = Spread.of(pair.pruning.measurement.deliveries_per_second for pair in pairs)
    dip = 1 - pruning.median / without.median
    spread = (without.high - without.low) / without.median
    return LoadReport(
        title=title,
        without_per_second=without,
        pruning_per_second=pruning,
        dip=dip,
        spread=spread,
        met=None if is_even else dip <= spread,
        without_p99_ms=Spread.of(pair.without.measurement.p99_ms for pair in pairs),
        pruning_p99_ms=Spread.of(pair.pruning.measurement.p99_ms for pair in pairs),
        pruned_per_second=Spread.of(pair.pruning.pruned_per_second for pair in pairs),
        left=min(pair.pruning.left for pair in pairs),
        deliveries_verified=sum(
            window.measurement.deliveries_verified for pair in pairs for window in (pair.without, pair.pruning)
        ),
    )


_HEADINGS = ("load", "without/s", "pruning/s", "dip", "spread", "p99 without ms", "p99 pruning ms", "events pruned/s", "target")


def as_text(report: RetentionReport) -> str:
    """The report as people read it."""
    where = report.machine
    lines = [
        f"{where.cpus} CPUs ({where.processor}), {where.system}",
        f"store on {report.file_system.type} ({report.file_system.source}), median fdatasync {report.sync_ms:.2f} ms",
        (
            f"{report.history:,} old events, each delivered once; in process to 10 endpoints, while those are pruned and while "
            f"they are not; medians (and ranges) of {report.rounds} runs of {report.seconds:g} s; latency is from publish to "
            "arrival; the spread is that of the runs without, from the lowest to the highest"
        ),
        "",
        *table([_HEADINGS, *map(_row, report.loads)]),
    ]
    if any(load.left == 0 for load in report.loads):
        lines += ["", "Everything was pruned before the end of a run: measure with more history."]
    verified = sum(load.deliveries_verified for load in report.loads)
    return "\n".join([*lines, "", f"{verified:,} deliveries, each arrived exactly once."])


def _row(load: LoadReport) -> tuple[str, ...]:
    return (
        load.title,
        load.without_per_second.text(",.0f"),
        load.pruning_per_second.text(",.0f"),
        f"{load.dip:.1%}",
        f"{load.spread:.1%}",
        load.without_p99_ms.text(".1f"),
        load.pruning_p99_ms.text(".1f"),
        load.pruned_per_second.text(",.0f"),
        "" if load.met is None else f"dip <= spread {verdict(met=load.met)}",
    )
