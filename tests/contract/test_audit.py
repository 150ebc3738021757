"""An audit of either store: what is whole is never told of, and each kind of damage is, by its name."""

import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway import ids, settings
from gateway.audit.audit import Audit, Totals, span_of
from gateway.audit.finding import Finding, Kind
from gateway.clock import DAY, HOUR, SECOND, Timestamp
from gateway.delivery.endpoint_test import EVENT_TYPE, MakeTest, RecordTest
from gateway.delivery.manual_retry import QueueRetry
from gateway.errors import SchemaMismatch, StoreUnavailable
from gateway.ids import IdMaker
from gateway.model import AttemptError, DeliveryState, DeliveryTrigger, DueDelivery, Endpoint, Reason, Tenant, Verdict
from gateway.publishing.event_queue import Publication
from gateway.publishing.fan_out import FanOut
from gateway.registry.endpoints import CreateEndpoint, DeleteEndpoint, EndpointPatch, UpdateEndpoint
from gateway.store.postgres.record import PostgresRecord
from gateway.store.protocol import Store
from gateway.store.record import Record
from gateway.store.sqlite import SqliteStore
from gateway.store.sqlite.record import SqliteRecord
from tests.contract.acts import change, record, sweep
from tests.fakes import ACTOR, API_VERSION, EXHAUSTED, GONE, START, FakeClock, endpoint, event, make_id, result, retry_at, tenant
from tests.postgres import PostgresServer

RETENTION_DAYS = 30
CUT_OFF = Verdict(DeliveryState.PENDING, counts=False)
BY_HAND = Verdict(DeliveryState.DELIVERED, counts=False)
TEST_FAILED = Verdict(DeliveryState.FAILED, Reason.TEST_FAILED)


class Life:
    """A store in use: what a gateway does to it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = FakeClock()
        self.ids = IdMaker(self.clock)
        self.fan_out = FanOut(ids=self.ids, current_version=API_VERSION)

    async def make(self, *events: str, of: Tenant | None = None) -> Endpoint:
        """A new endpoint that wants *events*."""
        made = endpoint(tenant=of or tenant(), events=events, at=self.clock.now())
        return await self._known(CreateEndpoint(made, ACTOR, 100))

    async def update(self, subject: Endpoint, **patch: Any) -> Endpoint:
        return await self._known(UpdateEndpoint(subject.tenant, subject.id, EndpointPatch(**patch), ACTOR, self.clock.now()))

    async def delete(self, subject: Endpoint) -> Endpoint:
        return await self._known(DeleteEndpoint(subject.tenant, subject.id, ACTOR, self.clock.now()))

    async def _known(self, what: Any) -> Endpoint:
        async with self.store.transaction() as transaction:
            made: Endpoint = await what.apply(transaction)
        self.fan_out.committed(await self._nothing(), transaction.effects)
        return made

    async def _nothing(self) -> Any:
        async with self.store.transaction() as transaction:
            return await self.fan_out.store(transaction, [])

    async def publish(self, event_type: str = "invoice.paid", of: Tenant | None = None, **fields: Any) -> list[DueDelivery]:
        """The deliveries of a new event."""
        event_id, at = self.ids.next_with_time(ids.EVENT)
        published = event(id=event_id, at=at, type=event_type, tenant=of or tenant(), **fields)
        async with self.store.transaction() as transaction:
            made = await self.fan_out.store(transaction, [(Publication([published], None), 0)])
        self.fan_out.committed(made, transaction.effects)
        return [due for _, due in made.fresh]

    async def attempt(self, due: DueDelivery, to: Endpoint, verdict: Verdict, **fields: Any) -> DueDelivery:
        """An attempt of *due*; the delivery as it is handed out for the next one."""
        await record(self.store, result(due, to, verdict, **fields))
        counts = int(verdict.counts)
        return replace(due, attempt_count=due.attempt_count + 1, scheduled_count=due.scheduled_count + counts, retry_id=None)

    async def test(self, to: Endpoint, verdict: Verdict | None) -> DueDelivery:
        """A test of *to*; under way when there is no *verdict*."""
        due = DueDelivery(
            id=self.ids.next(ids.DELIVERY),
            endpoint_id=to.id,
            event=event(id=self.ids.next(ids.EVENT), type=EVENT_TYPE, tenant=to.tenant),
            api_version=API_VERSION,
            activation=to.activation,
            attempt_count=0,
            scheduled_count=0,
            due_at=START,
            created_at=START,
            trigger=DeliveryTrigger.TEST,
        )
        await change(self.store, MakeTest(due, to))
        if verdict is not None:
            await change(self.store, RecordTest(result(due, to, verdict)))
        return due

    async def retry(self, due: DueDelivery, to: Endpoint) -> DueDelivery:
        """*due* as it is handed out for a retry by hand that was asked for."""
        retry_id = make_id(ids.RETRY)
        await change(self.store, QueueRetry(retry_id, to.tenant, due.id, ACTOR, self.clock.now()))
        return replace(due, retry_id=retry_id)


OpenRecord = Callable[[], AbstractAsyncContextManager[Record]]
Damage = Callable[[str], None]


@pytest.fixture
async def life(store: Store) -> Life:
    return Life(store)


@pytest.fixture
def open_record(store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> OpenRecord:
    """Opens the record beside the store."""
    if isinstance(store, SqliteStore):
        return lambda: SqliteRecord.open(tmp_path / "gateway.db")
    configured = settings.Store(url=request.getfixturevalue("migrated_url"))
    return lambda: PostgresRecord.open(configured)


@pytest.fixture
def damage(store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> Damage:
    """Runs SQL behind the gateway's back."""
    if isinstance(store, SqliteStore):

        def run(sql: str) -> None:
            with contextlib.closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as connection:
                assert connection.execute(sql).rowcount == 1, sql

        return run
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url: str = request.getfixturevalue("migrated_url")
    return lambda sql: _run_on_server(server, url, sql)


