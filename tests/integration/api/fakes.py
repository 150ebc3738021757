"""Stand-ins for what the API asks of the rest, that behave."""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from gateway.clock import Timestamp
from gateway.errors import GatewayError, QueueFull
from gateway.model import AcceptedEvent, Endpoint, Event, IdempotentAnswer, Result
from gateway.publishing.publisher import Publisher
from gateway.store.protocol import Transaction


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: Timestamp = 1_774_449_000_000) -> None:
        self.at = now

    def now(self) -> Timestamp:
        return self.at

    def steady(self) -> Timestamp:
        return self.at

    def monotonic(self) -> float:
        return self.at / 1_000

    async def wait(self, event: asyncio.Event, until: Timestamp | None) -> None:
        await event.wait()

    def advance(self, seconds: float) -> None:
        self.at += int(seconds * 1_000)


class FakeOutcome(msgspec.Struct, frozen=True):
    delivery_id: str
    success: bool
    finished_at: Timestamp


class RecordNothing(msgspec.Struct, frozen=True):
    outcome: FakeOutcome

    async def apply(self, transaction: Transaction) -> FakeOutcome:
        return self.outcome


class FakeTester:
    """Answers tests by itself, and remembers which endpoints were tested."""

    def __init__(self, clock: FakeClock) -> None:
        self.tested: list[str] = []
        self.success = True
        self._clock = clock

    async def run(self, endpoint: Endpoint, pinned_version: str | None) -> RecordNothing:
        self.tested.append(endpoint.id)
        return RecordNothing(FakeOutcome(f"whdl_{len(self.tested):024}", self.success, self._clock.now()))


class GatedPublisher:
    """A publisher whose commits can be held back or made to fail."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self.open = asyncio.Event()
        self.open.set()
        self.reached = asyncio.Event()
        self.committed = asyncio.Event()
        self.failure: GatewayError | Exception | None = None
        self.is_full = False

    def ensure_room(self) -> None:
        if self.is_full:
            raise QueueFull("full")

    def accept(self, event: Event) -> AcceptedEvent:
        return self._publisher.accept(event)

    async def publish(
        self, events: Sequence[AcceptedEvent], *, seal: Callable[[Sequence[AcceptedEvent]], IdempotentAnswer] | None = None
    ) -> Sequence[AcceptedEvent]:
        self.reached.set()
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        outcome = await self._publisher.publish(events, seal=seal)
        self.committed.set()
        return outcome


class ForgetfulRecorder:
    """Stores results, and nothing about the health of endpoints."""

    async def record(self, transaction: Transaction, results: Sequence[Result]) -> None:
        await transaction.record_results(results)
