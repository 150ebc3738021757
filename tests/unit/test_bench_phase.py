"""A measured phase: its closed window, and the check that everything arrived exactly once."""

import asyncio
import os
import time
from collections.abc import Iterator

import pytest

from scripts.benchmarks.phase import Incomplete, Phase, Processes, Run
from scripts.benchmarks.tally import Tally
from scripts.benchmarks.window import Window

THIS_PROCESS = Processes(measured=(os.getpid(),), receivers=(os.getpid(),))


@pytest.fixture
def tally() -> Iterator[Tally]:
    made = Tally.create(1)
    yield made
    os.close(made.fd)


def short(**changes) -> Phase:
    return Phase(publishers=1, window=8, warm_up_seconds=0.02, seconds=0.1, patience_seconds=0.1, **changes)


class Deliverer:
    """Delivers what is published at once to each endpoint, but for the first event, of which it makes as many as it is told."""

    def __init__(self, tally: Tally, *, first: int = 1, endpoints: int = 1) -> None:
        self._block = tally.block(0)
        self._copies = first
        self._endpoints = endpoints

    async def publish(self, sent_at) -> None:
        await asyncio.sleep(0.001)
        for at in sent_at:
            for _ in range(self._copies * self._endpoints):
                self._block.record(at)
            self._copies = 1


async def run(tally: Tally, deliverer: Deliverer, phase: Phase):
    return await Run(phase, [deliverer.publish], tally).measure(THIS_PROCESS)


async def test_all_that_was_published_is_verified_and_only_the_middle_is_measured(tally):
    """The warm-up and the rest count for the check, not for the rate."""
    measurement = await run(tally, Deliverer(tally, endpoints=3), short(batch=4, endpoints=3))
    assert measurement.deliveries_verified == tally.count()
    assert 0 < measurement.deliveries < measurement.deliveries_verified
    assert measurement.deliveries % 12 == 0
    assert measurement.p50_ms <= measurement.p99_ms


async def test_a_pace_bounds_what_is_published(tally):
    """However many publish, and however fast they are answered. On a machine that pauses a phase lasts longer than it was
    told to, so what is allowed is counted by how long it did."""
    phase = Phase(publishers=20, per_second=100, warm_up_seconds=0.02, seconds=0.4)
    began_at = time.monotonic()
    measurement = await Run(phase, [Deliverer(tally).publish] * 20, tally).measure(THIS_PROCESS)
    most = 1 + (time.monotonic() - began_at) * 100 + 20  # each may be waiting for its turn at the end
    assert 0 < measurement.deliveries_verified <= most
    assert 0 < measurement.events_per_second * phase.seconds <= most


async def test_a_missing_delivery_fails_the_phase(tally):
    """However many others have arrived."""
    with pytest.raises(ExceptionGroup) as caught:
        await run(tally, Deliverer(tally, first=0), short())
    assert caught.group_contains(Incomplete, match="then no more")


async def test_a_delivery_sent_twice_fails_the_phase(tally):
    """More than expected is as wrong as less."""
    with pytest.raises(Incomplete, match="sent twice"):
        await run(tally, Deliverer(tally, first=2), short())


async def test_one_missing_and_another_sent_twice_do_not_cancel_out(tally):
    """The count is right, the sum of all times of sending is not."""

    class Mistaken(Deliverer):
        first_at: int | None = None

        async def publish(self, sent_at) -> None:
            self.first_at = self.first_at or sent_at[0]
            await super().publish([self.first_at])

    with pytest.raises(Incomplete, match="missing"):
        await run(tally, Mistaken(tally), short())


async def test_publishers_who_wait_for_the_window_at_the_end_are_let_go(tally):
    """Also when they are more than the window lets in."""
    deliverer = Deliverer(tally)
    await asyncio.wait_for(Run(short(), [deliverer.publish] * 50, tally).measure(THIS_PROCESS), 10)


async def test_the_window_lets_one_in_for_each_that_is_over():
    """Two publications of three deliveries each: the third goes on when the first has arrived completely."""
    arrived = [5]
    window = Window(2, deliveries_each=3, arrived=lambda: arrived[0])
    await window.admit()
    await window.admit()
    third = asyncio.create_task(window.admit())
    for count, admitted in ((6, False), (7, False), (8, True)):
        arrived[0] = count
        window.look()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert third.done() is admitted