def _run_on_server(server: PostgresServer, url: str, sql: str) -> None:
    assert server.run_sql(url, f"WITH damage AS ({sql} RETURNING 1) SELECT count(*) FROM damage") == "1", sql


async def audited(
    open_record: OpenRecord,
    *,
    now: Timestamp = START + HOUR,
    since: Timestamp | None = None,
    until: Timestamp | None = None,
    organization_id: str | None = None,
) -> tuple[list[Finding], Totals]:
    """What an audit finds at *now*, and what it looked at."""
    findings: list[Finding] = []
    async with open_record() as opened:
        span = span_of(now, retention_days=RETENTION_DAYS, since=since, until=until)
        audit = Audit(opened, span, findings.append, organization_id=organization_id)
        await audit.run()
    return findings, audit.totals


async def found(open_record: OpenRecord, **options: Any) -> list[tuple[Kind, str]]:
    findings, _ = await audited(open_record, **options)
    return [(finding.kind, finding.id) for finding in findings]


# What is whole


async def test_an_empty_store_is_whole(open_record: OpenRecord):
    """There is nothing to tell of it."""
    assert await audited(open_record) == ([], Totals())


async def test_a_store_in_varied_use_is_whole(life: Life, open_record: OpenRecord):
    """Attempts of every kind of end, tests, retries by hand, endpoints that are changed, disabled, enabled and deleted: all of it
    is as it has to be, at each step."""
    everything, invoices = await life.make("*"), await life.make("invoice.*", "customer.created")
    exact = await life.make("invoice.paid", of=tenant("globex"))
    one, other = await life.publish()
    await life.publish("invoice.paid", tenant("globex"))
    await life.publish("nobody.knows", tenant("globex"))
    await life.publish(external_id="an external id")
    assert await found(open_record) == []

    # Delivered at the third attempt, one of them cut off; then once more by hand, in vain.
    one = await life.attempt(one, everything, retry_at(START + SECOND), error=AttemptError.TIMEOUT, status=None)
    one = await life.attempt(one, everything, CUT_OFF, error=AttemptError.INTERRUPTED, status=None)
    assert await found(open_record) == []
    one = await life.attempt(one, everything, Verdict(DeliveryState.DELIVERED))
    by_hand = await life.retry(one, everything)
    assert await found(open_record) == []
    await life.attempt(by_hand, everything, CUT_OFF, status=500)
    # Failed for good; then delivered by hand.
    other = await life.attempt(other, invoices, EXHAUSTED)
    assert await found(open_record) == []
    await life.attempt(await life.retry(other, invoices), invoices, BY_HAND)
    # An endpoint that is gone, tests of every end.
    (gone,) = [due for due in await life.publish("customer.deleted") if due.endpoint_id == everything.id]
    await life.attempt(gone, everything, GONE, status=410)
    for verdict in (Verdict(DeliveryState.DELIVERED), TEST_FAILED, None):
        await life.test(exact, verdict)
    assert await found(open_record) == []
    async with life.store.transaction() as transaction:
        assert await transaction.interrupt_tests(START + 1, START + HOUR) == 1
    assert await found(open_record) == []

    # Changes of endpoints: each event keeps to those of its time.
    invoices = await life.update(invoices, events=("customer.*",))
    waiting, *_ = await life.publish("customer.created")
    everything = await life.update(everything, is_active=False)
    await life.publish("customer.created")
    assert await found(open_record) == [], "canceled by definition"
    await sweep(life.store, everything)
    assert await found(open_record) == [], "canceled in the store"
    everything = await life.update(everything, is_active=True)
    await life.publish("customer.created")
    await life.attempt(await life.retry(waiting, everything), everything, BY_HAND)
    invoices = await life.delete(invoices)
    await life.publish("customer.created")
    await sweep(life.store, invoices)
    findings, totals = await audited(open_record)
    assert findings == []
    assert (totals.tenants, totals.revisions, totals.events) == (2, 7, 12)
    assert totals.deliveries > 12
    assert totals.attempts > 9


