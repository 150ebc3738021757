"""The operations on webhooks, as the API calls endpoints."""

import msgspec
from msgspec import UNSET, UnsetType

from gateway import ids
from gateway.api.cursors import Cursors, scope
from gateway.api.dialects import Answer
from gateway.api.idempotency import commit
from gateway.api.operations import Call, Operation
from gateway.api.parameters import is_id
from gateway.api.parts import ApiParts, TestOutcome
from gateway.api.problems import webhook_not_found
from gateway.api.validation import WebhookRules
from gateway.clock import DAY, SECOND, Timestamp, isoformat
from gateway.model import Endpoint
from gateway.registry.custom_headers import HeaderRules, hidden
from gateway.registry.endpoints import (
    CreateEndpoint,
    DeleteEndpoint,
    EndpointPatch,
    FinishRotation,
    RotateSecret,
    UpdateEndpoint,
    new_endpoint,
)

OVERLAP_SECONDS = DAY // SECOND
"""For how long the secret before a new one stays in force, unless it is said otherwise."""

MAX_OVERLAP_SECONDS = 7 * DAY // SECOND


class WebhookView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A webhook as the API shows it."""

    id: str
    object: str = "webhook"
    livemode: bool
    organization_id: str
    url: str
    events: tuple[str, ...]
    description: str | None
    is_active: bool
    disabled_at: str | None
    disabled_reason: str | None
    next_probe_at: str | None
    api_version: str | None
    headers: dict[str, str]  # without their values
    created_at: str
    previous_secret_expires_at: str | None  # while two secrets are in force
    secret_key: str | UnsetType = UNSET  # only in the answer that made it


class DeletedWebhookView(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a webhook."""

    id: str
    deleted: bool = True
    object: str = "webhook"
    livemode: bool


