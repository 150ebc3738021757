"""Publishes to a gateway process by HTTP, one by one or in batches, each publisher on its own connection."""

from collections.abc import Sequence

from scripts.benchmarks.bare_client import Connection, Refused, post_request
from scripts.benchmarks.payload import EVENT_TYPE, event_data
from scripts.benchmarks.phase import Assignment, Measurement, Publish
from scripts.benchmarks.worker import measure, work

_ACCEPTED = 202


def _event(sent_at: int) -> bytes:
    return b'{"event":"%b","data":%b}' % (EVENT_TYPE.encode(), event_data(sent_at))


def _publisher(connection: Connection, api_key: str, *, batches: bool) -> Publish:
    async def publish(sent_at: Sequence[int]) -> None:
        events = b",".join(map(_event, sent_at))
        body = b'{"events":[%b]}' % events if batches else events
        status, answer = await connection.ask(post_request("/events", body, api_key=api_key))
        if status != _ACCEPTED or b'"object":"error"' in answer:
            raise Refused(f"POST /events was answered {status}: {answer[:500].decode(errors='replace')}")

    return publish


async def publish_on(assignment: Assignment) -> Measurement:
    """Publishes to the gateway as fast as the window lets it."""
    connections = [await Connection.open(assignment.gateway_port) for _ in range(assignment.phase.publishers)]
    batches = assignment.phase.batch > 1
    try:
        return await measure(assignment, [_publisher(one, assignment.api_key, batches=batches) for one in connections])
    finally:
        for connection in connections:
            connection.close()


if __name__ == "__main__":
    work(publish_on)