async def test_what_expires_and_is_pruned_is_whole(life: Life, open_record: OpenRecord):
    """Deliveries that expire, and history that is pruned in part: nothing of that is told."""
    subject = await life.make("*")
    for day in range(5):
        life.clock.set_wall(START + day * DAY)
        await life.publish(external_id=f"day {day}")
        if day % 2:
            await life.test(subject, None)
    now = START + 3 * DAY + RETENTION_DAYS * DAY
    async with life.store.transaction() as transaction:
        while await transaction.expire(now - RETENTION_DAYS * DAY, now, limit=10):
            pass
    assert await found(open_record, now=START + 5 * DAY) == []
    async with life.store.transaction() as transaction:
        await transaction.prune(now - RETENTION_DAYS * DAY - HOUR, limit=1)
    assert await found(open_record, now=now) == []
    _, totals = await audited(open_record, now=now)
    assert totals.events == 3, "those of the last two days, and the test"


async def test_deliveries_of_events_that_are_no_longer_kept(life: Life, open_record: OpenRecord, damage: Damage):
    """A delivery may be kept for longer than its event, as one of a replay is: that is no finding while the event is old enough
    to be gone, and one otherwise."""
    await life.make("*")
    (due,) = await life.publish()
    later = ids.floor(ids.DELIVERY, START + DAY) + "0" * 16
    async with life.store.transaction() as transaction:
        replayed = replace(due, id=later, trigger=DeliveryTrigger.REPLAY)
        await transaction.add_deliveries([(due.event.tenant, replayed)])
    damage(f"DELETE FROM deliveries WHERE id = '{due.id}'")
    damage(f"DELETE FROM events WHERE id = '{due.event.id}'")
    assert await found(open_record, now=START + DAY, since=START + HOUR) == []
    assert (Kind.EVENT_MISSING, later) in await found(open_record, now=START + DAY)
    assert await found(open_record, now=START + RETENTION_DAYS * DAY + HOUR) == []


async def test_an_audit_of_a_part(life: Life, open_record: OpenRecord, damage: Damage):
    """One organization, or a span of time: what lies outside of it is not looked at."""
    await life.make("*")
    await life.make("*", of=tenant("globex"))
    (early,) = await life.publish()
    life.clock.set_wall(START + 10 * SECOND)
    (late,) = await life.publish(of=tenant("globex"))
    for due in (early, late):
        damage(f"UPDATE deliveries SET attempt_count = 3 WHERE id = '{due.id}'")
    assert {subject for _, subject in await found(open_record)} == {early.id, late.id}
    assert {subject for _, subject in await found(open_record, organization_id="acme")} == {early.id}
    assert {subject for _, subject in await found(open_record, organization_id="nobody")} == set()
    assert {subject for _, subject in await found(open_record, since=START + SECOND)} == {late.id}
    assert {subject for _, subject in await found(open_record, until=START + SECOND)} == {early.id}


