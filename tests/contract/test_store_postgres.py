"""What only the shared store promises: transactions side by side, fencing, commits whose end is in doubt, days of history,
migrations that run once, and plans that follow an index."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from gateway import ids, settings
from gateway.clock import DAY
from gateway.errors import SchemaMismatch, StoreUnavailable, TooManyEndpoints, TransactionConflict
from gateway.model import (
    BUCKETS,
    AcceptedEvent,
    DeliveryState,
    DeliveryTrigger,
    DisabledReason,
    Endpoint,
    Node,
    Organization,
    Result,
    Revision,
    RevisionCause,
    bucket_of,
)
from gateway.registry.endpoints import CreateEndpoint, disabled
from gateway.store.migrate import available
from gateway.store.postgres import PostgresStore, inspect, migrate
from gateway.store.postgres.bundle import Bundler
from gateway.store.postgres.claims import claim_statement
from gateway.store.postgres.cluster import mask_of
from gateway.store.postgres.connection import Database, compiled, load_statements
from gateway.store.postgres.days import day_of, whole_days
from gateway.store.protocol import DeliveryFilter, NewEvent, Store
from tests.contract.acts import (
    add_deliveries,
    add_endpoints,
    attempts,
    change,
    claim,
    deliver_to,
    is_waiting,
    look_up,
    record,
    retry,
    save_endpoint,
)
from tests.fakes import ACTOR, EXHAUSTED, PATIENCE_SECONDS, START, due, endpoint, event, make_id, result, retry_at, tenant
from tests.postgres import PostgresServer
from tests.tcp_proxy import TcpProxy

SQL = load_statements()


@pytest.fixture
def empty(postgres_url: str) -> settings.Store:
    """A database that nobody has migrated."""
    return settings.Store(url=postgres_url)


@pytest.fixture
def configured(migrated_url: str) -> settings.Store:
    return settings.Store(url=migrated_url)


@pytest.fixture
async def one(configured: settings.Store) -> AsyncIterator[PostgresStore]:
    async with PostgresStore.open(configured) as store:
        yield store


@pytest.fixture
async def other(configured: settings.Store, one: PostgresStore) -> AsyncIterator[PostgresStore]:
    async with PostgresStore.open(configured) as store:
        yield store


@pytest.fixture
async def raw(migrated_url: str, one: PostgresStore) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own."""
    connection = await asyncpg.connect(migrated_url)
    yield connection
    await connection.close()


# Opening


async def test_migrations_run_once(empty: settings.Store):
    """Many that open an empty database at once all succeed, and find one schema with one cursor key."""
    async with AsyncExitStack() as stack:
        stores = await asyncio.gather(*(stack.enter_async_context(PostgresStore.open(empty)) for _ in range(5)))
        assert len({await store.cursor_key() for store in stores}) == 1
    assert await migrate(empty) == 0


async def test_a_look_at_the_store(empty: settings.Store, postgres_server: PostgresServer):
    """An empty database is seen as empty, and left so; a migrated one tells its last migration."""
    before = await inspect(empty)
    assert (before.migration, before.pending) == (0, len(available("postgres")))
    assert before.server_version.startswith(str(postgres_server.version))
    assert await migrate(empty) == len(available("postgres"))
    after = await inspect(empty)
    assert (after.migration, after.pending) == (len(available("postgres")), 0)


async def test_a_newer_schema_is_refused(empty: settings.Store, postgres_url: str, postgres_server: PostgresServer):
    """A database that a newer version has migrated is refused."""
    await migrate(empty)
    postgres_server.run_sql(postgres_url, "INSERT INTO migrations VALUES (99, 'later', 'x')")
    with pytest.raises(SchemaMismatch, match="migration 99"):
        await PostgresStore.open(empty).__aenter__()


async def test_a_changed_migration_is_refused(empty: settings.Store, postgres_url: str, postgres_server: PostgresServer):
    """A database whose migrations are not the ones of this version is refused."""
    await migrate(empty)
    postgres_server.run_sql(postgres_url, "UPDATE migrations SET checksum = 'x'")
    with pytest.raises(SchemaMismatch, match="was changed after it was applied"):
        await PostgresStore.open(empty).__aenter__()


@pytest.mark.parametrize("whose", ["DATABASE", "ROLE gateway IN DATABASE"])
async def test_commits_that_are_not_synced_are_refused(
    empty: settings.Store, postgres_url: str, postgres_server: PostgresServer, whose: str
):
    """A server that may lose what it has committed is refused, wherever that was set."""
    name = postgres_url.rpartition("/")[2]
    postgres_server.run_sql(postgres_server.admin_url(), f"ALTER {whose} {name} SET synchronous_commit = off")
    with pytest.raises(StoreUnavailable, match="`synchronous_commit` off"):
        await PostgresStore.open(empty).__aenter__()
    postgres_server.run_sql(postgres_server.admin_url(), f"ALTER {whose} {name} SET synchronous_commit = local")
    async with PostgresStore.open(empty) as store:
        await store.cursor_key()