class TestView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How a test went."""

    success: bool
    delivery_id: str
    delivered_at: str
    object: str = "webhook_delivery"
    livemode: bool


def webhook_view(endpoint: Endpoint, at: Timestamp, *, with_secret: bool = False) -> WebhookView:
    """*endpoint* as the API shows it at *at*."""
    until = endpoint.previous_secret_until
    return WebhookView(
        id=endpoint.id,
        livemode=endpoint.tenant.livemode,
        organization_id=endpoint.tenant.organization_id,
        url=endpoint.url,
        events=endpoint.events,
        description=endpoint.description,
        is_active=endpoint.is_active,
        disabled_at=None if endpoint.disabled_at is None else isoformat(endpoint.disabled_at),
        disabled_reason=endpoint.disabled_reason,
        next_probe_at=None if endpoint.probe_at is None else isoformat(endpoint.probe_at),
        api_version=endpoint.api_version,
        headers=hidden(endpoint.headers),
        created_at=isoformat(endpoint.created_at),
        previous_secret_expires_at=None if until is None or until <= at else isoformat(until),
        secret_key=endpoint.secret if with_secret else UNSET,
    )


class Webhooks:
    """Makes, shows, changes, deletes and tests webhooks."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._cursors = Cursors(parts.cursor_key)
        self._header_rules = HeaderRules(parts.settings.delivery.signature_header_prefix)
        self._rules = WebhookRules(
            require_https=parts.settings.egress.require_https,
            guard=parts.guard,
            catalogue=parts.catalogue,
            versions=parts.settings.api.versions,
        )

    def operations(self) -> list[Operation]:
        """What can be done with webhooks."""
        one, read, write = "/webhooks/{id}", "webhook:read", "webhook:write"
        return [
            Operation(
                name="create_webhook",
                method="POST",
                path="/webhooks",
                permission=write,
                handler=self.create,
                summary="Create a webhook endpoint",
            ),
            Operation(
                name="list_webhooks",
                method="GET",
                path="/webhooks",
                permission=read,
                handler=self.page,
                summary="List webhook endpoints",
            ),
            Operation(
                name="get_webhook", method="GET", path=one, permission=read, handler=self.get, summary="Get a webhook endpoint"
            ),
            Operation(
                name="replace_webhook",
                method="PUT",
                path=one,
                permission=write,
                handler=self.update,
                summary="Update a webhook endpoint; only the fields given change",
            ),
            Operation(
                name="update_webhook",
                method="PATCH",
                path=one,
                permission=write,
                handler=self.update,
                summary="Update a webhook endpoint; only the fields given change",
            ),
            Operation(
                name="delete_webhook",
                method="DELETE",
                path=one,
                permission=write,
                handler=self.delete,
                summary="Delete a webhook endpoint",
            ),
            Operation(
                name="rotate_secret",
                method="POST",
                path="/webhooks/{id}/rotate-secret",
                permission=write,
                handler=self.rotate_secret,
                summary="Give a webhook endpoint a new secret, or end the time in which the old one is in force, too",
            ),
            Operation(
                name="test_webhook",
                method="POST",
                path="/webhooks/{id}/test",
                permission=write,
                handler=self.test,
                summary="Send a test event to a webhook endpoint",
            ),
        ]

    async def create(self, call: Call) -> Answer:
        body, rules = call.read_body(null_is_absent=True), self._rules
        for name in ("url", "events"):
            body.require(name)
        url, events, description, api_version, headers = (
            rules.url(body),
            rules.events(body),
            rules.description(body),
            rules.api_version(body),
            body.headers(self._header_rules),
        )
        call.check()
        endpoint_id, at = self._parts.ids.next_with_time(ids.ENDPOINT)
        endpoint = new_endpoint(
            endpoint_id,
            call.tenant,
            url=url or "",
            events=events or (),
            description=None if isinstance(description, UnsetType) else description,
            api_version=api_version or None,
            headers=headers or {},
            at=at,
        )
        change = CreateEndpoint(endpoint, call.actor, self._parts.settings.limits.endpoints_per_organization)
        return await commit(
            self._parts.writer,
            change,
            lambda made: call.dialect.one(webhook_view(made, call.now, with_secret=True), 201),
            call.ticket,
        )

    async def page(self, call: Call) -> Answer:
        limit = call.parameters.limit()
        list_ = scope("webhooks", call.named_tenant)
        below = call.parameters.cursor(self._cursors, list_)
        call.check()
        page = await self._parts.log.endpoints(call.tenant, below=below, limit=limit)
        return call.dialect.page(
            [webhook_view(endpoint, call.now) for endpoint in page.items], self._cursors.seal(list_, page.next_below)
        )

    async def get(self, call: Call) -> Answer:
        call.check()
        return call.dialect.one(webhook_view(await self._found(call), call.now))

    async def update(self, call: Call) -> Answer:
        body, rules = call.read_body(), self._rules
        patch = EndpointPatch(
            url=rules.url(body),
            events=rules.events(body),
            description=rules.description(body),
            api_version=rules.api_version(body),
            is_active=body.boolean("isActive"),
            headers=body.headers(self._header_rules),
        )
        call.check()
        change = UpdateEndpoint(call.tenant, _id(call), patch, call.actor, call.now)
        return await commit(self._parts.writer, change, lambda now: call.dialect.one(webhook_view(now, call.now)), call.ticket)

    async def rotate_secret(self, call: Call) -> Answer:
        """The new secret is shown in this answer alone. The end of an overlap shows none."""
        body = call.read_body()
        overlap_seconds = body.integer("overlapSeconds", least=0, most=MAX_OVERLAP_SECONDS)
        finish = body.boolean("finish")
        if finish is True and overlap_seconds is not UNSET:
            body.refuse("overlapSeconds", "does not go with `finish`, which makes no new secret")
        call.check()
        if finish is True:
            end = FinishRotation(call.tenant, _id(call), call.actor, call.now)
            return await commit(self._parts.writer, end, lambda now: call.dialect.one(webhook_view(now, call.now)), call.ticket)
        overlap = OVERLAP_SECONDS if isinstance(overlap_seconds, UnsetType) else overlap_seconds
        return await commit(
            self._parts.writer,
            RotateSecret(call.tenant, _id(call), overlap, call.actor, call.now),
            lambda now: call.dialect.one(webhook_view(now, call.now, with_secret=True)),
            call.ticket,
        )

    async def delete(self, call: Call) -> Answer:
        call.check()
        gone = await self._parts.writer.change(DeleteEndpoint(call.tenant, _id(call), call.actor, call.now))
        return call.dialect.one(DeletedWebhookView(id=gone.id, livemode=gone.tenant.livemode))

    async def test(self, call: Call) -> Answer:
        call.check()
        endpoint = await self._found(call)
        change = await self._parts.tester.run(endpoint, self._parts.pinned.get(endpoint.tenant.organization_id))

        def render(outcome: TestOutcome) -> Answer:
            return call.dialect.one(
                TestView(
                    success=outcome.success,
                    delivery_id=outcome.delivery_id,
                    delivered_at=isoformat(outcome.finished_at),
                    livemode=endpoint.tenant.livemode,
                )
            )

        return await commit(self._parts.writer, change, render, call.ticket)

    async def _found(self, call: Call) -> Endpoint:
        endpoint = await self._parts.log.endpoint(call.tenant, _id(call))
        if endpoint is None:
            raise webhook_not_found(call.id)
        return endpoint


def _id(call: Call) -> str:
    """The id in the path. Raises a 404 for what can be no id."""
    if not is_id(call.id):
        raise webhook_not_found(call.id)
    return call.id
