"""The gateway's own endpoint, `operations.url`: brought into line with the settings at each start."""

import msgspec
from msgspec.structs import replace

from gateway.clock import Timestamp
from gateway.model import OPERATIONS, OPERATIONS_ENDPOINT, DisabledReason, Endpoint, RevisionCause
from gateway.registry import endpoints
from gateway.registry.endpoints import GATEWAY_ACTOR, CreateEndpoint
from gateway.settings import Operations
from gateway.store.protocol import Transaction


class SetOperationsEndpoint(msgspec.Struct, frozen=True):
    """Makes the endpoint, changes it, or takes it out of service when there is no URL any more. Does nothing when it is as the
    settings say: nodes that start at once all run this."""

    settings: Operations
    at: Timestamp

    async def apply(self, transaction: Transaction) -> None:
        before = await transaction.endpoint_by_id(OPERATIONS_ENDPOINT)
        if before is None:
            if not self.settings.url:
                return
            # Whoever counts has a lock on the organization, so that one of several nodes makes the endpoint.
            await transaction.count_endpoints(OPERATIONS.organization_id)
            before = await transaction.endpoint_by_id(OPERATIONS_ENDPOINT)
        if before is None:
            await CreateEndpoint(self._made(), GATEWAY_ACTOR, most=1).apply(transaction)
        elif not self.settings.url:
            if before.is_active:
                await endpoints.disable(transaction, before, DisabledReason.USER, actor=GATEWAY_ACTOR, at=self.at)
        else:
            await self._bring_into_line(transaction, before)

    def _made(self) -> Endpoint:
        made = endpoints.new_endpoint(
            OPERATIONS_ENDPOINT,
            OPERATIONS,
            url=self.settings.url,
            events=("*",),
            description="The gateway's own: what it tells its operator. Set by operations.url and operations.secret.",
            api_version=None,
            at=self.at,
        )
        return replace(made, secret=self.settings.secret)

    async def _bring_into_line(self, transaction: Transaction, before: Endpoint) -> None:
        after = replace(before, url=self.settings.url, secret=self.settings.secret)
        if after.url != before.url:
            after = replace(after, paused_until=None)
        cause = RevisionCause.UPDATED
        if not before.is_active:
            after, cause = endpoints.enabled(after), RevisionCause.ENABLED
        if after != before:
            await endpoints.save(transaction, before, after, cause, actor=GATEWAY_ACTOR, at=self.at)