async def test_another_role_may_own_the_tables(postgres_url: str, postgres_server: PostgresServer):
    """With `store.migrate_url` its role makes the tables and their days, and the one that works only uses them."""
    database = postgres_url.rpartition("/")[2]
    configured = settings.Store(url=postgres_url, migrate_url=postgres_server.admin_url(database))
    async with PostgresStore.open(configured) as store:
        to = endpoint()
        await add_endpoints(store, to)
        (made,) = await deliver_to(store, to, at=START - DAY)
        assert (await look_up(store, made)).state is DeliveryState.PENDING
        async with store.transaction() as transaction:
            await transaction.prune(START, limit=10)
        assert await store.delivery(tenant(), made.id) is None
    with pytest.raises(StoreUnavailable, match="role may not"):
        await _alter_table(postgres_url)


async def _alter_table(url: str) -> None:
    async with Database(settings.Store(url=url)).single() as session:
        await session.script("ALTER TABLE events ADD COLUMN more integer")


async def test_what_cannot_be_reached(postgres_url: str):
    """A server that is not there, a wrong password and a database that does not exist are said in a sentence without the
    password."""
    password = re.search(r"//gateway:([^@]*)@", postgres_url)
    assert password is not None
    wrong = [
        re.sub(r":\d+/", ":1/", postgres_url),
        postgres_url.replace(password[1], "guess"),
        postgres_url + "_none",
        postgres_url + "?sslmode=sometimes",
    ]
    for url in wrong:
        with pytest.raises(StoreUnavailable) as refused:
            await PostgresStore.open(settings.Store(url=url)).__aenter__()
        assert password[1] not in str(refused.value)
        assert "guess" not in str(refused.value)


# Side by side


async def take(store: Store, subject: AcceptedEvent) -> Any:
    async with store.transaction() as transaction:
        found = await transaction.take_external_ids([subject])
        if not found:
            await transaction.add_events([NewEvent(subject, 0)])
        return found


async def test_an_external_id_is_taken_once(one: PostgresStore, other: PostgresStore, raw: asyncpg.Connection):
    """Of two transactions that take the same external id at the same time the later waits, and finds the first one's event."""
    first = event(external_id="x")
    async with one.transaction() as transaction:
        assert await transaction.take_external_ids([first]) == {}
        await transaction.add_events([NewEvent(first, 0)])
        waiting = asyncio.create_task(take(other, event(external_id="x")))
        await is_waiting(raw)
        assert not waiting.done()
    assert await waiting == {(tenant(), "x"): first}


async def test_an_external_id_that_was_rolled_back_is_free(one: PostgresStore, other: PostgresStore, raw: asyncpg.Connection):
    """The one that waits takes the external id when the first gives it up."""
    waiting: list[asyncio.Task[Any]] = []

    async def meanwhile() -> None:
        waiting.append(asyncio.create_task(take(other, event(external_id="x"))))
        await is_waiting(raw)

    with pytest.raises(LookupError):
        await _take_and_fail(one, meanwhile)
    assert await waiting[0] == {}


async def _take_and_fail(store: Store, meanwhile: Callable[[], Awaitable[None]]) -> None:
    async with store.transaction() as transaction:
        await transaction.take_external_ids([event(external_id="x")])
        await meanwhile()
        raise LookupError


async def test_the_limit_of_endpoints_holds(one: PostgresStore, other: PostgresStore):
    """However many nodes add endpoints at once, an organization gets no more than its limit."""

    async def create(store: PostgresStore) -> bool:
        try:
            await change(store, CreateEndpoint(endpoint(), ACTOR, 5))
        except TooManyEndpoints:
            return False
        return True

    created = await asyncio.gather(*(create(store) for store in (one, other) * 6))
    assert sum(created) == 5
    revisions = await one.revisions(tenant(), after=0, limit=100)
    assert [revision.number for revision in revisions] == [1, 2, 3, 4, 5]


async def test_changes_of_an_endpoint_follow_each_other(one: PostgresStore, other: PostgresStore):
    """Two nodes that read and save one endpoint at the same time lose neither's change."""
    to = endpoint()
    await add_endpoints(one, to)

    async def fail_once(store: Store) -> None:
        async with store.transaction() as transaction:
            found = (await transaction.endpoints_by_id([to.id]))[to.id]
            await transaction.save_endpoint(replace(found, failed_in_row=found.failed_in_row + 1))

    await asyncio.gather(*(fail_once(store) for store in (one, other) * 10))
    found = await one.endpoint(tenant(), to.id)
    assert found is not None
    assert found.failed_in_row == 20


async def test_a_deadlock_is_a_conflict(one: PostgresStore, other: PostgresStore):
    """Of two transactions that wait for each other one is given up as a conflict, and the other commits."""
    here, there = endpoint(), endpoint()
    await add_endpoints(one, here, there)
    both = asyncio.Barrier(2)

    async def lock(store: Store, first: Endpoint, second: Endpoint) -> None:
        async with store.transaction() as transaction:
            await transaction.endpoint_by_id(first.id)
            await both.wait()
            await transaction.endpoint_by_id(second.id)

    ends = await asyncio.gather(lock(one, here, there), lock(other, there, here), return_exceptions=True)
    assert [type(end) for end in ends if end is not None] == [TransactionConflict]


