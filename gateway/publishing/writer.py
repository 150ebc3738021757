"""The one writer. It drains everything that is to be stored into transactions.

While a transaction is being committed the next batch gathers, so that batches grow with load; the only timer is that for a few
results alone, where a transaction is dear: they wait some milliseconds for company.
Within a transaction changes come first, then results, and the events are matched after them. Transactions follow one
another; where the store takes several at once, many waiting events go into some of their own beside those.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

import structlog
from msgspec.structs import replace

from gateway.errors import Stopping, StoreTrouble, StoreUnavailable, TransactionConflict
from gateway.model import AcceptedEvent, Result
from gateway.publishing.batch import Batch, PendingChange
from gateway.publishing.event_queue import Entry, EventQueue, Publication, Seal
from gateway.publishing.fan_out import FannedOut, FanOut, Fresh
from gateway.store.protocol import Change, Claim, Claimed, Effects, Intake, Transaction

log = structlog.get_logger()

T = TypeVar("T")

MAX_DELIVERIES = 5_000
"""A batch stops gathering events at this many deliveries."""

MAX_RESULTS = 2_000
"""A batch takes at most this many results."""

WORTH_A_TRANSACTION = 100
"""So many events are worth a transaction of their own beside the one that is being committed; fewer wait for it to end, since
large batches cost less."""

ENOUGH_RESULTS = 100
"""So many results are worth a transaction; fewer may wait a moment for others, if nobody waits for an answer."""

LONGEST_WAIT_SECONDS = 4.0
"""Whoever waits behind a commit that takes longer hears that the store does not answer: it may be in doubt for as long as the
store is away."""

_LONG_SECONDS = 1.0  # behind one that failed after so long, too: another try takes as long
_TRIES = 10  # at a transaction that stands in the way of others
_PAUSE_SECONDS = 0.5  # between attempts to commit results while the store is unavailable

Listener = Callable[[Fresh, Sequence[Result], Effects], None]
"""Told of each commit right after it: the new deliveries, the results, and what else changed."""


class Recorder(Protocol):
    """Stores results with what they mean for their endpoints."""

    async def record(self, transaction: Transaction, results: Sequence[Result]) -> None:
        """Within *transaction*."""


class Claimer(Protocol):
    """Who fetches due deliveries. Commits may end between the two calls."""

    def claims(self) -> Sequence[Claim]:
        """What is wanted now."""

    def claimed(self, claims: Sequence[Claim], answers: Sequence[Claimed]) -> None:
        """The answers, in the claims' order."""


