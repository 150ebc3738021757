"""How long a gateway takes from its start to the first delivery, and what it costs when there is nothing to do."""

import contextlib
import http.client
import time
from pathlib import Path

import msgspec

from scripts.benchmarks.children import Receivers, failure
from scripts.benchmarks.gateway_process import GatewayProcess, serving
from scripts.benchmarks.payload import EVENT_TYPE
from scripts.benchmarks.process_facts import cpu_seconds

_PATIENCE_SECONDS = 20.0
_SETTLE_SECONDS = 1.0  # the end of the start and of the first delivery is not idleness


class StartUp(msgspec.Struct, frozen=True):
    """What the starts showed."""

    first_delivery_seconds: list[float]  # one for each start
    idle_cpu: float  # CPU seconds a second
    idle_seconds: float  # for how long that was measured


def measure_start_up(directory: Path, crew: Receivers, *, starts: int, idle_seconds: float) -> StartUp:
    """Starts a gateway again and again on a store that has an endpoint already."""
    store_url, log = f"sqlite:///{directory / 'start.db'}", directory / "start-gateway.log"
    with serving(store_url, log=log) as gateway:
        gateway.wait_until_ready()
        api_key = gateway.create_key()
        gateway.create_endpoint(f"{crew.url}/0", api_key)
        deliver_one(gateway, crew, api_key)
    times = []
    idle_cpu = 0.0
    for number in range(starts):
        begin = time.monotonic()
        with serving(store_url, log=log) as gateway:
            deliver_one(gateway, crew, api_key)
            times.append(time.monotonic() - begin)
            if number == starts - 1:
                idle_cpu = _cpu_while_idle(gateway.pid, idle_seconds)
    return StartUp(times, idle_cpu, idle_seconds)


def deliver_one(gateway: GatewayProcess, crew: Receivers, api_key: str, event_type: str = EVENT_TYPE) -> None:
    """Returns when an event, published as soon as the gateway takes it, has arrived."""
    arrived = crew.tally.count()
    until = time.monotonic() + _PATIENCE_SECONDS
    accepted = False
    while crew.tally.count() == arrived:
        if time.monotonic() > until:
            raise failure(f"no delivery within {_PATIENCE_SECONDS:.0f} s of the start", gateway.log)
        if not accepted:
            with contextlib.suppress(OSError, http.client.HTTPException):
                accepted = gateway.publish(api_key, event_type)
        time.sleep(0.001)


def _cpu_while_idle(pid: int, seconds: float) -> float:
    time.sleep(_SETTLE_SECONDS)
    cpu, begin = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(pid) - cpu) / (time.monotonic() - begin)