async def test_a_wait_that_takes_too_long_is_a_conflict(migrated_url: str, one: PostgresStore):
    """Whoever waits for a row for too long gives up, so that one hanging transaction stops nobody for ever."""
    to = endpoint()
    await add_endpoints(one, to)
    async with PostgresStore.open(settings.Store(url=migrated_url, statement_seconds=0.2)) as hasty:
        async with one.transaction() as transaction:
            await transaction.endpoint_by_id(to.id)
            with pytest.raises(TransactionConflict):
                await save_endpoint(hasty, to)
        await save_endpoint(hasty, to)


async def test_what_failed_is_not_committed(one: PostgresStore):
    """A transaction in which a statement failed raises at its end, although the failure itself was caught."""
    made = endpoint()
    with pytest.raises(asyncpg.UniqueViolationError):
        await _add_twice_and_go_on(one, made)
    assert await one.endpoint(tenant(), made.id) is None


async def _add_twice_and_go_on(store: Store, made: Endpoint) -> None:
    async with store.transaction() as transaction:
        await transaction.add_endpoint(made)
        with contextlib.suppress(asyncpg.UniqueViolationError):
            await transaction.add_endpoint(made)


async def test_outdated(one: PostgresStore, other: PostgresStore):
    """A tenant is outdated once another node has changed one of its endpoints, or its pinned version, and no other tenant is."""
    known = {tenant(): (0, None), tenant("other"): (0, None)}

    async def outdated() -> list[Any]:
        async with one.transaction() as transaction:
            return list(await transaction.outdated(known))

    assert await outdated() == []
    async with other.transaction() as transaction:
        cause = RevisionCause.CREATED
        await transaction.add_revision(Revision(tenant(), 0, "wh_1", (), is_active=True, cause=cause, actor="x", at=START))
    assert await outdated() == [tenant()]
    known[tenant()] = (1, None)
    assert await outdated() == []
    async with other.transaction() as transaction:
        await transaction.pin_organization(Organization("other", "2026-07-11"))
    assert await outdated() == [tenant("other")]


async def test_a_recent_deactivation_stays_unswept(one: PostgresStore, raw: asyncpg.Connection):
    """An endpoint that went out of service within the last minute is not marked as swept: another node may be storing a
    delivery that it had matched before."""
    now = await raw.fetchval("SELECT (EXTRACT(EPOCH FROM now()) * 1000)::bigint")
    to = endpoint()
    await add_endpoints(one, to)
    for ago, is_swept in ((30_000, False), (90_000, True)):
        to = await save_endpoint(one, disabled(to, DisabledReason.USER, now - ago))
        async with one.transaction() as transaction:
            await transaction.mark_swept(to)
        assert (await one.unswept_endpoints() == []) is is_swept


# Fencing


async def hold_all(store: PostgresStore) -> dict[int, int]:
    """The epochs of all buckets, which *store*'s process now holds."""
    assert store.cluster is not None
    node = Node(id=make_id("node_"), name="n", version="1", started_at=START)
    await store.cluster.join(node)
    return await store.cluster.take(node.id, limit=BUCKETS)


def under(epochs: dict[int, int], of: Result) -> Result:
    return replace(of, epoch=epochs[bucket_of(of.due.endpoint_id)])


async def test_a_result_under_its_lease_counts(one: PostgresStore):
    """What was made under a lease that is in force is recorded as ever."""
    to = endpoint()
    await add_endpoints(one, to)
    (made,) = await deliver_to(one, to)
    mine = under(await hold_all(one), result(made, to))
    async with one.transaction() as transaction:
        assert list(await transaction.record_results([mine])) == [mine]
    assert (await look_up(one, made)).state is DeliveryState.DELIVERED
    assert transaction.effects.fenced == []


async def test_a_result_of_a_lost_lease_is_fenced(one: PostgresStore, other: PostgresStore):
    """A result whose lease has passed on moves nothing and ends no retry by hand; its attempt is on record as fenced, also
    beside one of the same number that counts."""
    to = endpoint()
    await add_endpoints(one, to)
    (made,) = await deliver_to(one, to)
    await retry(one, made, to)
    assert one.cluster is not None
    epochs = await hold_all(one)
    await one.cluster.give_back(one.cluster.process_id, epochs)  # type: ignore[attr-defined] # the shared store's own
    theirs = await hold_all(other)
    by_hand = (await claim(one, to)).manual[0]
    late = under(epochs, result(by_hand, to))
    async with one.transaction() as transaction:
        assert list(await transaction.record_results([late])) == []
    assert transaction.effects.fenced == [late]
    found = await look_up(one, made)
    assert (found.state, found.attempt_count, found.due_at) == (DeliveryState.PENDING, 0, made.due_at)
    assert len((await claim(other, to)).manual) == 1
    await record(other, under(theirs, result(made, to, ended_at=START + 200)))
    seen = await attempts(one, tenant(), made.id)
    assert [(attempt.number, attempt.fenced) for attempt in seen] == [(1, True), (1, False)]
    assert (await look_up(one, made)).state is DeliveryState.DELIVERED


