"""What results say about endpoints: recorded with them, in one transaction."""

from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.delivery.health import HealthRecorder
from gateway.model import DisabledReason, DueDelivery, Endpoint, Mode, Result, RevisionCause, Verdict
from gateway.registry.endpoints import deleted, disabled, enabled
from gateway.store.protocol import NewEvent
from gateway.store.sqlite import SqliteStore
from tests.fakes import DELIVERED, EXHAUSTED, GONE, START, FakeClock, due, endpoint, event, result, retry_at, tenant

FAILED = EXHAUSTED


class Office:
    """A store, its recorder, and one endpoint."""

    def __init__(self, store: SqliteStore, most: int) -> None:
        self.store = store
        self.clock = FakeClock()
        self.recorder = HealthRecorder(clock=self.clock, disable_after_failed_events=most)
        self.subject = endpoint()

    async def deliveries(self, count: int, to: Endpoint | None = None) -> list[DueDelivery]:
        to = to or self.subject
        made = [due(to, event(tenant=to.tenant)) for _ in range(count)]
        async with self.store.transaction() as transaction:
            await transaction.add_events([NewEvent(each.event, 0) for each in made])
            await transaction.add_deliveries([(to.tenant, each) for each in made])
        return made

    async def add(self, *endpoints: Endpoint) -> None:
        async with self.store.transaction() as transaction:
            for each in endpoints:
                await transaction.add_endpoint(each)

    async def save(self, subject: Endpoint) -> Endpoint:
        async with self.store.transaction() as transaction:
            await transaction.save_endpoint(subject)
        return subject

    async def record(self, *results: Result) -> None:
        async with self.store.transaction() as transaction:
            await self.recorder.record(transaction, results)

    async def ended(self, verdicts: Sequence[Verdict], **fields: Any) -> None:
        """One batch of results of new deliveries, which ended one after another."""
        made = await self.deliveries(len(verdicts))
        results = [
            result(each, self.subject, verdict, ended_at=START + at, **fields)
            for at, (each, verdict) in enumerate(zip(made, verdicts, strict=True))
        ]
        await self.record(*results)

    async def now(self, of: Endpoint | None = None) -> Endpoint:
        async with self.store.transaction() as transaction:
            found = await transaction.endpoint_by_id((of or self.subject).id)
        assert found is not None
        return found


@pytest.fixture
async def office(store: SqliteStore) -> Office:
    made = Office(store, most=3)
    await made.add(made.subject)
    return made


async def test_failures_add_up_over_batches(office: Office):
    """Failures for good are counted from one batch to the next, until the third disables the endpoint."""
    for count in (1, 2):
        await office.ended([FAILED])
        assert (await office.now()).failed_in_row == count
    with capture_logs() as logs:
        await office.ended([FAILED])
    after = await office.now()
    assert (after.is_active, after.disabled_reason, after.disabled_at) == (False, DisabledReason.FAILURES, office.clock.now())
    assert (after.activation, after.failed_in_row) == (1, 3)
    assert [(log["event"], log["reason"], log["log_level"]) for log in logs] == [("endpoint.disabled", "failures", "warning")]


async def test_disabling_writes_a_revision(office: Office):
    """What the gateway does by itself is in the endpoint's history, like what anybody does."""
    await office.ended([FAILED] * 3)
    (revision,) = await office.store.revisions(tenant(), after=0, limit=10)
    assert (revision.cause, revision.actor, revision.is_active) == (RevisionCause.DISABLED, "gateway", False)


async def test_retries_to_come_count_for_nothing(office: Office):
    """An attempt that failed and will be repeated is no failed event."""
    await office.ended([retry_at(START)] * 10)
    assert (await office.now()).failed_in_row == 0


async def test_a_success_starts_over(office: Office):
    """A success sets the count to zero, in a batch of its own or between failures."""
    await office.ended([FAILED, FAILED])
    await office.ended([DELIVERED])
    assert (await office.now()).failed_in_row == 0
    await office.ended([FAILED, FAILED, DELIVERED, FAILED])
    after = await office.now()
    assert (after.is_active, after.failed_in_row) == (True, 1)


