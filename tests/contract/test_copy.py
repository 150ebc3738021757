"""Moving in: a copy of an embedded store in a PostgreSQL holds all that the one did, however often it was interrupted."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec.structs import asdict, replace

from gateway import ids, settings
from gateway.clock import DAY
from gateway.errors import StoreLocked, StoreUnavailable
from gateway.model import (
    BUCKETS,
    Actor,
    AuditAction,
    AuditEntry,
    DeliveryTrigger,
    FailureNotice,
    IdempotentAnswer,
    Mode,
    Organization,
    Revision,
    RevisionCause,
    Tenant,
    bucket_of,
)
from gateway.store import queries
from gateway.store.copying.copying import Copied, copy
from gateway.store.copying.source import Page, Source
from gateway.store.copying.tables import HISTORY, WORK, Table
from gateway.store.copying.target import CopyRefused, Target
from gateway.store.copying.unfinished import CopyUnfinished, refuse_unfinished
from gateway.store.copying.verification import Checksum, first_difference
from gateway.store.postgres import PostgresStore
from gateway.store.postgres.connection import Database
from gateway.store.postgres.migration import migrate
from gateway.store.protocol import DeliveryFilter, EventFilter, Store
from gateway.store.sqlite import SqliteStore
from tests.contract import acts
from tests.fakes import (
    EXHAUSTED,
    START,
    api_key,
    due,
    endpoint,
    event,
    make_id,
    result,
    retry_at,
    tenant,
)
from tests.pgbouncer import PgBouncer

OTHERS = (tenant(mode=Mode.SANDBOX), tenant("globex"))
TENANTS = (tenant(), *OTHERS)
ANSWER = IdempotentAnswer(b"k" * 32, b"r" * 32, b"\0sealed\xff", START + DAY)
DATA = '{"name": "Größe 東京 🚀",\n "n": 1.0}'.encode()


async def fill(store: Store) -> None:
    """Everything that a store may hold, over three days and three tenants."""
    for number, owner in enumerate(TENANTS):
        at = START + number * DAY
        on = endpoint(tenant=owner, events=("a.b", "c.*"), description="ünï", at=at, paused_until=at + 5)
        off = endpoint(tenant=owner, is_active=False, disabled_at=at, disabled_reason="user", activation=1, deactivated_at=at)
        gone = endpoint(tenant=owner, deleted_at=at, activation=2, deactivated_at=at)
        await acts.add_endpoints(store, on, off, gone)
        await _add_the_rest(store, owner, revision_of(on), f"2026-07-{11 + number}")
        first, retried, done, failed, by_hand = await acts.deliver_to(store, on, 5, at=at)
        passed = (await acts.deliver_to(store, off, at=at, activation=0))[0]
        named = event(tenant=owner, external_id="order-1", data=DATA, at=at)
        untried = due(on, named, trigger=DeliveryTrigger.TEST)
        await acts.add_deliveries(store, untried)
        await acts.record(
            store,
            result(retried, on, retry_at(at + 60_000), status=None, error="timeout", error_message="no answer: \0"),
            result(done, on, response_body=bytes(range(256)), resent=True),
            result(failed, on, EXHAUSTED, response_headers=None, response_body=None),
            result(by_hand, on, EXHAUSTED),
        )
        await acts.retry(store, by_hand, on)
        assert first.activation == passed.activation == 0


async def _add_the_rest(store: Store, owner: Tenant, revision: Revision, version: str) -> None:
    async with store.transaction() as transaction:
        for cause in RevisionCause:
            await transaction.add_revision(replace(revision, cause=cause))
        await transaction.add_key(api_key(tenant=owner, permissions=("webhook:read",)))
        await transaction.add_key(api_key(tenant=None, permissions=()))
        await transaction.add_key(revoked := api_key(tenant=owner, name=None, expires_at=START + DAY))
        await transaction.revoke_key(revoked.id, None, START + 1)
        await transaction.pin_organization(Organization(owner.organization_id, version))
        for of in (owner, None):
            changes = {"url": {"from": "ünï\0", "to": None}}
            entry_id, actor = make_id(ids.AUDIT_ENTRY), Actor(revision.actor, "2001:db8::1" if of else None)
            action = AuditAction.WEBHOOK_UPDATED
            await transaction.add_audit_entry(AuditEntry(entry_id, of, START, actor, action, revision.endpoint_id, changes))
        await transaction.save_answer(replace(ANSWER, key_hash=version.encode().ljust(32, b"\0")))
        await transaction.save_failure_notices([FailureNotice(f"wh_{version}", START, 2, "whdl_1")])


def revision_of(subject: Any) -> Revision:
    return Revision(subject.tenant, 0, subject.id, subject.events, subject.is_active, RevisionCause.CREATED, "key_1", START)


class Watch:
    """Sees how a copy goes, and may end it."""

    def __init__(self, at: Callable[["Watch"], None] = lambda _: None) -> None:
        self._at = at
        self.work = ""
        self.rows = self.done = self.steps = 0

    def began(self, work: str, rows: int, done: int) -> None:
        self.work, self.rows, self.done = work, rows, done
        self._at(self)

    def advanced(self, rows: int) -> None:
        self.done += rows
        self.steps += 1
        self._at(self)

    def ended(self) -> None:
        assert self.done == self.rows


class Stopped(Exception):
    """A copy is ended here."""


@dataclass
class Move:
    """A filled store, and the database that it moves into."""

    path: Path
    target: settings.Store
    log: list[str] = field(default_factory=list)

    async def run(self, watch: Watch | None = None, *, into: type[Target] = Target, page_rows: int = 2) -> Copied:
        async with Source.open(self.path, page_rows=page_rows) as source, into.open(self.target) as target:
            return await copy(source, target, watch or Watch())

    async def sql(self, statement: str, *values: object) -> list[Any]:
        """What a statement finds in the target."""
        connection = await asyncpg.connect(self.target.url)
        try:
            return [tuple(row) for row in await connection.fetch(statement, *values)]
        finally:
            await connection.close()

    def opened(self) -> Any:
        return PostgresStore.open(self.target)


@pytest.fixture
async def move(tmp_path: Path, postgres_url: str) -> Move:
    path = tmp_path / "gateway.db"
    async with SqliteStore.open(path) as store:
        await fill(store)
    return Move(path, settings.Store(url=postgres_url))


async def everything(store: Store) -> dict[str, Any]:
    """All that the reading side of a store shows, and what its lanes would be handed."""
    seen: dict[str, Any] = {
        "organizations": list(await store.organizations()),
        "keys": sorted(await store.all_keys(), key=lambda key: key.id),
        "cursor_key": await store.cursor_key(),
        "unswept": sorted(acts.ids(await store.unswept_endpoints())),
    }
    work = await store.lane_work(range(BUCKETS))
    seen["work"] = sorted((asdict(each) for each in work), key=lambda each: each["endpoint"].id)
    for owner in TENANTS:
        endpoints = (await store.endpoints(owner, below=None, limit=100)).items
        claimed = [await acts.claim(store, each, now=START + 9 * DAY) for each in endpoints]
        events = (await store.events(owner, EventFilter(), below=None, limit=100)).items
        deliveries = (await store.deliveries(owner, DeliveryFilter(), below=None, limit=100)).items
        seen[str(owner)] = {
            "endpoints": list(endpoints),
            "claimed": [(list(each.manual), list(each.retries), list(each.first)) for each in claimed],
            "revisions": list(await store.revisions(owner, after=0, limit=100)),
            "events": [await store.event(owner, each.id) for each in events],
            "named": [
                each.id for each in (await store.events(owner, EventFilter(external_id="order-1"), below=None, limit=9)).items
            ],
            "deliveries": list(deliveries),
            "attempts": [await acts.attempts(store, owner, each.id) for each in deliveries],
        }
        assert len(events) == len(deliveries) == 7
        assert any(each.manual for each in claimed)
        assert any(each.first for each in claimed)
        assert any(each.retries for each in claimed)
    return seen


async def assert_all_there(move: Move) -> None:
    """Both stores show the same, and are used on in the same way."""
    async with SqliteStore.open(move.path) as source, move.opened() as target:
        expected, found = await everything(source), await everything(target)
        for owner in TENANTS:
            # A NUL cannot stand in a PostgreSQL text: what was said of an error has another sign in its place.
            for attempts in expected[str(owner)]["attempts"]:
                attempts[:] = [
                    replace(each, error_message=(each.error_message or "").replace("\0", "\ufffd") or None) for each in attempts
                ]
        assert found == expected
        for version in ("2026-07-11", "2026-07-12", "2026-07-13"):
            key = version.encode().ljust(32, b"\0")
            assert await target.answer(key, START) == await source.answer(key, START) is not None
        assert await interrupted_tests(target) == await interrupted_tests(source) == len(TENANTS)
        for owner in TENANTS:
            revision = await acts.change(target, NextRevision(owner))
            assert revision == await acts.change(source, NextRevision(owner)) == len(RevisionCause) + 1


class NextRevision:
    """See `store.protocol.Change`."""

    def __init__(self, owner: Tenant) -> None:
        self._owner = owner

    async def apply(self, transaction: Any) -> int:
        number: int = await transaction.add_revision(revision_of(endpoint(tenant=self._owner)))
        return number


async def interrupted_tests(store: Store) -> int:
    async with store.transaction() as transaction:
        return await transaction.interrupt_tests(START + 9 * DAY, START)


# All of it


async def test_everything_is_there(move: Move):
    """Whatever the embedded store shows, hands out and counts on from, the PostgreSQL does, too."""
    watch = Watch()
    copied = await move.run(watch)
    assert all(each.is_same for each in copied.comparisons)
    assert copied.ended_at is not None
    assert [each.table for each in copied.comparisons] == [table.name for table in (*HISTORY, *WORK)]
    assert copied.rows == sum(each.target_rows for each in copied.comparisons) > 100
    await assert_all_there(move)


async def test_nothing_changes_in_the_source(move: Move):
    """A copy leaves the embedded store as it was, row by row."""

    async def look() -> dict[str, Any]:
        async with SqliteStore.open(move.path) as store:
            return await everything(store)

    before = await look()
    await move.run()
    assert await look() == before


async def test_an_empty_store_can_be_copied(tmp_path: Path, postgres_url: str):
    """A store without a row comes to a copy without one, which is complete."""
    path = tmp_path / "gateway.db"
    async with SqliteStore.open(path):
        pass
    copied = await Move(path, settings.Store(url=postgres_url)).run()
    assert copied.rows == 0
    assert copied.ended_at is not None


async def test_an_old_source_is_brought_up_to_date(tmp_path: Path, postgres_url: str):
    """A store that lacks migrations gets them first, as it would by any start, and this is told."""
    path = tmp_path / "gateway.db"
    path.touch()
    async with Source.open(path) as source:
        assert source.migrated_from == 0
    async with Source.open(path) as source:
        assert source.migrated_from is None
    assert (await Move(path, settings.Store(url=postgres_url)).run()).ended_at is not None


async def test_a_copy_through_a_pooler(move: Move, pgbouncer: PgBouncer):
    """PgBouncer in transaction mode may stand before the database, with the settings that it needs."""
    direct = move.target.url
    behind = replace(move.target, url=pgbouncer.by_way_of(direct), migrate_url=direct, prepared_statements=False)
    assert (await Move(move.path, behind).run()).ended_at is not None
    await assert_all_there(move)


async def test_waiting_work_is_in_its_bucket(move: Move):
    """What waits is in the bucket of its endpoint, as the nodes reckon it; a test is in none."""
    await move.run()
    rows = await move.sql(
        "SELECT endpoint_id, bucket, trigger FROM due UNION ALL SELECT endpoint_id, bucket, 'event' FROM retries"
    )
    assert {trigger for _, _, trigger in rows} == {"event", "test"}
    assert all(bucket == (None if trigger == "test" else bucket_of(to)) for to, bucket, trigger in rows)


@pytest.mark.parametrize("table", [*HISTORY, *WORK], ids=lambda table: table.name)
async def test_every_column_is_copied(move: Move, table: Table):
    """No column of the schema is forgotten, and none of a table's statement is out of place."""
    await migrate(move.target)
    found = await move.sql("SELECT column_name::text FROM information_schema.columns WHERE table_name = $1", table.name)
    assert {name for (name,) in found} == set(table.columns)
    assert set(table.key) <= set(table.columns)
    selected = queries.load("copying")[table.name]
    async with SqliteStore.open(move.path) as store:
        connection = await store._connection()
        cursor = await connection.execute(selected)
        names = tuple(name for name, *_ in cursor.description)
        await cursor.close()
    assert names == (*table.place, *table.columns)


