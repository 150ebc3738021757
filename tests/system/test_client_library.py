"""The contract's published client library, unchanged but for the host that it talks to, and its older shape on the wire."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import commet
import httpx
import pytest

from tests.receiver import Receiver, status
from tests.system.gateway_process import CURRENT_VERSION, Client, Database, Installation, SqliteFile
from tests.system.verification import verified

EVENTS = ["subscription.activated", "payment.received"]


class Library(Protocol):
    """The client library, whichever of its two clients is behind it."""

    async def webhooks(self, operation: str, *arguments: object, **named: object) -> Any:
        """Calls `client.webhooks.<operation>`."""


class Sync:
    """`commet.Commet`, in a thread, since it blocks."""

    def __init__(self, client: commet.Commet) -> None:
        self._client = client

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, urls: Sequence[str], key: str) -> AsyncIterator[Library]:
        turns = itertools.cycle(urls)
        with commet.Commet(key, retries=0) as client:
            client._http._client.event_hooks = {"request": [lambda request: _send_to(next(turns), request)]}
            yield cls(client)

    async def webhooks(self, operation: str, *arguments: object, **named: object) -> Any:
        return await asyncio.to_thread(getattr(self._client.webhooks, operation), *arguments, **named)


class Async:
    """`commet.AsyncCommet`."""

    def __init__(self, client: commet.AsyncCommet) -> None:
        self._client = client

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, urls: Sequence[str], key: str) -> AsyncIterator[Library]:
        turns = itertools.cycle(urls)

        async def direct(request: httpx.Request) -> None:
            _send_to(next(turns), request)

        async with commet.AsyncCommet(key, retries=0) as client:
            client._http._client.event_hooks = {"request": [direct]}
            yield cls(client)

    async def webhooks(self, operation: str, *arguments: object, **named: object) -> Any:
        return await getattr(self._client.webhooks, operation)(*arguments, **named)


def _send_to(url: str, request: httpx.Request) -> None:
    """Has *request* go to the gateway at *url*."""
    there = httpx.URL(url)
    request.url = request.url.copy_with(scheme=there.scheme, host=there.host, port=there.port)
    request.headers["Host"] = there.netloc.decode()


Open = Callable[[Sequence[str], str], contextlib.AbstractAsyncContextManager[Library]]


@pytest.fixture(params=[Sync.open, Async.open], ids=["sync", "async"])
def open_library(request: pytest.FixtureRequest) -> Open:
    opened: Open = request.param
    return opened


@pytest.fixture
async def urls(installation: Installation, database: Database, tmp_path: Path) -> AsyncIterator[list[str]]:
    """Where requests go in turn: to a gateway alone on the embedded store, or to two nodes."""
    async with contextlib.AsyncExitStack() as stack:
        together = [installation]
        if not isinstance(database, SqliteFile):
            directory = tmp_path / "second"
            directory.mkdir()
            together.append(await stack.enter_async_context(Installation.open(directory, database)))
        await asyncio.gather(*(each.start() for each in together))
        yield [each.url for each in together]


@pytest.fixture
async def client(urls: Sequence[str], installation: Installation) -> Client:
    """Of a gateway that runs."""
    assert urls
    return await installation.client()


@pytest.fixture
async def library(urls: Sequence[str], client: Client, open_library: Open) -> AsyncIterator[Library]:
    """With the same key as *client*."""
    async with open_library(urls, client.key) as opened:
        yield opened


def test_the_library_is_the_one_that_the_contract_names():
    """Another version sends another `commet-version`, and would be another test."""
    assert commet.API_VERSION == CURRENT_VERSION


async def test_an_endpoint_lives_its_whole_life_through_the_library(library: Library, receiver: Receiver):
    """Create, get, update, list, test, delete: the library understands each answer."""
    created = await library.webhooks("create", url=receiver.url("/hook"), events=EVENTS, description="Billing")
    assert created.id.startswith("wh_")
    assert created.secret_key.startswith("whsec_")
    assert (created.url, created.events, created.description) == (receiver.url("/hook"), EVENTS, "Billing")
    assert (created.is_active, created.api_version, created.object) == (True, None, "webhook")

    read = await library.webhooks("get", created.id)
    assert (read.id, read.created_at, read.livemode) == (created.id, created.created_at, True)

    updated = await library.webhooks("update", created.id, description="Billing, new", is_active=False)
    assert (updated.description, updated.is_active, updated.events) == ("Billing, new", False, EVENTS)

    tested = await library.webhooks("test", created.id)
    assert (tested.success, tested.object, tested.livemode) == (True, "webhook_delivery", True)
    [request] = receiver.requests
    assert verified(request, created.secret_key)["event"] == "webhook.test"

    assert [each.id for each in (await library.webhooks("list")).data] == [created.id]
    deleted = await library.webhooks("delete", created.id)
    assert (deleted.id, deleted.deleted, deleted.object, deleted.livemode) == (created.id, True, "webhook", True)
    assert (await library.webhooks("list")).data == []


async def test_the_library_lists_page_by_page(library: Library):
    """Newest first, each endpoint once, until `has_more` is false."""
    urls = [f"http://127.0.0.1:9/{number}" for number in range(7)]
    for url in urls:
        await library.webhooks("create", url=url, events=EVENTS)
    listed, sizes, cursor = [], [], None
    while True:
        page = await library.webhooks("list", limit=3, cursor=cursor)
        listed += [each.url for each in page.data]
        sizes.append(len(page.data))
        if not page.has_more:
            break
        cursor = page.next_cursor
    assert listed == urls[::-1]
    assert sizes == [3, 3, 1]
    assert page.next_cursor is None


async def test_the_library_tells_all_that_is_wrong_with_a_body(library: Library):
    """`CommetValidationError` names each field, in one answer."""
    with pytest.raises(commet.CommetValidationError) as caught:
        await library.webhooks("create", url="ftp://example.com", events=["*", "Not A Type"], description="x" * 501)
    assert caught.value.status_code == 400
    assert caught.value.validation_errors.keys() == {"url", "events[1]", "description"}
    assert all(message for messages in caught.value.validation_errors.values() for message in messages)
    assert caught.value.request_id


async def test_the_library_tells_an_unknown_endpoint_from_an_unknown_key(
    library: Library, urls: Sequence[str], open_library: Open
):
    with pytest.raises(commet.CommetAPIError) as unknown:
        await library.webhooks("get", "wh_doesnotexist")
    assert (unknown.value.status_code, unknown.value.type, unknown.value.code) == (404, "not_found_error", "webhook_not_found")

    async with open_library(urls, "ck_live_nobodyhasthiskey") as stranger:
        with pytest.raises(commet.CommetAPIError) as refused:
            await stranger.webhooks("list")
    assert (refused.value.status_code, refused.value.type, refused.value.code) == (401, "authentication_error", "unauthorized")


async def test_the_library_may_repeat_a_request_by_its_key(library: Library, receiver: Receiver):
    """The same idempotency key gives the same endpoint with the same secret; with another request it is a conflict."""
    body = {"url": receiver.url("/hook"), "events": EVENTS}
    first = await library.webhooks("create", **body, idempotency_key="create-1")
    again = await library.webhooks("create", **body, idempotency_key="create-1")
    assert again == first
    assert len((await library.webhooks("list")).data) == 1
    with pytest.raises(commet.CommetAPIError) as caught:
        await library.webhooks("create", **{**body, "description": "another"}, idempotency_key="create-1")
    assert (caught.value.status_code, caught.value.code) == (409, "idempotency_key_mismatch")


async def test_deliveries_to_an_endpoint_of_the_library_pass_its_verification(
    library: Library, client: Client, receiver: Receiver
):
    """Each attempt is signed anew, and both libraries accept all of them."""
    receiver.script("/hook", [status(410), status(200)])
    created = await library.webhooks("create", url=receiver.url("/hook"), events=["payment.*"])
    event = await client.publish("payment.received", {"amount": 12.50, "customer": "Zoë"})
    [delivery] = await client.settled(1)
    await client.good("POST", f"/deliveries/{delivery['id']}/retry")
    first, second = await receiver.wait_for(2)
    assert first.body == second.body
    for request in (first, second):
        body = verified(request, created.secret_key)
        assert (body["id"], body["data"]) == (event["id"], {"amount": 12.50, "customer": "Zoë"})
        assert body["apiVersion"] == CURRENT_VERSION


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
async def test_the_shape_of_the_older_library_is_served(client: Client, receiver: Receiver, prefix: str):
    """commet-sdk and @commet/node 7.10.0 send 2026-07-11: envelopes around answers, pages and errors, and PUT to update."""
    old = {"commet-version": "2026-07-11"}
    path = f"{prefix}/webhooks"
    created = await client.ask("POST", path, {"url": receiver.url("/hook"), "events": EVENTS}, headers=old)
    assert (created.status, created.body["success"]) == (201, True)
    webhook = created.body["data"]
    assert webhook.pop("secretKey").startswith("whsec_")

    updated = await client.ask("PUT", f"{path}/{webhook['id']}", {"description": "Billing"}, headers=old)
    assert (updated.status, updated.body) == (200, {"success": True, "data": {**webhook, "description": "Billing"}})
    listed = await client.ask("GET", path, headers=old)
    assert listed.body == {"success": True, "data": [updated.body["data"]], "hasMore": False, "nextCursor": None}
    tested = await client.ask("POST", f"{path}/{webhook['id']}/test", headers=old)
    assert tested.body["success"] is True
    assert (tested.body["data"]["success"], tested.body["data"]["object"]) == (True, "webhook_delivery")
    deleted = await client.ask("DELETE", f"{path}/{webhook['id']}", headers=old)
    assert deleted.body == {
        "success": True,
        "data": {"id": webhook["id"], "deleted": True, "object": "webhook", "livemode": True},
    }

    missing = await client.ask("GET", f"{path}/{webhook['id']}", headers=old)
    assert (missing.status, missing.body["success"], missing.body["error"]["code"]) == (404, False, "webhook_not_found")
    wrong = await client.ask("POST", path, {"url": "nowhere", "events": []}, headers=old)
    assert (wrong.status, wrong.body["success"], wrong.body["error"]["type"]) == (400, False, "validation_error")
    assert [detail["field"] for detail in wrong.body["error"]["details"]] == ["url", "events"]
