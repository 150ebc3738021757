"""Several nodes on one database: real processes, each with a port, a name and settings of its own."""

import asyncio
import contextlib
import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Self

import aiohttp

from gateway.model import BUCKETS, bucket_of
from tests.postgres import free_port
from tests.receiver import Receiver
from tests.system.gateway_process import Client, Database, GatewayProcess, Installation, JsonObject, eventually
from tests.system.load import Route
from tests.system.witness import Witness, marked


class Node(Installation):
    """One of them. Its name, and the place where it listens, stay the same when it is started again; its `life` does not."""

    name: str
    life: int  # of the process that was started last, by which requests are marked

    async def spawn(self, *options: str, wrapper: Sequence[str] = ()) -> GatewayProcess:
        self.settings |= marked(self.life)
        return await super().spawn(*options, wrapper=wrapper)

    @property
    def is_running(self) -> bool:
        return self._current is not None and self._current.is_running

    def freeze(self) -> None:
        """Nothing of it goes on until `thaw`."""
        self.process.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send(signal.SIGCONT)

    async def standing(self) -> JsonObject:
        """What it says of itself among the others."""
        async with self.session.get(f"{self.url}/health/ready") as response:
            standing: JsonObject = (await response.json())["node"]
            return standing

    async def holds(self, endpoint_id: str) -> bool:
        """Whether it serves the endpoint."""
        return bucket_of(endpoint_id) in (await self.standing())["buckets"]

    async def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket))) as session,
            session.get("http://gateway/metrics") as response,
        ):
            lines = (await response.text()).splitlines()
        return next(float(line.split()[1]) for line in lines if line.split()[0] == name)


class Cluster:
    """The nodes, and what is on record of them all."""

    def __init__(self, directory: Path, database: Database, stack: contextlib.AsyncExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._lives = itertools.count(1)
        self.database = database
        self.nodes: list[Node] = []
        self.settings: dict[str, object] = {}
        """Of the nodes that are made from now on."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, directory: Path, database: Database) -> AsyncIterator[Self]:
        """A cluster without nodes on *database*. Leaving ends them all."""
        async with contextlib.AsyncExitStack() as stack:
            yield cls(directory, database, stack)

    async def make_node(self) -> Node:
        """The next node; it does not run yet."""
        name = f"node-{len(self.nodes) + 1}"
        directory = self._directory / name
        directory.mkdir()
        node = await self._stack.enter_async_context(Node.open(directory, self.database))
        node.name = name
        node.settings |= {"node.name": name, "http.port": free_port(), **self.settings}
        self.nodes.append(node)
        return node

    async def start(self, node: Node) -> Node:
        """Starts *node*, again or for the first time; once it is ready."""
        node.life = next(self._lives)
        await node.start()
        return node

    async def grow(self, count: int) -> list[Node]:
        """*count* more nodes, which begin together; once they have shared the buckets out."""
        nodes = [await self.make_node() for _ in range(count)]
        await asyncio.gather(*map(self.start, nodes))
        await self.shared_out()
        return nodes

    @property
    def running(self) -> list[Node]:
        """The nodes that were not stopped or killed."""
        return [node for node in self.nodes if node.is_running]

    async def shared_out(self, *, seconds: float = 20.0) -> None:
        """Returns when the nodes that run have equal shares, and no bucket is without one."""

        async def is_so() -> bool:
            shares = [len((await node.standing())["buckets"]) for node in self.running]
            return sum(shares) == BUCKETS and max(shares) - min(shares) <= 1

        await eventually(is_so, f"{len(self.running)} nodes with equal shares", seconds=seconds)

    async def clients(self, organization: str = "acme") -> list[Client]:
        """A client of each node, all with one key."""
        first, *others = self.nodes
        client = await first.client(organization)
        return [client, *(Client(node, client.key) for node in others)]

    async def settled(self, *, seconds: float = 20.0) -> None:
        """Returns when no delivery waits any more, and the result of each is committed."""

        async def is_so() -> bool:
            return self.database.rows("SELECT count(*) FROM deliveries WHERE state = 'pending'") == [(0,)]

        await eventually(is_so, "deliveries that are settled", seconds=seconds)

    def attempts(self, base: str) -> Counter[tuple[str, str]]:
        """How many attempts of each delivery are on record, by path (what follows *base* in the URL) and event."""
        found = self.database.rows(
            "SELECT a.url, d.event_id, count(*) FROM attempts a JOIN deliveries d ON d.id = a.delivery_id GROUP BY 1, 2"
        )
        return Counter({(url.removeprefix(base), event_id): count for url, event_id, count in found})


def at_home(clients: Sequence[Client], home: int) -> Route:
    """A publisher's way: to the client that is its *home*, and to the next ones when that does not accept."""
    return lambda tries: clients[(home + tries) % len(clients)]


def always(client: Client) -> Route:
    """A publisher's way to one node, come what may."""
    return lambda _: client


async def spread_endpoints(nodes: Sequence[Node], client: Client, receiver: Receiver, paths: Collection[str]) -> None:
    """An endpoint for each of *paths*, which *nodes* serve in turn."""
    for path, node in zip(paths, itertools.cycle(nodes), strict=False):
        while not await node.holds((endpoint := await client.create_endpoint(receiver.url(path)))["id"]):
            await client.good("DELETE", f"/webhooks/{endpoint['id']}")


async def make_endpoints(client: Client, receiver: Receiver, paths: Collection[str]) -> dict[str, str]:
    """An endpoint for each of *paths*; its id, by path."""
    return {path: (await client.create_endpoint(receiver.url(path)))["id"] for path in paths}


def check_record(
    cluster: Cluster, receiver: Receiver, witness: Witness, accepted: Collection[int], paths: Collection[str]
) -> None:
    """Each number became one event, which was delivered to each of *paths*, and there is no attempt on record that did not
    arrive there."""
    states = dict(cluster.database.rows("SELECT state, count(*) FROM deliveries GROUP BY state"))
    assert states == {"delivered": len(accepted) * len(paths)}
    assert cluster.database.rows("SELECT count(*) FROM events") == [(len(accepted),)]
    assert all(len(ids) == 1 for ids in witness.ids.values())
    assert not cluster.attempts(receiver.url("")) - witness.count()