async def test_no_table_is_forgotten(move: Move):
    """Every table of the schema is copied, or is known to be the cluster's own."""
    await migrate(move.target)
    found = await move.sql(
        "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace"
    )
    own = {"meta", "migrations", "nodes", "leases", "news", "demand", "commits"}
    assert {name for (name,) in found} == own | {table.name for table in (*HISTORY, *WORK)}


# Interrupted


def after(steps: int) -> Watch:
    """Ends the copy after so many steps."""

    def look(watch: Watch) -> None:
        if watch.steps == steps:
            raise Stopped

    return Watch(look)


async def test_a_copy_goes_on_where_it_was_interrupted(move: Move):
    """Interrupted after each of its steps, one run after another, the copy comes to its end, and stores no row twice."""
    done_before = 0
    for _ in range(1_000):
        watch = after(2)
        try:
            await move.run(watch)
        except Stopped:
            if watch.work != "Copying":
                break
            assert watch.done > done_before
            done_before = watch.done
    else:
        raise AssertionError("the copy does not get on")
    assert done_before > 80
    assert (await move.run()).ended_at is not None
    await assert_all_there(move)


@pytest.mark.parametrize("work", ["Verifying", "Waiting work"])
@pytest.mark.parametrize("into", [0.0, 0.4, 0.9])
async def test_a_copy_goes_on_after_its_last_steps_were_interrupted(move: Move, work: str, into: float):
    """Ended while it compares, or while it stores what waits, a copy leaves nothing that could be sent; it goes on."""

    def look(watch: Watch) -> None:
        if watch.work == work and watch.done >= into * watch.rows:
            raise Stopped

    with pytest.raises(Stopped):
        await move.run(Watch(look))
    assert await move.sql("SELECT FROM due UNION ALL SELECT FROM retries") == []
    assert (await move.run()).ended_at is not None
    await assert_all_there(move)


