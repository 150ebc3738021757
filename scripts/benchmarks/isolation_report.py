"""What misbehaving endpoints cost, set against the targets: as a table for people, as structs for JSON."""

from collections.abc import Callable, Sequence

import msgspec

from scripts.benchmarks.file_system import FileSystem
from scripts.benchmarks.phase import Measurement
from scripts.benchmarks.report import Machine, Spread, table, verdict

RATE_TARGET = 0.9  # of the rate alone, at least
P99_TARGET = 2.0  # times the p99 alone, at most


class Pair(msgspec.Struct, frozen=True):
    """The healthy half alone and with the other, of one gateway process."""

    full_alone: Measurement  # as much as it can take
    full: Measurement
    alone: Measurement  # at an even pace, below that
    first: Measurement  # from the first event on that the other half gets
    then: Measurement  # once it is known


class KindReport(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table."""

    title: str
    alone_per_second: Spread
    rate_ratio: Spread
    cpu_ratio: Spread  # of rates by CPU second of the gateway, which what else the machine does hardly changes
    alone_p99_ms: Spread
    first_p99_ms: Spread
    then_p99_ms: Spread
    first_p99_ratio: Spread
    then_p99_ratio: Spread
    met: bool
    deliveries_verified: int  # to the healthy half; each arrived exactly once


class IsolationReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    machine: Machine
    file_system: FileSystem
    sync_ms: float
    rounds: int
    seconds: float
    healthy: int
    kinds: list[KindReport]


def report_on(title: str, pairs: Sequence[Pair]) -> KindReport:
    """A kind, and what was measured of it in each round."""

    def spread(value: Callable[[Pair], float]) -> Spread:
        return Spread.of(map(value, pairs))

    rate = spread(lambda pair: pair.full.deliveries_per_second / pair.full_alone.deliveries_per_second)
    by_cpu = spread(lambda pair: pair.full.deliveries_per_cpu_second / pair.full_alone.deliveries_per_cpu_second)
    first = spread(lambda pair: pair.first.p99_ms / pair.alone.p99_ms)
    then = spread(lambda pair: pair.then.p99_ms / pair.alone.p99_ms)
    return KindReport(
        title=title,
        alone_per_second=spread(lambda pair: pair.full_alone.deliveries_per_second),
        rate_ratio=rate,
        cpu_ratio=by_cpu,
        alone_p99_ms=spread(lambda pair: pair.alone.p99_ms),
        first_p99_ms=spread(lambda pair: pair.first.p99_ms),
        then_p99_ms=spread(lambda pair: pair.then.p99_ms),
        first_p99_ratio=first,
        then_p99_ratio=then,
        met=rate.median >= RATE_TARGET and max(first.median, then.median) <= P99_TARGET,
        deliveries_verified=sum(
            each.deliveries_verified for pair in pairs for each in (pair.full_alone, pair.full, pair.alone, pair.first, pair.then)
        ),
    )


_HEADINGS = ("beside the healthy half", "alone/s", "rate", "rate by CPU", "p99 alone ms", "p99 at first", "p99 then", "target")


def as_text(report: IsolationReport) -> str:
    """The report as people read it."""
    where = report.machine
    lines = [
        f"{where.cpus} CPUs ({where.processor}), {where.system}",
        f"store on {report.file_system.type} ({report.file_system.source}), median fdatasync {report.sync_ms:.2f} ms",
        (
            f"{report.healthy} healthy endpoints, medians (and ranges) of {report.rounds} runs of {report.seconds:g} s; "
            "the rate with as much as it can take, the p99 from publish to arrival at 0.3 of that; as multiples of what the "
            "same gateway had without the others"
        ),
        "",
        *table([_HEADINGS, *map(_row, report.kinds)]),
        "",
        f"{sum(kind.deliveries_verified for kind in report.kinds):,} deliveries to the healthy half, each arrived exactly once.",
    ]
    return "\n".join(lines)


def _row(kind: KindReport) -> tuple[str, ...]:
    return (
        kind.title,
        kind.alone_per_second.text(",.0f"),
        kind.rate_ratio.text(".2f"),
        kind.cpu_ratio.text(".2f"),
        kind.alone_p99_ms.text(".1f"),
        kind.first_p99_ratio.text(".2f"),
        kind.then_p99_ratio.text(".2f"),
        f">= {RATE_TARGET:g}, <= {P99_TARGET:g} {verdict(met=kind.met)}",
    )
