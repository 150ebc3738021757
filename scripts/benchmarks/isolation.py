"""What endpoints that misbehave cost those that do not: the rate and the latency of a healthy half alone, and beside each way of
misbehaving, from its first moment and once the gateway has got to know it. Each pair is of one gateway process."""

import contextlib
import itertools
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from gateway.settings import Delivery
from scripts.benchmarks.children import Receivers, ask, carry_out, module_command, receivers, running
from scripts.benchmarks.file_system import durable_file_system, median_sync_ms
from scripts.benchmarks.gateway_process import GatewayProcess, serving
from scripts.benchmarks.hammer import HammerOrder
from scripts.benchmarks.isolation_report import IsolationReport, Pair, report_on
from scripts.benchmarks.payload import numbered_type
from scripts.benchmarks.phase import Assignment, Measurement, Phase, Processes, Target
from scripts.benchmarks.report import machine
from scripts.benchmarks.suite import Options
from scripts.benchmarks.villain import DRIPPING, ENDLESS, NAMES, RESETTING

HEALTHY = 50
MOST_IN_FLIGHT = Delivery().max_in_flight

_TROUBLE_PER_SECOND = 100.0  # events for those that misbehave, each for one of them in turn
_TROUBLE_CONNECTIONS = 16
_TYPES = tuple(numbered_type(number) for number in range(HEALTHY))
_PACED = Phase(publishers=32)
_FULL = Phase(publishers=2, batch=100, window=400)
_PACED_SHARE = 0.3  # of the rate that the healthy half has alone, at which latency is measured
_GRACE_SECONDS = 60.0
_SETTLE_TIMEOUTS = 2.2  # until the gateway has got to know those that hang

Urls = Callable[[int], str]


class Kind(msgspec.Struct, frozen=True):
    """A way of misbehaving."""

    title: str
    endpoints: int = HEALTHY


KINDS = {
    "hanging": Kind("50 that never answer"),
    "many-hanging": Kind(f"{2 * MOST_IN_FLIGHT:,} that never answer", 2 * MOST_IN_FLIGHT),
    "dead-host": Kind("50 on one host that takes no connection"),
    "dripping": Kind("50 that send one byte of the head a second"),
    "endless": Kind("50 whose answers never end"),
    "resetting": Kind("50 that reset"),
    "refusing": Kind("50 that refuse the connection"),
    "dns": Kind("50 whose name servers never answer"),
}


def run(options: Options, progress: Callable[[str], None]) -> IsolationReport:
    """Measures every kind that *options* include. Raises InMemory, and ChildFailed when a part fails or not all arrived."""
    options.directory.mkdir(parents=True, exist_ok=True)
    file_system = durable_file_system(options.directory)
    pairs: dict[str, list[Pair]] = {}
    with tempfile.TemporaryDirectory(prefix="run-", dir=options.directory) as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        sync_ms = median_sync_ms(directory)
        crew = stack.enter_context(receivers(options.receivers, log=directory / "receivers.log"))
        for number, (key, kind) in itertools.product(range(1, options.rounds + 1), KINDS.items()):
            if options.includes(key):
                with tempfile.TemporaryDirectory(dir=directory) as place:
                    pair = _Bench(options, Path(place), crew).measure(key, kind)
                pairs.setdefault(key, []).append(pair)
                progress(
                    f"round {number} of {options.rounds}, {key}: {pair.full.deliveries_per_second:,.0f}/s of "
                    f"{pair.full_alone.deliveries_per_second:,.0f}/s alone; p99 {pair.first.p99_ms:.0f} ms at first, "
                    f"{pair.then.p99_ms:.0f} ms then, {pair.alone.p99_ms:.0f} ms alone"
                )
    return IsolationReport(
        machine=machine(),
        file_system=file_system,
        sync_ms=sync_ms,
        rounds=options.rounds,
        seconds=options.seconds,
        healthy=HEALTHY,
        kinds=[report_on(KINDS[key].title, runs) for key, runs in pairs.items()],
    )