class BreakingTarget(Target):
    """Loses its connection between storing rows and committing them, the third time."""

    appended = 0

    async def add(self, table: Table, records: Any) -> None:
        await super().add(table, records)
        self.appended += 1
        if self.appended == 3:
            self._connection.terminate()


async def test_a_copy_goes_on_after_its_connection_was_lost(move: Move):
    """What was sent and not committed when the connection broke is sent again."""
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await move.run(into=BreakingTarget)
    assert (await move.run()).ended_at is not None
    await assert_all_there(move)


async def test_a_node_does_not_start_on_half_a_copy(move: Move):
    """A store that is being copied into is opened by nobody else, until the copy is complete."""
    with pytest.raises(Stopped):
        await move.run(after(3))
    async with looking(move.target) as session:
        with pytest.raises(CopyUnfinished) as refused:
            await refuse_unfinished(session)
    assert "run the same `gateway copy`" in str(refused.value)
    await move.run()
    async with looking(move.target) as session:
        await refuse_unfinished(session)


@asynccontextmanager
async def looking(configured: settings.Store) -> AsyncIterator[Any]:
    async with Database(configured).pools() as database, database.read() as session:
        yield session


# Refused


async def test_a_held_source_is_refused(move: Move):
    """While a gateway has the store open, it is not copied; while it is copied, no gateway opens it."""
    async with SqliteStore.open(move.path):
        with pytest.raises(StoreLocked):
            await move.run()
    async with Source.open(move.path):
        with pytest.raises(StoreLocked):
            async with SqliteStore.open(move.path):
                pass


