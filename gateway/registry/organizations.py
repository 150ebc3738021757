"""Organizations: what an absent `commet-version` and an unpinned endpoint mean for one."""

import msgspec

from gateway.clock import Timestamp
from gateway.model import OPERATIONS, Actor, AuditAction, Organization
from gateway.registry import audit
from gateway.store.protocol import Transaction

MAX_ORGANIZATION_ID = 255


def is_organization_id(text: str) -> bool:
    """Whether *text* can be an organization's id: 1 to 255 printable characters without spaces."""
    return 1 <= len(text) <= MAX_ORGANIZATION_ID and text.isprintable() and " " not in text


def is_reserved(organization_id: str) -> bool:
    """Whether it is the gateway's own, which nobody makes keys for, publishes to or gives endpoints."""
    return organization_id == OPERATIONS.organization_id


RESERVED = f"{OPERATIONS.organization_id} is the gateway's own"
"""Why something cannot be done, for people."""


class PinOrganization(msgspec.Struct, frozen=True):
    """Pins an organization to an API version, or with None unpins it."""

    organization: Organization
    actor: Actor
    at: Timestamp

    async def apply(self, transaction: Transaction) -> Organization:
        organization = self.organization
        before = await transaction.pinned_version(organization.id)
        await transaction.pin_organization(organization)
        if organization.api_version != before:
            # It concerns both modes, and so none of the organization's tenants.
            await audit.note(
                transaction,
                AuditAction.ORGANIZATION_PINNED,
                organization.id,
                tenant=None,
                actor=self.actor,
                at=self.at,
                changes=audit.version_changes(before, organization.api_version),
            )
        return organization
