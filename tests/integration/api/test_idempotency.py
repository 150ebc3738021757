"""Requests with an `Idempotency-Key`."""

import asyncio
from pathlib import Path

import pytest

from gateway.model import Mode, Tenant
from gateway.settings import Settings
from tests.integration.api.conftest import Api, serve

WEBHOOK = {"url": "https://example.com/hook", "events": ["*"]}
EVENT = {"event": "invoice.paid", "data": {"n": 1}}


async def test_a_repeat_gets_the_first_answer_byte_for_byte(api: Api):
    """With its secret, whatever version the repeat names and whichever prefix it uses, and without doing it again."""
    headers = {"Idempotency-Key": "k" * 255}
    first = await api.ask("POST", "/webhooks", WEBHOOK, headers=headers, version=None)
    again = await api.ask("POST", "/api/v1/webhooks", WEBHOOK, headers=headers, version="2026-08-27")
    assert (first.status, again.status) == (201, 201)
    assert await first.read() == await again.read()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert first.headers["x-request-id"] != again.headers["x-request-id"]
    assert len((await api.json("GET", "/webhooks"))["data"]) == 1


async def test_every_verb_with_a_body_remembers(api: Api):
    """POST, PUT and PATCH: an update that was undone since is answered as it was, and not done again."""
    webhook = await api.create_webhook()
    path = f"/webhooks/{webhook['id']}"
    for method in ("PUT", "PATCH"):
        headers = {"Idempotency-Key": method}
        first = await api.json(method, path, {"description": method}, headers=headers)
        await api.json("PATCH", path, {"description": "later"})
        assert await api.json(method, path, {"description": method}, headers=headers) == first
        assert (await api.json("GET", path))["description"] == "later"
    await api.json("DELETE", path, headers={"Idempotency-Key": ""})  # heeded by no other verb


async def test_publishing_remembers_single_events_and_batches(api: Api):
    """An event is published once, and so is each event of a batch, whose errors stay in their places."""
    for number, body in enumerate((EVENT, {"events": [EVENT, {"event": "bad"}, EVENT]})):
        headers = {"Idempotency-Key": str(number)}
        first = await api.ask("POST", "/events", body, headers=headers)
        again = await api.ask("POST", "/events", body, headers=headers)
        assert (first.status, again.status) == (202, 202)
        assert await first.read() == await again.read()
    assert len((await api.json("GET", "/events"))["data"]) == 3


async def test_the_same_key_with_another_request_is_a_409(api: Api):
    """Another path, query, method or body, even by a byte."""
    headers = {"Idempotency-Key": "k"}
    await api.json("POST", "/events", data=b'{"event":"a.b","data":{}}', headers=headers, status=202)
    for path, data in (
        ("/events", b'{"event":"a.b", "data":{}}'),
        ("/events?x=1", b'{"event":"a.b","data":{}}'),
        ("/webhooks", b'{"event":"a.b","data":{}}'),
    ):
        error = (await api.json("POST", path, data=data, headers=headers, status=409))["error"]
        assert (error["type"], error["code"]) == ("conflict_error", "idempotency_key_mismatch")


async def test_a_key_belongs_to_the_api_key_that_sent_it(api: Api):
    """The same idempotency key of another API key, also of the same tenant, is another one."""
    headers = {"Idempotency-Key": "k"}
    made = [
        await api.json("POST", "/webhooks", WEBHOOK, headers=headers, key=key, status=201)
        for key in (api.key, await api.make_key(), await api.make_key(Tenant("acme", Mode.SANDBOX)))
    ]
    assert len({webhook["id"] for webhook in made}) == 3


async def test_what_was_refused_or_failed_is_not_kept(api: Api):
    """The same key may be sent again, with the request mended or once the gateway is well."""
    headers = {"Idempotency-Key": "k"}
    await api.json("POST", "/webhooks", {**WEBHOOK, "url": "x"}, headers=headers, status=400)
    await api.json("PATCH", "/webhooks/wh_none", {}, headers=headers, status=404)
    api.publisher.failure = RuntimeError("broken")
    await api.json("POST", "/events", EVENT, headers=headers, status=500)
    api.publisher.failure = None
    await api.json("POST", "/events", EVENT, headers=headers, status=202)


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_that_is_none_is_a_400(api: Api, key: str):
    """Empty or too long."""
    error = (await api.json("POST", "/webhooks", WEBHOOK, headers={"Idempotency-Key": key}, status=400))["error"]
    assert error["param"] == "Idempotency-Key"


async def test_a_repeat_during_the_first_request_is_a_409(api: Api):
    """In progress for the same request, a mismatch for another one; once it is answered, the repeat has its answer."""
    headers = {"Idempotency-Key": "k"}
    api.publisher.open.clear()
    first = asyncio.create_task(api.ask("POST", "/events", EVENT, headers=headers))
    await api.publisher.reached.wait()
    error = (await api.json("POST", "/events", EVENT, headers=headers, status=409))["error"]
    assert error["code"] == "idempotency_in_progress"
    error = (await api.json("POST", "/events", {**EVENT, "event": "a.b"}, headers=headers, status=409))["error"]
    assert error["code"] == "idempotency_key_mismatch"
    api.publisher.open.set()
    body = await (await first).read()
    assert await (await api.ask("POST", "/events", EVENT, headers=headers)).read() == body


async def test_many_at_once_do_the_work_once(api: Api):
    """Of twenty that arrive together one does it; afterwards all get its answer, also when they come together."""
    headers = {"Idempotency-Key": "k"}
    answers = await asyncio.gather(*(api.ask("POST", "/events", EVENT, headers=headers) for _ in range(20)))
    assert {answer.status for answer in answers} <= {202, 409}
    bodies = {await answer.read() for answer in answers if answer.status == 202}
    assert len(bodies) == 1
    repeats = await asyncio.gather(*(api.ask("POST", "/events", EVENT, headers=headers) for _ in range(20)))
    assert {await answer.read() for answer in repeats} == bodies
    assert len((await api.json("GET", "/events"))["data"]) == 1


async def test_an_answer_outlives_a_restart_but_not_a_day(tmp_path: Path):
    """For 24 hours, by the store and not by memory."""
    headers = {"Idempotency-Key": "k"}
    async with serve(tmp_path, Settings()) as api:
        key = api.key
        first = await api.json("POST", "/webhooks", WEBHOOK, headers=headers, status=201)
    async with serve(tmp_path, Settings()) as api:
        api.clock.advance(86_399)
        assert await api.json("POST", "/webhooks", WEBHOOK, headers=headers, key=key, status=201) == first
        api.clock.advance(1)
        assert await api.json("POST", "/webhooks", WEBHOOK, headers=headers, key=key, status=201) != first


async def test_the_store_gives_no_secret_away(api: Api, tmp_path: Path):
    """Neither the idempotency key nor the new API key can be read from the kept answer."""
    made = await api.json("POST", "/keys", {"name": "n"}, headers={"Idempotency-Key": "find-me"}, status=201)
    content = stored(tmp_path)
    assert made["id"].encode() in content
    assert made["apiKey"].encode() not in content
    assert b"find-me" not in content


def stored(path: Path) -> bytes:
    """All that the store has written."""
    return b"".join(file.read_bytes() for file in path.glob("gateway.db*"))
