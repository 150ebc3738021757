"""The gateway's own tenant: whoever reaches all may look at it, and nobody but the gateway makes anything of it."""

from typing import Any

import pytest

from gateway.clock import MINUTE
from gateway.model import OPERATIONS, OPERATIONS_ENDPOINT, DisabledReason
from gateway.registry.endpoints import disabled
from gateway.registry.operations import SetOperationsEndpoint
from gateway.settings import Operations
from gateway.store.protocol import NewEvent
from tests.fakes import SECRET, START, due, endpoint, event
from tests.integration.api.conftest import Api

OWN = "organizationId=$operations"


@pytest.fixture
async def service(api: Api) -> str:
    """A service key, beside a gateway that tells its operator something."""
    settings = Operations(url="https://operator.example/told", secret=SECRET)
    await api.writer.change(SetOperationsEndpoint(settings, START))
    return await api.make_key(None)


async def refused(api: Api, key: str, method: str, path: str, body: object = None) -> str:
    """The sentence of a 403."""
    return str((await api.json(method, path, body, key=key, status=403))["error"]["message"])


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/webhooks?{own}", {"url": "https://example.com/", "events": ["*"]}),
        ("POST", "/webhooks?{own}&mode=sandbox", {"url": "https://example.com/", "events": ["*"]}),
        ("PUT", "/webhooks/{id}?{own}", {"isActive": False}),
        ("PATCH", "/webhooks/{id}?{own}", {"url": "https://example.com/"}),
        ("DELETE", "/webhooks/{id}?{own}", None),
        ("POST", "/webhooks/{id}/test?{own}", None),
        ("POST", "/webhooks/{id}/rotate-secret?{own}", {}),
    ],
)
async def test_its_webhook_is_set_by_settings_alone(api: Api, service: str, method: str, path: str, body: object):
    """Nobody makes, changes, deletes or tests it, or rotates its secret: the refusal names the settings that do."""
    sentence = await refused(api, service, method, path.format(own=OWN, id=OPERATIONS_ENDPOINT), body)
    assert sentence == "$operations is the gateway's own; its webhook is set by `operations.url` and `operations.secret`"
    (shown,) = (await api.json("GET", f"/webhooks?{OWN}", key=service))["data"]
    assert (shown["url"], shown["isActive"]) == ("https://operator.example/told", True)


async def test_nobody_publishes_to_it(api: Api, service: str):
    """A publish that names it is a 400, in a batch the item's error."""
    body = {"event": "a.b", "data": {}, "organizationId": "$operations"}
    error = (await api.json("POST", "/events", body, key=service, status=400))["error"]
    assert (error["param"], error["message"]) == (
        "organizationId",
        "organizationId must be another: $operations is the gateway's own",
    )
    batch = {"events": [body, {**body, "organizationId": "acme"}]}
    first, second = (await api.json("POST", "/events", batch, key=service, status=202))["data"]
    assert (first["object"], second["object"]) == ("error", "event")


async def test_it_has_no_keys(api: Api, service: str):
    """Nobody makes a key of its."""
    for body in ({"organizationId": "$operations"}, {"organizationId": "$operations", "mode": "sandbox"}):
        error = (await api.json("POST", "/keys", body, key=service, status=400))["error"]
        assert (error["param"], "the gateway's own" in error["message"]) == ("organizationId", True)


async def test_it_is_no_organization_of_the_list(api: Api, service: str):
    """The list of organizations is that of those whom the gateway serves, page by page; it is not pinned to a version either."""
    await api.json("PUT", "/organizations/zebra", {"apiVersion": None}, key=service)
    page = await api.json("GET", "/organizations?limit=1", key=service)
    assert [each["id"] for each in page["data"]] == ["acme"]
    assert "the gateway's own" in await refused(api, service, "PUT", "/organizations/$operations", {"apiVersion": None})


async def test_a_tenant_does_not_reach_it(api: Api, service: str):
    """A tenant's key that names it is refused as with any other tenant."""
    assert service
    for method, path, body in (
        ("GET", f"/webhooks?{OWN}", None),
        ("POST", "/events", {"event": "a.b", "data": {}, "organizationId": "$operations"}),
    ):
        assert "another organization" in await refused(api, api.key, method, path, body)


async def test_what_was_told_can_be_looked_at_and_sent_again(api: Api, service: str):
    """Its events and deliveries are read with a service key, and a delivery is retried by hand."""
    own = await api.store.endpoint(OPERATIONS, OPERATIONS_ENDPOINT)
    assert own is not None
    made = due(own, event(tenant=OPERATIONS, type="webhook.disabled"))
    async with api.store.transaction() as transaction:
        await transaction.add_events([NewEvent(made.event, 1)])
        await transaction.add_deliveries([(OPERATIONS, made)])
    (shown,) = (await api.json("GET", f"/deliveries?{OWN}", key=service))["data"]
    assert (shown["id"], shown["event"], shown["webhookId"]) == (made.id, "webhook.disabled", OPERATIONS_ENDPOINT)
    assert (await api.json("GET", f"/events/{made.event.id}?{OWN}", key=service))["event"] == "webhook.disabled"
    await api.json("POST", f"/deliveries/{made.id}/retry?{OWN}", key=service, status=202)


async def test_the_next_probe_is_shown(api: Api):
    """`nextProbeAt` of an endpoint that is probed says when."""
    probed = disabled(endpoint(), DisabledReason.FAILURES, START, probe_at=START + MINUTE)
    async with api.store.transaction() as transaction:
        await transaction.add_endpoint(probed)
    shown: dict[str, Any] = await api.json("GET", f"/webhooks/{probed.id}")
    assert (shown["disabledReason"], shown["nextProbeAt"]) == ("failures", "2026-03-25T14:31:00.000Z")
