"""Organizations: what an absent `commet-version` and an unpinned endpoint mean for one."""

import msgspec

from gateway.model import Organization
from gateway.store.protocol import Transaction

MAX_ORGANIZATION_ID = 255


def is_organization_id(text: str) -> bool:
    """Whether *text* can be an organization's id: 1 to 255 printable characters without spaces."""
    return 1 <= len(text) <= MAX_ORGANIZATION_ID and text.isprintable() and " " not in text


class PinOrganization(msgspec.Struct, frozen=True):
    """Pins an organization to an API version, or with None unpins it."""

    organization: Organization

    async def apply(self, transaction: Transaction) -> Organization:
        await transaction.pin_organization(self.organization)
        return self.organization
