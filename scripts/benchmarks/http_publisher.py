"""Publishes to gateway processes by HTTP, one by one or in batches, each publisher on its own connection."""

import itertools
from collections.abc import Sequence

from scripts.benchmarks.bare_client import Connection, Refused, post_request
from scripts.benchmarks.payload import event_data
from scripts.benchmarks.phase import Assignment, Measurement, Publish
from scripts.benchmarks.worker import measure, work

_ACCEPTED = 202


def _publisher(connection: Connection, event_types: Sequence[str], api_key: str, *, batches: bool) -> Publish:
    types = itertools.cycle([event_type.encode() for event_type in event_types])

    async def publish(sent_at: Sequence[int]) -> None:
        events = b",".join(b'{"event":"%b","data":%b}' % (next(types), event_data(at)) for at in sent_at)
        body = b'{"events":[%b]}' % events if batches else events
        status, answer = await connection.ask(post_request("/events", body, api_key=api_key))
        if status != _ACCEPTED or b'"object":"error"' in answer:
            raise Refused(f"POST /events was answered {status}: {answer[:500].decode(errors='replace')}")

    return publish


async def publish_on(assignment: Assignment) -> Measurement:
    """Publishes to its targets as fast as the window or the pace lets it."""
    turns = itertools.cycle(assignment.targets)
    targets = [next(turns) for _ in range(assignment.phase.publishers)]
    connections = [await Connection.open(target.port) for target in targets]
    batches = assignment.phase.batch > 1
    publish = [
        _publisher(connection, target.event_types, assignment.api_key, batches=batches)
        for connection, target in zip(connections, targets, strict=True)
    ]
    try:
        return await measure(assignment, publish)
    finally:
        for connection in connections:
            connection.close()


if __name__ == "__main__":
    work(publish_on)
