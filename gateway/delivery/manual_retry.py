"""Retries by hand: one more attempt of a delivery, now, whatever its state."""

import msgspec

from gateway.errors import DeliveryNotFound, EndpointNotFound
from gateway.model import Delivery, Tenant
from gateway.store.protocol import Transaction


class QueueRetry(msgspec.Struct, frozen=True):
    """Queues a retry, which is next in its lane. It cancels and moves nothing.

    Raises DeliveryNotFound, EndpointNotFound when the delivery's endpoint is deleted.
    """

    retry_id: str
    tenant: Tenant
    delivery_id: str

    async def apply(self, transaction: Transaction) -> Delivery:
        delivery = await transaction.delivery(self.tenant, self.delivery_id)
        if delivery is None:
            raise DeliveryNotFound(f"there is no delivery {self.delivery_id!r}")
        endpoint = await transaction.endpoint(self.tenant, delivery.endpoint_id)
        if endpoint is None:
            raise EndpointNotFound(f"the webhook {delivery.endpoint_id!r} of this delivery is deleted")
        await transaction.add_retry(self.retry_id, delivery, endpoint)
        return delivery
