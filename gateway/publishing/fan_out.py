"""Events into deliveries, within the writer's transaction: repeats are told apart, the rest is matched and stored."""

from collections import Counter
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from gateway import ids
from gateway.ids import IdMaker
from gateway.model import AcceptedEvent, DueDelivery, Endpoint, Tenant
from gateway.publishing.event_queue import Entry
from gateway.publishing.matching import TenantIndex
from gateway.store.protocol import Effects, NewEvent, Transaction

Fresh = Sequence[tuple[Endpoint, DueDelivery]]
"""New deliveries, each with its endpoint."""


class FannedOut(msgspec.Struct):
    """What a transaction made of its events."""

    fresh: list[tuple[Endpoint, DueDelivery]] = msgspec.field(default_factory=list)
    indexes: dict[Tenant, TenantIndex] = msgspec.field(default_factory=dict)  # those read within the transaction


class FanOut:
    """Keeps an index of active endpoints for each tenant that has published."""

    def __init__(self, *, ids: IdMaker, current_version: str) -> None:
        self._ids = ids
        self._current_version = current_version
        self._indexes: dict[Tenant, TenantIndex] = {}

    def expected(self, event: AcceptedEvent) -> int:
        """About how many deliveries *event* will make; at least 1, for the event itself."""
        index = self._indexes.get(event.tenant)
        return max(1, len(index.match(event.type))) if index else 1

    async def store(self, transaction: Transaction, entries: Sequence[Entry]) -> FannedOut:
        """Stores the events of *entries* with their deliveries. The place of a repeat is taken by the first event."""
        made = FannedOut()
        new: list[NewEvent] = []
        indexes = await self._up_to_date(transaction, entries)
        known = await _known_external_ids(transaction, entries)
        for publication, place in entries:
            event = publication.outcomes[place] = publication.events[place]
            if event.external_id is not None:
                first = known.setdefault((event.tenant, event.external_id), event)
                if first is not event:
                    publication.outcomes[place] = replace(first, duplicate=True)
                    continue
            index = indexes.get(event.tenant)
            if index is None:
                index = TenantIndex(await transaction.active_endpoints(event.tenant))
                indexes[event.tenant] = made.indexes[event.tenant] = index
            new.append(NewEvent(event, index.revision))
            made.fresh += [(endpoint, self._delivery(event, endpoint, index)) for endpoint in index.match(event.type)]
        if new:
            await transaction.add_events(new)
        if made.fresh:
            await transaction.add_deliveries([(due.event.tenant, due) for _, due in made.fresh])
        await _seal(transaction, entries)
        return made

    async def _up_to_date(self, transaction: Transaction, entries: Sequence[Entry]) -> dict[Tenant, TenantIndex]:
        """The indexes in memory that hold in this transaction, whatever it and other processes have changed."""
        tenants = {publication.events[place].tenant for publication, place in entries}
        effects = transaction.effects
        changed = {endpoint.tenant for endpoint in effects.endpoints}
        pinned = {organization.id for organization in effects.organizations}
        indexes = {
            tenant: index
            for tenant in tenants
            if (index := self._indexes.get(tenant)) is not None and tenant not in changed and tenant.organization_id not in pinned
        }
        known = {tenant: (index.revision, index.pinned_version) for tenant, index in indexes.items()}
        for tenant in await transaction.outdated(known) if known else ():
            del indexes[tenant]
        return indexes

    def committed(self, made: FannedOut, effects: Effects) -> None:
        """The transaction is safe: what it changed makes indexes stale, and those that it read hold from now on."""
        for endpoint in effects.endpoints:
            self._indexes.pop(endpoint.tenant, None)
        pinned = {organization.id for organization in effects.organizations}
        for tenant in [tenant for tenant in self._indexes if tenant.organization_id in pinned] if pinned else ():
            del self._indexes[tenant]
        self._indexes.update(made.indexes)

    def _delivery(self, event: AcceptedEvent, endpoint: Endpoint, index: TenantIndex) -> DueDelivery:
        delivery_id, at = self._ids.next_with_time(ids.DELIVERY)
        return DueDelivery(
            id=delivery_id,
            endpoint_id=endpoint.id,
            event=event,
            api_version=endpoint.api_version or index.pinned_version or self._current_version,
            activation=endpoint.activation,
            attempt_count=0,
            scheduled_count=0,
            due_at=at,
            created_at=at,
        )


async def _known_external_ids(transaction: Transaction, entries: Sequence[Entry]) -> dict[tuple[Tenant, str], AcceptedEvent]:
    """The events that have been here before, by the external ids that these entries bring again."""
    named: dict[tuple[Tenant, str], AcceptedEvent] = {}
    for publication, place in entries:
        event = publication.events[place]
        if event.external_id is not None:
            named.setdefault((event.tenant, event.external_id), event)
    return await transaction.take_external_ids(list(named.values())) if named else {}


async def _seal(transaction: Transaction, entries: Sequence[Entry]) -> None:
    """Stores the records of idempotent publications that end with this transaction."""
    here = Counter(publication for publication, _ in entries if publication.seal is not None)
    for publication, count in here.items():
        if publication.seal is not None and publication.waiting == count:
            await transaction.save_answer(publication.seal(publication.outcomes))
