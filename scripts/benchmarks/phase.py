"""One phase: publish for some seconds, measure the steady part in the middle, wait for the rest, check that all arrived."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from scripts.benchmarks.process_facts import TICK_SECONDS, cpu_seconds, peak_memory_mib
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
    warm_up_seconds: float = 1.0  # published before anything is measured
    seconds: float = 5.0  # measured
    most_events: int = 500_000  # ends the phase early
    patience_seconds: float = 15.0  # without any arrival, at the end; longer than the gateway's 10 s for one attempt


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """All that a process which carries out a phase needs to know."""

    phase: Phase
    tally_fd: int
    receiver_pids: tuple[int, ...]
    receiver_url: str
    measured_pid: int | None = None  # whose CPU and memory count; None: the process that carries the phase out
    gateway_port: int = 0
    api_key: str = ""
    store: str = ""
    profile: str | None = None  # a file for cProfile's statistics


class Measurement(msgspec.Struct, frozen=True):
    """What a phase showed."""

    deliveries: int  # in the measured seconds
    deliveries_per_second: float
    deliveries_per_cpu_second: float
    cpu: float  # CPU seconds a second of the measured process
    receiver_cpu: float  # the same of the busiest receiver
    p50_ms: float
    p99_ms: float
    peak_memory_mib: float
    deliveries_verified: int  # in the whole phase, each of which arrived exactly once


class _Moment:
    """A reading of everything that is measured as a difference."""

    def __init__(self, pid: int, receivers: Sequence[int], tally: Tally) -> None:
        self.arrivals = tally.read()
        self.cpu = cpu_seconds(pid)
        self.receivers = [cpu_seconds(receiver) for receiver in receivers]
        self.at = time.monotonic()


class Run:
    """A phase under way, with one of *publish* for each of its publishers."""

    def __init__(self, phase: Phase, publish: Sequence[Publish], tally: Tally) -> None:
        self._phase = phase
        self._publish = publish
        self._tally = tally
        self._before = tally.read()
        self._published = 0
        self._checksum = 0
        self._ending = False
        self._window: Window | None = None
        if phase.window is not None:
            each = phase.batch * phase.endpoints
            self._window = Window(max(1, phase.window // each), deliveries_each=each, arrived=tally.count)

    async def measure(self, pid: int, receivers: Sequence[int]) -> Measurement:
        """Carries the phase out. *pid* is the process whose CPU and memory count.

        Raises Incomplete when what arrived is not what was published.
        """
        async with asyncio.TaskGroup() as tasks:
            follower = tasks.create_task(self._window.follow(), name="window") if self._window else None
            for number, publish in enumerate(self._publish):
                tasks.create_task(self._publish_on(publish), name=f"publisher {number}")
            await asyncio.sleep(self._phase.warm_up_seconds)
            begin = _Moment(pid, receivers, self._tally)
            await asyncio.sleep(self._phase.seconds)
            end = _Moment(pid, receivers, self._tally)
            self._ending = True
            await self._await_rest()
            if self._window is not None and follower is not None:
                follower.cancel()
                self._window.open(len(self._publish))
        await asyncio.sleep(_LATE_SECONDS)
        self._verify(self._tally.read().since(self._before))
        return _compare(begin, end, peak=peak_memory_mib(pid), verified=self._published * self._phase.endpoints)

    async def _publish_on(self, publish: Publish) -> None:
        while not self._has_ended():
            if self._window is not None:
                await self._window.admit()
                if self._has_ended():
                    return
            sent_at = [time.monotonic_ns() for _ in range(self._phase.batch)]
            self._published += len(sent_at)
            self._checksum += sum(sent_at)
            await publish(sent_at)

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
    p50, p99 = quantile_ms(arrivals.buckets, 0.5), quantile_ms(arrivals.buckets, 0.99)
    if p50 is None or p99 is None:
        raise Incomplete("nothing arrived in the time that was measured")
    return Measurement(
        deliveries=arrivals.count,
        deliveries_per_second=arrivals.count / elapsed,
        deliveries_per_cpu_second=arrivals.count / cpu,
        cpu=cpu / elapsed,
        receiver_cpu=max((now - then) / elapsed for now, then in zip(end.receivers, begin.receivers, strict=True)),
        p50_ms=p50,
        p99_ms=p99,
        peak_memory_mib=peak,
        deliveries_verified=verified,
    )
