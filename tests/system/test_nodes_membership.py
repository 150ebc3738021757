"""Nodes die, leave, join and fall asleep under load on every node: what was accepted arrives, and the log is complete."""

import asyncio
import contextlib
import functools
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from gateway.model import BUCKETS
from tests.receiver import Receiver
from tests.system.cluster import Cluster, Node, always, at_home, check_record, spread_endpoints
from tests.system.gateway_process import Client, JsonObject, eventually
from tests.system.load import Publishers
from tests.system.witness import Witness

MAX_IN_FLIGHT = 16
MOST_REPEATED = 3 * MAX_IN_FLIGHT
"""What one crash may repeat: the open requests, and twice as many results that were not committed yet."""
LAST_ANSWERS = MOST_REPEATED + MAX_IN_FLIGHT
"""Results are committed as they come in, so what is repeated was answered among the last. Answers to requests that are open
together may come in in another order than they were given."""

SETTINGS = {
    "delivery.max_in_flight": MAX_IN_FLIGHT,
    "delivery.retry_delays": ",".join(["0.2"] * 50),
    "delivery.max_retry_after": 0,
}
QUICK = ("/quick/1", "/quick/2", "/quick/3")
SLOW = ("/slow/1", "/slow/2", "/slow/3")
PATHS = (*QUICK, *SLOW)
PAUSE_SECONDS = 0.12


@pytest.fixture
def witness(receiver: Receiver) -> Witness:
    """Three endpoints answer at once, of which one refuses now and then, and three take their time."""
    witness = Witness(receiver)
    for path in QUICK:
        receiver.script(path, [witness.step(refuses_every=9 if path == QUICK[0] else 0)])
    for path in SLOW:
        receiver.script(path, [witness.step(seconds=0.1)])
    return witness


async def test_a_kill_a_stop_and_a_join_lose_nothing_and_repeat_only_what_was_on_its_way(
    cluster: Cluster, receiver: Receiver, witness: Witness
):
    """Each accepted event reaches each endpoint, and each attempt is on record but for those that the killed node could not
    tell of any more. Only these, which had no answer or belong to the last answers, come twice."""
    cluster.settings |= SETTINGS
    first = await cluster.grow(3)
    clients = await cluster.clients()
    await spread_endpoints(first, clients[0], receiver, PATHS)
    # A node that stops without a grace says so to whoever is too late.
    publishers = Publishers(pause_seconds=PAUSE_SECONDS, bears=("refused", "unanswered", "503 unavailable"))
    async with publishers.publishing(*(at_home(clients, home) for home in (0, 1, 2) * 2)):
        await publishers.accept_more(60)
        killed = max(first, key=lambda node: len(witness.open_requests(node.life)))
        await killed.process.kill()
        await publishers.accept_more(60)
        stopped = next(node for node in first if node is not killed)
        assert await stopped.process.stop() == 0, stopped.process.tail
        await publishers.accept_more(60)
        [joined] = await cluster.grow(1)
        async with publishers.publishing(*[always(Client(joined, clients[0].key))] * 2):
            await publishers.accept_more(60)

    accepted = publishers.accepted
    await witness.have_all(accepted, PATHS)
    await cluster.settled()
    check_record(cluster, receiver, witness, accepted, PATHS)
    untold = witness.open_requests(killed.life) + witness.last_answered(killed.life, LAST_ANSWERS)
    assert witness.open_requests(killed.life), "the kill met no open request: this was no load"
    repeated = list(witness.repeats())
    assert all(before in untold and after.life != killed.life for before, after in repeated)
    assert len(repeated) <= MOST_REPEATED
    not_on_record = witness.count() - cluster.attempts(receiver.url(""))
    assert not_on_record <= Counter(arrival.delivery for arrival in untold)
    lives = Counter(arrival.life for arrival in witness.arrivals)
    assert {node.life for node in first} <= lives.keys()
    sys.stdout.write(f"requests by node: {lives}, repeated: {len(repeated)}, not on record: {not_on_record.total()}\n")


