"""Much more than a gateway can take, for a while: what is refused and how, what its memory does, whether all that was accepted
arrives, and how soon after it events are as quick as before."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from scripts.benchmarks.children import ChildFailed, Receivers, ask, carry_out, receivers
from scripts.benchmarks.file_system import durable_file_system, median_sync_ms
from scripts.benchmarks.gateway_process import GatewayProcess, serving
from scripts.benchmarks.hammer import Hammered, HammerOrder
from scripts.benchmarks.overload_report import Overload, Second, normal_from
from scripts.benchmarks.payload import EVENT_TYPE
from scripts.benchmarks.phase import Assignment, Phase, Processes, Target
from scripts.benchmarks.process_facts import memory_mib
from scripts.benchmarks.report import machine
from scripts.benchmarks.suite import Options
from scripts.benchmarks.tally import Arrivals, Tally, quantile_ms

ENDPOINTS = 10  # each of which gets every event: a delivery costs more than an event, so that many can be offered
_PROCESSES = 2  # that publish
_CONNECTIONS = 16  # of each
_BATCH = 100  # events in one of their requests
_PROBES_PER_SECOND = 20.0
_LOOK_SECONDS = 0.25
_WATCH_SECONDS = 15.0  # after the end
_DRAIN_SECONDS = 600.0
_GRACE_SECONDS = 60.0
_WRAP = 1 << 64


def run(options: Options, progress: Callable[[str], None]) -> Overload:
    """Measures. Raises InMemory, and ChildFailed when a part fails or not all that was accepted arrived."""
    options.directory.mkdir(parents=True, exist_ok=True)
    file_system = durable_file_system(options.directory)
    with tempfile.TemporaryDirectory(prefix="run-", dir=options.directory) as name:
        directory = Path(name)
        sync_ms = median_sync_ms(directory)
        with (
            receivers(options.receivers, log=directory / "receivers.log") as crew,
            serving(f"sqlite:///{directory / 'gateway.db'}", log=directory / "gateway.log") as gateway,
        ):
            gateway.wait_until_ready()
            api_key = gateway.create_key()
            for number in range(ENDPOINTS):
                gateway.create_endpoint(f"{crew.url}/{number}", api_key)
            found = _Bench(options, directory, crew, gateway, api_key, progress).measure()
    return msgspec.convert(
        {**found, "machine": machine(), "file_system": file_system, "sync_ms": sync_ms}, type=Overload, from_attributes=True
    )


class _Watch:
    """Looks at what has arrived, and at the gateway's memory, again and again."""

    def __init__(self, tally: Tally, pid: int) -> None:
        self._tally = tally
        self._pid = pid
        self.seen: list[tuple[float, Arrivals, float]] = []

    def look(self) -> Arrivals:
        arrivals = self._tally.read()
        self.seen.append((time.monotonic(), arrivals, memory_mib(self._pid)))
        return arrivals

    def look_until(self, until: float) -> None:
        while time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
            self.look()

    def seconds(self, end: float) -> list[Second]:
        """What was seen second by second, counted from *end*."""
        found = []
        steps = round(1 / _LOOK_SECONDS)
        marks = self.seen[::steps]
        for (_, before, _), (at, after, memory) in itertools.pairwise(marks):
            arrived = after.since(before)
            found.append(Second(round(at - end, 2), arrived.count, quantile_ms(arrived.buckets, 0.99), round(memory, 1)))
        return found


