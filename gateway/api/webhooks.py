"""The operations on webhooks, as the API calls endpoints."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway import ids
from gateway.api.cursors import Cursors, scope
from gateway.api.dialects import Answer
from gateway.api.idempotency import commit
from gateway.api.operations import Call, Operation, one, page
from gateway.api.parameters import is_id
from gateway.api.parts import ApiParts, TestOutcome
from gateway.api.problems import webhook_not_found
from gateway.api.validation import Description, EventPatterns, Headers, Url, WebhookRules, header_check
from gateway.api.vocabulary import ApiVersion, OrganizationId, ShownVersion, Time, Yes
from gateway.clock import DAY, SECOND, Timestamp, isoformat
from gateway.model import DisabledReason, Endpoint
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


class NewWebhook(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A webhook endpoint to make. Null is as good as absent."""

    url: Url
    events: EventPatterns
    description: Description | None = None
    api_version: ApiVersion | None = None
    headers: Headers | None = None


class WebhookChanges(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is to change of a webhook endpoint; what is absent stays as it is."""

    url: Url | UnsetType = UNSET
    events: EventPatterns | UnsetType = UNSET
    description: Annotated[Description | None, Meta(description="null clears it")] | UnsetType = UNSET
    api_version: Annotated[ApiVersion | None, Meta(description="null unpins it")] | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET
    headers: Annotated[Headers | None, Meta(description="null clears them")] | UnsetType = UNSET


class Rotation(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How a secret is to be replaced, or that the old one's time is to end."""

    overlap_seconds: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=MAX_OVERLAP_SECONDS,
                description=f"how long the old secret stays in force; {OVERLAP_SECONDS:,}, when absent",
            ),
        ]
        | UnsetType
    ) = UNSET
    finish: Annotated[bool, Meta(description="true: makes no new secret, and ends the time of the old one")] | UnsetType = UNSET


class WebhookView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A webhook as the API shows it."""

    id: str
    object: Literal["webhook"] = "webhook"
    livemode: bool
    organization_id: OrganizationId
    url: str
    events: tuple[str, ...]
    description: str | None
    is_active: bool
    disabled_at: Time | None
    disabled_reason: DisabledReason | None
    next_probe_at: Time | None
    api_version: ShownVersion | None
    headers: Annotated[dict[str, str], Meta(description="without their values")]
    created_at: Time
    previous_secret_expires_at: Annotated[Time | None, Meta(description="while two secrets are in force")]
    secret_key: Annotated[str, Meta(description="only in the answer that made it", pattern="^whsec_")] | UnsetType = UNSET


class DeletedWebhookView(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a webhook."""

    id: str
    deleted: Yes = True
    object: Literal["webhook"] = "webhook"
    livemode: bool


