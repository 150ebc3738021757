"""Publishes through the embedding API: gateway and publishers share one process, whose CPU and memory are all counted."""

import asyncio
import gc
import time
from collections.abc import Sequence

from gateway.app import Gateway
from gateway.model import Event, Mode
from gateway.settings import Egress, Settings, Store
from gateway.telemetry import logs
from scripts.benchmarks.payload import EVENT_TYPE, ORGANIZATION, event_data
from scripts.benchmarks.phase import Assignment, Measurement, Publish
from scripts.benchmarks.tally import Tally
from scripts.benchmarks.worker import measure, work


async def publish_on(assignment: Assignment) -> Measurement:
    """Publishes to its own gateway as fast as the window lets it."""
    settings = Settings(store=Store(url=assignment.store_url), egress=Egress(allow=("127.0.0.0/8",)))
    logs.configure(settings.log)
    async with Gateway.open(settings) as gateway:
        publish = await make_ready(gateway, assignment)
        return await measure(assignment, [publish] * assignment.phase.publishers)


async def make_ready(gateway: Gateway, assignment: Assignment) -> Publish:
    """Publishes to *gateway*, which has the endpoints of the assignment by then, and delivers."""
    for number in range(assignment.phase.endpoints):
        await gateway.create_endpoint(
            organization_id=ORGANIZATION, mode=Mode.LIVE, url=f"{assignment.receiver_url}/{number}", events=[EVENT_TYPE]
        )

    # As `gateway serve` does, and as any process should that embeds a gateway under load.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)

    async def publish(sent_at: Sequence[int]) -> None:
        for at in sent_at:
            await gateway.publish(Event(type=EVENT_TYPE, data=event_data(at), organization_id=ORGANIZATION))

    await _deliver_one(assignment, publish)
    return publish


async def _deliver_one(assignment: Assignment, publish: Publish) -> None:
    """Returns when the gateway delivers: on a PostgreSQL it has to take its share of the work first."""
    tally = Tally(assignment.tally_fd)
    arrived = tally.count()
    await publish([time.monotonic_ns()])
    async with asyncio.timeout(assignment.phase.patience_seconds):
        while tally.count() < arrived + assignment.phase.endpoints:  # noqa: ASYNC110 - memory tells nobody that it changed
            await asyncio.sleep(0.005)


if __name__ == "__main__":
    work(publish_on)
