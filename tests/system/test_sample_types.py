"""What a new user would see: every type of the sample catalogue goes out, and a receiver that was away misses nothing."""

import asyncio
import fnmatch
import json
from collections import Counter
from collections.abc import Iterable

import pytest

from tests.receiver import Receiver, Request, after
from tests.system.gateway_process import ROOT, Client, Installation, JsonObject, eventually
from tests.system.load import event_of
from tests.system.samples import Sample, samples
from tests.system.verification import is_signed, verified

PATTERNS = {"/all": "*", "/subscriptions": "subscription.*", "/one": "payment.received"}


@pytest.fixture
def catalogued(installation: Installation) -> Installation:
    """An installation that knows the sample types and no others."""
    installation.settings["events.catalogue"] = ROOT / "config" / "event-types.toml"
    return installation


async def _create_endpoints(client: Client, receiver: Receiver) -> dict[str, JsonObject]:
    """By path."""
    return {path: await client.create_endpoint(receiver.url(path), pattern) for path, pattern in PATTERNS.items()}


async def _publish(client: Client, sample: Sample) -> str:
    answer = await client.ask("POST", "/events", b'{"event": "%s", "data": %s}' % (sample.event.encode(), sample.data))
    assert answer.status == 202, answer.body
    return str(answer.body["id"])


def _wanted(path: str, event: str) -> bool:
    return fnmatch.fnmatchcase(event, PATTERNS[path])


def _expected(published: dict[str, Sample]) -> set[tuple[str, str]]:
    """Which event goes to which path."""
    return {(path, event_id) for path in PATTERNS for event_id, sample in published.items() if _wanted(path, sample.event)}


async def test_every_sample_type_arrives_where_it_is_wanted_signed_and_valid(catalogued: Installation, receiver: Receiver):
    """66 types to three endpoints; both libraries accept each delivery, its body fits the schema of its type, and its data
    is byte for byte what was published."""
    await catalogued.start()
    client = await catalogued.client()
    endpoints = await _create_endpoints(client, receiver)
    published = {await _publish(client, sample): sample for sample in samples()}
    assert len(published) == 66
    expected = _expected(published)
    assert Counter(path for path, _ in expected) == {"/all": 66, "/subscriptions": 17, "/one": 1}

    requests = await receiver.wait_for(len(expected))
    assert sorted((request.path, event_of(request)) for request in requests) == sorted(expected)
    for request in requests:
        sample = published[event_of(request)]
        body = verified(request, endpoints[request.path]["secretKey"])
        sample.body.validate(body)
        assert body["id"] == event_of(request)
        assert body["event"] == sample.event == request.headers["X-Commet-Event"]
        assert request.body.endswith(b'"data":' + sample.data + b"}")
    secrets = {endpoint["secretKey"] for endpoint in endpoints.values()}
    others = secrets - {endpoints[requests[0].path]["secretKey"]}
    assert len(others) == 2
    assert not any(is_signed(requests[0], secret) for secret in others)


async def test_a_type_that_the_catalogue_lacks_is_refused(catalogued: Installation):
    """In events and in endpoints alike, with a sentence; patterns and known types are taken."""
    await catalogued.start()
    client = await catalogued.client()
    event = await client.ask("POST", "/events", {"event": "subscription.renamed", "data": {}})
    endpoint = await client.ask(
        "POST", "/webhooks", {"url": "http://127.0.0.1/", "events": ["subscription.*", "invoice.renamed"]}
    )
    assert (event.status, endpoint.status) == (400, 400)
    assert [detail["field"] for detail in event.body["error"]["details"]] == ["event"]
    assert [detail["field"] for detail in endpoint.body["error"]["details"]] == ["events[1]"]


async def test_a_receiver_that_was_away_misses_nothing(catalogued: Installation):
    """It goes down while events come in, and refuses connections until all have been tried; back again, it gets each of
    them, and none more often than its log explains."""
    catalogued.settings["delivery.retry_delays"] = ",".join(["0.25"] * 80)
    await catalogued.start()
    client = await catalogued.client()
    published: dict[str, Sample] = {}

    async def publish(some: Iterable[Sample]) -> None:
        for sample in some:
            published[await _publish(client, sample)] = sample

    async with asyncio.TaskGroup() as publishing, Receiver.open() as before:
        before.script("/all", [after(0.05)])  # so that some are cut off in the middle
        endpoints = await _create_endpoints(client, before)
        publishing.create_task(publish(samples()), name="publisher")
        await before.wait_for(20)

    async def all_were_refused() -> bool:
        waiting = await client.every("/deliveries", state="pending")
        return bool(waiting) and all(delivery["lastError"] == "connection_refused" for delivery in waiting)

    await eventually(all_were_refused, "each delivery that waits has met the refusal")
    async with Receiver.open(port=before.port) as back:
        deliveries = await client.settled(len(_expected(published)))

    assert {delivery["state"] for delivery in deliveries} == {"delivered"}
    path_of = {endpoint["id"]: path for path, endpoint in endpoints.items()}
    assert {(path_of[each["webhookId"]], each["eventId"]) for each in deliveries} == _expected(published)
    assert len(back.requests) > 10
    arrivals = Counter((request.path, event_of(request)) for request in [*before.requests, *back.requests])
    for delivery in deliveries:
        _explain(arrivals[path_of[delivery["webhookId"]], delivery["eventId"]], delivery["attempts"])
    _check_bodies([*before.requests, *back.requests], published, endpoints)


def _explain(arrived: int, attempts: list[JsonObject]) -> None:
    """Each answer on record was an arrival. A connection that broke may have been one, and was never a success."""
    answered = sum(attempt["status"] is not None for attempt in attempts)
    broken = sum((attempt["error"] == "connection_reset") + attempt["resent"] for attempt in attempts)
    assert answered <= arrived <= answered + broken, attempts
    assert [attempt["status"] for attempt in attempts if attempt["status"] is not None] == [200]


def _check_bodies(requests: Iterable[Request], published: dict[str, Sample], endpoints: dict[str, JsonObject]) -> None:
    """The bytes of an event are the same each time, and signed for each attempt."""
    bodies: dict[str, bytes] = {}
    for request in requests:
        verified(request, endpoints[request.path]["secretKey"])
        assert bodies.setdefault(event_of(request), request.body) == request.body
        assert json.loads(request.body)["event"] == published[event_of(request)].event