# What is not


Make = Callable[[Life], Awaitable[tuple[str, str]]]
"""Something in a store, the SQL that damages it, and the id that is then told."""


async def _event_and_delivery(life: Life) -> tuple[Endpoint, DueDelivery]:
    subject = await life.make("*")
    (due,) = await life.publish(external_id="an external id")
    return subject, due


def _of_delivery(changes: str) -> Make:
    async def make(life: Life) -> tuple[str, str]:
        _, due = await _event_and_delivery(life)
        return f"UPDATE deliveries SET {changes} WHERE id = '{due.id}'", due.id

    return make


def _of_delivered(sql: str) -> Make:
    """*sql* may name the delivery, `{id}`, which is delivered at its second attempt."""

    async def make(life: Life) -> tuple[str, str]:
        subject, due = await _event_and_delivery(life)
        later = await life.attempt(due, subject, retry_at(START + SECOND))
        await life.attempt(later, subject, Verdict(DeliveryState.DELIVERED))
        return sql.format(id=due.id), due.id

    return make


async def _lost_delivery(life: Life) -> tuple[str, str]:
    _, due = await _event_and_delivery(life)
    return f"DELETE FROM deliveries WHERE id = '{due.id}'", due.event.id


def _copy_of(due: DueDelivery, *, to: Endpoint) -> str:
    same = 'organization_id, mode, event_id, event_type, state, "trigger", activation, api_version, due_at, created_at'
    values = f"'{make_id(ids.DELIVERY)}', '{to.id}', {same}"
    return f"INSERT INTO deliveries (id, endpoint_id, {same}) SELECT {values} FROM deliveries WHERE id = '{due.id}'"


async def _delivery_to_another(life: Life) -> tuple[str, str]:
    other = await life.make("customer.*")
    _, due = await _event_and_delivery(life)
    return _copy_of(due, to=other), due.event.id


async def _delivery_twice(life: Life) -> tuple[str, str]:
    subject, due = await _event_and_delivery(life)
    return _copy_of(due, to=subject), due.event.id


async def _lost_event(life: Life) -> tuple[str, str]:
    _, due = await _event_and_delivery(life)
    return f"DELETE FROM events WHERE id = '{due.event.id}'", due.id


async def _lost_endpoint(life: Life) -> tuple[str, str]:
    subject, _ = await _event_and_delivery(life)
    return f"DELETE FROM endpoints WHERE id = '{subject.id}'", subject.id


async def _changed_endpoint(life: Life) -> tuple[str, str]:
    subject, _ = await _event_and_delivery(life)
    return f"UPDATE endpoints SET is_active = NOT is_active WHERE id = '{subject.id}'", subject.id


async def _lost_revision(life: Life) -> tuple[str, str]:
    subject, _ = await _event_and_delivery(life)
    await life.update(subject, events=("customer.*",))
    return "DELETE FROM revisions WHERE number = 1", "1"


async def _lost_last_revision(life: Life) -> tuple[str, str]:
    subject, _ = await _event_and_delivery(life)
    await life.update(subject, events=("*", "invoice.paid"))
    await life.publish()
    return "DELETE FROM revisions WHERE number = 2", "2"


async def _retry_of_nothing(life: Life) -> tuple[str, str]:
    subject, due = await _event_and_delivery(life)
    by_hand = await life.retry(due, subject)
    assert by_hand.retry_id is not None
    return f"UPDATE retries SET delivery_id = '{make_id(ids.DELIVERY)}'", by_hand.retry_id


