"""Who tries keys: soon refused without a look, and others from the same address go on."""

from pathlib import Path

import msgspec
import pytest
from aiohttp.test_utils import TestClient
from structlog.testing import capture_logs

from gateway.api.auth import OPERATOR
from gateway.api.server import build_application
from gateway.settings import Http, Limits, Settings
from tests.integration.api.conftest import CURRENT, PatientServer, serve


def settings(per_minute: int = 3, **http: object) -> Settings:
    return Settings(limits=Limits(bad_keys_per_minute=per_minute), http=msgspec.convert(http, Http))


@pytest.mark.parametrize("key", ["", "ck_live_unknown"])
@pytest.mark.parametrize("path", ["/webhooks", "/metrics"])
async def test_too_many_bad_keys_are_a_429(tmp_path: Path, path: str, key: str):
    """No key, or one that nobody has; until time has passed. A good one is taken all the while."""
    async with serve(tmp_path, settings()) as api:
        service = await api.make_key(None)
        with capture_logs() as logs:
            for _ in range(3):
                await api.json("GET", path, key=key, status=401)
            for _ in range(2):
                response = await api.ask("GET", path, key=key)
                assert (response.status, response.headers["Retry-After"]) == (429, "20")
                assert response.headers["RateLimit-Limit"] == "3"
                assert (await response.json())["error"]["code"] == "rate_limited"
                assert (await api.ask("GET", path, key=service if path == "/metrics" else api.key)).status == 200
        assert [(line["event"], line["address"]) for line in logs] == [("keys.too_many_bad", "127.0.0.1")]
        assert api.parts.traffic.refused == {"unauthorized": 3, "bad_keys": 2}
        api.clock.advance(20)
        await api.json("GET", path, key=key, status=401)
        await api.json("GET", path, key=key, status=429)


async def test_an_expired_key_is_a_bad_one(tmp_path: Path):
    """And so is one that was revoked."""
    async with serve(tmp_path, settings(2)) as api:
        short = await api.make_key(days=1)
        api.clock.advance(86_400)
        for status in (401, 401, 429):
            await api.json("GET", "/webhooks", key=short, status=status)


async def test_without_a_limit_each_is_a_401(tmp_path: Path):
    """`limits.bad_keys_per_minute = 0`."""
    async with serve(tmp_path, settings(0)) as api:
        for _ in range(100):
            await api.json("GET", "/webhooks", key="bad", status=401)


async def test_what_needs_no_key_is_not_counted(tmp_path: Path):
    """Health, and what nobody serves."""
    async with serve(tmp_path, settings(1)) as api:
        for _ in range(5):
            await api.json("GET", "/health/live", key="bad")
            await api.json("GET", "/nothing", key="bad", status=404)
        await api.json("GET", "/webhooks", key="bad", status=401)


async def test_behind_a_trusted_proxy_each_client_has_its_own(tmp_path: Path):
    """By X-Forwarded-For, which is believed of nobody else."""
    for proxies, statuses in ((["127.0.0.0/8"], (401, 401)), ([], (401, 429))):
        path = tmp_path / str(len(proxies))
        path.mkdir()
        async with serve(path, settings(1, trusted_proxies=proxies)) as api:
            for client, status in zip(("192.0.2.1", "192.0.2.2"), statuses, strict=True):
                await api.json("GET", "/webhooks", key="bad", headers={"X-Forwarded-For": client}, status=status)


async def test_other_nodes_news_are_looked_for_only_within_the_limit(tmp_path: Path):
    """Each look is a question to the database: who is refused causes none. A key that turns out to be good costs nothing."""
    async with serve(tmp_path, settings(2)) as api:
        looks: list[str] = []
        made: list[str] = []

        async def look() -> None:
            looks.append("look")
            for text in made:
                api.parts.keys.changed(known[text])

        key = await api.make_key()
        known = {key: (await api.store.all_keys())[-1]}
        api.parts.keys.load([])
        parts = msgspec.structs.replace(api.parts, look_for_news=look)
        async with TestClient(PatientServer(build_application(parts, authority=None))) as client:
            statuses = [(await client.get("/webhooks", headers={"x-api-key": "bad"})).status for _ in range(5)]
            assert statuses == [401, 401, 429, 429, 429]
            assert len(looks) == 2
            api.clock.advance(30)
            made.append(key)
            headers = {"x-api-key": key, "commet-version": CURRENT}
            assert (await client.get("/webhooks", headers=headers)).status == 200
            assert (await client.get("/webhooks", headers={"x-api-key": "bad"})).status == 401
            assert (await client.get("/webhooks", headers={"x-api-key": ""})).status == 429
            assert len(looks) == 4


async def test_operators_have_no_limit(tmp_path: Path):
    """Whatever key they send: none is asked for on their socket."""
    async with serve(tmp_path, settings(1), authority=OPERATOR) as api:
        for _ in range(5):
            await api.json("GET", "/keys", key="bad")