class _Bench:
    def __init__(self, options: Options, directory: Path, crew: Receivers) -> None:
        self._options = options
        self._directory = directory
        self._crew = crew

    def measure(self, key: str, kind: Kind) -> Pair:
        """One gateway, first with its healthy half alone, then with both."""
        options = self._options
        settings = {
            "GATEWAY_DELIVERY__TIMEOUT_SECONDS": str(options.timeout_seconds),
            "GATEWAY_LIMITS__ENDPOINTS_PER_ORGANIZATION": "10000",
        }
        with contextlib.ExitStack() as stack:
            urls = stack.enter_context(self._misbehaving(key, settings))
            store_url = f"sqlite:///{self._directory / 'gateway.db'}"
            gateway = stack.enter_context(serving(store_url, log=self._directory / "gateway.log", settings=settings))
            gateway.wait_until_ready()
            api_key = gateway.create_key()
            host = "127.0.0.1" if key != "dns" else "healthy{}.example"
            for number, event_type in enumerate(_TYPES):
                gateway.create_endpoint(f"http://{host.format(number)}:{self._crew.port}/{number}", api_key, event_type)
            for number in range(kind.endpoints):
                gateway.create_endpoint(urls(number), api_key, _trouble_type(number))

            full_alone = self._publish(gateway, api_key, _FULL)
            paced = msgspec.structs.replace(_PACED, per_second=_PACED_SHARE * full_alone.deliveries_per_second)
            alone = self._publish(gateway, api_key, paced)
            settle_seconds = _SETTLE_TIMEOUTS * options.timeout_seconds
            seconds = settle_seconds + 3 * (options.warm_up_seconds + options.seconds + 1)
            trouble = HammerOrder(
                gateway.port,
                api_key,
                tuple(_trouble_type(number) for number in range(kind.endpoints)),
                _TROUBLE_CONNECTIONS,
                seconds,
                per_second=_TROUBLE_PER_SECOND,
            )
            with ThreadPoolExecutor(1) as threads:
                began_at = time.monotonic()
                log = self._directory / "hammer.log"
                hammering = threads.submit(ask, "hammer", trouble, log=log, seconds=seconds + _GRACE_SECONDS)
                first = self._publish(gateway, api_key, msgspec.structs.replace(paced, warm_up_seconds=0.0))
                time.sleep(max(0.0, began_at + settle_seconds - time.monotonic()))
                then = self._publish(gateway, api_key, paced)
                full = self._publish(gateway, api_key, _FULL)
                hammering.result()
        return Pair(full_alone, full, alone, first, then)

    def _publish(self, gateway: GatewayProcess, api_key: str, phase: Phase) -> Measurement:
        """To the healthy half."""
        options, crew = self._options, self._crew
        assignment = Assignment(
            phase=msgspec.structs.replace(
                phase, seconds=options.seconds, warm_up_seconds=min(phase.warm_up_seconds, options.warm_up_seconds)
            ),
            tally_fd=crew.tally.fd,
            processes=Processes(measured=(gateway.pid,), receivers=crew.pids),
            receiver_url=crew.url,
            targets=(Target(gateway.port, _TYPES),),
            api_key=api_key,
        )
        return carry_out("http_publisher", assignment, log=self._directory / "log")

    @contextlib.contextmanager
    def _misbehaving(self, key: str, settings: dict[str, str]) -> Iterator[Urls]:
        """Those that do; where they are. *settings* learn what the gateway has to know."""
        with contextlib.ExitStack() as stack:
            if key == "dns":
                names = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                names.bind(("127.0.0.1", 0))
                stack.enter_context(self._villain(NAMES, names))
                settings["GATEWAY_EGRESS__NAMESERVERS"] = f"127.0.0.1:{names.getsockname()[1]}"
                yield lambda number: f"http://dead{number}.example/"
                return
            # The kernel takes connections up to the backlog; nobody calls accept() but a villain.
            is_dead = key == "dead-host"
            listener = stack.enter_context(socket.create_server(("127.0.0.2", 0), backlog=0 if is_dead else 4096))
            port = listener.getsockname()[1]
            kinds: Mapping[str, str] = {"endless": ENDLESS, "dripping": DRIPPING, "resetting": RESETTING}
            if key in kinds:
                stack.enter_context(self._villain(kinds[key], listener))
            elif key == "refusing":
                listener.close()
            elif is_dead:
                # With its backlog taken, the kernel answers no more SYNs.
                stack.enter_context(socket.create_connection(("127.0.0.2", port)))
            yield lambda number: f"http://127.0.0.2:{port}/{number}"

    def _villain(self, kind: str, listener: socket.socket) -> contextlib.AbstractContextManager[object]:
        command = [*module_command("villain"), kind, str(listener.fileno())]
        return running(command, log=self._directory / "villain.log", fds=[listener.fileno()], pipe=True)


def _trouble_type(number: int) -> str:
    return f"subscription.trouble{number}"


def names() -> Sequence[str]:
    """What `Options.only` may hold."""
    return list(KINDS)
