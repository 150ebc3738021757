"""What a million waiting deliveries cost a node: its start, its memory, and the rate of the endpoints beside them.

They wait for endpoints that take connections and never answer, as those do that are hardest on a sender."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from scripts.benchmarks.children import ChildFailed, Receivers, ask
from scripts.benchmarks.cluster import cluster
from scripts.benchmarks.gateway_process import GatewayProcess, serving
from scripts.benchmarks.phase import Measurement
from scripts.benchmarks.postgres_server import PostgresServer, database_of, free_port
from scripts.benchmarks.process_facts import memory_mib
from scripts.benchmarks.start_up import deliver_one
from scripts.benchmarks.waiting_work import WAITING_TYPE, Order

BESIDE_TYPE = "subscription.besides"
"""What the endpoint that works gets."""

_ENDPOINTS = 20  # that are down
_MAKING_SECONDS = 1_800.0
_SETTLE_SECONDS = 1.0

_VACUUM = "VACUUM (ANALYZE); CHECKPOINT"
_WAITING = """
SELECT count(*) FROM due JOIN endpoints AS e ON e.id = due.endpoint_id WHERE e.events = ARRAY['{waiting_type}']
"""


class Start(msgspec.Struct, frozen=True):
    """What one start of a node showed."""

    ready_seconds: float
    first_delivery_seconds: float
    memory_mib: float  # once it had delivered something
    beside: Measurement  # what the endpoint that works got then


class Backlog(msgspec.Struct, frozen=True):
    """Starts without and with waiting deliveries, in turn."""

    waiting: int
    making_seconds: float
    without: list[Start]
    with_waiting: list[Start]


@contextlib.contextmanager
def hanging(port: int) -> Iterator[None]:
    """A server on *port* that takes connections and says nothing."""
    # The kernel takes them; nobody calls accept(). Closing resets them.
    with socket.create_server(("127.0.0.1", port), backlog=1024):
        yield


class BacklogBench:
    """Two databases of *server*, one with waiting deliveries, one without."""

    def __init__(self, server: PostgresServer, crew: Receivers, directory: Path) -> None:
        self._server = server
        self._crew = crew
        self._directory = directory
        self._port = free_port()

    def measure(
        self,
        databases: tuple[str, str],
        *,
        waiting: int,
        starts: int,
        beside: Callable[[GatewayProcess, str], Measurement],
        progress: Callable[[str], None],
    ) -> Backlog:
        """*databases* are new ones, without and with. *beside* measures the rate to the endpoint that works."""
        keys = [self._prepare(url) for url in databases]
        begin = time.monotonic()
        events = max(1, waiting // _ENDPOINTS)
        order = Order(databases[1], f"http://127.0.0.1:{self._port}", _ENDPOINTS, events)
        log = self._directory / "waiting_work.log"
        made = msgspec.json.decode(ask("waiting_work", order, log=log, seconds=_MAKING_SECONDS), type=int)
        seconds = time.monotonic() - begin
        progress(f"{made:,} waiting deliveries were made in {seconds:.0f} s")
        # As it is once they have waited for a while. The other stays as the databases of the rates are: statistics of tables that
        # were empty would make it slower than it is.
        self._server.run_sql(self._server.admin_url(database_of(databases[1])), _VACUUM)
        found: list[list[Start]] = [[], []]
        for number in range(1, starts + 1):
            for url, key, those, words in zip(databases, keys, found, ("without", "with"), strict=True):
                start = self._start(url, key, beside)
                those.append(start)
                progress(
                    f"start {number} of {starts}, {words}: ready after {start.ready_seconds:.2f} s, first delivery after "
                    f"{start.first_delivery_seconds:.2f} s, {start.memory_mib:.0f} MiB, "
                    f"{start.beside.deliveries_per_second:,.0f}/s"
                )
        self._verify(databases[1], made)
        return Backlog(made, seconds, *found)

    def _prepare(self, url: str) -> str:
        """The key of a database that has an endpoint which works."""
        with cluster(url, 1, directory=self._directory) as one:
            one.create_endpoint(f"{self._crew.url}/0", BESIDE_TYPE, node=0)
            deliver_one(one.nodes[0], self._crew, one.api_key, BESIDE_TYPE)
        return one.api_key

    def _start(self, url: str, key: str, beside: Callable[[GatewayProcess, str], Measurement]) -> Start:
        begin = time.monotonic()
        with serving(url, log=self._directory / "backlog-node.log") as node:
            with hanging(self._port):
                node.wait_until_ready()
                ready_seconds = time.monotonic() - begin
                deliver_one(node, self._crew, key, BESIDE_TYPE)
                first_delivery_seconds = time.monotonic() - begin
                time.sleep(_SETTLE_SECONDS)
                memory = memory_mib(node.pid)
                measurement = beside(node, key)
                node.begin_stop()
            node.wait_for_end()  # whatever hung is reset by now, so that there is little to wait for
        return Start(ready_seconds, first_delivery_seconds, memory, measurement)

    def _verify(self, url: str, made: int) -> None:
        """Whatever was attempted was not answered, so all of it still has to wait."""
        admin_url = self._server.admin_url(database_of(url))
        waiting = int(self._server.run_sql(admin_url, _WAITING.format(waiting_type=WAITING_TYPE)))
        if waiting != made:
            raise ChildFailed(f"of {made:,} waiting deliveries {waiting:,} are left")
