"""Publishers that post numbered events over HTTP, one after another each, and know what became of every number."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field

import aiohttp

from tests.receiver import Request
from tests.system.gateway_process import PATIENCE_SECONDS, Client

EVENT_TYPE = "load.applied"
RETRY_SECONDS = 0.05

Route = Callable[[int], Client]
"""Where a publisher goes with an event, after so many tries in vain."""


class Load:
    """Some publishers, and their common record."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._numbers = itertools.count(1)
        self.accepted: dict[int, str] = {}  # number → id of the event
        self.unsure: set[int] = set()  # sent, and then the connection ended without an answer
        self._more = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def applied(self, *, publishers: int) -> AsyncIterator[None]:
        """Publishes meanwhile. Leaving waits until the gateway has refused every publisher."""
        async with asyncio.TaskGroup() as group:
            for number in range(publishers):
                group.create_task(self._publish_until_refused(), name=f"publisher {number}")
            yield

    async def _publish_until_refused(self) -> None:
        for number in self._numbers:
            try:
                answer = await self._client.ask("POST", "/events", {"event": EVENT_TYPE, "data": {"number": number}})
            except aiohttp.ClientConnectorError:
                return  # nobody listens any more
            except aiohttp.ClientError:
                self.unsure.add(number)
                return
            if answer.status == 503:
                return
            assert answer.status == 202, answer.body
            self.accepted[number] = answer.body["id"]
            async with self._more:
                self._more.notify_all()

    async def reached(self, count: int) -> None:
        """Returns when *count* events were accepted."""
        async with self._more, asyncio.timeout(PATIENCE_SECONDS):
            await self._more.wait_for(lambda: len(self.accepted) >= count)


@dataclass(frozen=True)
class Trouble:
    """What a publisher met instead of being accepted."""

    at: float  # `time.monotonic()`, seconds: when it was met
    client: Client
    words: str  # "refused" and "unanswered" of connections, else the answer's status and code
    retry_after: str | None = None


@dataclass(frozen=True)
class Acceptance:
    """When and by whom an event was accepted."""

    asked_at: float  # `time.monotonic()`, seconds
    at: float
    client: Client


@dataclass
class Publishers:
    """They publish numbers one after another. What was not accepted they publish again, which the external id makes safe."""

    bears: Collection[str] = ("refused", "unanswered")  # the troubles that are no reason to fail
    pause_seconds: float = 0.0  # of each publisher between two publications
    serving: asyncio.Event = field(default_factory=asyncio.Event)  # while it is not set, nobody publishes
    enough: bool = False
    accepted: dict[int, Acceptance] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
    """When somebody asked, and for how many seconds he then waited for an answer, or for the end of the connection."""
    more: asyncio.Condition = field(default_factory=asyncio.Condition)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    async def run(self, route: Route, batch: int = 1) -> None:
        """Publishes *batch* events at a time, until there are enough."""
        while not self.enough:
            await self.serving.wait()
            await self.publish(route, batch)
            if self.pause_seconds:
                await asyncio.sleep(self.pause_seconds)

    async def publish(self, route: Route, batch: int = 1) -> None:
        """Publishes the next *batch* events, all at once; returns when they are accepted."""
        numbers = list(itertools.islice(self._numbers, batch))
        events = [{"event": EVENT_TYPE, "data": {"number": number}, "externalId": f"number {number}"} for number in numbers]
        for tries in itertools.count():
            client, asked_at = route(tries), time.monotonic()
            trouble = await _trouble(client, {"events": events} if len(events) > 1 else events[0])
            answered_at = time.monotonic()
            self.waits.append((asked_at, answered_at - asked_at))
            if trouble is None:
                self.accepted |= dict.fromkeys(numbers, Acceptance(asked_at, answered_at, client))
                break
            self.troubles.append(trouble)
            assert trouble.words in self.bears, trouble
            await asyncio.sleep(RETRY_SECONDS)
            await self.serving.wait()
        async with self.more:
            self.more.notify_all()

    async def accept_more(self, count: int) -> None:
        """Returns when *count* more events were accepted."""
        goal = len(self.accepted) + count
        await self.reach(lambda: len(self.accepted) >= goal)

    async def reach(self, claim: Callable[[], bool]) -> None:
        """Returns when *claim* about what was accepted holds."""
        async with self.more, asyncio.timeout(PATIENCE_SECONDS):
            await self.more.wait_for(claim)

    @contextlib.asynccontextmanager
    async def publishing(self, *routes: Route, batch: int = 1) -> AsyncIterator[None]:
        """A publisher for each of *routes* is at work meanwhile."""
        self.serving.set()
        async with asyncio.TaskGroup() as group:
            for route in routes:
                group.create_task(self.run(route, batch))
            yield
            self.enough = True


async def _trouble(client: Client, body: object) -> Trouble | None:
    """What came in place of an acceptance of *body*; None when nothing did."""
    try:
        answer = await client.ask("POST", "/events", body)
    except aiohttp.ClientConnectorError:
        return Trouble(time.monotonic(), client, "refused")
    except aiohttp.ClientError:
        return Trouble(time.monotonic(), client, "unanswered")
    if answer.status in {200, 202}:
        return None
    words = f"{answer.status} {answer.body['error']['code']}"
    return Trouble(time.monotonic(), client, words, answer.headers.get("Retry-After"))


def number_of(request: Request) -> int:
    """The number of the event that *request* brings."""
    number: int = json.loads(request.body)["data"]["number"]
    return number


def event_of(request: Request) -> str:
    """The id of the event that *request* brings."""
    return request.headers["webhook-id"]