DAMAGES: list[tuple[Kind, Make]] = [
    (Kind.DELIVERY_MISSING, _lost_delivery),
    (Kind.DELIVERY_SURPLUS, _delivery_to_another),
    (Kind.DELIVERY_DOUBLED, _delivery_twice),
    (Kind.EVENT_MISSING, _lost_event),
    (Kind.ENDPOINT_MISSING, _lost_endpoint),
    (Kind.ENDPOINT_DIFFERS, _changed_endpoint),
    (Kind.REVISION_MISSING, _lost_revision),
    (Kind.REVISION_MISSING, _lost_last_revision),
    (Kind.STATE_UNLAWFUL, _of_delivery("due_at = NULL")),
    (Kind.STATE_UNLAWFUL, _of_delivery("finished_at = 5")),
    (Kind.STATE_UNLAWFUL, _of_delivery("reason = 'expired'")),
    (Kind.STATE_UNLAWFUL, _of_delivery("activation = 7")),
    (Kind.STATE_UNLAWFUL, _of_delivered("UPDATE deliveries SET finished_at = NULL WHERE id = '{id}'")),
    (Kind.STATE_UNLAWFUL, _of_delivered("UPDATE deliveries SET last_status = 500 WHERE id = '{id}'")),
    (Kind.STATE_UNLAWFUL, _of_delivered("UPDATE deliveries SET state = 'canceled' WHERE id = '{id}'")),
    (Kind.STATE_UNLAWFUL, _of_delivered("UPDATE attempts SET status = 500 WHERE delivery_id = '{id}' AND number = 2")),
    (Kind.COUNT_WRONG, _of_delivered("UPDATE deliveries SET attempt_count = 1 WHERE id = '{id}'")),
    (Kind.COUNT_WRONG, _of_delivered("UPDATE deliveries SET scheduled_count = 1 WHERE id = '{id}'")),
    (Kind.ATTEMPT_MISSING, _of_delivered("UPDATE attempts SET number = 7 WHERE delivery_id = '{id}' AND number = 2")),
    (Kind.ATTEMPT_MISSING, _of_delivered("DELETE FROM attempts WHERE delivery_id = '{id}' AND number = 1")),
    (Kind.DELIVERY_OF_ATTEMPT_MISSING, _of_delivered("DELETE FROM deliveries WHERE id = '{id}'")),
    (Kind.DELIVERY_OF_RETRY_MISSING, _retry_of_nothing),
]


@pytest.mark.parametrize(("kind", "make"), DAMAGES, ids=[f"{number}-{kind.word}" for number, (kind, _) in enumerate(DAMAGES)])
async def test_damage_is_found_by_name(life: Life, open_record: OpenRecord, damage: Damage, kind: Kind, make: Make):
    """Each kind of damage is told of, with the id of what is damaged."""
    sql, subject = await make(life)
    assert await found(open_record) == []
    damage(sql)
    assert (kind, subject) in await found(open_record)


REASONS = [
    ("failed", "attempts_exhausted", "no attempt of a schedule was made"),
    ("failed", "endpoint_gone", "no attempt was answered 410"),
    ("failed", "test_failed", "no test was made"),
    ("failed", "interrupted", "only a test"),
    ("failed", "no_reason_at_all", "its reason is no_reason_at_all"),
    ("canceled", "endpoint_disabled", "neither disabled nor deleted"),
    ("canceled", "endpoint_deleted", "its endpoint is not deleted"),
    ("delivered", None, "no attempt was answered 2xx"),
]


@pytest.mark.parametrize(("state", "reason", "words"), REASONS)
async def test_a_state_that_nothing_led_to(
    life: Life, open_record: OpenRecord, damage: Damage, state: str, reason: str | None, words: str
):
    """A delivery that ended without what ends one is told of, and the finding says what is lacking."""
    _, due = await _event_and_delivery(life)
    stored = "NULL" if reason is None else f"'{reason}'"
    failed = f", is_failed = {state == 'failed'}" if not isinstance(life.store, SqliteStore) else ""
    damage(
        f"UPDATE deliveries SET state = '{state}', reason = {stored}, due_at = NULL, finished_at = {START}{failed} "
        f"WHERE id = '{due.id}'"
    )
    findings, _ = await audited(open_record)
    (told,) = [finding for finding in findings if finding.kind is Kind.STATE_UNLAWFUL]
    assert told.id == due.id
    assert words in told.sentence


