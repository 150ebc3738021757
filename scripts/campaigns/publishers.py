"""Publishers that post numbered events over HTTP all the time, each in its own way, and know what became of every number."""

import asyncio
import itertools
import json
from random import Random

import aiohttp
import msgspec

_RETRY_SECONDS = 0.03
_PAUSE_SECONDS = 0.01  # for each event: less than can be delivered, so that a kill meets new events and not a backlog
_ACCEPTED = frozenset({200, 202})
_MAX_FILLER = 8_192  # bytes of an event: they fill the store's log, which is then written back

TYPES = ("load.applied", "load.moved.far", "other.thing")


class Way(msgspec.Struct, frozen=True):
    """How a publisher publishes."""

    name: str
    batch: int = 1
    external_ids: bool = False  # what was not accepted is published again with its externalId
    idempotency_keys: bool = False  # … as the same request, with its Idempotency-Key

    @property
    def is_safe(self) -> bool:
        """Whether a number may be published again."""
        return self.external_ids or self.idempotency_keys


WAYS = (
    Way("singles, once"),
    Way("singles, once"),
    Way("singles with externalId", external_ids=True),
    Way("singles with externalId", external_ids=True),
    Way("singles with Idempotency-Key", idempotency_keys=True),
    Way("singles with Idempotency-Key", idempotency_keys=True),
    Way("batches of 10 with externalId", batch=10, external_ids=True),
    Way("batches of 20 with Idempotency-Key", batch=20, idempotency_keys=True),
)


class Accepted(msgspec.Struct, frozen=True):
    """An event that the gateway has said it has."""

    id: str
    type: str


class UnexpectedAnswer(Exception):
    """A publisher was answered what no gateway in a crash should answer."""


class Publishers:
    """They work until there is enough."""

    def __init__(self, session: aiohttp.ClientSession, url: str, api_key: str, chance: Random) -> None:
        self._session = session
        self._url = f"{url}/events"
        self._headers = {"x-api-key": api_key, "commet-version": "2026-08-27", "content-type": "application/json"}
        self._chance = chance
        self._numbers = itertools.count(1)
        self._more = asyncio.Condition()
        self._is_enough = False
        self.accepted: dict[int, Accepted] = {}
        self.unsure: set[int] = set()
        """Numbers that were sent, got no answer, and were not sent again."""
        self.types: dict[int, str] = {}
        self.refusals = 0
        self.may_publish = asyncio.Event()
        self.may_publish.set()

    def enough(self) -> None:
        """Ends `run`, once all that has to be accepted is."""
        self._is_enough = True

    async def run(self, way: Way) -> None:
        """Publishes in one *way*."""
        while not self._is_enough:
            await self.may_publish.wait()
            await self._publish(way)
            await asyncio.sleep(_PAUSE_SECONDS * way.batch)

    async def accept_more(self, count: int, *, seconds: float) -> None:
        """Returns when *count* more events were accepted. Raises TimeoutError."""
        goal = len(self.accepted) + count
        async with self._more, asyncio.timeout(seconds):
            await self._more.wait_for(lambda: len(self.accepted) >= goal)

    async def _publish(self, way: Way) -> None:
        numbers = list(itertools.islice(self._numbers, way.batch))
        events = [self._event(number, way) for number in numbers]
        body = json.dumps({"events": events} if way.batch > 1 else events[0]).encode()
        headers = self._headers | ({"Idempotency-Key": f"key {numbers[0]}"} if way.idempotency_keys else {})
        while True:
            ids = await self._ask(body, headers)
            if ids is not None:
                break
            if not way.is_safe:
                self.unsure.update(numbers)
                return
            await asyncio.sleep(_RETRY_SECONDS)
        for number, event_id in zip(numbers, ids, strict=True):
            self.accepted[number] = Accepted(event_id, self.types[number])
        async with self._more:
            self._more.notify_all()

    def _event(self, number: int, way: Way) -> dict[str, object]:
        event_type = self.types[number] = self._chance.choice(TYPES)
        filler = "x" * self._chance.randrange(_MAX_FILLER)
        # The receiver looks for the number before what fills the event.
        event: dict[str, object] = {"event": event_type, "data": {"number": number, "filler": filler}}
        if way.external_ids:
            event["externalId"] = f"number {number}"
        return event

    async def _ask(self, body: bytes, headers: dict[str, str]) -> list[str] | None:
        """The ids of what was accepted; None when it was not, or nobody knows."""
        try:
            async with self._session.post(self._url, data=body, headers=headers) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError):
            return None
        if response.status in {409, 503}:  # a first request that is still under way somewhere; a store that is away
            self.refusals += 1
            return None
        if response.status not in _ACCEPTED:
            raise UnexpectedAnswer(f"{response.status}: {answer[:500].decode(errors='replace')}")
        said = json.loads(answer)
        found = said.get("data") if said["object"] == "list" else [said]
        if any(each["object"] != "event" for each in found):
            raise UnexpectedAnswer(f"{response.status}: {answer[:500].decode(errors='replace')}")
        return [each["id"] for each in found]
