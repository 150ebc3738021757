"""Organizations: what an absent `commet-version` and an unpinned endpoint mean for one."""

import msgspec

from gateway.model import Organization
from gateway.store.protocol import Transaction


class PinOrganization(msgspec.Struct, frozen=True):
    """Pins an organization to an API version, or with None unpins it."""

    organization: Organization

    async def apply(self, transaction: Transaction) -> Organization:
        await transaction.pin_organization(self.organization)
        return self.organization