async def test_the_order_is_by_the_end_of_the_attempts(office: Office):
    """Failures and successes of a batch are counted in the order in which the attempts ended, not in which they came."""
    made = await office.deliveries(4)
    times = (30, 10, 40, 20)
    verdicts = (FAILED, DELIVERED, FAILED, FAILED)
    await office.record(
        *(
            result(each, office.subject, verdict, ended_at=START + at)
            for each, verdict, at in zip(made, verdicts, times, strict=True)
        )
    )
    after = await office.now()
    assert (after.is_active, after.failed_in_row) == (False, 3)


async def test_zero_turns_it_off(store: SqliteStore):
    """With 0 no number of failures disables an endpoint."""
    office = Office(store, most=0)
    await office.add(office.subject)
    await office.ended([FAILED] * 10)
    assert (await office.now()).is_active


async def test_410_disables_at_once(office: Office):
    """One 410 disables the endpoint, whatever else is in the batch."""
    await office.ended([DELIVERED, GONE, DELIVERED], status=410)
    after = await office.now()
    assert (after.is_active, after.disabled_reason) == (False, DisabledReason.GONE)


async def test_410_of_an_old_url_says_nothing(office: Office):
    """A 410 of the URL that the endpoint had before does not disable it at its new one."""
    await office.ended([GONE], url="https://old.example/")
    after = await office.now()
    assert (after.is_active, after.failed_in_row) == (True, 0)


async def test_failures_of_an_old_url_say_nothing(office: Office):
    """Failures that end after the URL was changed, at the old one, do not count for the new one; successes do."""
    await office.ended([FAILED] * 5, url="https://old.example/")
    assert (await office.now()).failed_in_row == 0
    await office.ended([FAILED])
    await office.ended([DELIVERED], url="https://old.example/")
    assert (await office.now()).failed_in_row == 0


async def test_failures_of_an_earlier_activation_say_nothing(office: Office):
    """Failures that were under way when the endpoint was disabled do not count after it was enabled; a success does."""
    made = await office.deliveries(6)
    on = await office.save(enabled(disabled(office.subject, DisabledReason.USER, START)))
    await office.record(*(result(each, on, FAILED) for each in made[:4]))
    assert (await office.now()).failed_in_row == 0
    fresh = await office.deliveries(1, on)
    await office.record(result(fresh[0], on, FAILED))
    assert (await office.now()).failed_in_row == 1
    await office.record(result(made[4], on, DELIVERED))
    assert (await office.now()).failed_in_row == 0


async def test_a_410_of_an_earlier_activation_disables(office: Office):
    """410 at the current URL says that the endpoint is gone, also for a delivery that was made before it was enabled."""
    made = await office.deliveries(1)
    on = await office.save(enabled(disabled(office.subject, DisabledReason.USER, START)))
    await office.record(result(made[0], on, GONE))
    assert (await office.now()).disabled_reason is DisabledReason.GONE


@pytest.mark.parametrize("verdict", [FAILED, GONE])
async def test_what_is_out_of_service_stays_as_it_is(office: Office, verdict: Verdict):
    """Results for an endpoint that is disabled or deleted already do not disable it again."""
    made = await office.deliveries(6)
    off = await office.save(disabled(office.subject, DisabledReason.USER, START))
    await office.record(*(result(each, off, verdict) for each in made[:3]))
    assert await office.now() == off
    gone = await office.save(deleted(off, START))
    await office.record(*(result(each, off, verdict) for each in made[3:]))
    assert await office.now() == gone


async def test_endpoints_are_judged_by_themselves(office: Office):
    """In one batch each endpoint is judged by its own results."""
    other = endpoint(tenant=tenant(mode=Mode.SANDBOX))
    await office.add(other)
    mine, theirs = await office.deliveries(4), await office.deliveries(2, other)
    await office.record(
        *(result(each, office.subject, FAILED) for each in mine), *(result(each, other, FAILED) for each in theirs)
    )
    assert not (await office.now()).is_active
    assert ((await office.now(other)).is_active, (await office.now(other)).failed_in_row) == (True, 2)


async def test_pauses_are_kept(office: Office):
    """The latest pause that the results of a batch ask for is stored with them."""
    made = await office.deliveries(3)
    until = (START + 5, START + 9, START + 7)
    await office.record(
        *(result(each, office.subject, retry_at(START, pause_until=at)) for each, at in zip(made, until, strict=True))
    )
    assert (await office.now()).paused_until == START + 9
