"""Publishes to a gateway whether it takes that or not, and counts what became of it: as fast as it can, or evenly paced."""

import asyncio
import itertools
import os
import sys
import time
from collections import Counter

import msgspec
import uvloop

from scripts.benchmarks.bare_client import Connection, post_request
from scripts.benchmarks.pace import Pace
from scripts.benchmarks.payload import event_data

_ACCEPTED = 202
_REFUSED = 503
_WRAP = 1 << 64


class HammerOrder(msgspec.Struct, frozen=True):
    """What to publish."""

    port: int
    api_key: str
    event_types: tuple[str, ...]  # in turn
    connections: int
    seconds: float
    batch: int = 1
    per_second: float | None = None  # publications; None is as many as are answered


class Hammered(msgspec.Struct, frozen=True):
    """What became of it, in events."""

    accepted: int
    refused: int  # 503 with Retry-After
    others: dict[str, int]  # by what was answered; nothing but this is wrong
    checksum: int  # the sum of the times of sending of those that were accepted
    seconds: float


class _Hammer:
    def __init__(self, order: HammerOrder) -> None:
        self._order = order
        self._pace = None if order.per_second is None else Pace(order.per_second)
        self._types = itertools.cycle([event_type.encode() for event_type in order.event_types])
        self.counts: Counter[str] = Counter()
        self.checksum = 0

    async def publish(self, until: float) -> None:
        """On a connection of its own, until that time."""
        order = self._order
        connection = await Connection.open(order.port)
        try:
            while time.monotonic() < until:
                if self._pace is not None:
                    await self._pace.turn()
                sent_at = [time.monotonic_ns() for _ in range(order.batch)]
                events = b",".join(b'{"event":"%b","data":%b}' % (next(self._types), event_data(at)) for at in sent_at)
                body = b'{"events":[%b]}' % events if order.batch > 1 else events
                status, _ = await connection.ask(post_request("/events", body, api_key=order.api_key))
                if status == _ACCEPTED:
                    self.counts["accepted"] += len(sent_at)
                    self.checksum = (self.checksum + sum(sent_at)) % _WRAP
                elif status == _REFUSED and b"\r\nretry-after: " in connection.head.lower():
                    self.counts["refused"] += len(sent_at)
                else:
                    self.counts[str(status)] += len(sent_at)
        finally:
            connection.close()


async def hammer(order: HammerOrder) -> Hammered:
    """Carries *order* out."""
    began_at = time.monotonic()
    found = _Hammer(order)
    async with asyncio.TaskGroup() as publishers:
        for _ in range(order.connections):
            publishers.create_task(found.publish(began_at + order.seconds))
    accepted, refused = found.counts.pop("accepted", 0), found.counts.pop("refused", 0)
    return Hammered(accepted, refused, dict(found.counts), found.checksum, time.monotonic() - began_at)


if __name__ == "__main__":
    # What anybody prints belongs in the log; only the answer goes to the driver.
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    hammered = uvloop.run(hammer(msgspec.json.decode(sys.stdin.buffer.read(), type=HammerOrder)))
    os.write(answer, msgspec.json.encode(hammered))
