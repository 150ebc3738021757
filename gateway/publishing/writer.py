"""The one writer. It drains everything that is to be stored into transactions, one after another.

While a transaction is being committed the next batch gathers, so that batches grow with load and there is no timer.
Within a transaction changes come first, then results, and the events are matched after them.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import structlog
from msgspec.structs import replace

from gateway import ids
from gateway.clock import Clock
from gateway.errors import GatewayError, Stopping, StoreUnavailable
from gateway.ids import IdMaker
from gateway.model import AcceptedEvent, DueDelivery, Endpoint, Result, Tenant
from gateway.publishing.event_queue import Entry, EventQueue, Publication, Seal
from gateway.publishing.matching import TenantIndex
from gateway.store.protocol import Change, Claim, Claimed, Effects, Intake, NewEvent, Transaction

log = structlog.get_logger()

T = TypeVar("T")

MAX_DELIVERIES = 5_000
"""A batch stops gathering events at this many deliveries."""

MAX_RESULTS = 2_000
"""A batch takes at most this many results."""

_PAUSE_SECONDS = 0.5  # between attempts to commit results while the store is unavailable

Fresh = Sequence[tuple[Endpoint, DueDelivery]]
Listener = Callable[[Fresh, Sequence[Result], Effects], None]
"""Told of each commit right after it: the new deliveries, the results, and what else changed."""


class Recorder(Protocol):
    """Stores results with what they mean for their endpoints."""

    async def record(self, transaction: Transaction, results: Sequence[Result]) -> None:
        """Within *transaction*."""


class Claimer(Protocol):
    """Who fetches due deliveries. Both methods are called with no commit in between."""

    def claims(self) -> Sequence[Claim]:
        """What is wanted now."""

    def claimed(self, claims: Sequence[Claim], answers: Sequence[Claimed]) -> None:
        """The answers, in the claims' order."""


