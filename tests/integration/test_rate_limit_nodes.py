"""The limit of an API key, on two gateways that share a PostgreSQL."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import ClientSession

from gateway import ids
from gateway.api.listener import bind_tcp
from gateway.app import Gateway
from gateway.model import Mode, Tenant
from gateway.registry.keys import AddKey, make_key
from gateway.settings import Limits, Settings, Store
from tests.fakes import ACTOR, PATIENCE_SECONDS, START, make_id

LIMIT = 20
WINDOW_SECONDS = 2.0


@asynccontextmanager
async def serve(url: str) -> AsyncIterator[tuple[Gateway, str]]:
    """A gateway on the store at *url*, and where its webhooks are listed."""
    settings = Settings(store=Store(url=url), limits=Limits(requests_per_second=LIMIT))
    async with Gateway.open(settings) as gateway, gateway._listening(None, bind_tcp("127.0.0.1", 0)) as port:
        yield gateway, f"http://127.0.0.1:{port}/webhooks"


async def add_key(gateway: Gateway) -> str:
    text, key = make_key(make_id(ids.API_KEY), tenant=Tenant("acme", Mode.LIVE), permissions=None, name=None, at=START)
    await gateway._writer.change(AddKey(key, ACTOR))
    return text


class Hammer:
    """Asks without a pause, and remembers when it was not refused."""

    def __init__(self, client: ClientSession, url: str, key: str) -> None:
        self._client = client
        self._url = url
        self._headers = {"x-api-key": key}
        self._passed: deque[float] = deque()

    async def run(self) -> None:
        while True:
            async with self._client.get(self._url, headers=self._headers) as response:
                assert response.status in {200, 429}, await response.text()
                if response.status == 200:
                    self._passed.append(asyncio.get_running_loop().time())

    def passed_lately(self) -> int:
        """How many of the last WINDOW_SECONDS passed."""
        since = asyncio.get_running_loop().time() - WINDOW_SECONDS
        while self._passed and self._passed[0] < since:
            self._passed.popleft()
        return len(self._passed)


async def test_a_key_that_hammers_two_nodes_gets_its_limit_in_sum(migrated_url: str):
    """Soon both together let pass what one alone would, each half of it."""
    half = LIMIT * WINDOW_SECONDS / 2
    async with serve(migrated_url) as (one, here), serve(migrated_url) as (_, there), ClientSession() as client:
        key = await add_key(one)
        hammers = [Hammer(client, url, key) for url in (here, there)]
        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            tasks = [group.create_task(hammer.run()) for hammer in hammers]
            await asyncio.sleep(WINDOW_SECONDS)  # the first is full only then
            while not all(0.8 * half <= hammer.passed_lately() <= 1.2 * half for hammer in hammers):  # noqa: ASYNC110 - time tells
                await asyncio.sleep(0.05)
            for task in tasks:
                task.cancel()
