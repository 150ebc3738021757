"""The operations on organizations: for service keys and operators."""

from bisect import bisect_right
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.api.cursors import Cursors, scope
from gateway.api.dialects import Answer
from gateway.api.idempotency import commit
from gateway.api.operations import Call, Operation, TenantIn, one, page
from gateway.api.parts import ApiParts
from gateway.api.problems import forbidden, not_found
from gateway.api.validation import WebhookRules
from gateway.api.vocabulary import ApiVersion, OrganizationId, ShownVersion
from gateway.model import Organization
from gateway.registry.organizations import RESERVED, PinOrganization, is_organization_id, is_reserved


class Pin(msgspec.Struct, frozen=True, rename="camel"):
    """The version that an organization is to be pinned to."""

    api_version: Annotated[ApiVersion | None, Meta(description="null unpins it")]


class OrganizationView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An organization as the API shows it."""

    id: OrganizationId
    object: Literal["organization"] = "organization"
    api_version: Annotated[
        ShownVersion | None,
        Meta(description="what an absent `commet-version` and an unpinned webhook mean; null: the default, the current one"),
    ]


class Organizations:
    """Shows organizations, and pins them."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._cursors = Cursors(parts.cursor_key)
        self._rules = WebhookRules(require_https=False, guard=parts.guard, catalogue=None, versions=parts.settings.api.versions)

    def operations(self) -> list[Operation]:
        """What can be done with organizations."""
        return [
            Operation(
                name="list_organizations",
                method="GET",
                path="/organizations",
                permission="key:read",
                handler=self.page,
                summary="List organizations",
                answers=(page(OrganizationView),),
                tenant_in=TenantIn.NOWHERE,
                for_all_tenants=True,
            ),
            Operation(
                name="pin_organization",
                method="PUT",
                path="/organizations/{id}",
                permission="key:write",
                handler=self.pin,
                summary="Pin an organization to an API version, or unpin it",
                body=Pin,
                answers=(one(OrganizationView),),
                tenant_in=TenantIn.NOWHERE,
                for_all_tenants=True,
            ),
        ]

    async def page(self, call: Call) -> Answer:
        """By id. A page goes on after the last id of the one before."""
        limit = call.parameters.limit()
        list_ = scope("organizations", None)
        after = call.parameters.cursor(self._cursors, list_)
        call.check()
        known = [each for each in await self._parts.log.organizations() if not is_reserved(each.id)]
        start = 0 if after is None else bisect_right(known, after, key=lambda organization: organization.id)
        shown = known[start : start + limit]
        last = shown[-1].id if start + limit < len(known) else None
        return call.dialect.page([_view(organization) for organization in shown], self._cursors.seal(list_, last))

    async def pin(self, call: Call) -> Answer:
        pin = call.read_body(Pin, self._rules.checks).whole()
        if not is_organization_id(call.id):
            raise not_found("organization", call.id)
        if is_reserved(call.id):
            raise forbidden(f"{RESERVED}, and is not pinned")
        change = PinOrganization(Organization(call.id, pin.api_version), call.actor, call.now)
        return await commit(self._parts.writer, change, lambda pinned: call.dialect.one(_view(pinned)), call.ticket)


def _view(organization: Organization) -> OrganizationView:
    return OrganizationView(id=organization.id, api_version=organization.api_version)
