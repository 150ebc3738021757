"""The promises of delivery as invariants: writer and dispatcher on a real store, driven by whatever Hypothesis comes up with, in
time that jumps, with receivers that misbehave, a store that breaks down, and crashes; set against a model that fits on a screen.

A failure prints the steps that lead to it, and the blob that runs them again.
"""

import asyncio
import math
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.clock import HOUR, MINUTE, SECOND, Timestamp
from gateway.delivery.maintenance import InterruptTests
from gateway.egress.sender import Answer
from gateway.errors import StoreUnavailable
from gateway.model import (
    BUCKETS,
    AcceptedEvent,
    Attempt,
    AttemptError,
    AttemptTrigger,
    Delivery,
    DeliveryState,
    DeliveryTrigger,
    DisabledReason,
    Endpoint,
    Reason,
)
from gateway.model import Node as ClusterNode
from gateway.settings import Delivery as DeliverySettings
from gateway.settings import Intake
from gateway.settings import Store as StoreSettings
from gateway.store.postgres import PostgresStore
from gateway.store.protocol import Store
from gateway.store.sqlite import SqliteStore
from tests.fakes import Crash, FakeClock, Hold, ScriptedSender, failure, hold, make_id, ok, status, tenant
from tests.integration.core.conftest import Node
from tests.postgres import PostgresServer

T = TypeVar("T")
Open = Callable[[], AbstractAsyncContextManager[Store]]

