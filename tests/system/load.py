"""Publishers that post numbered events over HTTP, one after another each, and know what became of every number."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator

import aiohttp

from tests.receiver import Request
from tests.system.gateway_process import PATIENCE_SECONDS, Client

EVENT_TYPE = "load.applied"


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


def number_of(request: Request) -> int:
    """The number of the event that *request* brings."""
    number: int = json.loads(request.body)["data"]["number"]
    return number


def event_of(request: Request) -> str:
    """The id of the event that *request* brings."""
    return request.headers["webhook-id"]
