"""Makes history: publishes in process, by a clock that is days behind, and has all of it delivered, so that everything in the
store is as a gateway writes it."""

import asyncio
import os
import sys
import time

import msgspec
import uvloop

from gateway.app import Gateway
from gateway.model import Event, Mode
from gateway.settings import Egress, Settings, Store
from gateway.telemetry import logs
from scripts.benchmarks.payload import ORGANIZATION, event_data
from scripts.benchmarks.tally import Tally
from scripts.benchmarks.window import Window

HISTORY_TYPE = "subscription.ancient"
"""The type of the old events; nobody wants it but the endpoints that were there then."""

_DAYS_AGO = 3
_BATCH = 20
_PUBLISHERS = 8
_ON_THEIR_WAY = 400


class Order(msgspec.Struct, frozen=True):
    """What is wanted: *events*, each delivered to *endpoints* at *url*."""

    store_url: str
    url: str
    endpoints: int
    events: int
    tally_fd: int


async def make(order: Order) -> int:
    """How many deliveries have arrived."""
    settings = Settings(store=Store(url=order.store_url), egress=Egress(allow=("127.0.0.0/8",)))
    logs.configure(settings.log)
    tally = Tally(order.tally_fd)
    arrived_before = tally.count()
    deliveries = order.events * order.endpoints
    each = _BATCH * order.endpoints
    async with Gateway.open(settings, wall=lambda: time.time() - _DAYS_AGO * 86_400) as gateway:
        for number in range(order.endpoints):
            await gateway.create_endpoint(
                organization_id=ORGANIZATION, mode=Mode.LIVE, url=f"{order.url}/{number}", events=[HISTORY_TYPE]
            )
        event = Event(type=HISTORY_TYPE, data=event_data(0), organization_id=ORGANIZATION)
        batches = iter([min(_BATCH, order.events - start) for start in range(0, order.events, _BATCH)])
        window = Window(max(1, _ON_THEIR_WAY // each), deliveries_each=each, arrived=tally.count)

        async def publish() -> None:
            for size in batches:
                await window.admit()
                await gateway.publish_many([event] * size)

        async with asyncio.TaskGroup() as tasks:
            follower = tasks.create_task(window.follow())
            async with asyncio.TaskGroup() as publishers:
                for _ in range(_PUBLISHERS):
                    publishers.create_task(publish())
            while tally.count() < arrived_before + deliveries:  # noqa: ASYNC110 - memory tells nobody that it changed
                await asyncio.sleep(0.005)
            follower.cancel()
    return tally.count() - arrived_before


if __name__ == "__main__":
    # What anybody prints belongs in the log; only the answer goes to the driver.
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    made = uvloop.run(make(msgspec.json.decode(sys.stdin.buffer.read(), type=Order)))
    os.write(answer, msgspec.json.encode(made))