class TestView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How a test went."""

    success: Annotated[bool, Meta(description="whether the endpoint answered 2xx")]
    delivery_id: str
    delivered_at: Annotated[Time, Meta(description="the end of the attempt, whatever its result")]
    object: Literal["webhook_delivery"] = "webhook_delivery"
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


_ROTATION = Annotated[
    Rotation,
    Meta(extra_json_schema={"not": {"required": ["finish", "overlapSeconds"], "properties": {"finish": {"const": True}}}}),
]


class Webhooks:
    """Makes, shows, changes, deletes and tests webhooks."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._cursors = Cursors(parts.cursor_key)
        header_rules = HeaderRules(parts.settings.delivery.signature_header_prefix)
        rules = WebhookRules(
            require_https=parts.settings.egress.require_https,
            guard=parts.guard,
            catalogue=parts.catalogue,
            versions=parts.settings.api.versions,
        )
        self._checks_of_new = {**rules.checks, "headers": header_check(header_rules, is_new=True)}
        self._checks_of_changes = {**rules.checks, "headers": header_check(header_rules, is_new=False)}

    def operations(self) -> list[Operation]:
        """What can be done with webhooks."""
        this, read, write = "/webhooks/{id}", "webhook:read", "webhook:write"
        return [
            Operation(
                name="create_webhook",
                method="POST",
                path="/webhooks",
                permission=write,
                handler=self.create,
                summary="Create a webhook endpoint",
                body=NewWebhook,
                answers=(one(WebhookView, 201, means="with `secretKey`, which is shown this once"),),
            ),
            Operation(
                name="list_webhooks",
                method="GET",
                path="/webhooks",
                permission=read,
                handler=self.page,
                summary="List webhook endpoints",
                answers=(page(WebhookView),),
            ),
            Operation(
                name="get_webhook",
                method="GET",
                path=this,
                permission=read,
                handler=self.get,
                summary="Get a webhook endpoint",
                answers=(one(WebhookView),),
            ),
            Operation(
                name="replace_webhook",
                method="PUT",
                path=this,
                permission=write,
                handler=self.update,
                summary="Update a webhook endpoint; only the fields given change",
                body=WebhookChanges,
                needs_body=False,
                answers=(one(WebhookView),),
            ),
            Operation(
                name="update_webhook",
                method="PATCH",
                path=this,
                permission=write,
                handler=self.update,
                summary="Update a webhook endpoint; only the fields given change",
                body=WebhookChanges,
                needs_body=False,
                answers=(one(WebhookView),),
            ),
            Operation(
                name="delete_webhook",
                method="DELETE",
                path=this,
                permission=write,
                handler=self.delete,
                summary="Delete a webhook endpoint",
                description="What waits for it is canceled.",
                answers=(one(DeletedWebhookView),),
            ),
            Operation(
                name="rotate_secret",
                method="POST",
                path="/webhooks/{id}/rotate-secret",
                permission=write,
                handler=self.rotate_secret,
                summary="Give a webhook endpoint a new secret, or end the time in which the old one is in force, too",
                body=_ROTATION,
                needs_body=False,
                answers=(one(WebhookView, means="with the new `secretKey`, shown this once, unless it was to `finish`"),),
            ),
            Operation(
                name="test_webhook",
                method="POST",
                path="/webhooks/{id}/test",
                permission=write,
                handler=self.test,
                summary="Send a test event to a webhook endpoint",
                description="Answered once the attempt has ended; also when the endpoint is disabled.",
                answers=(one(TestView),),
            ),
        ]

    async def create(self, call: Call) -> Answer:
        new = call.read_body(NewWebhook, self._checks_of_new).whole()
        endpoint_id, at = self._parts.ids.next_with_time(ids.ENDPOINT)
        endpoint = new_endpoint(
            endpoint_id,
            call.tenant,
            url=new.url,
            events=_once(new.events),
            description=new.description,
            api_version=new.api_version,
            headers=new.headers or {},
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
        changes = call.read_body(WebhookChanges, self._checks_of_changes).whole()
        patch = EndpointPatch(
            url=changes.url,
            events=UNSET if isinstance(changes.events, UnsetType) else _once(changes.events),
            description=changes.description,
            api_version=changes.api_version,
            is_active=changes.is_active,
            headers={} if changes.headers is None else changes.headers,
        )
        change = UpdateEndpoint(call.tenant, _id(call), patch, call.actor, call.now)
        return await commit(self._parts.writer, change, lambda now: call.dialect.one(webhook_view(now, call.now)), call.ticket)

    async def rotate_secret(self, call: Call) -> Answer:
        """The new secret is shown in this answer alone. The end of an overlap shows none."""
        body = call.read_body(Rotation)
        if body.values.get("finish") is True and "overlap_seconds" in body.values:
            body.refuse("overlapSeconds", "does not go with `finish`, which makes no new secret")
        rotation = body.whole()
        if rotation.finish is True:
            end = FinishRotation(call.tenant, _id(call), call.actor, call.now)
            return await commit(self._parts.writer, end, lambda now: call.dialect.one(webhook_view(now, call.now)), call.ticket)
        overlap = OVERLAP_SECONDS if isinstance(rotation.overlap_seconds, UnsetType) else rotation.overlap_seconds
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


def _once(patterns: list[str]) -> tuple[str, ...]:
    """The patterns, each once, in their order."""
    return tuple(dict.fromkeys(patterns))


def _id(call: Call) -> str:
    """The id in the path. Raises a 404 for what can be no id."""
    if not is_id(call.id):
        raise webhook_not_found(call.id)
    return call.id
