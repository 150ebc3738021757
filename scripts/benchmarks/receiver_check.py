"""How much the receiver takes when nothing but a bare client stands before it: it must never be the limit."""

from collections.abc import Sequence

from scripts.benchmarks.bare_client import Connection, post_request
from scripts.benchmarks.payload import delivery_body
from scripts.benchmarks.phase import Assignment, Measurement, Publish
from scripts.benchmarks.worker import measure, work


def _poster(connection: Connection) -> Publish:
    async def post(sent_at: Sequence[int]) -> None:
        for at in sent_at:
            await connection.ask(post_request("/0", delivery_body(at)))

    return post


async def post_on(assignment: Assignment) -> Measurement:
    """Posts to the receiver as fast as it goes."""
    port = int(assignment.receiver_url.rpartition(":")[2])
    connections = [await Connection.open(port) for _ in range(assignment.phase.publishers)]
    try:
        return await measure(assignment, [_poster(connection) for connection in connections])
    finally:
        for connection in connections:
            connection.close()


if __name__ == "__main__":
    work(post_on)