async def test_a_delivery_that_would_wait_for_ever(life: Life, open_record: OpenRecord, damage: Damage):
    """One that waits for an endpoint that takes nothing, under its present activation."""
    subject, due = await _event_and_delivery(life)
    stopped = await life.update(subject, is_active=False)
    assert await found(open_record) == []
    damage(f"UPDATE deliveries SET activation = {stopped.activation} WHERE id = '{due.id}'")
    assert (Kind.STATE_UNLAWFUL, due.id) in await found(open_record)


QUEUE_DAMAGES: list[tuple[Kind, str]] = [
    (Kind.QUEUE_LACKS_DELIVERY, "DELETE FROM due WHERE delivery_id = '{id}'"),
    (Kind.QUEUE_LACKS_DELIVERY, "UPDATE due SET due_at = due_at + 1 WHERE delivery_id = '{id}'"),
    (Kind.QUEUE_LACKS_DELIVERY, "UPDATE due SET bucket = (bucket + 1) % 64 WHERE delivery_id = '{id}'"),
    (
        Kind.DELIVERY_OF_QUEUE_MISSING,
        "UPDATE deliveries SET state = 'canceled', reason = 'endpoint_disabled', due_at = NULL WHERE id = '{id}'",
    ),
    (Kind.EXTERNAL_ID_ASTRAY, "DELETE FROM external_ids WHERE external_id = 'an external id'"),
    (Kind.EXTERNAL_ID_ASTRAY, "UPDATE external_ids SET event_id = event_id || 'x'"),
]


@pytest.mark.parametrize("open_store", ["postgres"], indirect=True)
@pytest.mark.parametrize(("kind", "sql"), QUEUE_DAMAGES)
async def test_damage_of_what_only_the_shared_store_has(
    life: Life, open_record: OpenRecord, damage: Damage, kind: Kind, sql: str
):
    """Its queue of due work and its table of external ids agree with the deliveries and events."""
    _, due = await _event_and_delivery(life)
    assert await found(open_record) == []
    damage(sql.format(id=due.id))
    assert kind in {told for told, _ in await found(open_record)}


@pytest.mark.parametrize("open_store", ["postgres"], indirect=True)
async def test_a_fenced_attempt_moves_nothing(life: Life, open_record: OpenRecord, damage: Damage):
    """What a node did without its lease is on record beside what counts; were it to count, that would be told."""
    subject, due = await _event_and_delivery(life)
    await record(life.store, replace(result(due, subject), epoch=99))
    assert await found(open_record) == []
    await life.attempt(due, subject, EXHAUSTED)
    assert await found(open_record) == []
    damage(f"UPDATE attempts SET fenced = false, number = 2 WHERE delivery_id = '{due.id}' AND fenced")
    assert {kind for kind, _ in await found(open_record)} == {Kind.STATE_UNLAWFUL, Kind.COUNT_WRONG}


# Opening


async def test_a_record_that_is_not_there(tmp_path: Path):
    """No store is made by looking for one."""
    with pytest.raises(StoreUnavailable, match="there is no store"):
        await SqliteRecord.open(tmp_path / "gateway.db").__aenter__()
    assert not (tmp_path / "gateway.db").exists()


async def test_a_record_of_something_else(tmp_path: Path):
    """Another program's database is refused, and so is one that has not been brought up to date."""
    path = tmp_path / "gateway.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE something (id)")
        with pytest.raises(SchemaMismatch, match="is no store"):
            await SqliteRecord.open(path).__aenter__()
        connection.execute("CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT, checksum TEXT)")
        with pytest.raises(SchemaMismatch, match="lacks"):
            await SqliteRecord.open(path).__aenter__()


async def test_a_record_without_a_gateway(tmp_path: Path):
    """It is read as well when nobody has the store open, and a gateway can be started meanwhile."""
    path = tmp_path / "gateway.db"
    async with SqliteStore.open(path) as store:
        await _event_and_delivery(Life(store))
    async with SqliteRecord.open(path) as opened, SqliteStore.open(path) as store:
        life = Life(store)
        await life.publish()
        audit = Audit(opened, span_of(START, retention_days=1, since=None, until=None), lambda finding: pytest.fail(str(finding)))
        await audit.run()
    assert audit.totals.events == 2
