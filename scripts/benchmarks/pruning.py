"""Publishes through the embedding API, on a store with old events, while they are pruned or kept."""

import asyncio
import os
import sqlite3
import sys
import time

import msgspec
import uvloop

from gateway.app import Gateway
from gateway.settings import Egress, Retention, Settings, Store
from gateway.telemetry import logs
from scripts.benchmarks.in_process import make_ready
from scripts.benchmarks.phase import Assignment, Measurement
from scripts.benchmarks.worker import measure

_LOOK_SECONDS = 0.02


class PruningOrder(msgspec.Struct, frozen=True):
    """What is wanted; with *prunes* the old events are older than the retention."""

    assignment: Assignment
    path: str  # of the store's file
    history: int  # events, with the row numbers from 1 on
    prunes: bool


class Window(msgspec.Struct, frozen=True):
    """What was measured, and how much was pruned meanwhile."""

    measurement: Measurement
    pruned: int  # events, from the beginning of the load until its end
    pruned_per_second: float
    left: int  # events that were still to be pruned in the end


async def publish_on(order: PruningOrder) -> Window:
    """Publishes once pruning has begun."""
    assignment = order.assignment
    settings = Settings(
        store=Store(url=assignment.store_url),
        egress=Egress(allow=("127.0.0.0/8",)),
        retention=Retention(days=1) if order.prunes else Retention(),
    )
    logs.configure(settings.log)
    async with Gateway.open(settings) as gateway:
        publish = await make_ready(gateway, assignment)
        async with asyncio.timeout(assignment.phase.patience_seconds):
            while order.prunes and _pruned(order) == 0:  # noqa: ASYNC110 - a file tells nobody that it changed
                await asyncio.sleep(_LOOK_SECONDS)
        began_at, before = time.monotonic(), _pruned(order)
        measurement = await measure(assignment, [publish] * assignment.phase.publishers)
        pruned = _pruned(order) - before
        elapsed = time.monotonic() - began_at
    return Window(measurement, pruned, pruned / elapsed, order.history - before - pruned)


def _pruned(order: PruningOrder) -> int:
    """Events go in the order of their rows."""
    connection = sqlite3.connect(f"file:{order.path}?mode=ro", uri=True)
    try:
        (first,) = connection.execute("SELECT min(rowid) FROM events").fetchone()
    finally:
        connection.close()
    return min(int(first) - 1, order.history)


if __name__ == "__main__":
    # What anybody prints belongs in the log; only the answer goes to the driver.
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    found = uvloop.run(publish_on(msgspec.json.decode(sys.stdin.buffer.read(), type=PruningOrder)))
    os.write(answer, msgspec.json.encode(found))