class Chronicle:
    """How every delivery stood at each look: neither its state nor its count of attempts may ever go back."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[str, tuple[str, int]] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def kept(cls, cluster: Cluster) -> AsyncIterator[None]:
        """Looks again and again meanwhile."""
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(cls(cluster)._keep(), name="chronicle")
            yield
            keeping.cancel()

    async def _keep(self) -> None:
        while True:
            for delivery_id, state, count in await asyncio.to_thread(self._cluster.database.rows, _STANDINGS):
                known_state, known_count = self._known.get(delivery_id, ("pending", 0))
                assert count >= known_count, f"{delivery_id} had {known_count} attempts, and then {count}"
                assert known_state in {"pending", state}, f"{delivery_id} was {known_state}, and then {state}"
                self._known[delivery_id] = (state, count)
            await asyncio.sleep(0.2)


_STANDINGS = "SELECT id, state, attempt_count FROM deliveries"


async def test_what_a_frozen_node_had_in_flight_is_fenced_when_it_wakes(cluster: Cluster, receiver: Receiver, witness: Witness):
    """A node sleeps for longer than its lease. The answers that it finds when it wakes, good and bad, are on record and move
    nothing: what the other has delivered stays delivered, and no count of attempts shrinks. It takes part again."""
    cluster.settings |= SETTINGS
    nodes = await cluster.grow(2)
    clients = await cluster.clients()
    await spread_endpoints(nodes, clients[0], receiver, PATHS)
    asleep: set[int] = set()  # lives
    for path in SLOW:
        step = witness.step(seconds=0.1, refuses=lambda arrival: arrival.life in asleep and arrival.number % 2 == 0)
        receiver.script(path, [step])
    # The server ends what a frozen node has open, so that a publication there may come to nothing.
    publishers = Publishers(pause_seconds=PAUSE_SECONDS, bears=("503 unavailable",))
    async with Chronicle.kept(cluster), publishers.publishing(*(always(client) for client in clients * 3)):
        await publishers.accept_more(60)
        frozen = max(nodes, key=lambda node: len(witness.open_requests(node.life)))
        [other] = [node for node in nodes if node is not frozen]
        before = await frozen.standing()
        frozen.freeze()
        asleep.add(frozen.life)
        in_flight = witness.open_requests(frozen.life)
        await eventually(functools.partial(_has_everything, other), "the other node has taken over")
        await publishers.accept_more(60)
        untold = witness.last_answered(frozen.life, LAST_ANSWERS)  # all that was in flight is answered by now
        thawed_at = time.monotonic()
        frozen.thaw()
        asleep.clear()
        await cluster.shared_out()
        woke_at = time.monotonic()
        await publishers.accept_more(60)
        after = await frozen.standing()

    accepted = publishers.accepted
    await witness.have_all(accepted, PATHS)
    await cluster.settled()
    check_record(cluster, receiver, witness, accepted, PATHS)
    assert before["id"] != after["id"]
    assert any(arrival.life == frozen.life and arrival.at > woke_at for arrival in witness.arrivals), "it takes part no more"
    fenced = await _fenced(cluster, clients[0])
    assert {arrival.delivery[1] for arrival in in_flight} <= fenced.keys()
    assert {200, 500} <= {attempt["status"] for attempts in fenced.values() for attempt in attempts}
    count = sum(map(len, fenced.values()))
    assert await frozen.metric("gateway_results_fenced_total") == count
    assert await other.metric("gateway_results_fenced_total") == 0
    for one, two in witness.repeats():
        # A request that had its connection and was not written yet goes out when the node wakes.
        assert one in untold or (two.life == frozen.life and two.at >= thawed_at)
    sys.stdout.write(f"in flight: {len(in_flight)}, fenced: {count}, repeated: {len(list(witness.repeats()))}\n")


async def _has_everything(node: Node) -> bool:
    return len((await node.standing())["buckets"]) == BUCKETS


async def _fenced(cluster: Cluster, client: Client) -> dict[str, list[JsonObject]]:
    """The fenced attempts, by event."""
    found: dict[str, list[JsonObject]] = {}
    for (delivery_id,) in cluster.database.rows("SELECT DISTINCT delivery_id FROM attempts WHERE fenced"):
        delivery = await client.good("GET", f"/deliveries/{delivery_id}")
        found.setdefault(delivery["eventId"], []).extend(attempt for attempt in delivery["attempts"] if attempt["fenced"])
    return found
