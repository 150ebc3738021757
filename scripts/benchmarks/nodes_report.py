"""What the nodes showed, set against the baseline, the embedded store and the targets: as tables for people, and for JSON."""

from collections.abc import Callable, Sequence

import msgspec

from scripts.benchmarks.backlog import Backlog, Start
from scripts.benchmarks.database_work import DatabaseWork
from scripts.benchmarks.file_system import FileSystem
from scripts.benchmarks.phase import Measurement
from scripts.benchmarks.postgres_server import PostgresServer
from scripts.benchmarks.report import Machine, Spread, disturbance, table, verdict

ACROSS_TARGET_MS = 50.0
CPU_TARGET = 1.15
ROUND_TRIPS_TARGET = 0.2

_SHOWN_SETTINGS = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "shared_buffers",
    "max_wal_size",
    "wal_compression",
    "max_connections",
    "shared_preload_libraries",
)


class ServerFacts(msgspec.Struct, frozen=True):
    """The PostgreSQL that was measured on."""

    version: str
    settings: dict[str, str]


class DatabaseReport(msgspec.Struct, frozen=True):
    """What the database did, for each delivery of a phase."""

    round_trips: Spread | None  # None: the server does not count statements
    statements: Spread | None
    commits: Spread | None  # of all transactions of several statements
    written: Spread  # transactions that wrote
    written_by_event: Spread
    wal_bytes: Spread
    disk_bytes: Spread
    target: float
    met: bool | None