async def test_another_nodes_lease_is_not_mine(one: PostgresStore, other: PostgresStore):
    """The epoch alone does not count: the lease has to be this process's."""
    to = endpoint()
    await add_endpoints(one, to)
    (made,) = await deliver_to(one, to)
    epochs = await hold_all(other)
    async with one.transaction() as transaction:
        assert list(await transaction.record_results([under(epochs, result(made, to))])) == []


async def test_a_take_over_waits_for_results(one: PostgresStore, other: PostgresStore):
    """A lease that results were recorded under does not pass on before they are committed."""
    to = endpoint()
    await add_endpoints(one, to)
    (made,) = await deliver_to(one, to)
    epochs = await hold_all(one)
    assert one.cluster is not None
    giving: asyncio.Task[None]
    async with one.transaction() as transaction:
        await transaction.record_results([under(epochs, result(made, to))])
        giving = asyncio.create_task(one.cluster.give_back(one.cluster.process_id, epochs))  # type: ignore[attr-defined] # the shared store's own
        done, _ = await asyncio.wait([giving], timeout=0.2)
        assert not done
    await giving
    assert (await look_up(other, made)).state is DeliveryState.DELIVERED


# What others are told


async def test_only_what_is_others_affair_is_told(one: PostgresStore, raw: asyncpg.Connection):
    """New deliveries are told for the buckets that this process does not hold, as of the transaction's beginning; with them
    and with nothing else a transaction leaves a row of news."""
    mine, theirs = endpoint(), endpoint()
    while bucket_of(mine.id) == bucket_of(theirs.id):
        theirs = endpoint()
    await add_endpoints(one, mine, theirs)
    await raw.execute("DELETE FROM news")
    assert one.cluster is not None
    one.cluster.hold({bucket_of(mine.id)})
    await deliver_to(one, mine)
    await deliver_to(one, theirs, trigger=DeliveryTrigger.TEST)
    assert await raw.fetch("SELECT FROM news") == []
    made = due(mine), due(theirs)
    async with one.transaction() as transaction:
        one.cluster.hold(())
        await transaction.add_events([NewEvent(each.event, 0) for each in made])
        await transaction.add_deliveries([(tenant(), each) for each in made])
    told = await raw.fetch("SELECT work, buckets FROM news")
    assert [tuple(row) for row in told] == [([theirs.id], mask_of({bucket_of(theirs.id)}))]
    await deliver_to(one, mine)
    assert await raw.fetchval("SELECT count(*) FROM news") == 2


# Commits whose end is in doubt