class _PendingChange:
    """A change and whoever waits for its outcome."""

    def __init__(self, change: Change[Any]) -> None:
        self.change = change
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.outcome: Any = None
        self.refusal: GatewayError | None = None

    def settle(self) -> None:
        if not self.done.done():
            if self.refusal is not None:
                self.done.set_exception(self.refusal)
            else:
                self.done.set_result(self.outcome)

    def failed(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class _Batch:
    """What goes into one transaction."""

    def __init__(self, changes: list[_PendingChange], results: list[Result], entries: list[Entry]) -> None:
        self.changes = changes
        self.results = results
        self.entries = entries

    def __len__(self) -> int:
        return len(self.changes) + len(self.results) + len(self.entries)

    def halves(self) -> Iterator["_Batch"]:
        """Two batches that do the same, in the same order."""
        everything: list[tuple[str, Any]] = [
            *(("changes", change) for change in self.changes),
            *(("results", result) for result in self.results),
            *(("entries", entry) for entry in self.entries),
        ]
        middle = len(everything) // 2
        for part in (everything[:middle], everything[middle:]):
            half = _Batch([], [], [])
            for kind, item in part:
                getattr(half, kind).append(item)
            yield half


class Writer:
    """See the module."""

    def __init__(
        self, *, store: Intake, queue: EventQueue, recorder: Recorder, ids: IdMaker, clock: Clock, current_version: str
    ) -> None:
        self._store = store
        self._queue = queue
        self._recorder = recorder
        self._ids = ids
        self._clock = clock
        self._current_version = current_version
        self._changes: deque[_PendingChange] = deque()
        self._results: deque[Result] = deque()
        self._indexes: dict[Tenant, TenantIndex] = {}
        self._claimer: Claimer | None = None
        self._listeners: list[Listener] = []
        self._wake = asyncio.Event()
        self._claims_wanted = False
        self._closed = False
        self._stopping = False
        self.unavailable: str | None = None  # why the last transaction could not be committed

    # What others ask for

    def listen(self, listener: Listener) -> None:
        """*listener* is told of every commit, in order, before the next begins."""
        self._listeners.append(listener)

    def serve_claims(self, claimer: Claimer) -> None:
        """*claimer* is asked for its claims after each `want_claims`."""
        self._claimer = claimer

    def want_claims(self) -> None:
        """The claimer has something to claim."""
        self._claims_wanted = True
        self._wake.set()

    def record(self, result: Result) -> None:
        """*result* goes into the next commit; listeners hear of it then."""
        self._results.append(result)
        self._wake.set()

    async def change(self, change: Change[T]) -> T:
        """Runs *change* in the next commit; its outcome after that.

        Raises the GatewayError that the change raises, StoreUnavailable, Stopping.
        """
        if self._closed:
            raise Stopping("the gateway is stopping; try again in a moment")
        pending = _PendingChange(change)
        self._changes.append(pending)
        self._wake.set()
        outcome: T = await pending.done
        return outcome

    async def publish(self, events: Sequence[AcceptedEvent], *, seal: Seal | None = None) -> Sequence[AcceptedEvent]:
        """Commits *events* with a delivery for each matching endpoint; in place, a repeat of an external id is answered
        with the first event. *seal* makes the record that is committed with the last of them.

        Raises QueueFull, StoreUnavailable, Stopping.
        """
        if self._closed:
            raise Stopping("the gateway is stopping; try again in a moment")
        publication = Publication(events, seal)
        self._queue.put(publication)
        self._wake.set()
        return await publication.done

    # The loop

    def close(self) -> None:
        """Takes no more changes and events; results are still taken."""
        self._closed = True

    def stop(self) -> None:
        """Ends `run` once everything is committed."""
        self._closed = self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Commits until it is stopped and nothing is left."""
        try:
            while True:
                self._wake.clear()  # before looking for work, so that no wake-up is lost
                if self._claims_wanted and not self._stopping:
                    await self._claim()
                if batch := self._gather():
                    await self._commit_or_halve(batch)
                elif self._stopping:
                    return
                elif not self._claims_wanted:
                    await self._wake.wait()
        finally:
            self._give_up()

    def _give_up(self) -> None:
        """Tells those who still wait that it will not happen."""
        self._closed = True
        for change in self._changes:
            change.failed(Stopping("the gateway stopped before this was committed"))
        while entry := self._queue.take():
            self._queue.release(entry[0].events[entry[1]])
            entry[0].failed(Stopping("the gateway stopped before this was committed"))

    async def _claim(self) -> None:
        self._claims_wanted = False
        if self._claimer is None:
            return
        claims = self._claimer.claims()
        if not claims:
            return
        try:
            answers = await self._store.claim(claims)
        except StoreUnavailable as error:
            log.warning("claim.failed", error=str(error))
            self._claims_wanted = True
            answers = [Claimed(more_first=c.first, more_manual=c.manual, next_retry_at=c.now) for c in claims]
            await asyncio.sleep(_PAUSE_SECONDS)
        self._claimer.claimed(claims, answers)

    def _gather(self) -> _Batch | None:
        changes = list(self._changes)
        self._changes.clear()
        results = [self._results.popleft() for _ in range(min(len(self._results), MAX_RESULTS))]
        entries: list[Entry] = []
        deliveries = 0
        while deliveries < MAX_DELIVERIES and (entry := self._queue.take()):
            entries.append(entry)
            event = entry[0].events[entry[1]]
            index = self._indexes.get(event.tenant)
            deliveries += max(1, len(index.match(event.type))) if index else 1
        if not (changes or results or entries):
            return None
        return _Batch(changes, results, entries)

    async def _commit_or_halve(self, batch: _Batch) -> None:
        try:
            await self._commit(batch)
        except StoreUnavailable as error:
            await self._fail(batch, error)
        except Exception as error:
            # One of them breaks the batch: in halves, all the others get through.
            if len(batch) > 1:
                for half in batch.halves():
                    await self._commit_or_halve(half)
                return
            log.exception("commit.failed")
            if batch.results:
                # Its delivery stays held, so that a receiver is not asked again and again for what cannot be stored.
                return
            await self._fail(batch, error)
        else:
            if self.unavailable is not None:
                log.info("store.recovered")
            self.unavailable = None

    async def _fail(self, batch: _Batch, error: Exception) -> None:
        for change in batch.changes:
            change.failed(error)
        for publication, place in batch.entries:
            self._queue.release(publication.events[place])
            publication.failed(error)
        if isinstance(error, StoreUnavailable):
            if self.unavailable is None:
                log.error("store.unavailable", error=str(error))
            self.unavailable = str(error)
            self._results.extendleft(reversed(batch.results))
            if batch.results:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PAUSE_SECONDS):
                        await self._changes_or_events()

    async def _changes_or_events(self) -> None:
        """Returns when somebody waits for an answer, who should hear soon that there is none to be had."""
        while not self._changes and not len(self._queue):
            self._wake.clear()
            await self._wake.wait()

    async def _commit(self, batch: _Batch) -> None:
        loaded: dict[Tenant, TenantIndex] = {}
        fresh: list[tuple[Endpoint, DueDelivery]] = []
        async with self._store.transaction() as transaction:
            for pending in batch.changes:
                pending.refusal = None
                try:
                    pending.outcome = await pending.change.apply(transaction)
                except StoreUnavailable:
                    raise
                except GatewayError as refusal:
                    pending.refusal = refusal
            if batch.results:
                await self._recorder.record(transaction, batch.results)
            if batch.entries:
                await self._add_events(transaction, batch.entries, loaded, fresh)
        effects = transaction.effects
        self._refresh_indexes(effects, loaded)
        for listener in self._listeners:
            listener(fresh, batch.results, effects)
        for pending in batch.changes:
            pending.settle()
        for publication, place in batch.entries:
            self._queue.release(publication.events[place])
            publication.committed(1)

    def _refresh_indexes(self, effects: Effects, loaded: dict[Tenant, TenantIndex]) -> None:
        stale = {endpoint.tenant for endpoint in effects.endpoints}
        pinned = {organization.id for organization in effects.organizations}
        if pinned:
            stale.update(tenant for tenant in self._indexes if tenant.organization_id in pinned)
        for tenant in stale:
            self._indexes.pop(tenant, None)
        self._indexes.update(loaded)

    async def _index(self, transaction: Transaction, tenant: Tenant, loaded: dict[Tenant, TenantIndex]) -> TenantIndex:
        """The tenant's index, with the changes of this transaction."""
        if index := loaded.get(tenant):
            return index
        effects = transaction.effects
        is_stale = any(endpoint.tenant == tenant for endpoint in effects.endpoints) or any(
            organization.id == tenant.organization_id for organization in effects.organizations
        )
        index = self._indexes.get(tenant)
        if index is None or is_stale:
            index = loaded[tenant] = TenantIndex(await transaction.active_endpoints(tenant))
        return index

    async def _add_events(
        self,
        transaction: Transaction,
        entries: list[Entry],
        loaded: dict[Tenant, TenantIndex],
        fresh: list[tuple[Endpoint, DueDelivery]],
    ) -> None:
        new: list[NewEvent] = []
        indexes: dict[Tenant, TenantIndex] = {}
        known = await self._known_external_ids(transaction, entries)
        for publication, place in entries:
            event = publication.outcomes[place] = publication.events[place]
            if event.external_id is not None:
                first = known.setdefault((event.tenant, event.external_id), event)
                if first is not event:
                    publication.outcomes[place] = replace(first, duplicate=True)
                    continue
            index = indexes.get(event.tenant)
            if index is None:
                index = indexes[event.tenant] = await self._index(transaction, event.tenant, loaded)
            new.append(NewEvent(event, index.revision))
            for endpoint in index.match(event.type):
                fresh.append((endpoint, self._delivery(event, endpoint, index)))
        if new:
            await transaction.add_events(new)
        if fresh:
            await transaction.add_deliveries([(due.event.tenant, due) for _, due in fresh])
        sealed = Counter(publication for publication, _ in entries if publication.seal is not None)
        for publication, count in sealed.items():
            if publication.seal is not None and publication.waiting == count:
                await transaction.save_answer(publication.seal(publication.outcomes))

    async def _known_external_ids(
        self, transaction: Transaction, entries: list[Entry]
    ) -> dict[tuple[Tenant, str], AcceptedEvent]:
        named = {
            (event.tenant, event.external_id)
            for publication, place in entries
            if (event := publication.events[place]).external_id is not None
        }
        return await transaction.events_by_external_id(named) if named else {}

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
