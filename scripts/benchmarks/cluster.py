"""Gateway processes that share one database of a private PostgreSQL."""

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from gateway.model import BUCKETS, bucket_of
from scripts.benchmarks.children import Receivers, failure
from scripts.benchmarks.gateway_process import GatewayProcess, serving
from scripts.benchmarks.postgres_server import PostgresServer

_SETTLE_SECONDS = 20.0
_TRIES = 200  # at an endpoint that a certain node of two holds

_numbers = itertools.count(1)


@contextlib.contextmanager
def database(server: PostgresServer) -> Iterator[str]:
    """The URL of a new database, which is gone after the block."""
    url = server.create_database(f"bench_{next(_numbers)}")
    try:
        yield url
    finally:
        server.drop_database(url)


def is_settled(held: Sequence[frozenset[int]]) -> bool:
    """Whether all buckets are held, in equal shares; *held* are those of each node."""
    sizes = [len(buckets) for buckets in held]
    return sum(sizes) == BUCKETS and max(sizes) - min(sizes) <= 1


class Cluster(msgspec.Struct, frozen=True):
    """Nodes that have settled who holds what, and a key of theirs."""

    nodes: Sequence[GatewayProcess]
    held: Sequence[frozenset[int]]  # the buckets of each
    api_key: str

    def create_endpoint(self, url: str, event_type: str, *, node: int) -> str:
        """The id of a new endpoint that *node*, by number, holds: which one is chance, so one is made until it fits."""
        for _ in range(_TRIES):
            endpoint_id = self.nodes[0].create_endpoint(url, self.api_key, event_type)
            if bucket_of(endpoint_id) in self.held[node]:
                return endpoint_id
            self.nodes[0].delete_endpoint(endpoint_id, self.api_key)
        raise failure(f"of {_TRIES} endpoints none was in a bucket of node {node}", self.nodes[0].log)

    def spread_endpoints(self, crew: Receivers, event_types: Sequence[str]) -> None:
        """An endpoint for each of *event_types*, as many held by each node."""
        for number, event_type in enumerate(event_types):
            self.create_endpoint(f"{crew.url}/{number}", event_type, node=number % len(self.nodes))


@contextlib.contextmanager
def cluster(url: str, count: int, *, directory: Path, profile: Path | None = None) -> Iterator[Cluster]:
    """*count* nodes on the database at *url*, started together; with *profile* cProfile's statistics of each begin so."""
    with contextlib.ExitStack() as stack:
        nodes = [
            stack.enter_context(
                serving(
                    url,
                    log=directory / f"node-{number}.log",
                    profile=None if profile is None else profile.with_name(f"{profile.name}-node-{number}.prof"),
                    name=f"node {number}",
                )
            )
            for number in range(1, count + 1)
        ]
        held = _settled(nodes)
        yield Cluster(nodes, held, nodes[0].create_key())


def _settled(nodes: Sequence[GatewayProcess]) -> Sequence[frozenset[int]]:
    for node in nodes:
        node.wait_until_ready()
    until = time.monotonic() + _SETTLE_SECONDS
    while not is_settled(held := [node.buckets() for node in nodes]):
        if time.monotonic() > until:
            raise failure(f"the nodes had not settled who holds what after {_SETTLE_SECONDS:.0f} s", nodes[0].log)
        time.sleep(0.02)
    return held