class Writer:
    """See the module."""

    def __init__(
        self,
        *,
        store: Intake,
        queue: EventQueue,
        recorder: Recorder,
        fan_out: FanOut,
        longest_wait_seconds: float = LONGEST_WAIT_SECONDS,
    ) -> None:
        self._longest_wait_seconds = longest_wait_seconds
        self._store = store
        self._queue = queue
        self._recorder = recorder
        self._fan_out = fan_out
        self._changes: deque[PendingChange] = deque()
        self._results: deque[Result] = deque()
        self._claimer: Claimer | None = None
        self._listeners: list[Listener] = []
        self._wake = asyncio.Event()
        self._company = asyncio.Event()
        self._many_wait = asyncio.Event()
        self._claims_wanted = asyncio.Event()
        self._unsettled: set[str] = set()  # deliveries of transactions under way: listeners have not heard of them yet
        self._is_committing = False
        self._is_stuck = False
        self._is_closed = False
        self._is_stopping = False
        self.unavailable: StoreUnavailable | None = None  # why the last transaction could not be committed

    # What others ask for

    def listen(self, listener: Listener) -> None:
        """*listener* is told of every commit, right after its end."""
        self._listeners.append(listener)

    def serve_claims(self, claimer: Claimer) -> None:
        """*claimer* is asked for its claims after each `want_claims`."""
        self._claimer = claimer

    def want_claims(self) -> None:
        """The claimer has something to claim."""
        self._claims_wanted.set()

    def record(self, result: Result) -> None:
        """*result* goes into the next commit; listeners hear of it then."""
        self._results.append(result)
        self._wake.set()
        if len(self._results) >= ENOUGH_RESULTS:
            self._company.set()

    async def change(self, change: Change[T]) -> T:
        """Runs *change* in the next commit; its outcome after that.

        Raises the GatewayError that the change raises, StoreUnavailable, Stopping.
        """
        self._refuse_when_in_vain()
        pending = PendingChange(change)
        self._changes.append(pending)
        self._wake.set()
        self._company.set()
        outcome: T = await pending.done
        return outcome

    def ensure_room(self) -> None:
        """Raises what `publish` would raise for any event, at a time when it has not cost anything yet."""
        self._refuse_when_in_vain()
        self._queue.ensure_room()

    async def publish(self, events: Sequence[AcceptedEvent], *, seal: Seal | None = None) -> Sequence[AcceptedEvent]:
        """Commits *events* with a delivery for each matching endpoint; in place, a repeat of an external id is answered
        with the first event. *seal* makes the record that is committed with the last of them.

        Raises QueueFull, StoreUnavailable, Stopping.
        """
        self._refuse_when_in_vain()
        if not events:
            return []
        publication = Publication(events, seal)
        self._queue.put(publication)
        self._wake.set()
        self._company.set()
        if self._queue.waiting >= WORTH_A_TRANSACTION:
            self._many_wait.set()
        return await publication.done

    def _refuse_when_in_vain(self) -> None:
        if self._is_closed:
            raise Stopping("the gateway is stopping; try again in a moment")
        if self._is_stuck:
            raise _silence()

    # The loops

    def stop(self) -> None:
        """Takes no more changes and events, and ends `run` once everything is committed."""
        self._is_closed = self._is_stopping = True
        for event in (self._wake, self._company, self._many_wait, self._claims_wanted):
            event.set()

    async def run(self) -> None:
        """Commits until it is stopped and nothing is left."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._serve_claims(), name="claims")
                for number in range(1, self._store.transactions_at_once):
                    tasks.create_task(self._commit_events_beside(), name=f"writer {number}")
                await self._commit_everything()
        finally:
            self._give_up()

    async def _commit_everything(self) -> None:
        """One transaction after another, with whatever there is."""
        while True:
            self._wake.clear()  # before looking for work, so that no wake-up is lost
            if self._store.gathering_seconds:
                await self._wait_for_company()
            if batch := self._gather():
                self._is_committing = True
                with self._nobody_waits_long():
                    await self._commit_or_give_up(batch)
                self._is_committing = False
            elif self._is_stopping:
                return
            else:
                await self._wait_for_work()

    async def _wait_for_company(self) -> None:
        """Lets a few results that are alone wait for others. Nobody waits for them, and they go with whatever comes."""
        self._company.clear()
        is_alone = not self._changes and not self._queue and not self._is_stopping
        if is_alone and 0 < len(self._results) < ENOUGH_RESULTS:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._store.gathering_seconds):
                    await self._company.wait()

    async def _commit_events_beside(self) -> None:
        """Events alone, while another transaction is being committed. Results stay in one line, since they are counted in
        their order; so do the publications that end with a record of the whole."""
        while not self._is_stopping:
            self._many_wait.clear()
            is_worth_it = self._is_committing and self.unavailable is None and self._queue.waiting >= WORTH_A_TRANSACTION
            if is_worth_it and (entries := self._take_events(only_unsealed=True)):
                await self._commit_or_give_up(Batch([], [], entries))
            else:
                await self._many_wait.wait()

    async def _wait_for_work(self) -> None:
        if self.unavailable is None:
            await self._wake.wait()
            return
        # Nobody sends work to a node that says it is unavailable: it has to find out by itself that it no longer is.
        try:
            async with asyncio.timeout(_PAUSE_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            await self._look_at_store()

    async def _look_at_store(self) -> None:
        with self._nobody_waits_long():
            try:
                async with self._store.transaction() as transaction:
                    await transaction.forget_answers(0, limit=1)  # there are none so old; the commit is what counts
            except StoreUnavailable as error:
                self._note_trouble(error)
            else:
                self._note_recovery()

    @contextmanager
    def _nobody_waits_long(self) -> Iterator[None]:
        """To be open while a transaction has its turn: whoever waits behind one that takes too long is told to come again."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        watch = loop.call_later(self._longest_wait_seconds, self._note_silence)
        try:
            yield
        finally:
            watch.cancel()
            self._is_stuck = False
            if self.unavailable is not None and loop.time() - began_at > _LONG_SECONDS:
                self._refuse_waiting(self.unavailable)

    def _note_silence(self) -> None:
        self._is_stuck = True
        self._note_trouble(_silence())
        self._refuse_waiting(_silence())

    def _note_trouble(self, error: StoreUnavailable) -> None:
        if self.unavailable is None or self.unavailable.trouble is not error.trouble:
            log.error("store.unavailable", error=str(error), trouble=error.trouble)
        self.unavailable = error

    def _note_recovery(self) -> None:
        if self.unavailable is not None:
            log.info("store.recovered")
        self.unavailable = None

    async def _commit_or_give_up(self, batch: Batch) -> None:
        try:
            await self._commit_or_halve(batch)
        except asyncio.CancelledError:
            error = Stopping("the gateway stopped before it knew whether this was committed")
            for pending in batch.changes:
                pending.failed(error)
            for publication, _ in batch.entries:
                publication.failed(error)
            raise

    def _give_up(self) -> None:
        """Tells those who still wait that it will not happen."""
        self._is_closed = True
        self._refuse_waiting(Stopping("the gateway stopped before this was committed"))

    def _refuse_waiting(self, error: StoreUnavailable) -> None:
        while self._changes:
            self._changes.popleft().failed(error)
        while entry := self._queue.take():
            self._queue.release(entry)
            entry[0].failed(error)

    async def _serve_claims(self) -> None:
        while True:
            await self._claims_wanted.wait()
            if self._is_stopping:
                return
            self._claims_wanted.clear()
            if self._claimer is not None and (claims := self._claimer.claims()):
                await self._claim(self._claimer, claims)

    async def _claim(self, claimer: Claimer, claims: Sequence[Claim]) -> None:
        try:
            answers = await self._store.claim(claims)
        except StoreUnavailable as error:
            if self.unavailable is None:  # else it has been told
                log.warning("claim.failed", error=str(error))
            # Nothing was handed out, and everything is still wanted.
            answers = [Claimed(more_first=claim.first, more_manual=claim.manual, next_retry_at=claim.now) for claim in claims]
            await asyncio.sleep(_PAUSE_SECONDS)
        # The store may know of a commit before its answer has come: those it shows will be told of as fresh.
        claimer.claimed(claims, [self._without_unsettled(answer) for answer in answers] if self._unsettled else answers)

    def _without_unsettled(self, answer: Claimed) -> Claimed:
        first = [due for due in answer.first if due.id not in self._unsettled]
        return answer if len(first) == len(answer.first) else replace(answer, first=first)

    def _gather(self) -> Batch | None:
        changes = list(self._changes)
        self._changes.clear()
        results = [self._results.popleft() for _ in range(min(len(self._results), MAX_RESULTS))]
        entries = self._take_events()
        return Batch(changes, results, entries) if changes or results or entries else None

    def _take_events(self, *, only_unsealed: bool = False) -> list[Entry]:
        entries: list[Entry] = []
        deliveries = 0
        while deliveries < MAX_DELIVERIES and (entry := self._queue.take(only_unsealed=only_unsealed)):
            entries.append(entry)
            deliveries += self._fan_out.expected(entry[0].events[entry[1]])
        return entries

    async def _commit_or_halve(self, batch: Batch) -> None:
        try:
            made, effects = await self._commit(batch)
        except StoreUnavailable as error:
            await self._keep_results(batch, error)
        except Exception as error:
            # One of them breaks the batch: in halves, all the others get through.
            if len(batch) > 1:
                for half in batch.halves():
                    await self._commit_or_halve(half)
                return
            # A result that cannot be stored leaves its delivery held: its receiver is not to be asked again and again.
            log.exception("commit.failed")
            self._fail(batch, error)
        else:
            self._note_recovery()
            try:
                self._committed(batch, made, effects)
            finally:
                self._unsettled.difference_update(due.id for _, due in made.fresh)

    def _fail(self, batch: Batch, error: Exception) -> None:
        for pending in batch.changes:
            pending.failed(error)
        for entry in batch.entries:
            self._queue.release(entry)
            entry[0].failed(error)

    async def _keep_results(self, batch: Batch, error: StoreUnavailable) -> None:
        """Fails whoever waits; results are known, and wait for the store to come back."""
        self._fail(batch, error)
        self._note_trouble(error)
        self._results.extendleft(reversed(batch.results))
        if batch.results:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE_SECONDS):
                    await self._somebody_waits()

    async def _somebody_waits(self) -> None:
        """Returns when there is somebody who should hear soon that there is no answer to be had."""
        while not self._changes and not self._queue:
            self._wake.clear()
            await self._wake.wait()

    async def _commit(self, batch: Batch) -> tuple[FannedOut, Effects]:
        for _ in range(_TRIES):
            with suppress(TransactionConflict):
                return await self._try_to_commit(batch)
        raise StoreUnavailable("other transactions stood in the way again and again; try again in a moment", StoreTrouble.LOCKED)

    async def _try_to_commit(self, batch: Batch) -> tuple[FannedOut, Effects]:
        made = FannedOut()
        try:
            async with self._store.transaction() as transaction:
                for pending in batch.changes:
                    await pending.apply(transaction)
                if batch.results:
                    await self._recorder.record(transaction, batch.results)
                if batch.entries:
                    made = await self._fan_out.store(transaction, batch.entries)
                    self._unsettled.update(due.id for _, due in made.fresh)
        except BaseException:
            self._unsettled.difference_update(due.id for _, due in made.fresh)
            raise
        return made, transaction.effects

    def _committed(self, batch: Batch, made: FannedOut, effects: Effects) -> None:
        """Answers whoever waits, and tells those who act on it. What goes wrong here is no reason to commit again."""
        for pending in batch.changes:
            pending.committed()
        for entry in batch.entries:
            self._queue.release(entry)
            entry[0].committed()
        self._fan_out.committed(made, effects)
        for listener in self._listeners:
            listener(made.fresh, batch.results, effects)


def _silence() -> StoreUnavailable:
    return StoreUnavailable("the store does not answer in time", StoreTrouble.SLOW)
