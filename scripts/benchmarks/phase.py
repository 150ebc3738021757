"""One phase: publish for some seconds, measure the steady part in the middle, wait for the rest, check that all arrived."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from scripts.benchmarks.pace import Pace
from scripts.benchmarks.payload import EVENT_TYPE
from scripts.benchmarks.process_facts import TICK_SECONDS, cpu_seconds, family_cpu_seconds, peak_memory_mib
from scripts.benchmarks.tally import Arrivals, Tally, quantile_ms
from scripts.benchmarks.window import Window

Publish = Callable[[Sequence[int]], Awaitable[None]]
"""Publishes one event for each time of sending; returns when they are accepted."""

_LATE_SECONDS = 0.2  # long enough for a delivery sent twice to show


class Incomplete(Exception):
    """What arrived is not what was published."""


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """What is done, and for how long."""

    publishers: int  # how many publish at once
    batch: int = 1  # events in one publication
    endpoints: int = 1  # each of which gets every event
    window: int | None = None  # most deliveries on their way at once; None leaves it to the publishers' number
    per_second: float | None = None  # publications, evenly spaced, in place of as many as can be
    warm_up_seconds: float = 1.0  # published before anything is measured
    seconds: float = 5.0  # measured
    most_events: int = 500_000  # ends the phase early
    patience_seconds: float = 15.0  # without any arrival, at the end; longer than the gateway's 10 s for one attempt


class Target(msgspec.Struct, frozen=True):
    """A gateway process that is published to, and of which types the events are, in turn."""

    port: int
    event_types: tuple[str, ...] = (EVENT_TYPE,)


class Processes(msgspec.Struct, frozen=True):
    """Whose CPU and memory count."""

    measured: tuple[int, ...] = ()  # none: the process that carries the phase out
    receivers: tuple[int, ...] = ()
    database: int | None = None  # the process that all others of a PostgreSQL are children of


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """All that a process which carries out a phase needs to know."""

    phase: Phase
    tally_fd: int
    processes: Processes
    receiver_url: str
    targets: tuple[Target, ...] = ()  # publishers take turns in choosing one
    api_key: str = ""
    store_url: str = ""
    profile: str | None = None  # a file for cProfile's statistics


class Measurement(msgspec.Struct, frozen=True):
    """What a phase showed."""

    deliveries: int  # in the measured seconds
    deliveries_per_second: float
    deliveries_per_cpu_second: float  # of all processes whose CPU counts
    cpu: float  # CPU seconds a second of the measured processes
    receiver_cpu: float  # the same of the busiest receiver
    p50_ms: float
    p99_ms: float
    peak_memory_mib: float
    deliveries_verified: int  # in the whole phase, each of which arrived exactly once
    events_per_second: float = 0.0  # accepted
    database_cpu: float = 0.0  # CPU seconds a second of the database's processes


class _Moment:
    """A reading of everything that is measured as a difference."""

    def __init__(self, processes: Processes, tally: Tally, accepted: int) -> None:
        self.arrivals = tally.read()
        self.accepted = accepted
        self.cpu = sum(map(cpu_seconds, processes.measured))
        self.database = 0.0 if processes.database is None else family_cpu_seconds(processes.database)
        self.receivers = [cpu_seconds(receiver) for receiver in processes.receivers]
        self.at = time.monotonic()


class Run:
    """A phase under way, with one of *publish* for each of its publishers."""

    def __init__(self, phase: Phase, publish: Sequence[Publish], tally: Tally) -> None:
        self._phase = phase
        self._publish = publish
        self._tally = tally
        self._before = tally.read()
        self._published = 0
        self._accepted = 0
        self._checksum = 0
        self._ending = False
        self._window: Window | None = None
        if phase.window is not None:
            each = phase.batch * phase.endpoints
            self._window = Window(max(1, phase.window // each), deliveries_each=each, arrived=tally.count)
        self._pace = None if phase.per_second is None else Pace(phase.per_second)

    async def measure(self, processes: Processes) -> Measurement:
        """Carries the phase out.

        Raises Incomplete when what arrived is not what was published.
        """
        async with asyncio.TaskGroup() as tasks:
            follower = tasks.create_task(self._window.follow(), name="window") if self._window else None
            for number, publish in enumerate(self._publish):
                tasks.create_task(self._publish_on(publish), name=f"publisher {number}")
            await asyncio.sleep(self._phase.warm_up_seconds)
            begin = _Moment(processes, self._tally, self._accepted)
            await asyncio.sleep(self._phase.seconds)
            end = _Moment(processes, self._tally, self._accepted)
            self._ending = True
            await self._await_rest()
            if self._window is not None and follower is not None:
                follower.cancel()
                self._window.open(len(self._publish))
        await asyncio.sleep(_LATE_SECONDS)
        self._verify(self._tally.read().since(self._before))
        peak = sum(map(peak_memory_mib, processes.measured))
        return _compare(begin, end, peak=peak, verified=self._published * self._phase.endpoints)

    async def _publish_on(self, publish: Publish) -> None:
        while not self._has_ended():
            if self._window is not None:
                await self._window.admit()
                if self._has_ended():
                    return
            if self._pace is not None:
                await self._pace.turn()
            sent_at = [time.monotonic_ns() for _ in range(self._phase.batch)]
            self._published += len(sent_at)
            self._checksum += sum(sent_at)
            await publish(sent_at)
            self._accepted += len(sent_at)

    def _has_ended(self) -> bool:
        return self._ending or self._published >= self._phase.most_events

    async def _await_rest(self) -> None:
        arrived = -1
        until = time.monotonic() + self._phase.patience_seconds
        while arrived < self._published * self._phase.endpoints:
            now_arrived = self._tally.count() - self._before.count
            if now_arrived > arrived:
                arrived = now_arrived
                until = time.monotonic() + self._phase.patience_seconds
            elif time.monotonic() > until:
                raise Incomplete(f"{arrived:,} of {self._published * self._phase.endpoints:,} deliveries arrived, then no more")
            await asyncio.sleep(0.005)

    def _verify(self, arrived: Arrivals) -> None:
        expected = self._published * self._phase.endpoints
        if arrived.unstamped:
            raise Incomplete(f"{arrived.unstamped:,} deliveries arrived that were not published here")
        if arrived.count != expected:
            raise Incomplete(f"{arrived.count:,} deliveries arrived where {expected:,} were expected: some were sent twice")
        if arrived.checksum != self._checksum * self._phase.endpoints % (1 << 64):
            raise Incomplete("some deliveries are missing and as many others were sent twice")


def _compare(begin: _Moment, end: _Moment, *, peak: float, verified: int) -> Measurement:
    arrivals = end.arrivals.since(begin.arrivals)
    elapsed = end.at - begin.at
    cpu = max(end.cpu - begin.cpu, TICK_SECONDS)  # a short phase may use less than the kernel counts
    database_cpu = end.database - begin.database
    p50, p99 = quantile_ms(arrivals.buckets, 0.5), quantile_ms(arrivals.buckets, 0.99)
    if p50 is None or p99 is None:
        raise Incomplete("nothing arrived in the time that was measured")
    return Measurement(
        deliveries=arrivals.count,
        deliveries_per_second=arrivals.count / elapsed,
        deliveries_per_cpu_second=arrivals.count / (cpu + database_cpu),
        cpu=cpu / elapsed,
        receiver_cpu=max((now - then) / elapsed for now, then in zip(end.receivers, begin.receivers, strict=True)),
        p50_ms=p50,
        p99_ms=p99,
        peak_memory_mib=peak,
        deliveries_verified=verified,
        events_per_second=(end.accepted - begin.accepted) / elapsed,
        database_cpu=database_cpu / elapsed,
    )
