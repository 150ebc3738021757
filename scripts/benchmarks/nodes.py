"""Nodes on a PostgreSQL beside the embedded store: rates, latency within and across nodes, CPU, what the database does for a
delivery, and what a million waiting ones cost. In rounds, each beginning with the baseline, as in the main suite."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from scripts.benchmarks.backlog import BESIDE_TYPE, Backlog, BacklogBench
from scripts.benchmarks.children import Receivers, carry_out, receivers
from scripts.benchmarks.cluster import Cluster, cluster, database
from scripts.benchmarks.database_work import EXTENSION, DatabaseWatch, DatabaseWork
from scripts.benchmarks.file_system import durable_file_system, median_sync_ms
from scripts.benchmarks.gateway_process import GatewayProcess, serving
from scripts.benchmarks.nodes_report import (
    Latency,
    NodesReport,
    report_on_backlog,
    report_on_case,
    report_on_cpu,
    report_on_latency,
    server_facts,
)
from scripts.benchmarks.payload import numbered_type
from scripts.benchmarks.phase import Assignment, Measurement, Phase, Processes, Target
from scripts.benchmarks.postgres_server import Binaries, PostgresServer
from scripts.benchmarks.report import machine
from scripts.benchmarks.suite import BASELINE, CASES, Options, check_receivers

IN_PROCESS = "in-process-10"
HTTP = "http-100"
LATENCY = "latency"
BACKLOG = "backlog"

_TYPES = tuple(numbered_type(number) for number in range(10))
# Each event goes to one of ten endpoints. Each node gets what the embedded store gets: a window of its own.
_HTTP_PHASE = Phase(publishers=2, batch=100, window=200)
_SHARE_OF_LOAD = 0.2  # at which latency is measured
_PACED_PUBLISHERS = 32

# The cases of a round, each with its title, how many nodes it has on a PostgreSQL, and the case on the embedded store that it is
# held against.
EMBEDDED_IN_PROCESS = "embedded, in process"
NODE_IN_PROCESS = "1 node, in process"
EMBEDDED_HTTP = "embedded, HTTP"
ONE_NODE = "1 node, HTTP"
TWO_NODES = "2 nodes, HTTP"
_EMBEDDED = {NODE_IN_PROCESS: EMBEDDED_IN_PROCESS, ONE_NODE: EMBEDDED_HTTP, TWO_NODES: EMBEDDED_HTTP}
_TARGETS = {NODE_IN_PROCESS: 0.5, ONE_NODE: 0.5}
_TITLES = {
    BASELINE: "baseline: aiohttp POSTs, 64 at a time",
    EMBEDDED_IN_PROCESS: "embedded store, in process, to 10 endpoints",
    NODE_IN_PROCESS: "1 node, in process, to 10 endpoints",
    EMBEDDED_HTTP: "embedded store, HTTP batches of 100, each to 1 of 10",
    ONE_NODE: "1 node, HTTP batches of 100, each to 1 of 10",
    TWO_NODES: "2 nodes, HTTP batches of 100 to both, each to 1 of 10",
}


def run(options: Options, progress: Callable[[str], None]) -> NodesReport:
    """Measures everything that *options* include.

    Raises InMemory when the directory would make nothing durable, ChildFailed when a part fails or not all arrived,
    BinariesMissingError without a PostgreSQL, ServerError when that fails.
    """
    options.directory.mkdir(parents=True, exist_ok=True)
    file_system = durable_file_system(options.directory)
    library = Binaries.find().has_library(EXTENSION)
    with tempfile.TemporaryDirectory(prefix="run-", dir=options.directory) as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        sync_ms = median_sync_ms(directory)
        # Beside the other files, as it belongs to another user.
        settings = {"shared_preload_libraries": EXTENSION} if library else {}
        server = stack.enter_context(PostgresServer.open(options.directory, settings))
        if library:
            server.run_sql(server.admin_url(), f"CREATE EXTENSION {EXTENSION}")
        progress(f"{directory} on {file_system.type}: fdatasync {sync_ms:.2f} ms; PostgreSQL {server.version}")
        crews = [
            stack.enter_context(receivers(count, log=directory / f"receivers-{number}.log"))
            for number, count in enumerate((options.receivers, 1, 1))
        ]
        capacity = check_receivers(crews[0], directory, seconds=options.seconds)
        progress(f"receiver: {capacity.deliveries_per_second:,.0f}/s")
        bench = _Bench(options, directory, server, crews, progress)
        for number in range(1, options.rounds + 1):
            bench.round(number)
        backlog = bench.backlog() if options.includes(BACKLOG) else None
        measured, works = bench.measured, bench.works
        return NodesReport(
            machine=machine(),
            file_system=file_system,
            sync_ms=sync_ms,
            server=server_facts(server),
            rounds=options.rounds,
            seconds=options.seconds,
            receivers=options.receivers,
            receiver_capacity=capacity.deliveries_per_second,
            cases=[
                report_on_case(
                    _TITLES[case],
                    _TARGETS.get(case),
                    runs,
                    measured[BASELINE],
                    measured.get(_EMBEDDED.get(case, "")),
                    works.get(case),
                )
                for case, runs in measured.items()
            ],
            cpu=report_on_cpu(measured[ONE_NODE], measured[TWO_NODES]) if ONE_NODE in measured else None,
            latency=report_on_latency(bench.latencies) if bench.latencies else None,
            backlog=None if backlog is None else report_on_backlog(backlog),
        )


class _Bench:
    """The running receivers and the server, and what has been measured so far."""

    def __init__(
        self,
        options: Options,
        directory: Path,
        server: PostgresServer,
        crews: Sequence[Receivers],
        progress: Callable[[str], None],
    ) -> None:
        self._options = options
        self._directory = directory
        self._server = server
        self._crew, self._same_node_crew, self._other_node_crew = crews
        self._progress = progress
        self.measured: dict[str, list[Measurement]] = {}
        self.works: dict[str, list[DatabaseWork]] = {}
        self.latencies: list[Latency] = []

    def round(self, number: int) -> None:
        """Measures every case once."""
        options = self._options
        with self._place(f"round-{number}") as directory:
            self._note(number, BASELINE, carry_out("baseline", self._assignment(CASES[BASELINE].phase), log=directory / "log"))
            if options.includes(IN_PROCESS):
                self._note(number, EMBEDDED_IN_PROCESS, self._in_process(f"sqlite:///{directory / 'process.db'}", directory))
                with database(self._server) as url:
                    self._note(number, NODE_IN_PROCESS, self._in_process(url, directory, database_pid=self._server.pid))
            if options.includes(HTTP):
                self._note(number, EMBEDDED_HTTP, self._embedded(number, directory))
                with self._nodes(1, number, directory) as (one, watch):
                    self._note(number, ONE_NODE, self._throughput(one, directory), watch)
            if options.includes(HTTP) or options.includes(LATENCY):
                with self._nodes(2, number, directory) as (two, watch):
                    self._note(number, TWO_NODES, self._throughput(two, directory), watch)
                    if options.includes(LATENCY):
                        load = self.measured[TWO_NODES][-1].events_per_second * _SHARE_OF_LOAD
                        self._latency(two, directory, load)

    def _note(self, number: int, case: str, measurement: Measurement, watch: DatabaseWatch | None = None) -> None:
        self.measured.setdefault(case, []).append(measurement)
        if watch is not None:
            # Of the whole phase: each of its events went to one endpoint.
            verified = measurement.deliveries_verified
            self.works.setdefault(case, []).append(watch.work(deliveries=verified, events=verified))
        rate = measurement.deliveries_per_second
        self._progress(f"round {number} of {self._options.rounds}, {case}: {rate:,.0f}/s")

    # The parts of a round

    def _in_process(self, url: str, directory: Path, *, database_pid: int | None = None) -> Measurement:
        assignment = self._assignment(CASES[IN_PROCESS].phase, database_pid=database_pid)
        return carry_out("in_process", msgspec.structs.replace(assignment, store_url=url), log=directory / "log")

    def _embedded(self, number: int, directory: Path) -> Measurement:
        profile = self._profile(f"embedded-{number}.prof")
        with serving(f"sqlite:///{directory / 'serve.db'}", log=directory / "gateway.log", profile=profile) as gateway:
            gateway.wait_until_ready()
            api_key = gateway.create_key()
            for place, event_type in enumerate(_TYPES):
                gateway.create_endpoint(f"{self._crew.url}/{place}", api_key, event_type)
            assignment = self._to([gateway], _HTTP_PHASE, api_key, database_pid=None)
            return carry_out("http_publisher", assignment, log=directory / "log")

    @contextlib.contextmanager
    def _nodes(self, count: int, number: int, directory: Path) -> Iterator[tuple[Cluster, DatabaseWatch]]:
        """*count* nodes on a new database, with endpoints, and a watch that was set when nothing was to do any more."""
        with (
            database(self._server) as url,
            cluster(url, count, directory=directory, profile=self._profile(f"{count}-{number}")) as nodes,
        ):
            nodes.spread_endpoints(self._crew, _TYPES)
            yield nodes, DatabaseWatch(self._server, url)

    def _throughput(self, nodes: Cluster, directory: Path) -> Measurement:
        """The load of the embedded store on every node."""
        count = len(nodes.nodes)
        phase = msgspec.structs.replace(
            _HTTP_PHASE, publishers=count * _HTTP_PHASE.publishers, window=count * (_HTTP_PHASE.window or 0)
        )
        assignment = self._to(nodes.nodes, phase, nodes.api_key, database_pid=self._server.pid)
        return carry_out("http_publisher", assignment, log=directory / "log")

    def _latency(self, nodes: Cluster, directory: Path, load: float) -> None:
        """Publishes *load* events a second, one by one, to both nodes: half of them for endpoints of the node that takes them,
        and at the same time, by another process and to another receiver, half for endpoints of the other node."""
        phase = Phase(publishers=_PACED_PUBLISHERS, per_second=load / 2)
        assignments = []
        for far, crew in enumerate((self._same_node_crew, self._other_node_crew)):
            targets = []
            for near, node in enumerate(nodes.nodes):
                event_type = numbered_type(10 + 2 * far + near)
                nodes.create_endpoint(f"{crew.url}/{near}", event_type, node=(near + far) % len(nodes.nodes))
                targets.append(Target(node.port, (event_type,)))
            assignment = self._to(nodes.nodes, phase, nodes.api_key, database_pid=self._server.pid)
            assignments.append(
                msgspec.structs.replace(
                    assignment,
                    tally_fd=crew.tally.fd,
                    processes=msgspec.structs.replace(assignment.processes, receivers=crew.pids),
                    targets=tuple(targets),
                )
            )
        with ThreadPoolExecutor(len(assignments)) as threads:
            same_node, other_node = threads.map(
                lambda numbered: carry_out("http_publisher", numbered[1], log=directory / f"log-{numbered[0]}"),
                enumerate(assignments),
            )
        self.latencies.append(Latency(load, same_node, other_node))
        self._progress(
            f"at {load:,.0f}/s: p99 {same_node.p99_ms:.0f} ms on the same node, {other_node.p99_ms:.0f} ms across nodes"
        )

    def backlog(self) -> Backlog:
        """What waiting deliveries cost."""
        options = self._options

        def beside(node: GatewayProcess, api_key: str) -> Measurement:
            assignment = self._to([node], _HTTP_PHASE, api_key, database_pid=self._server.pid, event_types=(BESIDE_TYPE,))
            return carry_out("http_publisher", assignment, log=directory / "log")

        with self._place("backlog") as directory, database(self._server) as without, database(self._server) as with_waiting:
            bench = BacklogBench(self._server, self._crew, directory)
            return bench.measure(
                (without, with_waiting),
                waiting=options.waiting,
                starts=options.starts,
                beside=beside,
                progress=self._progress,
            )

    # What they are made of

    @contextlib.contextmanager
    def _place(self, name: str) -> Iterator[Path]:
        """A directory that is gone after the block."""
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=self._directory) as place:
            yield Path(place)

    def _profile(self, name: str) -> Path | None:
        return None if self._options.profile is None else self._options.profile / name

    def _assignment(self, phase: Phase, *, database_pid: int | None = None) -> Assignment:
        options = self._options
        return Assignment(
            phase=msgspec.structs.replace(phase, seconds=options.seconds, warm_up_seconds=options.warm_up_seconds),
            tally_fd=self._crew.tally.fd,
            processes=Processes(receivers=self._crew.pids, database=database_pid),
            receiver_url=self._crew.url,
        )

    def _to(
        self,
        nodes: Sequence[GatewayProcess],
        phase: Phase,
        api_key: str,
        *,
        database_pid: int | None,
        event_types: tuple[str, ...] = _TYPES,
    ) -> Assignment:
        assignment = self._assignment(phase, database_pid=database_pid)
        return msgspec.structs.replace(
            assignment,
            processes=msgspec.structs.replace(assignment.processes, measured=tuple(node.pid for node in nodes)),
            targets=tuple(Target(node.port, event_types) for node in nodes),
            api_key=api_key,
        )


def names() -> Sequence[str]:
    """What `Options.only` may hold."""
    return (IN_PROCESS, HTTP, LATENCY, BACKLOG)
