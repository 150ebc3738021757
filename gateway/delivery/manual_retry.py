"""Retries by hand: one more attempt of a delivery, now, whatever its state."""

import msgspec

from gateway.clock import Timestamp
from gateway.errors import DeliveryNotFound, EndpointNotFound, no_such
from gateway.model import Actor, AuditAction, Delivery, Tenant
from gateway.registry import audit
from gateway.store.protocol import Transaction


class QueueRetry(msgspec.Struct, frozen=True):
    """Queues a retry, which is next in its lane. It cancels and moves nothing.

    Raises DeliveryNotFound, EndpointNotFound when the delivery's endpoint is deleted.
    """

    retry_id: str
    tenant: Tenant
    delivery_id: str
    actor: Actor
    at: Timestamp

    async def apply(self, transaction: Transaction) -> Delivery:
        delivery = await transaction.delivery(self.tenant, self.delivery_id)
        if delivery is None:
            raise DeliveryNotFound(no_such("delivery", self.delivery_id))
        endpoint = await transaction.endpoint(self.tenant, delivery.endpoint_id)
        if endpoint is None:
            raise EndpointNotFound(f"the webhook {delivery.endpoint_id!r} of this delivery is deleted")
        await transaction.add_retry(self.retry_id, delivery, endpoint)
        await audit.note(transaction, AuditAction.DELIVERY_RETRIED, delivery.id, tenant=self.tenant, actor=self.actor, at=self.at)
        return delivery
