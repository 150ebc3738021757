"""Makes deliveries that wait: publishes in process, through a gateway that sends nothing, so that everything in the store is as a
gateway writes it."""

import asyncio
import os
import sys

import msgspec
import uvloop

from gateway.app import Gateway
from gateway.model import Event, Mode
from gateway.settings import Settings, Store
from gateway.telemetry import logs
from scripts.benchmarks.payload import ORGANIZATION, event_data

WAITING_TYPE = "subscription.waiting"
"""The type of the events; nobody but the endpoints that are down wants it."""

_BATCH = 50
_AT_ONCE = 8


class Order(msgspec.Struct, frozen=True):
    """What is wanted: *events* to each of *endpoints* at *url*."""

    store_url: str
    url: str
    endpoints: int
    events: int


async def make(order: Order) -> int:
    """How many deliveries wait now."""
    settings = Settings(store=Store(url=order.store_url))
    logs.configure(settings.log)
    async with Gateway.open(settings, deliver=False) as gateway:
        for number in range(order.endpoints):
            await gateway.create_endpoint(
                organization_id=ORGANIZATION, mode=Mode.LIVE, url=f"{order.url}/{number}", events=[WAITING_TYPE]
            )
        event = Event(type=WAITING_TYPE, data=event_data(0), organization_id=ORGANIZATION)
        batches = iter([min(_BATCH, order.events - start) for start in range(0, order.events, _BATCH)])

        async def publish() -> None:
            for size in batches:
                await gateway.publish_many([event] * size)

        async with asyncio.TaskGroup() as publishers:
            for _ in range(_AT_ONCE):
                publishers.create_task(publish())
    return order.events * order.endpoints


if __name__ == "__main__":
    # What anybody prints belongs in the log; only the answer goes to the driver.
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    made = uvloop.run(make(msgspec.json.decode(sys.stdin.buffer.read(), type=Order)))
    os.write(answer, msgspec.json.encode(made))
