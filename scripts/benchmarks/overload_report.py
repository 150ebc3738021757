"""What an overload did, set against the targets: as text for people, as structs for JSON."""

from collections.abc import Sequence

import msgspec

from scripts.benchmarks.file_system import FileSystem
from scripts.benchmarks.report import Machine, table, verdict

TIMES_TARGET = 3.0  # what the gateway can take, at least
NORMAL_TARGET_SECONDS = 5.0
_QUICK_MS = 100.0  # a p99 that is as good as normal on a machine that others use, too


class Second(msgspec.Struct, frozen=True):
    """A second of the overload, or after it."""

    at: float  # seconds after its end; negative before it
    arrived: int
    p99_ms: float | None  # from publish to arrival; None when nothing arrived
    memory_mib: float


class Overload(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    machine: Machine
    file_system: FileSystem
    sync_ms: float
    endpoints: int
    seconds: float
    capacity: float  # events a second
    offered: int
    accepted: int
    refused: int  # 503 with Retry-After
    others: dict[str, int]  # by what was answered
    times: float  # what was offered, of the capacity
    deliveries_per_second: float  # during the overload
    normal_p99_ms: float
    memory_before_mib: float
    memory_max_mib: float
    memory_slope: float  # MiB a minute, in the second half of the overload
    normal_seconds: (
        float | None
    )  # after the end, from which on all that arrived was as quick as before; None: not within the watch
    probes_refused: int  # after the end
    verified: int
    timeline: list[Second]


def normal_from(timeline: Sequence[Second], normal_p99_ms: float) -> float | None:
    """From which second after the end on arrivals were as quick as before; None when they were not in the last one. Pure."""
    quick_ms = max(2 * normal_p99_ms, _QUICK_MS)
    after = [second for second in timeline if second.at > 0]
    slow = [second.at for second in after if second.p99_ms is None or second.p99_ms > quick_ms]
    if not slow:
        return 0.0
    return None if slow[-1] == after[-1].at else slow[-1]


_SHOWN_SECONDS = 10


def as_text(found: Overload) -> str:
    """The findings as people read them."""
    where = found.machine
    is_normal = found.normal_seconds is not None and found.normal_seconds <= NORMAL_TARGET_SECONDS
    after = [second for second in found.timeline if -1 < second.at < _SHOWN_SECONDS]
    rows = [
        ("second", "arrived", "p99 ms", "memory MiB"),
        *(
            (
                f"{second.at:.1f}",
                f"{second.arrived:,}",
                "" if second.p99_ms is None else f"{second.p99_ms:,.0f}",
                f"{second.memory_mib:.0f}",
            )
            for second in after
        ),
    ]
    lines = [
        f"{where.cpus} CPUs ({where.processor}), {where.system}",
        f"store on {found.file_system.type} ({found.file_system.source}), median fdatasync {found.sync_ms:.2f} ms",
        "",
        f"it can take {found.capacity:,.0f} events/s, each to {found.endpoints} endpoints",
        (
            f"offered for {found.seconds:g} s: {found.offered:,}, {found.times:.1f} times as much, target >= {TIMES_TARGET:g} "
            f"{verdict(met=found.times >= TIMES_TARGET)}"
        ),
        (
            f"accepted {found.accepted:,}, refused with 503 and Retry-After {found.refused:,}, answered otherwise "
            f"{found.others or 0} {verdict(met=not found.others)}; {found.deliveries_per_second:,.0f} deliveries/s meanwhile"
        ),
        (
            f"memory {found.memory_before_mib:.0f} MiB before, at most {found.memory_max_mib:.0f} MiB, "
            f"{found.memory_slope:+.1f} MiB a minute in the second half"
        ),
        (
            f"as quick as before (p99 {found.normal_p99_ms:.1f} ms) "
            + ("not within the time watched" if found.normal_seconds is None else f"{found.normal_seconds:.1f} s after the end")
            + f", target <= {NORMAL_TARGET_SECONDS:g} s {verdict(met=is_normal)}; {found.probes_refused} refused after it"
        ),
        "",
        *table(rows),
        "",
        f"{found.verified:,} deliveries, each arrived exactly once.",
    ]
    return "\n".join(lines)