class NodesCase(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table."""

    title: str
    events_per_second: Spread
    deliveries_per_second: Spread
    p50_ms: Spread
    p99_ms: Spread
    peak_memory_mib: Spread  # of all gateway processes together
    receiver_cpu: Spread
    cpu: Spread  # CPU seconds a second of the measured processes
    gateway_cpu_ms: Spread  # for each delivery
    database_cpu_ms: Spread
    ratio: Spread  # of rates, to the baseline of the same round
    embedded_ratio: Spread | None  # of rates, to the embedded store of the same round
    embedded_cpu_ratio: Spread | None  # of rates by CPU second of all processes
    target: float | None  # of the embedded store's rate
    met: bool | None
    deliveries_verified: int
    database: DatabaseReport | None


class CpuReport(msgspec.Struct, frozen=True):
    """CPU for each delivery with two nodes, as a multiple of that with one: gateways and database together."""

    ratio: Spread
    target: float
    met: bool


class Latency(msgspec.Struct, frozen=True):
    """A load and what was measured under it, at the same time."""

    load: float
    same_node: Measurement
    other_node: Measurement


class LatencyReport(msgspec.Struct, frozen=True):
    """From publish to arrival, for endpoints held by the node that was published to, and by the other."""

    load: Spread
    same_node_p50_ms: Spread
    same_node_p99_ms: Spread
    other_node_p50_ms: Spread
    other_node_p99_ms: Spread
    difference_ms: Spread  # of the two p99 of the same round
    target: float
    met: bool
    deliveries_verified: int


class StartSpread(msgspec.Struct, frozen=True):
    """Starts of a node."""

    ready_seconds: Spread
    first_delivery_seconds: Spread
    memory_mib: Spread
    deliveries_per_second: Spread
    p99_ms: Spread


class BacklogReport(msgspec.Struct, frozen=True):
    """Starts without and with waiting deliveries."""

    waiting: int
    making_seconds: float
    without: StartSpread
    with_waiting: StartSpread
    rate_ratio: Spread  # of the starts one after the other
    memory_mib: Spread  # by which a node with waiting deliveries holds more
    deliveries_verified: int


class NodesReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    machine: Machine
    file_system: FileSystem
    sync_ms: float
    server: ServerFacts
    rounds: int
    seconds: float
    receivers: int
    receiver_capacity: float
    cases: list[NodesCase]
    cpu: CpuReport | None
    latency: LatencyReport | None
    backlog: BacklogReport | None


def server_facts(server: PostgresServer) -> ServerFacts:
    """Of a running server."""
    names = ", ".join(f"'{name}', current_setting('{name}')" for name in _SHOWN_SETTINGS)
    found = server.run_sql(server.admin_url(), f"SELECT json_build_object('version', current_setting('server_version'), {names})")
    settings = msgspec.json.decode(found, type=dict[str, str])
    return ServerFacts(settings.pop("version"), settings)


def _spread(runs: Sequence[Measurement], value: Callable[[Measurement], float]) -> Spread:
    return Spread.of(map(value, runs))


def _rate(run: Measurement) -> float:
    return run.deliveries_per_second


def _ratio(runs: Sequence[Measurement], others: Sequence[Measurement], value: Callable[[Measurement], float] = _rate) -> Spread:
    """Of the runs of the same round."""
    return Spread.of(value(run) / value(other) for run, other in zip(runs, others, strict=True))


def report_on_case(
    title: str,
    target: float | None,
    runs: Sequence[Measurement],
    baseline: Sequence[Measurement],
    embedded: Sequence[Measurement] | None,
    works: Sequence[DatabaseWork] | None,
) -> NodesCase:
    """A case of which *runs* were measured, one in each round, beside those of the *baseline* and the *embedded* store."""
    ratio = _ratio(runs, embedded) if embedded else None
    return NodesCase(
        title=title,
        events_per_second=_spread(runs, lambda run: run.events_per_second),
        deliveries_per_second=_spread(runs, _rate),
        p50_ms=_spread(runs, lambda run: run.p50_ms),
        p99_ms=_spread(runs, lambda run: run.p99_ms),
        peak_memory_mib=_spread(runs, lambda run: run.peak_memory_mib),
        receiver_cpu=_spread(runs, lambda run: run.receiver_cpu),
        cpu=_spread(runs, lambda run: run.cpu),
        gateway_cpu_ms=_spread(runs, lambda run: run.cpu / _rate(run) * 1_000),
        database_cpu_ms=_spread(runs, lambda run: run.database_cpu / _rate(run) * 1_000),
        ratio=_ratio(runs, baseline),
        embedded_ratio=ratio,
        embedded_cpu_ratio=_ratio(runs, embedded, lambda run: run.deliveries_per_cpu_second) if embedded else None,
        target=target,
        met=None if target is None or ratio is None else ratio.median >= target,
        deliveries_verified=sum(run.deliveries_verified for run in runs),
        database=report_on_database(works) if works else None,
    )


def report_on_database(works: Sequence[DatabaseWork]) -> DatabaseReport:
    """What the database did in these phases."""

    def each(value: Callable[[DatabaseWork], float]) -> Spread:
        return Spread.of(value(work) / work.deliveries for work in works)

    counted = [(work, work.statements) for work in works if work.statements is not None]
    trips = statements = commits = None
    if counted:
        trips = Spread.of(found.round_trips / work.deliveries for work, found in counted)
        statements = Spread.of(found.statements / work.deliveries for work, found in counted)
        commits = Spread.of(found.commits / work.deliveries for work, found in counted)
    return DatabaseReport(
        round_trips=trips,
        statements=statements,
        commits=commits,
        written=each(lambda work: work.written),
        written_by_event=Spread.of(work.written / work.events for work in works),
        wal_bytes=each(lambda work: work.wal_bytes),
        disk_bytes=each(lambda work: work.disk_bytes),
        target=ROUND_TRIPS_TARGET,
        met=None if trips is None else trips.median <= ROUND_TRIPS_TARGET,
    )


def report_on_cpu(one: Sequence[Measurement], two: Sequence[Measurement]) -> CpuReport:
    """Of one node and of two in the same rounds."""
    ratio = _ratio(one, two, lambda run: run.deliveries_per_cpu_second)
    return CpuReport(ratio, CPU_TARGET, ratio.median <= CPU_TARGET)


def report_on_latency(latencies: Sequence[Latency]) -> LatencyReport:
    """Of all rounds."""
    same = [latency.same_node for latency in latencies]
    other = [latency.other_node for latency in latencies]
    difference = Spread.of(far.p99_ms - near.p99_ms for near, far in zip(same, other, strict=True))
    return LatencyReport(
        load=Spread.of(latency.load for latency in latencies),
        same_node_p50_ms=_spread(same, lambda run: run.p50_ms),
        same_node_p99_ms=_spread(same, lambda run: run.p99_ms),
        other_node_p50_ms=_spread(other, lambda run: run.p50_ms),
        other_node_p99_ms=_spread(other, lambda run: run.p99_ms),
        difference_ms=difference,
        target=ACROSS_TARGET_MS,
        met=difference.median <= ACROSS_TARGET_MS,
        deliveries_verified=sum(run.deliveries_verified for run in (*same, *other)),
    )


def report_on_backlog(backlog: Backlog) -> BacklogReport:
    """Of all starts."""
    pairs = list(zip(backlog.with_waiting, backlog.without, strict=True))
    return BacklogReport(
        waiting=backlog.waiting,
        making_seconds=backlog.making_seconds,
        without=_starts(backlog.without),
        with_waiting=_starts(backlog.with_waiting),
        rate_ratio=_ratio([start.beside for start, _ in pairs], [start.beside for _, start in pairs]),
        memory_mib=Spread.of(loaded.memory_mib - empty.memory_mib for loaded, empty in pairs),
        deliveries_verified=sum(start.beside.deliveries_verified for pair in pairs for start in pair),
    )


def _starts(starts: Sequence[Start]) -> StartSpread:
    beside = [start.beside for start in starts]
    return StartSpread(
        ready_seconds=Spread.of(start.ready_seconds for start in starts),
        first_delivery_seconds=Spread.of(start.first_delivery_seconds for start in starts),
        memory_mib=Spread.of(start.memory_mib for start in starts),
        deliveries_per_second=_spread(beside, _rate),
        p99_ms=_spread(beside, lambda run: run.p99_ms),
    )


# As people read it

_HEADINGS = (
    "",
    "events/s",
    "deliveries/s",
    "p50 ms",
    "p99 ms",
    "memory MiB",
    "ratio",
    "to embedded",
    "by CPU",
    "gateway CPU ms",
    "database CPU ms",
    "target",
)
_WORK_HEADINGS = (
    "for each delivery",
    "round trips",
    "statements",
    "commits",
    "that wrote",
    "WAL bytes",
    "bytes on disk",
    "target",
)
_START_HEADINGS = ("", "ready s", "first delivery s", "memory MiB", "deliveries/s beside", "p99 ms beside")


def as_text(report: NodesReport) -> str:
    """The report as people read it."""
    where = report.machine
    versions = ", ".join(f"{name} {number}" for name, number in where.versions.items())
    settings = ", ".join(f"{name} {value}" for name, value in report.server.settings.items())
    lines = [
        f"{where.cpus} CPUs ({where.processor}), {where.system}, {versions}",
        f"PostgreSQL {report.server.version}: {settings}",
        f"both stores on {report.file_system.type} ({report.file_system.source}), median fdatasync {report.sync_ms:.2f} ms",
        (
            f"receiver: {report.receivers} process(es), {report.receiver_capacity:,.0f} requests/s with a bare client, "
            f"in the runs at most {max(case.receiver_cpu.high for case in report.cases):.0%} of one CPU"
        ),
        (
            f"medians (and ranges) of {report.rounds} runs of {report.seconds:g} s; ratios are of rates of the same round, "
            "to the baseline and to the embedded store, by CPU of all processes of a store; CPU is for each delivery"
        ),
        "",
        *table([_HEADINGS, *map(_row, report.cases)]),
    ]
    lines += disturbance(report.cases[0].cpu.median)
    worked = [(case.title, case.database) for case in report.cases if case.database is not None]
    if worked:
        lines += ["", *table([_WORK_HEADINGS, *(_work_row(title, database) for title, database in worked)])]
    lines += _conclusions(report)
    if (backlog := report.backlog) is not None:
        lines += [
            "",
            *table(
                [
                    _START_HEADINGS,
                    _start_row("a node, nothing waiting", backlog.without),
                    _start_row(f"{backlog.waiting:,} deliveries waiting", backlog.with_waiting),
                ]
            ),
            (
                f"rate beside them: {backlog.rate_ratio.text('.2f')} of that without; "
                f"{backlog.memory_mib.text('.1f')} MiB more memory; they were made in {backlog.making_seconds:.0f} s"
            ),
        ]
    verified = sum(case.deliveries_verified for case in report.cases)
    verified += sum(part.deliveries_verified for part in (report.latency, report.backlog) if part is not None)
    return "\n".join([*lines, "", f"{verified:,} deliveries, each arrived exactly once."])


def _conclusions(report: NodesReport) -> list[str]:
    lines = []
    if (cpu := report.cpu) is not None:
        lines.append(
            f"CPU for each delivery, 2 nodes to 1, with the database: {cpu.ratio.text('.2f')}, "
            f"target <= {cpu.target:.2f} {verdict(met=cpu.met)}"
        )
    if (latency := report.latency) is not None:
        lines += [
            (
                f"latency at {latency.load.text(',.0f')} events/s, a fifth of the load of 2 nodes: "
                f"on the same node p50 {latency.same_node_p50_ms.text('.1f')} ms, p99 {latency.same_node_p99_ms.text('.1f')} ms; "
                f"across nodes p50 {latency.other_node_p50_ms.text('.1f')} ms, p99 {latency.other_node_p99_ms.text('.1f')} ms"
            ),
            (
                f"difference of the two p99: {latency.difference_ms.text('.1f')} ms, "
                f"target <= {latency.target:g} ms {verdict(met=latency.met)}"
            ),
        ]
    return ["", *lines] if lines else []


def _row(case: NodesCase) -> tuple[str, ...]:
    return (
        case.title,
        case.events_per_second.text(",.0f"),
        case.deliveries_per_second.text(",.0f"),
        case.p50_ms.text(".1f"),
        case.p99_ms.text(".1f"),
        f"{case.peak_memory_mib.high:.0f}",
        case.ratio.text(".2f"),
        "" if case.embedded_ratio is None else case.embedded_ratio.text(".2f"),
        "" if case.embedded_cpu_ratio is None else case.embedded_cpu_ratio.text(".2f"),
        case.gateway_cpu_ms.text(".3f"),
        case.database_cpu_ms.text(".3f"),
        "" if case.target is None or case.met is None else f">= {case.target:.2f} of embedded {verdict(met=case.met)}",
    )


def _work_row(title: str, work: DatabaseReport) -> tuple[str, ...]:
    return (
        title,
        *(
            "not counted" if spread is None else spread.text(".4f")
            for spread in (work.round_trips, work.statements, work.commits)
        ),
        work.written.text(".4f"),
        work.wal_bytes.text(",.0f"),
        work.disk_bytes.text(",.0f"),
        "" if work.met is None else f"<= {work.target:.1f} round trips {verdict(met=work.met)}",
    )


def _start_row(title: str, starts: StartSpread) -> tuple[str, ...]:
    return (
        title,
        starts.ready_seconds.text(".2f"),
        starts.first_delivery_seconds.text(".2f"),
        starts.memory_mib.text(".1f"),
        starts.deliveries_per_second.text(",.0f"),
        starts.p99_ms.text(".1f"),
    )
