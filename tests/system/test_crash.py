"""`kill -9` under load, again and again on one store: nothing accepted is lost, and little is sent twice."""

import asyncio
import itertools
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random

import aiohttp
import pytest

from tests.receiver import Connection, Receiver, Step
from tests.system.gateway_process import PATIENCE_SECONDS, Client, Installation
from tests.system.load import EVENT_TYPE, event_of, number_of

ROUNDS = 20
BATCHES = (1, 1, 1, 1, 1, 1, 10, 20)  # how many events each publisher posts at a time
MAX_IN_FLIGHT = 16
MOST_REPEATED = 3 * MAX_IN_FLIGHT
"""What one crash may repeat: the open requests, and twice as many results that were not committed yet."""
LAST_ANSWERS = MOST_REPEATED + MAX_IN_FLIGHT
"""Results are committed as they come in, so what is repeated was answered among the last. Answers to requests that are open
together may come in in another order than they were given."""


@dataclass(eq=False)
class Arrival:
    """A request that reached an endpoint."""

    delivery: tuple[str, str]  # path and event: an endpoint gets each event once, unless it is repeated
    life: int  # of the gateway: how often it had been started
    status: int | None = None  # as answered; None when the gateway was gone before


class Witness:
    """The receiver's endpoints: they answer in their own way, and remember in which order they did."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.life = 0
        self.arrivals: list[Arrival] = []
        self.answered: list[Arrival] = []  # in the order of the answers
        self.numbers: defaultdict[str, set[int]] = defaultdict(set)  # path → numbers of the events that were answered 200
        self.ids: defaultdict[int, set[str]] = defaultdict(set)  # number → ids of its events

    def step(self, *, seconds: float = 0.0, refuses_every: int = 0) -> Step:
        """Answers 200 after *seconds*, and 503 in place of it to one of *refuses_every* requests."""
        turns = itertools.count(1)

        def take(connection: Connection) -> Awaitable[None] | None:
            request = self._receiver.requests[-1]
            arrival = Arrival((request.path, event_of(request)), self.life)
            self.arrivals.append(arrival)
            self.ids[number_of(request)].add(event_of(request))
            status = 503 if refuses_every and next(turns) % refuses_every == 0 else 200

            def answer() -> None:
                connection.answer(status)
                arrival.status = status
                self.answered.append(arrival)
                if status == 200:
                    self.numbers[request.path].add(number_of(request))

            if not seconds:
                answer()
                return None
            return _later(seconds, answer)

        return take


async def _later(seconds: float, act: Callable[[], None]) -> None:
    await asyncio.sleep(seconds)
    act()


@dataclass
class Publishers:
    """They publish numbers one after another. Without an answer they do it again when the gateway is back, which the
    external id makes safe."""

    client: Client
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    enough: bool = False
    accepted: set[int] = field(default_factory=set)
    more: asyncio.Condition = field(default_factory=asyncio.Condition)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    async def run(self, batch: int) -> None:
        """Publishes *batch* events at a time, until there are enough."""
        while not self.enough:
            await self.serving.wait()
            await self._publish(list(itertools.islice(self._numbers, batch)))

    async def _publish(self, numbers: list[int]) -> None:
        events = [{"event": EVENT_TYPE, "data": {"number": number}, "externalId": f"number {number}"} for number in numbers]
        while True:
            try:
                answer = await self.client.ask("POST", "/events", {"events": events} if len(events) > 1 else events[0])
            except aiohttp.ClientError:
                await self.serving.wait()
                continue
            assert answer.status in {200, 202}, answer.body
            break
        self.accepted.update(numbers)
        async with self.more:
            self.more.notify_all()

    async def accept_more(self, count: int) -> None:
        """Returns when *count* more events were accepted."""
        goal = len(self.accepted) + count
        async with self.more, asyncio.timeout(PATIENCE_SECONDS):
            await self.more.wait_for(lambda: len(self.accepted) >= goal)


@pytest.mark.timeout(180)
async def test_twenty_kills_under_load_lose_nothing_and_repeat_only_what_was_on_its_way(
    installation: Installation, receiver: Receiver
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

    await installation.start()
    client = await installation.client()
    for path in paths:
        await client.create_endpoint(receiver.url(path))
    publishers = Publishers(client)
    async with asyncio.TaskGroup() as group:
        for batch in BATCHES:
            group.create_task(publishers.run(batch), name=f"publisher of {batch}")
        for _ in range(ROUNDS):
            publishers.serving.set()
            await publishers.accept_more(chance.choice([1, 20, 60, 120, 180, 250]))
            publishers.serving.clear()
            await installation.process.kill()
            # What was sent before the kill has arrived when the last connection is closed.
            await receiver.wait_until(lambda: not receiver.open_connections, "the killed gateway's connections are closed")
            witness.life += 1
            await installation.start()
        publishers.enough = True
        publishers.serving.set()

    accepted = publishers.accepted
    await receiver.wait_until(
        lambda: all(accepted <= witness.numbers[path] for path in paths), "every event at every endpoint", seconds=30
    )
    assert await installation.process.stop() == 0
    for kill in range(ROUNDS):
        _check_repeats(witness, kill)
    _check_record(installation, witness, accepted, paths)
    checked = await installation.command("check")
    assert checked.code == 0, checked.stdout
    assert any(arrival.status is None for arrival in witness.arrivals), "no kill met an open request: this was no load"


def _check_repeats(witness: Witness, kill: int) -> None:
    """What came again after the life that ended with this *kill*, though it had not been refused in it."""
    last_answered = [arrival for arrival in witness.answered if arrival.life == kill][-LAST_ANSWERS:]
    final = {arrival.delivery: arrival for arrival in witness.arrivals if arrival.life == kill}
    later = {arrival.delivery for arrival in witness.arrivals if arrival.life > kill}
    repeated = [arrival for delivery, arrival in final.items() if delivery in later and arrival.status != 503]
    assert all(arrival.status is None or arrival in last_answered for arrival in repeated)
    assert len(repeated) <= MOST_REPEATED
    within = Counter(arrival.delivery for arrival in witness.arrivals if arrival.life == kill and arrival.status != 503)
    assert max(within.values(), default=0) <= 1, "something was repeated without a crash"
    opened = sum(arrival.status is None for arrival in final.values())
    sys.stdout.write(f"kill {kill + 1}: {len(final)} deliveries, {opened} open, {len(repeated)} repeated\n")


def _check_record(installation: Installation, witness: Witness, accepted: set[int], paths: tuple[str, ...]) -> None:
    """The log agrees: one event a number, all delivered."""
    states: Mapping[str, int] = dict(installation.rows("SELECT state, count(*) FROM deliveries GROUP BY state"))
    assert states == {"delivered": len(accepted) * len(paths)}
    assert installation.rows("SELECT count(*) FROM events") == [(len(accepted),)]
    assert all(len(ids) == 1 for ids in witness.ids.values())