class _Bench:
    def __init__(
        self,
        options: Options,
        directory: Path,
        crew: Receivers,
        gateway: GatewayProcess,
        api_key: str,
        progress: Callable[[str], None],
    ) -> None:
        self._options = options
        self._directory = directory
        self._crew = crew
        self._gateway = gateway
        self._api_key = api_key
        self._progress = progress

    def measure(self) -> dict[str, object]:
        crew, options = self._crew, self._options
        capacity = self._capacity()
        self._progress(f"it can take {capacity:,.0f} events/s to {ENDPOINTS} endpoints each")
        before = crew.tally.read()
        normal = self._hammer([self._order(_PROBES_PER_SECOND, options.seconds)])
        self._drain(before, [normal[0]])
        normal_p99_ms = quantile_ms(crew.tally.read().since(before).buckets, 0.99) or 0.0
        self._progress(f"at {_PROBES_PER_SECOND:g} events/s: p99 {normal_p99_ms:.1f} ms")

        memory_before = memory_mib(self._gateway.pid)
        watch = _Watch(crew.tally, self._gateway.pid)
        begin = watch.look()
        with ThreadPoolExecutor(_PROCESSES + 1) as threads:
            order = self._order(None, options.overload_seconds)
            hammers = [threads.submit(self._ask, order, number) for number in range(_PROCESSES)]
            while not all(done.done() for done in hammers):
                time.sleep(_LOOK_SECONDS)
                watch.look()
            end = time.monotonic()
            at_end = watch.seen[-1][1]
            overload = [done.result() for done in hammers]
            self._progress("the overload is over")
            probing = threads.submit(self._ask, self._order(_PROBES_PER_SECOND, _WATCH_SECONDS), _PROCESSES)
            watch.look_until(end + _WATCH_SECONDS + 1)
            probes = probing.result()
        self._drain(begin, [*overload, probes])
        return self._found(capacity, normal_p99_ms, memory_before, watch, end, overload, probes, begin, at_end)

    def _found(
        self,
        capacity: float,
        normal_p99_ms: float,
        memory_before: float,
        watch: _Watch,
        end: float,
        overload: Sequence[Hammered],
        probes: Hammered,
        begin: Arrivals,
        at_end: Arrivals,
    ) -> dict[str, object]:
        began_at = watch.seen[0][0]
        accepted, refused = (sum(getattr(each, name) for each in overload) for name in ("accepted", "refused"))
        others: dict[str, int] = {}
        for each in (*overload, probes):
            for words, count in each.others.items():
                others[words] = others.get(words, 0) + count
        offered = accepted + refused + sum(others.values())
        timeline = watch.seconds(end)
        half = [(at, memory) for at, _, memory in watch.seen if (began_at + end) / 2 <= at <= end]
        return {
            "endpoints": ENDPOINTS,
            "seconds": self._options.overload_seconds,
            "capacity": capacity,
            "offered": offered,
            "accepted": accepted,
            "refused": refused,
            "others": others,
            "times": offered / (end - began_at) / capacity,
            "deliveries_per_second": at_end.since(begin).count / (end - began_at),
            "normal_p99_ms": normal_p99_ms,
            "memory_before_mib": memory_before,
            "memory_max_mib": max(memory for _, _, memory in watch.seen),
            "memory_slope": 60 * statistics.linear_regression(*zip(*half, strict=True)).slope if len(half) > 1 else 0.0,
            "normal_seconds": normal_from(timeline, normal_p99_ms),
            "probes_refused": probes.refused,
            "verified": (accepted + probes.accepted) * ENDPOINTS,
            "timeline": timeline,
        }

    def _capacity(self) -> float:
        """Events a second that it takes when it is never asked for more than is on its way."""
        options, crew = self._options, self._crew
        phase = Phase(
            publishers=32,
            endpoints=ENDPOINTS,
            window=640,
            seconds=options.seconds,
            warm_up_seconds=options.warm_up_seconds,
        )
        assignment = Assignment(
            phase=phase,
            tally_fd=crew.tally.fd,
            processes=Processes(receivers=crew.pids, measured=(self._gateway.pid,)),
            receiver_url=crew.url,
            targets=(Target(self._gateway.port),),
            api_key=self._api_key,
        )
        return carry_out("http_publisher", assignment, log=self._directory / "capacity.log").events_per_second

    def _order(self, per_second: float | None, seconds: float) -> HammerOrder:
        batch = _BATCH if per_second is None else 1
        return HammerOrder(
            self._gateway.port, self._api_key, (EVENT_TYPE,), _CONNECTIONS, seconds, batch=batch, per_second=per_second
        )

    def _hammer(self, orders: Sequence[HammerOrder]) -> list[Hammered]:
        return [self._ask(order, number) for number, order in enumerate(orders)]

    def _ask(self, order: HammerOrder, number: int) -> Hammered:
        log = self._directory / f"hammer-{number}.log"
        return msgspec.json.decode(ask("hammer", order, log=log, seconds=order.seconds + _GRACE_SECONDS), type=Hammered)

    def _drain(self, begin: Arrivals, published: Sequence[Hammered]) -> None:
        """Returns when all that was accepted since *begin* has arrived, and nothing else. Raises ChildFailed when it does not."""
        expected = sum(each.accepted for each in published) * ENDPOINTS
        until = time.monotonic() + _DRAIN_SECONDS
        while (missing := expected - self._crew.tally.read().since(begin).count) > 0:
            if time.monotonic() > until:
                raise ChildFailed(f"{missing:,} of {expected:,} accepted deliveries have not arrived")
            time.sleep(0.02)
        arrived = self._crew.tally.read().since(begin)
        checksum = sum(each.checksum for each in published) * ENDPOINTS % _WRAP
        if (arrived.count, arrived.checksum) != (expected, checksum):
            raise ChildFailed(f"{arrived.count:,} deliveries arrived where {expected:,} were accepted, or others than those")