@pytest.fixture
async def proxy(postgres_server: PostgresServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy.open(postgres_server.port) as opened:
        yield opened


@pytest.fixture
async def remote(migrated_url: str, proxy: TcpProxy) -> AsyncIterator[PostgresStore]:
    """A store reached through a network that can fail."""
    async with PostgresStore.open(settings.Store(url=proxy.by_way_of(migrated_url), statement_seconds=1.0)) as store:
        yield store


async def test_a_commit_whose_answer_is_lost_is_one(remote: PostgresStore, proxy: TcpProxy):
    """A COMMIT that took effect and whose answer got lost is a commit: its caller is told so once the server can be asked."""
    made = endpoint()

    async def add() -> None:
        async with remote.transaction() as transaction:
            await transaction.add_endpoint(made)
            await transaction.prepare()
            proxy.hold_answers()

    adding = asyncio.create_task(add())
    done, _ = await asyncio.wait([adding], timeout=0.3)
    assert not done
    proxy.cut()
    await proxy.pass_on()
    await adding
    assert await remote.endpoint(tenant(), made.id) == made


async def test_a_commit_that_is_lost_is_none(remote: PostgresStore, proxy: TcpProxy):
    """A COMMIT that never reached the server raises StoreUnavailable, and leaves nothing; the next transaction works."""
    made = endpoint()

    async def add() -> None:
        async with remote.transaction() as transaction:
            await transaction.add_endpoint(made)
            await transaction.prepare()
            proxy.go_silent()

    adding = asyncio.create_task(add())
    done, _ = await asyncio.wait([adding], timeout=0.3)
    assert not done
    proxy.cut()
    await proxy.pass_on()
    with pytest.raises(StoreUnavailable):
        await adding
    assert await remote.endpoint(tenant(), made.id) is None
    await add_endpoints(remote, made)
    assert await remote.endpoint(tenant(), made.id) == made


async def test_a_number_that_a_crash_gave_to_another_proves_nothing(
    remote: PostgresStore, one: PostgresStore, proxy: TcpProxy, postgres_server: PostgresServer
):
    """A server that crashed hands out the numbers of transactions once more whose records never reached its disk. One that
    another transaction has by now, committed, says nothing of the one that was lost."""
    lost, kept = endpoint(), endpoint()

    async def add() -> None:
        async with remote.transaction() as transaction:
            await transaction.add_endpoint(lost)
            await transaction.prepare()
            proxy.go_silent()
            is_silent.set()

    is_silent = asyncio.Event()
    adding = asyncio.create_task(add())
    await is_silent.wait()  # and no longer: the server writes its log every 200 ms, whether or not it has to
    await postgres_server.restart("immediate")
    for _ in range(20):
        with contextlib.suppress(StoreUnavailable):
            await add_endpoints(one, kept)
            break
    await deliver_to(one, kept)
    proxy.cut()
    await proxy.pass_on()
    with pytest.raises(StoreUnavailable):
        await adding
    assert await remote.endpoint(tenant(), lost.id) is None


async def test_a_silent_network_hangs_nobody(remote: PostgresStore, proxy: TcpProxy):
    """While nothing comes back, reads, transactions and claims end in StoreUnavailable within a statement's time and a grace;
    once the network is back, all of them work."""
    to = endpoint()
    await add_endpoints(remote, to)
    assert await remote.endpoint(tenant(), to.id) == to
    proxy.go_silent()
    async with asyncio.timeout(5):
        ends = await asyncio.gather(
            remote.endpoint(tenant(), to.id), add_endpoints(remote, endpoint()), claim(remote, to), return_exceptions=True
        )
    assert [type(end) for end in ends] == [StoreUnavailable] * 3
    await proxy.pass_on()
    assert await remote.endpoint(tenant(), to.id) == to
    await add_endpoints(remote, endpoint())
    await claim(remote, to)


async def test_connections_that_are_cut(one: PostgresStore, postgres_server: PostgresServer, migrated_url: str):
    """After an administrator has cut every connection the next use of the store opens new ones."""
    to = endpoint()
    await add_endpoints(one, to)
    assert await postgres_server.terminate_connections(migrated_url) > 0
    for _ in range(3):
        with contextlib.suppress(StoreUnavailable):
            await add_endpoints(one, endpoint())
    assert await one.endpoint(tenant(), to.id) == to


# Days of history


async def partitions(raw: asyncpg.Connection) -> set[str]:
    return {row[0] for row in await raw.fetch("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")}


async def test_days_are_made_ahead(empty: settings.Store):
    """Today's partitions and those of the next two days are there from the start."""
    async with PostgresStore.open(empty):
        raw = await asyncpg.connect(empty.url)
        day = await raw.fetchval("SELECT floor(EXTRACT(EPOCH FROM now()) / 86400)::integer")
        names = [await raw.fetchval("SELECT to_char(to_timestamp($1 * 86400), 'YYYYMMDD')", day + ahead) for ahead in range(3)]
        wanted = {f"{table}_{name}" for table in ("events", "deliveries", "attempts") for name in names}
        assert await partitions(raw) == wanted
        await raw.close()


async def test_a_day_that_is_missing_is_made(one: PostgresStore, other: PostgresStore, raw: asyncpg.Connection):
    """What is stored for a day that has no partition makes it, on two nodes at once, too, within the transaction or not."""
    to = endpoint()
    await add_endpoints(one, to)
    wanted = {"events_20260401", "deliveries_20260401", "attempts_20260401"}
    assert not wanted & await partitions(raw)
    made = await asyncio.gather(*(deliver_to(store, to, at=START + 7 * DAY) for store in (one, other) * 3))
    for (each,) in made:
        assert (await look_up(one, each)).state is DeliveryState.PENDING
    assert wanted <= await partitions(raw)


async def test_a_day_that_was_dropped_by_another_is_made_again(one: PostgresStore, other: PostgresStore):
    """A node that still believes in a day which another has dropped runs into a conflict, and then makes it again."""
    to = endpoint()
    await add_endpoints(one, to)
    await deliver_to(one, to)
    async with other.transaction() as transaction:
        await transaction.prune(START + DAY, limit=10)
    with pytest.raises(TransactionConflict):
        await deliver_to(one, to)
    (made,) = await deliver_to(one, to)
    assert (await look_up(one, made)).state is DeliveryState.PENDING


async def test_what_still_waits_for_a_pruned_day_fails(one: PostgresStore, raw: asyncpg.Connection):
    """A delivery made the day after its event, as at midnight, fails when the event's day is dropped; nothing of that day is
    left in the queue."""
    to = endpoint()
    await add_endpoints(one, to)
    midnight = (START // DAY) * DAY
    old = event(at=midnight - 1, external_id="x")
    over_night = replace(due(to, old), id=make_id("whdl_", midnight), created_at=midnight, due_at=midnight)
    late = replace(due(to, old), id=make_id("whdl_", midnight - 1))
    await add_deliveries(one, over_night, late)
    async with one.transaction() as transaction:
        while await transaction.prune(midnight, limit=1):
            pass
    assert await one.delivery(tenant(), late.id) is None
    found = await one.delivery(tenant(), over_night.id)
    assert found is not None
    assert (found.state, found.reason) == (DeliveryState.FAILED, "expired")
    assert await raw.fetchval("SELECT count(*) FROM due") == 0
    assert await raw.fetchval("SELECT count(*) FROM external_ids") == 0


async def test_a_day_that_is_in_use_stays(one: PostgresStore, raw: asyncpg.Connection):
    """A day that somebody is reading is dropped another time; nobody waits for that."""
    to = endpoint()
    await add_endpoints(one, to)
    (made,) = await deliver_to(one, to, at=START - DAY)
    async with raw.transaction():
        await raw.fetch("SELECT FROM events")
        async with one.transaction() as transaction:
            assert await transaction.prune(START, limit=10) == 0
        assert await one.delivery(tenant(), made.id) is not None
    async with one.transaction() as transaction:
        assert await transaction.prune(START, limit=10) == 0
    assert await one.delivery(tenant(), made.id) is None


async def test_a_drop_that_has_to_wait_holds_nobody_up_for_long(
    one: PostgresStore, other: PostgresStore, raw: asyncpg.Connection
):
    """While somebody reads for as long as he likes, a drop gives up, and what is published behind it is stored."""
    to = endpoint()
    await add_endpoints(one, to)
    (old,) = await deliver_to(one, to, at=START - DAY)
    await deliver_to(other, to)  # its day is there

    async def drop() -> int:
        async with one.transaction() as transaction:
            return await transaction.prune(START, limit=10)

    async with raw.transaction(), asyncio.timeout(PATIENCE_SECONDS):
        await raw.fetch("SELECT FROM events")
        dropping = asyncio.create_task(drop())
        while not dropping.done():
            (young,) = await deliver_to(other, to)
        assert await dropping == 0
    assert (await look_up(one, young)).state is DeliveryState.PENDING
    assert await one.delivery(tenant(), old.id) is not None


def test_the_day_of_an_id():
    """An id tells its day; what tells no time is of the first."""
    assert day_of(make_id("whdl_", START)) == START // DAY
    assert day_of(make_id("whev_", START + DAY)) == START // DAY + 1
    assert day_of("x") == 0
    ids_of_two_days = [make_id("whdl_", START), make_id("whdl_", START + DAY)]
    lowest, highest = whole_days(ids_of_two_days)
    assert (day_of(lowest), day_of(highest)) == (START // DAY, START // DAY + 2)
    assert lowest <= min(ids_of_two_days) < max(ids_of_two_days) < highest
    assert whole_days(["x"])[0] <= "x" <= whole_days(["x"])[1]


# Plans

FILL = """
INSERT INTO endpoints (id, organization_id, mode, url, events, secret, is_active, activation, failed_in_row, created_at)
SELECT 'wh_' || lpad(n::text, 24, '0'), 'org_' || n % 100, 'live', 'u', '{*}', 's', true, 1, 0, 0 FROM generate_series(1, 3000) n;
INSERT INTO events (organization_id, mode, id, type, timestamp, external_id, created_at, revision, data)
SELECT 'org_' || n % 100, 'live', day || lpad(n::text, 16, '0'), 'a.b', 0, 'x' || n, 0, 0, 'x'
FROM generate_series(1, 20000) n, unnest($1::text[]) day;
INSERT INTO external_ids SELECT organization_id, mode, external_id || left(id, 12), id FROM events;
INSERT INTO deliveries (
  organization_id, mode, id, endpoint_id, event_id, event_type, state, "trigger", activation, api_version, created_at, is_failed)
SELECT organization_id, mode, 'whdl_' || substr(id, 6), 'wh_' || lpad((row_number() OVER () % 3000 + 1)::text, 24, '0'), id,
  type, CASE WHEN right(id, 2) = '17' THEN 'failed' ELSE 'delivered' END, 'event', 1, 'v', 0, right(id, 2) = '17'
FROM events;
INSERT INTO due (
  delivery_id, bucket, endpoint_id, event_id, activation, scheduled_count, due_at, created_at, api_version, "trigger",
  organization_id, mode, data_bytes)
SELECT id, hashtext(endpoint_id) & 63, endpoint_id, event_id, activation, (random() < 0.3)::integer, 0, 0, 'v', "trigger",
  organization_id, mode, 1 FROM deliveries;
INSERT INTO retries SELECT delivery_id, organization_id, mode, bucket, endpoint_id, delivery_id, event_id, 1 FROM due LIMIT 20000;
INSERT INTO attempts (
  organization_id, mode, delivery_id, number, "trigger", started_at, duration_ms, url, resent, fenced, request_headers)
SELECT organization_id, mode, id, 1, 'automatic', 0, 0, 'u', false, false, '' FROM deliveries;
INSERT INTO revisions SELECT organization_id, mode, row_number() OVER (), id, events, true, 'created', 'x', 0 FROM endpoints;
INSERT INTO api_keys (id, hash, prefix, organization_id, mode, created_at)
SELECT 'key_' || n, sha256(n::text::bytea), 'ck', 'org_' || n % 100, 'live', 0 FROM generate_series(1, 20000) n;
INSERT INTO idempotent_requests SELECT hash, hash, 'p', 0, hash FROM api_keys;
INSERT INTO tenants SELECT 'org_' || n, 'live', 1 FROM generate_series(1, 20000) n;
INSERT INTO organizations SELECT 'org_' || n, NULL FROM generate_series(1, 20000) n;
ANALYZE
"""
SEE_EVERYTHING = {
    "all_keys",  # at the start
    "organizations",  # an operator's list
    "cluster_view",  # 64 leases, and nodes
    "renew_node",
    "recorded_deliveries",  # replays are of later days: along the index of events in each
}
COLUMN = {
    "text[]": ["x"] * 20,
    "bigint[]": [1] * 20,
    "integer[]": [1] * 20,
    "smallint[]": [1] * 20,
    "boolean[]": [True] * 20,
    "float8[]": [0.5] * 20,
}


def values_for(names: Sequence[str], types: Sequence[str], known: Mapping[str, Any]) -> list[Any]:
    """Values that look like what a statement takes."""
    values: list[Any] = []
    for numbered, kind in zip(names, types, strict=True):
        name = numbered.removeprefix("p0_")
        if name in known:
            values.append(known[name])
        elif name in {"bucket", "buckets"}:
            values.append(list(range(20)) if kind.endswith("[]") else 7)
        elif kind == "bytea":
            values.append(b"x")
        elif kind.endswith("[]"):
            values.append([b"x"] * 20 if kind == "bytea[]" else COLUMN[kind])
        else:
            values.append({"text": None, "boolean": True}.get(kind, 100))
    return values


async def test_every_statement_follows_an_index(one: PostgresStore, raw: asyncpg.Connection):
    """In a store that holds much, no statement walks over a whole table, none looks at a day that the ids it asks for cannot
    be of, and claims take rows in the order of their index."""
    days = [ids.floor("whev_", START + day * DAY) for day in range(3)]
    await one._partitions.ensure(days)
    for statement in FILL.split(";"):
        await raw.execute(statement.replace("$1::text[]", f"ARRAY{days}"))
    event_ids = [f"{days[0]}{number:016d}" for number in range(1, 2_000, 100)]
    delivery_ids = [each.replace("whev_", "whdl_") for each in event_ids]
    endpoint_ids = [f"wh_{number:024d}" for number in range(1, 21)]
    tenants = {"organization_id": "org_1", "mode": "live", "organization_ids": ["org_1"] * 20, "modes": ["live"] * 20}
    of_deliveries = {"id": delivery_ids[0], "ids": delivery_ids, "lowest": delivery_ids[0], "highest": delivery_ids[-1]}
    of_events = {"id": event_ids[0], "ids": event_ids, "lowest": event_ids[0], "highest": event_ids[-1]}
    of_endpoints = {"id": endpoint_ids[0], "ids": endpoint_ids}
    common = {
        **tenants,
        "endpoint_id": endpoint_ids[0],
        "endpoint_ids": endpoint_ids,
        "delivery_id": delivery_ids[0],
        "delivery_ids": delivery_ids,
        "event_id": event_ids[0],
        "below": delivery_ids[-1],
        "since": delivery_ids[0],
        "events_below": event_ids[0],
        "deliveries_below": delivery_ids[0],
        "key_hash": b"x" * 32,
        "seen": "10:20:",
        "snapshot": "10:20:",
        "parent": "events",
        "xid": "1000",
        "external_id": "x1",
        "number": 1,
    }
    statements = {name: (statement.sql, statement.names) for name, statement in SQL.items() if name not in SEE_EVERYTHING}
    claims = claim_statement(SQL)
    statements["claim"] = (claims.sql, claims.names)
    for name in ("move_due", "end_due_of_failures"):
        statements.pop(name)
    failures = compiled(Bundler(SQL)._composed((("record_failures", "move_due", "end_due_of_failures"),)))
    statements["record_failures"] = (failures.sql, failures.names)
    plans: dict[str, str] = {}
    await raw.execute("SET plan_cache_mode = force_custom_plan")
    for name, (sql, names) in statements.items():
        prepared = await raw.prepare(sql)
        kinds = [_sql_name(kind) for kind in prepared.get_parameters()]
        if ("endpoint" in name and "deliveries" not in name) or name in {"reset_failures", "mark_swept"}:
            known: dict[str, Any] = {**common, **of_endpoints}
        else:
            known = {**common, **(of_events if name.startswith("event") else of_deliveries)}
        if name in {"events", "events_scan_end"}:
            known |= {"below": event_ids[-1], "since": event_ids[0]}
        found = await raw.fetch(f"EXPLAIN {sql}", *values_for(names, kinds, known))
        plans[name] = "\n".join(row[0] for row in found)
    # Tables that stay small may be read whole, where that is cheaper; the retries by hand of many lanes, too.
    large = r"Seq Scan on (\w+_202603\d\d|due|external_ids|retries)\b"
    walks = {name: plan for name, plan in plans.items() if re.search(large, plan.replace("Seq Scan on retries ", "", 1))}
    assert walks == {}, "\n".join(f"{name}\n{plan}" for name, plan in walks.items())
    for name, plan in plans.items():
        if "lowest" in statements[name][1] or "p0_lowest" in statements[name][1]:
            assert not re.search(r"_202603(26|27)", plan), f"{name}\n{plan}"
    for index in ("due_first", "due_retries", "retries_by_endpoint"):
        assert index in plans["claim"], plans["claim"]
    assert "Sort" not in plans["claim"], plans["claim"]


def _sql_name(kind: Any) -> str:
    scalar, brackets = (kind.name.removeprefix("_").removesuffix("[]"), "[]" if kind.kind == "array" else "")
    return {"int2": "smallint", "int4": "integer", "int8": "bigint", "bool": "boolean"}.get(scalar, scalar) + brackets


# What it costs


def queries(store: PostgresStore) -> int:
    """Messages that were answered on the connections that write."""
    holders = store._database._write_pool._holders  # type: ignore[union-attr] # the driver's own
    return sum(holder._con._protocol.queries_count for holder in holders if holder._con is not None)


async def test_round_trips(migrated_url: str):
    """A transaction takes as many round trips however much it stores: 7 with results under leases, failures, external ids
    and events, 5 with new events and external ids alone, and none when it does nothing."""
    async with PostgresStore.open(settings.Store(url=migrated_url, write_connections=2)) as store:
        to = endpoint()
        await add_endpoints(store, to)
        epochs = await hold_all(store)

        async def publish(count: int) -> list[Any]:
            events = [event(external_id=make_id("x")) for _ in range(count)]
            made = [due(to, each) for each in events]
            async with store.transaction() as transaction:
                await transaction.outdated({tenant(): (0, None)})
                await transaction.take_external_ids(events)
                await transaction.add_events([NewEvent(each, 0) for each in events])
                await transaction.add_deliveries([(tenant(), each) for each in made])
            return made

        async def both(results: Sequence[Result], count: int) -> list[Any]:
            events = [event(external_id=make_id("x")) for _ in range(count)]
            made = [due(to, each) for each in events]
            async with store.transaction() as transaction:
                await transaction.record_results(results)
                await transaction.endpoints_by_id([to.id])
                await transaction.reset_failures([to.id])
                await transaction.outdated({tenant(): (0, None)})
                await transaction.take_external_ids(events)
                await transaction.add_events([NewEvent(each, 0) for each in events])
                await transaction.add_deliveries([(tenant(), each) for each in made])
            return made

        def results(made: Sequence[Any]) -> list[Result]:
            verdicts = [replace(EXHAUSTED), retry_at(START + 5)]
            ended = [result(each, to) if place % 3 else result(each, to, verdicts[place % 2]) for place, each in enumerate(made)]
            return [under(epochs, each) for each in ended]

        made = await both(results(await publish(6)), 6)  # prepares the statements
        for count in (6, 300):
            before = queries(store)
            made = await both(results(made), count)
            assert queries(store) - before == 7
            before = queries(store)
            await publish(count)
            assert queries(store) - before == 5
        before = queries(store)
        async with store.transaction() as transaction:
            await transaction.record_results([])
            await transaction.add_events([])
        assert queries(store) == before


async def test_successes_are_stored_in_place(configured: settings.Store, migrated_url: str):
    """Recording successes makes no new entry in an index of the deliveries."""
    async with PostgresStore.open(configured) as store:
        to = endpoint()
        await add_endpoints(store, to)
        for _ in range(3):
            made = await deliver_to(store, to, 300)
            await record(store, *(result(each, to) for each in made))
    raw = await asyncpg.connect(migrated_url)
    counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'deliveries_20260325'"
    async with asyncio.timeout(PATIENCE_SECONDS):
        # The server counts what a connection did when that ends, or a little later.
        while (found := await raw.fetchrow(counts)) and found["n_tup_upd"] < 900:  # noqa: ASYNC110 - another process's fact
            await asyncio.sleep(0.05)
    await raw.close()
    assert found is not None
    assert tuple(found) == (900, 900)


async def test_without_prepared_statements(migrated_url: str):
    """Where a pooler keeps no prepared statements for anybody, everything works as well."""
    async with PostgresStore.open(settings.Store(url=migrated_url, prepared_statements=False)) as store:
        to = endpoint()
        await add_endpoints(store, to)
        (made,) = await deliver_to(store, to)
        (handed_out,) = (await claim(store, to)).first
        await record(store, result(handed_out, to))
        assert (await look_up(store, made)).state is DeliveryState.DELIVERED
        page = await store.deliveries(tenant(), DeliveryFilter(), below=None, limit=10)
        assert len(page.items) == 1
