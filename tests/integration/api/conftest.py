"""The API on a real store and writer, over a real socket; nothing is delivered."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import AppRunner

from gateway import ids
from gateway.api.auth import Authenticator, Principal
from gateway.api.bad_keys import BadKeys
from gateway.api.http_server import ApiRunner
from gateway.api.rate_limit import RateLimiter
from gateway.api.server import ApiParts, build_application
from gateway.egress.addresses import AddressGuard
from gateway.ids import IdMaker
from gateway.model import Mode, NodeStanding, Tenant
from gateway.publishing.event_queue import EventQueue
from gateway.publishing.event_types import Catalogue
from gateway.publishing.fan_out import FanOut
from gateway.publishing.publisher import Publisher
from gateway.publishing.writer import Writer
from gateway.registry.keys import AddKey, make_key
from gateway.registry.reencryption import reencrypt
from gateway.settings import Settings
from gateway.store.protocol import Effects
from gateway.store.sealing import Sealing
from gateway.store.sqlite import SqliteStore
from gateway.telemetry.metrics import Metrics
from tests.fakes import ACTOR
from tests.integration.api.fakes import FakeClock, FakeTester, ForgetfulRecorder, GatedPublisher

ACME = Tenant("acme", Mode.LIVE)
CURRENT = "2026-08-27"


class PatientServer(TestServer):
    """A test server that, as the gateway's own, speaks of bad HTTP in JSON and cancels no handler because its client has gone."""

    async def _make_runner(self, **kwargs: Any) -> AppRunner:
        return ApiRunner(self.app, **{**kwargs, "handler_cancellation": False, "access_log": None})


class Api:
    """The API under test, and the way to ask it."""

    def __init__(self, parts: ApiParts, writer: Writer, store: SqliteStore, clock: FakeClock, tester: FakeTester) -> None:
        self.parts = parts
        self.writer = writer
        self.store = store
        self.clock = clock
        self.tester = tester
        self.reasons: list[str | None] = [None]  # the last one is why the gateway is not ready
        self.standings: list[NodeStanding] = []  # of the nodes that there are
        self.client: TestClient[Any, Any]
        self.key = ""

    @property
    def publisher(self) -> GatedPublisher:
        assert isinstance(self.parts.publisher, GatedPublisher)
        return self.parts.publisher

    async def make_key(
        self, tenant: Tenant | None = ACME, *, permissions: tuple[str, ...] | None = None, days: int | None = None
    ) -> str:
        key_id, at = self.parts.ids.next_with_time(ids.API_KEY)
        text, key = make_key(key_id, tenant=tenant, permissions=permissions, name=None, at=at, expires_in_days=days)
        await self.writer.change(AddKey(key, ACTOR))
        return text

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        version: str | None = CURRENT,
        data: bytes | None = None,
    ) -> ClientResponse:
        """The answer to a request with the tenant's own key, or *key*."""
        all_headers = {"Content-Type": "application/json"} if data is not None else {}
        all_headers |= {"x-api-key": self.key if key is None else key, **(headers or {})}
        if version is not None:
            all_headers["commet-version"] = version
        if not all_headers["x-api-key"]:
            del all_headers["x-api-key"]
        content: Mapping[str, Any] = {"data": data} if data is not None else {"json": body} if body is not None else {}
        return await self.client.request(method, path, headers=all_headers, **content)

    async def json(self, method: str, path: str, body: object = None, *, status: int = 200, **kwargs: Any) -> Any:
        """The body of an answer that has this *status*."""
        response = await self.ask(method, path, body, **kwargs)
        content = await response.json()
        assert response.status == status, content
        return content

    async def create_webhook(self, **fields: object) -> Any:
        return await self.json("POST", "/webhooks", {"url": "https://example.com/hook", "events": ["*"], **fields}, status=201)

    async def publish(self, **fields: object) -> Any:
        return await self.json("POST", "/events", {"event": "invoice.paid", "data": {"id": 1}, **fields}, status=202)


@asynccontextmanager
async def serve(
    path: Path, settings: Settings, *, catalogue: Catalogue | None = None, authority: Principal | None = None
) -> AsyncIterator[Api]:
    """The API on the store in *path*."""
    clock = FakeClock()
    maker = IdMaker(clock)
    sealing = Sealing.of(settings.secrets)
    async with SqliteStore.open(path / "gateway.db", sealing) as store, asyncio.TaskGroup() as tasks:
        writer = Writer(
            store=store,
            queue=EventQueue(settings.intake),
            recorder=ForgetfulRecorder(),
            fan_out=FanOut(ids=maker, current_version=CURRENT),
        )
        tester = FakeTester(clock)
        publisher = Publisher(writer=writer, ids=maker, settings=settings.events, catalogue=catalogue)
        keys = Authenticator()
        reasons: list[str | None] = [None]
        standings: list[NodeStanding] = []

        async def nodes() -> Sequence[NodeStanding]:
            return standings

        metrics = Metrics(node=lambda: {"name": "here"})
        per_second = settings.limits.requests_per_second
        keys.load(await store.all_keys())
        parts = ApiParts(
            settings=settings,
            clock=clock,
            ids=maker,
            log=store,
            writer=writer,
            publisher=GatedPublisher(publisher),
            tester=tester,
            catalogue=catalogue,
            guard=AddressGuard(settings.egress.allow, settings.egress.deny),
            cursor_key=await store.cursor_key(),
            keys=keys,
            limiter=RateLimiter(per_second) if per_second > 0 else None,
            bad_keys=BadKeys(settings.limits.bad_keys_per_minute) if settings.limits.bad_keys_per_minute else None,
            readiness=lambda: reasons[-1],
            metrics=metrics.render,
            nodes=nodes,
            reencrypt=lambda: reencrypt(writer, store),
            backup=store.back_up,
        )
        parts.pinned.load(await store.organizations())
        api = Api(parts, writer, store, clock, tester)
        api.reasons = reasons
        api.standings = standings

        def committed(_fresh: object, _results: object, effects: Effects) -> None:
            for key in effects.keys:
                keys.changed(key)
            for organization in effects.organizations:
                parts.pinned.changed(organization)

        writer.listen(committed)
        tasks.create_task(writer.run(), name="writer")
        async with TestClient(PatientServer(build_application(parts, authority=authority))) as client:
            api.client = client
            api.key = await api.make_key()
            yield api
        writer.stop()


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
async def api(tmp_path: Path, settings: Settings) -> AsyncIterator[Api]:
    async with serve(tmp_path, settings) as api:
        yield api
