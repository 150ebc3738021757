"""What goes into one transaction, and who waits for it."""

import asyncio
from collections.abc import Iterator
from typing import Any

from gateway.errors import GatewayError, ReservationLapsed, StoreUnavailable, TransactionConflict
from gateway.model import Result
from gateway.publishing.event_queue import Entry
from gateway.store.protocol import Change, Transaction


class PendingChange:
    """A change and whoever waits for its outcome."""

    def __init__(self, change: Change[Any]) -> None:
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._change = change
        self._outcome: Any = None
        self._refusal: GatewayError | None = None

    async def apply(self, transaction: Transaction) -> None:
        """Runs the change; a refusal is its own, and does not break the transaction."""
        self._refusal = None
        try:
            self._outcome = await self._change.apply(transaction)
        except (StoreUnavailable, TransactionConflict, ReservationLapsed):
            raise
        except GatewayError as refusal:
            self._refusal = refusal

    def committed(self) -> None:
        """Answers: the transaction is safe."""
        if self._refusal is not None:
            self.failed(self._refusal)
        elif not self.done.done():
            self.done.set_result(self._outcome)

    def failed(self, error: Exception) -> None:
        """Answers with *error*."""
        if not self.done.done():
            self.done.set_exception(error)


class Batch:
    """Changes, results and events, in this order."""

    def __init__(self, changes: list[PendingChange], results: list[Result], entries: list[Entry]) -> None:
        self.changes = changes
        self.results = results
        self.entries = entries

    def __len__(self) -> int:
        return len(self.changes) + len(self.results) + len(self.entries)

    def halves(self) -> Iterator["Batch"]:
        """Two batches that do the same, in the same order."""
        middle = len(self) // 2
        changes, results = len(self.changes), len(self.results)
        cuts = (middle, max(0, middle - changes), max(0, middle - changes - results))
        yield Batch(self.changes[: cuts[0]], self.results[: cuts[1]], self.entries[: cuts[2]])
        yield Batch(self.changes[cuts[0] :], self.results[cuts[1] :], self.entries[cuts[2] :])
