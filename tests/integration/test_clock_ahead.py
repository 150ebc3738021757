"""A node whose clock is wrong, on a PostgreSQL: everything that others rely on goes by the database's."""

import time

from gateway.app import Gateway
from gateway.clock import DAY, SECOND
from gateway.model import DeliveryState, Event, Mode, Tenant
from gateway.settings import Retention, Settings, Store
from gateway.store.protocol import DeliveryFilter

AHEAD_SECONDS = 3 * DAY // SECOND


async def test_a_clock_that_is_days_ahead_takes_nothing_away(migrated_url: str):
    """What such a node accepts is of today, and its tidying up expires and drops nothing of it."""
    settings = Settings(store=Store(url=migrated_url), retention=Retention(days=1))
    async with Gateway.open(settings, wall=lambda: time.time() + AHEAD_SECONDS) as gateway:
        # An address that it refuses to dial: the delivery waits for its next attempt.
        await gateway.create_endpoint(organization_id="acme", url="http://127.0.0.1:9/", events=["*"])
        accepted = await gateway.publish(Event(type="invoice.paid", data={}, organization_id="acme"))
        assert abs(accepted.created_at - time.time() * SECOND) < 60 * SECOND
        await gateway._maintenance._tidy_up()
        tenant = Tenant("acme", Mode.LIVE)
        assert await gateway._store.event(tenant, accepted.id) is not None
        (delivery,) = (await gateway._store.deliveries(tenant, DeliveryFilter(), below=None, limit=10)).items
        assert delivery.state is DeliveryState.PENDING