async def test_a_missing_source_is_refused(move: Move):
    """No store is made where there is none."""
    with pytest.raises(StoreUnavailable) as refused:
        await replace_path(move, "nowhere.db").run()
    assert "there is no store" in str(refused.value)
    assert not move.path.with_name("nowhere.db").exists()


def replace_path(move: Move, name: str) -> Move:
    return Move(move.path.with_name(name), move.target)


async def test_a_database_in_use_is_refused(move: Move):
    """A database that holds anything of a gateway's is not copied into, and stays as it is."""
    async with move.opened() as store:
        await acts.add_endpoints(store, endpoint())
    with pytest.raises(CopyRefused) as refused:
        await move.run()
    assert "in use" in str(refused.value)
    async with move.opened() as store:
        assert len((await store.endpoints(tenant(), below=None, limit=9)).items) == 1


async def test_a_database_that_was_only_made_is_taken(move: Move):
    """A database on which a gateway was started once, and nothing done, can be copied into; the source's cursors hold."""
    async with move.opened():
        pass
    assert (await move.run()).ended_at is not None
    await assert_all_there(move)


async def test_a_database_with_a_node_is_refused(move: Move):
    """Where a node works nothing is copied into, and the sentence names it."""
    await migrate(move.target)
    await move.sql("INSERT INTO nodes (id, name, version, started_at) VALUES ('node_1', 'tokyo-3', '1', 0)")
    with pytest.raises(CopyRefused) as refused:
        await move.run()
    assert "the node tokyo-3 works on this database" in str(refused.value)
    assert await move.sql("SELECT FROM organizations") == []