DELAYS = DeliverySettings().retry_delays
ATTEMPTS = 1 + len(DELAYS)
IN_ROW = DeliverySettings().disable_after_failed_events
RETRY_AFTER = 120 * SECOND
TENANTS = (tenant("acme"), tenant("other"))
TYPES = ("invoice.paid", "customer.created")
PATTERNS = (("*",), ("invoice.*",), ("customer.created",))
BEHAVIOURS: dict[str, Answer | Hold | Crash] = {
    "takes it": ok(),
    "fails": status(500),
    "asks for time": status(503, retry_after=str(RETRY_AFTER // SECOND)),
    "refuses": status(400),
    "is gone": status(410),
    "does not answer": failure(AttemptError.TIMEOUT),
    "takes it late": hold(ok()),
    "fails late": hold(status(500)),
    "meets a bug": Crash(),
}
MANY_HOURS = 6 * HOUR


def wants(patterns: Sequence[str], event_type: str) -> bool:
    """The contract's words about patterns, written down once more."""
    return any(pattern in {"*", event_type} or event_type.startswith(pattern.removesuffix("*")) for pattern in patterns)


class Witness(ScriptedSender):
    """What went over the wire. Each endpoint has URLs of its own, so a URL and an event name a delivery."""

    def __init__(self) -> None:
        super().__init__()
        self.open: Counter[tuple[str, str]] = Counter()
        self.sent: Counter[tuple[str, str]] = Counter()
        self.taken: set[tuple[str, str]] = set()  # answered 2xx
        self.beside: list[tuple[str, str]] = []  # sent while another attempt of the same delivery was under way

    async def send(self, url, headers, body, *, organization_id):
        key = (url, headers["webhook-id"])
        self.sent[key] += 1
        if self.open[key]:
            self.beside.append(key)
        self.open[key] += 1
        try:
            answer = await super().send(url, headers, body, organization_id=organization_id)
        finally:
            self.open[key] -= 1
        if answer.status is not None and answer.status < 300:
            self.taken.add(key)
        return answer


class Promises(RuleBasedStateMachine):
    """A gateway and the model of it."""

    def __init__(self, open_store: Open) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._open_store = open_store
        self.clock = FakeClock()
        self.sender = Witness()
        self.endpoints: dict[str, Endpoint] = {}  # as of the last look
        self.urls: dict[str, list[str]] = {}  # that each endpoint has had
        self.expected: dict[str, set[str]] = {}  # by accepted event: the endpoints that are to get it
        self.refused: set[str] = set()
        self.crashes = 0
        self.fresh_since: dict[str, Timestamp] = {}  # when each endpoint last got a clean slate
        self.unrecorded: Counter[tuple[str, str]] = Counter()  # requests of which a crash took the result
        self._is_broken = False
        self._run(self._start())

    def _run(self, work: Awaitable[T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(60):
                return await work

        return self._runner.run(bounded())

    # Starting, and the end

    async def _start(self) -> None:
        self._stack = AsyncExitStack()
        self.store = await self._stack.enter_async_context(self._open_store())
        self.node = node = Node(
            cast("SqliteStore", self.store),
            clock=self.clock,
            sender=self.sender,
            intake=Intake(),
            settings=DeliverySettings(max_in_flight=16, max_in_flight_per_endpoint=4),
        )
        self._tasks = [asyncio.create_task(node.writer.run()), asyncio.create_task(node.dispatcher.run())]
        await node.writer.change(InterruptTests(self.clock.now() + 1, self.clock.now()))
        node.dispatcher.lease_until(math.inf)
        epochs = await self._take_buckets()
        node.dispatcher.hold(epochs, await self.store.lane_work(range(BUCKETS)))
        node.writer.listen(node.dispatcher.committed)
        node.writer.serve_claims(node.claims)
        await node.quiet()
        await self._look()

    async def _take_buckets(self) -> dict[int, int]:
        cluster = self.store.cluster
        if cluster is None:
            return dict.fromkeys(range(BUCKETS), 0)
        for other in (await cluster.view()).nodes:
            await cluster.evict(other)
        own = ClusterNode(id=make_id("node_"), name="one", version="1", started_at=self.clock.now())
        await cluster.join(own)
        cluster.hold(range(BUCKETS))
        return await cluster.take(own.id, limit=BUCKETS)

    async def _die(self) -> None:
        """What is in memory is gone, and nothing is committed any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._stack.aclose()

    def teardown(self) -> None:
        try:
            self._run(self._end())
        finally:
            self._run(self._die())
            self._runner.close()

    async def _end(self) -> None:
        """All is well again for long enough: everything that was accepted comes to an end."""
        self.node.scripted.recover()
        self.node.scripted.gate.set()
        for urls in self.urls.values():
            for url in urls:
                self.sender.script(url, ok())
        for _ in range(2 * ATTEMPTS):
            self.sender.release()
            await self.node.advance(HOUR)
        await self._look()
        self.check_deliveries()
        for delivery in self.deliveries:
            assert delivery.state is not DeliveryState.PENDING, "every delivery comes to an end"
            self._check_end(delivery)

    def _check_end(self, delivery: Delivery) -> None:
        keys = {(url, delivery.event_id) for url in self.urls[delivery.endpoint_id]}
        took = bool(keys & self.sender.taken)
        if delivery.state is DeliveryState.DELIVERED:
            assert took, "what is on record as delivered was answered 2xx"
        else:
            assert not took or self.crashes, "what was answered 2xx is on record as delivered, unless a crash took the answer"
        if delivery.state is DeliveryState.CANCELED:
            assert self.endpoints[delivery.endpoint_id].activation > delivery.activation, "only disabling and deleting cancel"
        if delivery.reason is Reason.ATTEMPTS_EXHAUSTED:
            assert delivery.scheduled_count == ATTEMPTS

    # What the record says

    async def _look(self) -> None:
        """Reads everything that is on record."""
        async with self.store.transaction() as transaction:
            self.endpoints = await transaction.endpoints_by_id(list(self.urls)) if self.urls else {}
        self.deliveries: list[Delivery] = [each for of in TENANTS for each in await self.node.deliveries(of)]
        self.attempts = {each.id: await self.node.attempts(each) for each in self.deliveries}

    # What people do

    @property
    def living(self) -> list[Endpoint]:
        return [endpoint for endpoint in self.endpoints.values() if endpoint.deleted_at is None]

    def _pick(self, number: int) -> Endpoint:
        return self.living[number % len(self.living)]

    def _act(self, action: Callable[[], Awaitable[Any]]) -> None:
        """Does something, lets what follows from it happen, and reads what is on record then."""

        async def acted() -> None:
            await action()
            if not self._is_broken:
                await self.node.quiet()
                await self._look()

        self._run(acted())

    works = precondition(lambda self: not self._is_broken)
    has_endpoints = precondition(lambda self: not self._is_broken and bool(self.living))

    @works
    @precondition(lambda self: len(self.urls) < 5)
    @rule(of=st.sampled_from(TENANTS), patterns=st.sampled_from(PATTERNS), behaviour=st.sampled_from(list(BEHAVIOURS)))
    def create(self, of, patterns, behaviour):
        async def action() -> None:
            url = f"https://receiver.example/{len(self.urls)}/0"
            self.sender.script(url, BEHAVIOURS[behaviour])
            endpoint = await self.node.create(url, of=of, events=patterns)
            self.urls[endpoint.id] = [url]

        self._act(action)

    @has_endpoints
    @rule(number=st.integers(0, 9), behaviour=st.sampled_from(list(BEHAVIOURS)))
    def behave(self, number, behaviour):
        self.sender.script(self._pick(number).url, BEHAVIOURS[behaviour])

    @rule(of=st.sampled_from(TENANTS), event_type=st.sampled_from(TYPES), count=st.integers(1, 7))
    def publish(self, of, event_type, count):
        async def action() -> None:
            events = [self.node.event(tenant=of, type=event_type) for _ in range(count)]
            try:
                await self.node.writer.publish(events)
            except StoreUnavailable:
                assert self._is_broken
                self.refused |= {event.id for event in events}
            else:
                assert not self._is_broken, "nothing is accepted that is not committed"
                self.expected |= {event.id: self._wanting(event) for event in events}

        self._act(action)

    def _wanting(self, event: AcceptedEvent) -> set[str]:
        mine = (each for each in self.endpoints.values() if each.tenant == event.tenant and each.is_active)
        return {endpoint.id for endpoint in mine if wants(endpoint.events, event.type)}

    @has_endpoints
    @rule(number=st.integers(0, 9), fields=st.sampled_from([{"is_active": True}, {"is_active": False}, {"events": ("*",)}]))
    def update(self, number, fields):
        async def action() -> None:
            endpoint = self._pick(number)
            await self.node.update(endpoint, **fields)
            if fields.get("is_active"):
                self.fresh_since[endpoint.id] = self.clock.now()

        self._act(action)

    @has_endpoints
    @rule(number=st.integers(0, 9), behaviour=st.sampled_from(list(BEHAVIOURS)))
    def move(self, number, behaviour):
        async def action() -> None:
            endpoint = self._pick(number)
            urls = self.urls[endpoint.id]
            urls.append(f"{urls[0].removesuffix('0')}{len(urls)}")
            self.sender.script(urls[-1], BEHAVIOURS[behaviour])
            await self.node.update(endpoint, url=urls[-1])
            self.fresh_since[endpoint.id] = self.clock.now()

        self._act(action)

    @has_endpoints
    @rule(number=st.integers(0, 9))
    def delete(self, number):
        self._act(lambda: self.node.delete(self._pick(number)))

    @works
    @precondition(lambda self: any(self.endpoints[each.endpoint_id].deleted_at is None for each in self.deliveries))
    @rule(number=st.integers(0, 99))
    def retry(self, number):
        possible = [each for each in self.deliveries if self.endpoints[each.endpoint_id].deleted_at is None]
        self._act(lambda: self.node.retry(possible[number % len(possible)]))

    # What happens

    @rule(ms=st.sampled_from([SECOND, MINUTE, 5 * MINUTE, 30 * MINUTE, HOUR, MANY_HOURS]))
    def pass_time(self, ms):
        async def action() -> None:
            if self._is_broken:
                self.clock.advance(ms)
            else:
                await self.node.advance(ms)

        self._act(action)

    @rule()
    def release(self):
        async def action() -> None:
            self.sender.release()

        self._act(action)

    @works
    @rule(late=st.booleans())
    def break_down(self, late):
        """Nothing can be committed from now on: at once, or when all has been written."""
        self._is_broken = True
        error = StoreUnavailable("the disk is on fire")
        if late:
            self.node.scripted.commit_failure = error
        else:
            self.node.scripted.failure = error

    @precondition(lambda self: self._is_broken)
    @rule()
    def recover(self):
        self.node.scripted.recover()
        self._is_broken = False
        self._act(lambda: asyncio.sleep(0))

    @works
    @rule(hasty=st.booleans())
    def crash(self, hasty):
        """The process dies, perhaps between the answers of receivers and the commit of what they mean."""

        async def action() -> None:
            in_doubt, sent_before = +self.sender.open, self.sender.sent.copy()
            if hasty:
                self.node.scripted.close_gate()
                self.sender.release()
                for _ in range(20):
                    await asyncio.sleep(0)
            await self._die()
            in_doubt += self.sender.sent - sent_before
            self.crashes += 1
            await self._start()
            self.unrecorded += in_doubt

        self._act(action)

    # What has to hold at any time

    def _recorded(self) -> Counter[tuple[str, str]]:
        """Attempts on record, of requests that were made. A fault of the gateway's own may have come before the request."""
        recorded: Counter[tuple[str, str]] = Counter()
        for delivery in self.deliveries:
            for attempt in self.attempts[delivery.id]:
                recorded[attempt.url, delivery.event_id] += 1
        return recorded

    @invariant()
    def check_deliveries(self):
        """Exactly one delivery for each endpoint that wanted an accepted event, and none of a refused one."""
        if self._is_broken:
            return
        made = Counter((each.event_id, each.endpoint_id) for each in self.deliveries if each.trigger is DeliveryTrigger.EVENT)
        assert made == Counter((event_id, wanting) for event_id, all_ in self.expected.items() for wanting in all_)
        assert not self.refused & {event_id for _, event_id in self.sender.sent}, "what was refused is not sent"

    @invariant()
    def check_attempts(self):
        """Never two at once of one delivery; all are on record but those that a crash took; never more than the schedule has."""
        assert not self.sender.beside
        if self._is_broken:
            return
        under_way = +self.sender.open
        lost = self.sender.sent - self._recorded() - under_way
        assert lost <= self.unrecorded, "every attempt is on record, but those whose result a crash took"
        for delivery in self.deliveries:
            attempts = self.attempts[delivery.id]
            assert [attempt.number for attempt in attempts] == list(range(1, delivery.attempt_count + 1))
            automatic = [attempt for attempt in attempts if attempt.trigger is AttemptTrigger.AUTOMATIC]
            assert delivery.scheduled_count <= ATTEMPTS
            taken = next((n for n, attempt in enumerate(attempts) if attempt.status == 200), len(attempts))
            assert all(attempt.trigger is AttemptTrigger.MANUAL for attempt in attempts[taken + 1 :]), "what is delivered is done"
            for earlier, later, delay in zip(automatic, automatic[1:], DELAYS, strict=False):
                wait = later.started_at - (earlier.started_at + earlier.duration_ms)
                assert wait >= delay * SECOND, "no attempt before its time"
                if earlier.status == 503:
                    assert wait >= RETRY_AFTER, "Retry-After is heeded"

    @invariant()
    def check_limits(self):
        """No lane has more open requests than its limit, nor the node."""
        assert self.sender.most_open <= 16
        assert all(most <= 4 for most in self.sender.most_open_of.values())

    @invariant()
    def check_endpoints(self):
        """Only three events in a row that failed for good, or a 410, disable an endpoint by themselves."""
        for endpoint in self.endpoints.values() if not self._is_broken else ():
            mine = [each for each in self.deliveries if each.endpoint_id == endpoint.id]
            failed = [each for each in mine if each.state is DeliveryState.FAILED]
            if endpoint.disabled_reason is DisabledReason.FAILURES:
                assert len(failed) >= IN_ROW
            if endpoint.disabled_reason is DisabledReason.GONE:
                assert any(attempt.status == 410 for each in mine for attempt in self.attempts[each.id])
            if endpoint.is_active:
                assert not self._fails_in_row(endpoint, failed), "three events in a row that failed disable an endpoint"
            else:
                assert all(each.state is not DeliveryState.PENDING for each in mine), "what waits is canceled"
                assert not any(self._is_late(attempt, endpoint) for each in mine for attempt in self.attempts[each.id])

    def _fails_in_row(self, endpoint: Endpoint, failed: list[Delivery]) -> bool:
        """Whether the last events have failed, with nothing in between that speaks for the endpoint."""
        since = self.fresh_since.get(endpoint.id, 0)
        ends = sorted(each.finished_at or 0 for each in failed if each.activation == endpoint.activation)[-IN_ROW:]
        if len(ends) < IN_ROW or ends[0] <= since:
            return False
        own = (each for each in self.deliveries if each.endpoint_id == endpoint.id)
        return not any(
            attempt.status == 200 and attempt.started_at >= ends[0] for each in own for attempt in self.attempts[each.id]
        )

    @staticmethod
    def _is_late(attempt: Attempt, endpoint: Endpoint) -> bool:
        """Whether an attempt was made by itself after its endpoint was disabled or deleted."""
        return attempt.trigger is AttemptTrigger.AUTOMATIC and attempt.started_at > (endpoint.deactivated_at or 0)


def bounds(*, examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


@pytest.mark.timeout(600)  # a failure takes minutes to be told in few steps
def test_the_promises_hold_on_the_embedded_store():
    """Whatever happens, in whichever order."""
    with tempfile.TemporaryDirectory() as directory:
        numbers = iter(range(10**6))

        def fresh() -> Promises:
            path = Path(directory) / f"{next(numbers)}.db"
            return Promises(lambda: SqliteStore.open(path))

        run_state_machine_as_test(cast("Any", fresh), settings=bounds(examples=50, steps=40))


@pytest.mark.timeout(600)  # a failure takes minutes to be told in few steps
def test_the_promises_hold_on_postgresql(postgres_server: PostgresServer, template_url: str):
    """The same on the store that nodes share."""
    made: list[str] = []

    def fresh() -> Promises:
        made.append(postgres_server.copy_database(template_url))
        configured = StoreSettings(url=made[-1])
        return Promises(lambda: PostgresStore.open(configured))

    try:
        run_state_machine_as_test(cast("Any", fresh), settings=bounds(examples=8, steps=30))
    finally:
        for url in made:
            postgres_server.drop_database(url)
