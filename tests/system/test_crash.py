"""`kill -9` under load, again and again on one store: nothing accepted is lost, and little is sent twice."""

import asyncio
import functools
import sys
from collections.abc import Collection, Mapping
from random import Random

import pytest

from gateway.model import BUCKETS
from tests.receiver import Receiver
from tests.system.gateway_process import Installation, eventually
from tests.system.load import Publishers
from tests.system.witness import Witness, marked

ROUNDS = {"sqlite": 20, "postgres": 6}
BATCHES = (1, 1, 1, 1, 1, 1, 10, 20)  # how many events each publisher posts at a time
MAX_IN_FLIGHT = 16
MOST_REPEATED = 3 * MAX_IN_FLIGHT
"""What one crash may repeat: the open requests, and twice as many results that were not committed yet."""
LAST_ANSWERS = MOST_REPEATED + MAX_IN_FLIGHT
"""Results are committed as they come in, so what is repeated was answered among the last. Answers to requests that are open
together may come in in another order than they were given."""


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("database", "rounds"), ROUNDS.items(), ids=ROUNDS, indirect=["database"])
async def test_kills_under_load_lose_nothing_and_repeat_only_what_was_on_its_way(
    installation: Installation, receiver: Receiver, rounds: int
):
    """Each accepted event reaches each endpoint. What an endpoint took twice had not been answered at a kill, or belongs to
    the last answers before it."""
    installation.settings |= {
        "delivery.max_in_flight": MAX_IN_FLIGHT,
        "delivery.retry_delays": ",".join(["0.2"] * 50),
        "delivery.max_retry_after": 0,
    }
    witness = Witness(receiver)
    paths = ("/quick", "/slow", "/moody")
    receiver.script("/quick", [witness.step()])
    receiver.script("/slow", [witness.step(seconds=0.03)])
    receiver.script("/moody", [witness.step(seconds=0.005, refuses_every=5)])
    chance = Random(20)  # the same kills in every run

    installation.settings |= marked(0)
    await installation.start()
    client = await installation.client()
    for path in paths:
        await client.create_endpoint(receiver.url(path))
    publishers = Publishers()
    async with asyncio.TaskGroup() as group:
        for batch in BATCHES:
            group.create_task(publishers.run(lambda _: client, batch), name=f"publisher of {batch}")
        for kill in range(rounds):
            await eventually(functools.partial(_serves, installation), "it serves every endpoint")
            publishers.serving.set()
            await publishers.accept_more(chance.choice([1, 20, 60, 120, 180, 250]))
            publishers.serving.clear()
            await installation.process.kill()
            # What was sent before the kill has arrived when the last connection is closed.
            await receiver.wait_until(lambda: not receiver.open_connections, "the killed gateway's connections are closed")
            installation.settings |= marked(kill + 1)
            await installation.start()
        publishers.enough = True
        publishers.serving.set()

    accepted = publishers.accepted
    await witness.have_all(accepted, paths)
    assert await installation.process.stop() == 0
    for kill in range(rounds):
        _check_repeats(witness, kill)
    assert all(before.life < rounds for before, _ in witness.repeats()), "something was repeated after the last kill"
    _check_record(installation, witness, accepted, paths)
    checked = await installation.command("check")
    assert checked.code == 0, checked.stdout
    assert any(arrival.status is None for arrival in witness.arrivals), "no kill met an open request: this was no load"


async def _serves(installation: Installation) -> bool:
    """Whether it may start attempts: on a store that others may share it waits for the lease of the one that was killed."""
    async with installation.session.get(f"{installation.url}/health/ready") as response:
        node = (await response.json()).get("node")
    return node is None or len(node["buckets"]) == BUCKETS


def _check_repeats(witness: Witness, kill: int) -> None:
    """What came again after the life that ended with this *kill*, though it had not been refused in it."""
    repeated = [(before, after) for before, after in witness.repeats() if before.life == kill]
    assert all(after.life > kill for _, after in repeated), "something was repeated without a crash"
    last_answered = witness.last_answered(kill, LAST_ANSWERS)
    assert all(before.status is None or before in last_answered for before, _ in repeated)
    assert len(repeated) <= MOST_REPEATED
    arrivals = sum(arrival.life == kill for arrival in witness.arrivals)
    sys.stdout.write(f"kill {kill + 1}: {arrivals} requests, {len(witness.open_requests(kill))} open, {len(repeated)} repeated\n")


def _check_record(installation: Installation, witness: Witness, accepted: Collection[int], paths: tuple[str, ...]) -> None:
    """The log agrees: one event a number, all delivered."""
    states: Mapping[str, int] = dict(installation.rows("SELECT state, count(*) FROM deliveries GROUP BY state"))
    assert states == {"delivered": len(accepted) * len(paths)}
    assert installation.rows("SELECT count(*) FROM events") == [(len(accepted),)]
    assert all(len(ids) == 1 for ids in witness.ids.values())