class JoinedTarget(Target):
    """A node appears on it while the copy is under way, as one of an older version may."""

    async def append(self, table: Table, page: Page) -> None:
        await super().append(table, page)
        await self._begin()
        await self._session.fetch(
            "INSERT INTO nodes (id, name, version, started_at) VALUES ('node_1', 'tokyo-3', '1', 0) ON CONFLICT DO NOTHING"
        )
        await self._session.end()


async def test_a_node_that_appears_meanwhile_ends_the_copy(move: Move):
    """A copy does not go on beside a node; once that has gone it does."""
    with pytest.raises(CopyRefused) as refused:
        await move.run(into=JoinedTarget)
    assert "tokyo-3" in str(refused.value)
    await move.sql("DELETE FROM nodes")
    assert (await move.run()).ended_at is not None


async def test_of_two_copies_at_once_one_gives_way(move: Move):
    """A twin of the file, which nobody's lock keeps apart, does not get its rows in beside those of the other copy."""
    organizations, tenants = HISTORY[:2]
    async with Source.open(move.path) as source, Target.open(move.target) as one, Target.open(move.target) as other:
        assert await one.begin(await source.identity()) == await other.begin(await source.identity())
        for table in (organizations, tenants):
            async for page in source.in_order_of_age(table, after=table.start):
                if table is organizations:
                    await one.append(table, page)
                    continue
                with pytest.raises(CopyRefused) as refused:
                    await other.append(table, page)
                assert "another copy" in str(refused.value)
    assert await move.sql("SELECT FROM tenants") == []


async def test_half_a_copy_of_another_store_is_refused(move: Move):
    """A copy goes on from the store that it was begun from, and from no other, wherever that lies."""
    with pytest.raises(Stopped):
        await move.run(after(3))
    other = replace_path(move, "other.db")
    async with SqliteStore.open(other.path):
        pass
    with pytest.raises(CopyRefused) as refused:
        await other.run()
    assert "another store" in str(refused.value)
    moved = Move(move.path.rename(move.path.with_name("moved.db")), move.target)
    assert (await moved.run()).ended_at is not None


async def test_a_store_that_was_used_meanwhile_is_refused(move: Move):
    """When a gateway has worked on the store since its copy began, what is there is out of date, and the sentence says so."""
    with pytest.raises(Stopped):
        await move.run(after(3))
    async with SqliteStore.open(move.path) as store:
        await acts.add_endpoints(store, endpoint())
    with pytest.raises(CopyRefused) as refused:
        await move.run()
    assert "has been used since" in str(refused.value)


async def test_a_complete_copy_is_not_made_again(move: Move):
    """Run once more after its end, the copy does nothing and says when it ended, whatever was done on the database since."""
    first = await move.run()
    async with move.opened() as store:
        await acts.add_endpoints(store, endpoint())
    again = await move.run()
    assert (again.comparisons, again.ended_at) == ((), first.ended_at)


async def test_a_row_that_the_database_does_not_take_is_named(move: Move):
    """A value that only the embedded store holds ends the copy with the table and the keys between which it is."""
    async with SqliteStore.open(move.path) as store:
        connection = await store._connection()
        await connection.execute("UPDATE deliveries SET event_type = 'a' || char(0) || 'b'")
    with pytest.raises(CopyRefused) as refused:
        await move.run()
    assert "deliveries does not take a row between ('acme', 'live', 'whdl_" in str(refused.value)


# Verified


@dataclass
class Change:
    """Something that happens to a stored row before it is read back, and what is found."""

    statement: str
    table: str
    difference: int  # rows more in the target


@pytest.mark.parametrize(
    "change",
    [
        Change("UPDATE attempts SET response_body = '\\x00' WHERE ctid IN (SELECT ctid FROM attempts LIMIT 1)", "attempts", 0),
        Change("DELETE FROM events WHERE id = (SELECT min(id) FROM events)", "events", -1),
        Change("INSERT INTO tenants VALUES ('zzz', 'live', 1)", "tenants", 1),
        Change(
            "UPDATE endpoints SET description = NULL WHERE id = (SELECT max(id) FROM endpoints WHERE description > '')",
            "endpoints",
            0,
        ),
    ],
    ids=lambda change: change.table,
)
async def test_a_difference_is_found(move: Move, change: Change):
    """A row that is read back otherwise, not at all, or that nobody stored is found, with its table and key. Nothing of
    what waits is stored then, and the database stays closed."""

    class ChangedTarget(Target):
        async def analyze(self) -> None:
            await super().analyze()
            await self._begin()
            await self._session.fetch(change.statement)
            await self._session.end()

    copied = await move.run(into=ChangedTarget)
    assert copied.ended_at is None
    (found,) = [each for each in copied.comparisons if not each.is_same]
    assert found.table == change.table
    assert found.target_rows - found.source_rows == change.difference
    assert found.source_checksum != found.target_checksum
    table = next(table for table in HISTORY if table.name == change.table)
    assert found.first_difference is not None
    assert len(found.first_difference) == len(table.key)
    assert await move.sql("SELECT FROM due") == []
    async with looking(move.target) as session:
        with pytest.raises(CopyUnfinished):
            await refuse_unfinished(session)


TABLE = Table("t", ("id", "x"), ("id",))


@pytest.mark.parametrize(
    ("expected", "found", "key"),
    [
        ([("a", 1), ("b", 2)], [("a", 1), ("b", 2)], None),
        ([("a", 1), ("b", 2)], [("a", 1), ("b", 3)], ("b",)),
        ([("a", 1), ("b", 2)], [("b", 2), ("c", 3)], ("a",)),
        ([("b", 2)], [("a", 1), ("b", 2)], ("a",)),
        ([("a", 1), ("b", 2)], [("a", 1)], ("b",)),
        ([], [("c", 3)], ("c",)),
    ],
)
def test_the_first_difference(expected, found, key):
    """The lowest key whose row is not the same, or is in one of the two only."""
    assert first_difference(TABLE, expected, found) == key


def test_a_checksum_does_not_depend_on_pages():
    """Rows have one checksum however they are cut into pages, and another in any other order, or with another value."""
    rows = [("a", 1, None, b"x", True, ["y"]), ("b", 2, "z", b"", False, [])]

    def checksum(*pages: list[Any]) -> str:
        made = Checksum()
        for page in pages:
            made.add(page)
        return made.text

    assert checksum(rows) == checksum(rows[:1], [], rows[1:])
    different: list[list[Any]] = [
        rows[::-1],
        rows[:1],
        [rows[0], ("b", 2, "z", "", False, [])],
        [rows[0], ("b", 2, "z", b"", 0, [])],
    ]
    assert len({checksum(rows), *(checksum(other) for other in different)}) == 5


async def test_pages_are_bounded_by_bytes(move: Move):
    """A page ends with the row that passes its bytes, so that large events do not fill the memory."""
    events = next(table for table in HISTORY if table.name == "events")
    async with Source.open(move.path, page_bytes=50) as source:
        pages = [page async for page in source.in_order_of_age(events, after=events.start)]
        assert [len(page.records) for page in pages] == [1] * await source.count(events)
        later = [page async for page in source.in_order_of_age(events, after=pages[4].place)]
        assert later == pages[5:]
