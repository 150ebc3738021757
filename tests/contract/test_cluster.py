"""The store contract between processes: who holds which bucket, what the others have done, and who answers a request first."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest
from msgspec.structs import replace

from gateway import ids
from gateway.errors import ReservationLapsed, StoreUnavailable
from gateway.model import BUCKETS, Endpoint, IdempotentAnswer, Lease, Node, Organization, Reservation, bucket_of
from gateway.settings import Store as StoreSettings
from gateway.store.postgres import PostgresStore
from gateway.store.postgres.cluster import (
    CHANNEL,
    LINE_CHECK_SECONDS,
    LINE_TIMEOUT_SECONDS,
    NEWS_KEPT_FOR,
    PostgresCluster,
    PostgresWakeUps,
    mask_of,
)
from gateway.store.postgres.connection import Database
from gateway.store.protocol import News
from tests.contract.acts import add_endpoints, deliver_to, is_waiting, retry
from tests.fakes import PATIENCE_SECONDS, START, api_key, endpoint, make_id
from tests.pgbouncer import PgBouncer
from tests.postgres import PostgresServer
from tests.tcp_proxy import TcpProxy

ALL = range(BUCKETS)
RESERVATION = Reservation(b"k" * 32, b"r" * 32)


class Process:
    """A process that has the store open."""

    def __init__(self, store: PostgresStore, cluster: PostgresCluster) -> None:
        self.store = store
        self.cluster = cluster


@asynccontextmanager
async def process(url: str, *, prepared: bool = True) -> AsyncIterator[Process]:
    configured = StoreSettings(url=url, prepared_statements=prepared, statement_seconds=PATIENCE_SECONDS)
    async with PostgresStore.open(configured) as store:
        assert isinstance(store.cluster, PostgresCluster)
        yield Process(store, store.cluster)


@pytest.fixture
async def one(migrated_url: str) -> AsyncIterator[Process]:
    async with process(migrated_url) as opened:
        yield opened


@pytest.fixture
async def other(migrated_url: str, one: Process) -> AsyncIterator[Process]:
    async with process(migrated_url) as opened:
        yield opened


@pytest.fixture
async def raw(migrated_url: str, one: Process) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own."""
    connection = await asyncpg.connect(migrated_url)
    yield connection
    await connection.close()


def node(name: str = "a node") -> Node:
    return Node(id=make_id(ids.NODE), name=name, version="1.0", started_at=START)


def in_different_buckets(count: int) -> Sequence[Endpoint]:
    """So many endpoints, no two in one bucket."""
    found: dict[int, Endpoint] = {}
    while len(found) < count:
        made = endpoint()
        found.setdefault(bucket_of(made.id), made)
    return list(found.values())


async def nodes_of(cluster: PostgresCluster) -> list[Node]:
    """The nodes that are seen, apart from when they renewed."""
    return [replace(found, renewed_at=0) for found in (await cluster.view()).nodes]


async def join(cluster: PostgresCluster) -> Node:
    joined = node()
    await cluster.join(joined)
    return joined


async def leases_of(cluster: PostgresCluster, of: Node | None) -> dict[int, int]:
    """The epochs of the buckets that a node has, or with None of the free ones."""
    wanted = None if of is None else of.id
    return {lease.bucket: lease.epoch for lease in (await cluster.view()).leases if lease.node_id == wanted}


# Nodes and leases


async def test_join(one: Process, other: Process):
    """Those who join are seen by everybody, by id, once each; all buckets are free at first."""
    first, second = node("first"), node("second")
    for cluster, joined in ((other.cluster, second), (one.cluster, first), (one.cluster, first)):
        await cluster.join(joined)
    view = await one.cluster.view()
    assert view == replace(await other.cluster.view(), now=view.now)
    assert await nodes_of(one.cluster) == [first, second]
    assert view.leases == [Lease(bucket, None, 0) for bucket in ALL]


async def test_view_tells_the_time_of_the_database(one: Process, raw: asyncpg.Connection):
    """The time of a view is by the database's clock, in milliseconds."""
    before, view, after = [
        await raw.fetchval("SELECT extract(epoch FROM clock_timestamp()) * 1000"),
        await one.cluster.view(),
        await raw.fetchval("SELECT extract(epoch FROM clock_timestamp()) * 1000"),
    ]
    assert int(before) <= view.now <= int(after)


async def test_renew(one: Process, other: Process):
    """Each renewal counts up by one, for that node alone, and shows everything."""
    first, second = await join(one.cluster), await join(other.cluster)
    views = [await one.cluster.renew(first.id) for _ in range(3)]
    assert (view := views[-1]) is not None
    assert [found.id for found in view.nodes] == [first.id, second.id]
    assert len(view.leases) == BUCKETS
    assert await nodes_of(other.cluster) == [replace(first, renewals=3), second]


async def test_take(one: Process):
    """Free buckets are taken from the lowest on, up to the limit, until none is left."""
    joined = await join(one.cluster)
    assert await one.cluster.take(joined.id, limit=3) == {0: 1, 1: 1, 2: 1}
    assert await one.cluster.take(joined.id, limit=1) == {3: 1}
    assert await one.cluster.take(joined.id, limit=0) == {}
    assert sorted(await one.cluster.take(joined.id, limit=100)) == list(ALL)[4:]
    assert await one.cluster.take(joined.id, limit=100) == {}
    assert await leases_of(one.cluster, joined) == dict.fromkeys(ALL, 1)


async def test_five_nodes_that_take_at_once_never_take_the_same_bucket(migrated_url: str, one: Process):
    """Of five who take their shares at the same moment each gets others, and together they get all of them."""
    async with AsyncExitStack() as opened:
        clusters = [one.cluster, *[(await opened.enter_async_context(process(migrated_url))).cluster for _ in range(4)]]
        nodes = [await join(cluster) for cluster in clusters]
        for _ in range(5):
            takes = [cluster.take(joined.id, limit=13) for cluster, joined in zip(clusters, nodes, strict=True)]
            taken = await asyncio.gather(*takes)
            assert len({bucket for share in taken for bucket in share}) == sum(len(share) for share in taken)
            while free := await leases_of(one.cluster, None):  # one that was locked by another at that moment is passed over
                assert sum(len(share) for share in taken) + len(free) == BUCKETS
                taken.append(await one.cluster.take(nodes[0].id, limit=BUCKETS))
            for cluster, joined in zip(clusters, nodes, strict=True):
                await cluster.give_back(joined.id, ALL)


async def test_who_has_not_joined_takes_nothing(one: Process):
    """There are no free buckets for a stranger."""
    assert await one.cluster.take("node_none", limit=9) == {}


async def test_give_back(one: Process, other: Process):
    """A node frees what it names and has, and nothing that another has."""
    first, second = await join(one.cluster), await join(other.cluster)
    await one.cluster.take(first.id, limit=3)
    await other.cluster.take(second.id, limit=3)
    await one.cluster.give_back(first.id, [1, 2, 3, 60])
    assert await leases_of(one.cluster, first) == {0: 1}
    assert await leases_of(one.cluster, second) == {3: 1, 4: 1, 5: 1}
    await one.cluster.give_back(first.id, [])
    assert await leases_of(one.cluster, first) == {0: 1}


async def test_epochs_rise_on_every_hand_over(one: Process, other: Process):
    """However a bucket passes on, its epoch is one that it has never had."""
    first, second = await join(one.cluster), await join(other.cluster)
    seen = [await one.cluster.take(first.id, limit=1)]
    await one.cluster.give_back(first.id, [0])
    seen += [await leases_of(one.cluster, None), await other.cluster.take(second.id, limit=1)]
    assert await one.cluster.evict(second)
    seen += [await leases_of(one.cluster, None), await one.cluster.take(first.id, limit=1)]
    await one.cluster.leave(first.id)
    seen += [await leases_of(one.cluster, None)]
    assert [epochs[0] for epochs in seen] == [1, 2, 3, 4, 5, 6]


async def test_evict(one: Process, other: Process):
    """A node that stands still loses everything, and everybody learns that it is gone, whoever it was that did it."""
    first, second = await join(one.cluster), await join(other.cluster)
    await one.cluster.take(first.id, limit=2)
    await other.cluster.take(second.id, limit=2)
    assert await one.cluster.evict(second)
    assert await one.cluster.evict(second)
    assert await nodes_of(one.cluster) == [first]
    assert await leases_of(one.cluster, first) == {0: 1, 1: 1}
    assert len(await leases_of(one.cluster, None)) == BUCKETS - 2


async def test_a_node_that_has_renewed_is_not_evicted(one: Process, other: Process):
    """Who renews after it was seen keeps what it has."""
    joined = await join(one.cluster)
    await one.cluster.take(joined.id, limit=2)
    assert await one.cluster.renew(joined.id)
    assert not await other.cluster.evict(joined)
    assert await leases_of(other.cluster, joined) == {0: 1, 1: 1}
    assert await one.cluster.renew(joined.id)
    assert await other.cluster.evict(replace(joined, renewals=2))


async def test_an_evicted_node_is_told_so(one: Process, other: Process):
    """It cannot renew, nor take, nor give back what somebody else has by then; under another id it joins anew."""
    gone, alive = await join(one.cluster), await join(other.cluster)
    await one.cluster.take(gone.id, limit=2)
    await other.cluster.evict(gone)
    assert await other.cluster.take(alive.id, limit=2) == {0: 3, 1: 3}
    assert await one.cluster.renew(gone.id) is None
    assert await one.cluster.take(gone.id, limit=9) == {}
    await one.cluster.give_back(gone.id, [0, 1])
    assert await leases_of(one.cluster, alive) == {0: 3, 1: 3}
    again = await join(one.cluster)
    assert await one.cluster.take(again.id, limit=1) == {2: 1}


async def test_an_eviction_that_meets_a_take_frees_what_was_taken(one: Process, raw: asyncpg.Connection):
    """Who is evicted while it takes buckets has none afterwards."""
    joined = await join(one.cluster)
    take = Database(StoreSettings(url="postgresql:///")).sql["take_buckets"]
    taking = raw.transaction()
    await taking.start()
    assert len(await raw.fetch(take.sql, *take.values({"node_id": joined.id, "limit": 5}))) == 5
    evicting = asyncio.create_task(one.cluster.evict(joined))
    await is_waiting(raw)
    await taking.commit()
    assert await evicting
    assert len(await leases_of(one.cluster, None)) == BUCKETS


async def test_a_take_that_meets_an_eviction_takes_nothing(one: Process, raw: asyncpg.Connection):
    """Who takes buckets while it is evicted gets none."""
    joined = await join(one.cluster)
    evicting = raw.transaction()
    await evicting.start()
    await raw.execute("DELETE FROM nodes")
    taking = asyncio.create_task(one.cluster.take(joined.id, limit=5))
    await is_waiting(raw)
    await evicting.commit()
    assert await taking == {}
    assert len(await leases_of(one.cluster, None)) == BUCKETS


async def test_renewals_do_not_wait_for_a_take(one: Process, raw: asyncpg.Connection):
    """A node that takes buckets does not keep itself, or a transaction that looks whether it lives, from going on."""
    joined = await join(one.cluster)
    take = Database(StoreSettings(url="postgresql:///")).sql["take_buckets"]
    async with raw.transaction():
        await raw.fetch(take.sql, *take.values({"node_id": joined.id, "limit": 5}))
        assert await one.cluster.renew(joined.id)


async def test_leave(one: Process, other: Process):
    """Who leaves is not seen any more, and what it had is free."""
    first, second = await join(one.cluster), await join(other.cluster)
    await one.cluster.take(first.id, limit=2)
    await one.cluster.leave(first.id)
    assert await nodes_of(other.cluster) == [second]
    assert len(await leases_of(other.cluster, None)) == BUCKETS
    assert await one.cluster.renew(first.id) is None


async def test_a_busy_node_renews(one: Process):
    """While all connections that work uses are taken, a node still renews, takes, and hears the news."""
    joined = await join(one.cluster)
    database = one.store._database
    async with AsyncExitStack() as busy:
        for _ in range(database.settings.write_connections):
            await busy.enter_async_context(database.write())
        for _ in range(database.settings.read_connections):
            await busy.enter_async_context(database.read())
        assert await one.cluster.renew(joined.id)
        assert await one.cluster.take(joined.id, limit=1) == {0: 1}
        assert await one.cluster.news() == News()


async def test_a_cut_connection_is_opened_again(one: Process, postgres_server: PostgresServer, migrated_url: str):
    """After an administrator has ended all connections, what was cut off is said to be unavailable, and the next call works."""
    joined = await join(one.cluster)
    assert await one.cluster.news() == News()
    await postgres_server.terminate_connections(migrated_url)
    for call in (lambda: one.cluster.renew(joined.id), one.cluster.news):
        with contextlib.suppress(StoreUnavailable):
            await call()
        assert await call()


async def test_behind_a_pooler(migrated_url: str, pgbouncer: PgBouncer, one: Process):
    """Behind a pooler, whose connections belong to nobody for longer than a transaction, all but listening works likewise."""
    async with process(pgbouncer.by_way_of(migrated_url), prepared=False) as pooled:
        joined = await join(pooled.cluster)
        assert await pooled.cluster.take(joined.id, limit=1) == {0: 1}
        assert await pooled.cluster.renew(joined.id)
        made = endpoint()
        await add_endpoints(one.store, made)
        assert (await pooled.cluster.news()).effects.endpoints == [made]
        assert await pooled.store.reserve(RESERVATION, START) is None
        assert await one.store.reserve(RESERVATION, START) == RESERVATION
        await pooled.store.release(RESERVATION)
        assert await one.store.reserve(RESERVATION, START) is None
        async with one.cluster.wake_ups() as wake_ups:
            await pooled.cluster.wake_others()
            await woken(wake_ups)


# Whose affair new work is


def test_mask_of():
    """A mask has a bit for each bucket, and fits into a signed integer of 64 bits."""
    for buckets in ((), (0,), (63,), (5, 5), ALL):
        mask = mask_of(buckets)
        assert -(2**63) <= mask < 2**63
        assert [bucket for bucket in ALL if mask >> bucket & 1] == sorted(set(buckets))


async def test_hold_counts_from_the_next_transaction_on(one: Process):
    """A transaction goes by what was held when it began."""
    one.cluster.hold([1])
    with one.cluster.transaction_begun() as earlier:
        one.cluster.hold([2])
        with one.cluster.transaction_begun() as later:
            assert (earlier, later) == (mask_of([1]), mask_of([2]))


async def test_settled(one: Process):
    """It waits for each transaction that had begun, whether it commits or not, and for none that began later."""
    settled = []

    async def settle() -> None:
        await one.cluster.settled()
        settled.append(True)

    async with AsyncExitStack() as first, AsyncExitStack() as later, asyncio.TaskGroup() as tasks:
        for stack in (first, first):
            await stack.enter_async_context(one.store.transaction())
        waiting = tasks.create_task(settle())
        await asyncio.sleep(0)
        await later.enter_async_context(one.store.transaction())
        assert not settled
        await first.aclose()
        await waiting
        assert settled
    await one.cluster.settled()


# News


async def test_news_of_endpoints_keys_and_organizations(one: Process, other: Process):
    """What one process adds, changes or pins is heard of once, as it is by then: by the other, and by the process itself,
    whose earlier look at it may have come too late."""
    made, key = endpoint(), api_key()
    await add_endpoints(one.store, made)
    async with one.store.transaction() as transaction:
        await transaction.add_key(key)
        await transaction.pin_organization(Organization("acme", "2026-07-11"))
        await transaction.save_endpoint(changed := replace(made, is_active=False, activation=1))
    news = await other.cluster.news()
    assert (news.effects.endpoints, news.effects.keys) == ([changed], [key])
    assert news.effects.organizations == [Organization("acme", "2026-07-11")]
    assert (news.effects.retried_endpoints, news.work, news.is_complete) == ([], [], True)
    assert await other.cluster.news() == News()
    assert (await one.cluster.news()).effects == news.effects
    assert await one.cluster.news() == News()


async def test_news_of_revoked_keys_and_deleted_endpoints(one: Process, other: Process):
    """What has ended is told as well, as what it has become."""
    made, key = endpoint(), api_key()
    await add_endpoints(one.store, made)
    async with one.store.transaction() as transaction:
        await transaction.add_key(key)
    await other.cluster.news()
    async with one.store.transaction() as transaction:
        revoked = await transaction.revoke_key(key.id, None, START)
        await transaction.save_endpoint(deleted := replace(made, deleted_at=START, is_active=False, activation=1))
    news = await other.cluster.news()
    assert (news.effects.keys, news.effects.endpoints) == ([revoked], [deleted])


async def test_news_of_retries_by_hand(one: Process, other: Process):
    """A retry asked of one process is told to the others, and not to itself."""
    made = endpoint()
    await add_endpoints(one.store, made)
    (delivery,) = await deliver_to(one.store, made)
    await other.cluster.news()
    await one.cluster.news()
    await retry(one.store, delivery, made)
    assert await one.cluster.news() == News()
    assert (await other.cluster.news()).effects.retried_endpoints == [made]


async def test_news_of_work(one: Process, other: Process):
    """New deliveries are told to who holds their buckets, and nobody else's are; what the writer holds is its own affair."""
    endpoints = in_different_buckets(3)
    await add_endpoints(one.store, *endpoints)
    await other.cluster.news()
    mine, yours, nobodys = endpoints
    one.cluster.hold([bucket_of(mine.id)])
    other.cluster.hold([bucket_of(mine.id), bucket_of(yours.id)])
    for to in endpoints:
        await deliver_to(one.store, to)
    assert await other.cluster.news() == News(work=[yours])
    other.cluster.hold([bucket_of(nobodys.id)])
    assert await other.cluster.news() == News()


async def test_news_starts_with_the_opening(migrated_url: str, one: Process):
    """What was committed before a process opened the store it reads there, and is not told."""
    await add_endpoints(one.store, endpoint())
    async with process(migrated_url) as late:
        assert await late.cluster.news() == News()
        await add_endpoints(one.store, made := endpoint())
        assert (await late.cluster.news()).effects.endpoints == [made]


async def test_numbers_of_another_server_tell_nothing(one: Process, raw: asyncpg.Connection):
    """A database that was dumped from a server with a higher count of transactions: what bears such numbers is neither news,
    again and again, nor taken for something that was missed."""
    ahead = await raw.fetchval("SELECT (pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 1000000)::text")
    await raw.execute("INSERT INTO news (xid, process_id, endpoints) VALUES ($1::text::xid8, 'another', ARRAY['wh_1'])", ahead)
    await raw.execute("INSERT INTO meta (name, value) VALUES ('news_pruned', convert_to($1, 'UTF8'))", ahead)
    assert await one.cluster.news() == News()
    await add_endpoints(one.store, made := endpoint())
    assert (await one.cluster.news()).effects.endpoints == [made]


async def test_a_transaction_that_commits_late_is_not_missed(one: Process, other: Process, raw: asyncpg.Connection):
    """Of two transactions the later may commit first: once a reader has seen that, the earlier is still news, and once only."""
    early, late = endpoint(), endpoint()
    await add_endpoints(one.store, early)
    await one.cluster.news()
    slow = raw.transaction()
    await slow.start()
    await raw.execute("INSERT INTO news (process_id, endpoints) VALUES ('another', ARRAY[$1])", early.id)
    await add_endpoints(other.store, late)
    assert (await one.cluster.news()).effects.endpoints == [late]
    assert await one.cluster.news() == News()
    await slow.commit()
    assert (await one.cluster.news()).effects.endpoints == [early]
    assert await one.cluster.news() == News()


async def test_a_failed_look_for_news_loses_none(one: Process, other: Process, raw: asyncpg.Connection):
    """What could not be read to its end is told at the next look."""
    await add_endpoints(one.store, made := endpoint())
    async with raw.transaction():
        await raw.execute("ALTER TABLE endpoints RENAME TO gone")
        await raw.execute("CREATE VIEW endpoints AS SELECT pg_terminate_backend(pg_backend_pid()), * FROM gone")
    with pytest.raises(StoreUnavailable):
        await other.cluster.news()
    async with raw.transaction():
        await raw.execute("DROP VIEW endpoints")
        await raw.execute("ALTER TABLE gone RENAME TO endpoints")
    assert (await other.cluster.news()).effects.endpoints == [made]


async def test_who_has_not_looked_for_too_long_is_told_so(
    migrated_url: str, one: Process, other: Process, raw: asyncpg.Connection
):
    """Old news is deleted; whoever has not seen it learns that there was some, once, and whoever has seen it does not."""
    await add_endpoints(one.store, endpoint())
    async with process(migrated_url) as up_to_date:
        await raw.execute("UPDATE news SET at = at - $1", NEWS_KEPT_FOR)
        await add_endpoints(one.store, young := endpoint())
        assert (await up_to_date.cluster.news()).effects.endpoints == [young]  # and prunes
        assert await raw.fetchval("SELECT count(*) FROM news") == 1
        assert await up_to_date.cluster.news() == News()
    assert await other.cluster.news() == News(is_complete=False)
    await add_endpoints(one.store, newest := endpoint())
    assert (await other.cluster.news()).effects.endpoints == [newest]


async def test_all_old_news_is_deleted_however_much_it_is(one: Process, raw: asyncpg.Connection):
    """Looks delete a thousand rows each, one after another, until only young ones are left."""
    old = "INSERT INTO news (xid, process_id, at) SELECT number::text::xid8, 'another', 0 FROM generate_series(3, 2502) AS number"
    await raw.execute(old)
    await raw.execute("INSERT INTO news (xid, process_id) VALUES ('2503', 'another')")
    left = []
    for _ in range(4):
        await one.cluster.news()
        left.append(await raw.fetchval("SELECT count(*) FROM news"))
    assert left == [1_501, 501, 1, 1]


# Waking


async def woken(wake_ups: object) -> None:
    assert isinstance(wake_ups, PostgresWakeUps)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await wake_ups.next()


async def test_wake_ups(one: Process, other: Process):
    """Each time somebody asks, those who listen are woken, also when the pause after the last time is not over yet."""
    async with other.cluster.wake_ups() as wake_ups:
        for _ in range(5):
            await one.cluster.wake_others()
            await woken(wake_ups)


async def test_a_commit_with_news_wakes_the_others(one: Process, other: Process):
    """Whoever changes what others hold in memory, or makes work that is theirs, need not ask for it."""
    async with other.cluster.wake_ups() as wake_ups:
        await add_endpoints(one.store, endpoint())
        await woken(wake_ups)


async def test_the_last_of_many_wake_ups_is_not_lost(migrated_url: str, other: Process):
    """Who asks and closes the store at once has still woken the others."""
    async with other.cluster.wake_ups() as wake_ups:
        async with process(migrated_url) as brief:
            for _ in range(100):
                await brief.cluster.wake_others()
        await woken(wake_ups)


async def test_own_wake_ups_do_not_wake(one: Process, other: Process, raw: asyncpg.Connection):
    """A process is not woken by itself, under whatever id it asked."""
    own = PostgresWakeUps(one.cluster.process_ids)
    await raw.add_listener(CHANNEL, own.hear)
    async with other.cluster.wake_ups() as wake_ups:
        await one.cluster.wake_others()
        await woken(wake_ups)
        await join(one.cluster)
        await one.cluster.wake_others()
        await woken(wake_ups)
        await raw.execute("SELECT 1")  # brings what was sent before it
        assert not own._woken.is_set()
        await other.cluster.wake_others()
        await woken(own)
    await raw.remove_listener(CHANNEL, own.hear)


async def test_a_cut_line_raises(one: Process, postgres_server: PostgresServer, migrated_url: str):
    """Who listens on a connection that has been ended is told so, and may listen anew."""
    async with one.cluster.wake_ups() as wake_ups:
        waiting = asyncio.create_task(woken(wake_ups))
        await postgres_server.terminate_connections(migrated_url)
        with pytest.raises(StoreUnavailable):
            await waiting
        with pytest.raises(StoreUnavailable):
            await woken(wake_ups)
    async with one.cluster.wake_ups():
        pass


async def test_a_silent_line_raises(postgres_server: PostgresServer, migrated_url: str, one: Process):
    """Who listens through a network that says nothing any more, not even that it is gone, is told within a few seconds."""
    async with TcpProxy.open(postgres_server.port) as proxy:
        database = Database(StoreSettings(url=proxy.by_way_of(migrated_url)))
        async with PostgresCluster.open(database) as far, far.wake_ups() as wake_ups:
            await one.cluster.wake_others()
            await woken(wake_ups)
            proxy.go_silent()
            async with asyncio.timeout(LINE_CHECK_SECONDS + LINE_TIMEOUT_SECONDS + PATIENCE_SECONDS):
                with pytest.raises(StoreUnavailable):
                    await wake_ups.next()


async def test_a_silent_network_hangs_nobody(postgres_server: PostgresServer, migrated_url: str, one: Process):
    """A renewal that gets no answer ends in time, and the next one works once the network is back."""
    async with TcpProxy.open(postgres_server.port) as proxy:
        database = Database(StoreSettings(url=proxy.by_way_of(migrated_url), statement_seconds=0.1))
        async with PostgresCluster.open(database) as far:
            joined = await join(far)
            proxy.go_silent()
            for call in (far.renew(joined.id), far.take(joined.id, limit=1)):
                with pytest.raises(StoreUnavailable):
                    await call
            proxy.cut()
            await proxy.pass_on()
            assert await far.renew(joined.id)


# Reservations


async def database_now(cluster: PostgresCluster) -> int:
    return (await cluster.view()).now


async def test_reserve(one: Process, other: Process):
    """What one process has reserved another is shown, the reserver itself is not held off, and a release frees it."""
    await join(one.cluster)
    now = await database_now(one.cluster)
    assert await one.store.reserve(RESERVATION, now) is None
    assert await other.store.reserve(replace(RESERVATION, request_hash=b"x" * 32), now) == RESERVATION
    assert await one.store.reserve(RESERVATION, now) is None
    assert await one.store.answer(RESERVATION.key_hash, now) is None
    await other.store.release(RESERVATION)
    assert await other.store.reserve(RESERVATION, now) == RESERVATION
    await one.store.release(RESERVATION)
    assert await other.store.reserve(RESERVATION, now) is None


async def test_only_one_of_many_reserves(one: Process, other: Process):
    """Of two processes that reserve the same key at the same moment one does, and the other is shown that."""
    await join(one.cluster)
    await join(other.cluster)
    now = await database_now(one.cluster)
    for number in range(20):
        wanted = Reservation(bytes([number]) * 32, b"r" * 32)
        outcomes = await asyncio.gather(one.store.reserve(wanted, now), other.store.reserve(wanted, now))
        assert sorted(outcomes, key=str) == sorted([None, wanted], key=str)


async def test_a_kept_answer_takes_the_place_of_its_reservation(one: Process, other: Process):
    """Once the answer is saved everybody is given it instead of a reservation, until it expires; a release does not undo it."""
    await join(one.cluster)
    now = await database_now(one.cluster)
    kept = IdempotentAnswer(RESERVATION.key_hash, RESERVATION.request_hash, b"sealed", now + 1_000)
    await one.store.reserve(RESERVATION, now)
    async with one.store.transaction() as transaction:
        await transaction.save_answer(kept)
    await one.store.release(RESERVATION)
    assert await other.store.reserve(RESERVATION, now + 999) == kept
    assert await one.store.reserve(RESERVATION, now + 999) == kept
    assert await other.store.reserve(RESERVATION, now + 1_000) is None


async def add_with_answer(store: PostgresStore, made: Endpoint, answer: IdempotentAnswer) -> None:
    async with store.transaction() as transaction:
        await transaction.add_endpoint(made)
        await transaction.save_answer(answer)


async def test_the_reservation_of_a_process_that_is_gone_is_taken_over(one: Process, other: Process):
    """Once a node was evicted, another does the work of its requests; should it wake up, its own work cannot commit."""
    gone = await join(one.cluster)
    await join(other.cluster)
    now = await database_now(one.cluster)
    assert await one.store.reserve(RESERVATION, now) is None
    await other.cluster.evict(gone)
    assert await other.store.reserve(RESERVATION, now) is None
    await join(one.cluster)
    assert await one.store.reserve(RESERVATION, now) == RESERVATION
    answer = IdempotentAnswer(RESERVATION.key_hash, RESERVATION.request_hash, b"late", now + 1_000)
    made = endpoint()
    with pytest.raises(ReservationLapsed):
        await add_with_answer(one.store, made, answer)
    assert await one.store.endpoint(made.tenant, made.id) is None
    async with other.store.transaction() as transaction:
        await transaction.save_answer(first := replace(answer, answer=b"first"))
    assert await one.store.answer(RESERVATION.key_hash, now) == first


async def test_the_reservation_of_a_process_that_was_evicted_and_is_back_is_its_own(one: Process, other: Process):
    """A node that was evicted and joined anew goes on with its requests, when nobody has taken them over."""
    gone = await join(one.cluster)
    now = await database_now(one.cluster)
    await one.store.reserve(RESERVATION, now)
    await other.cluster.evict(gone)
    await join(one.cluster)
    async with one.store.transaction() as transaction:
        await transaction.save_answer(IdempotentAnswer(RESERVATION.key_hash, RESERVATION.request_hash, b"a", now + 1_000))
    assert await other.store.answer(RESERVATION.key_hash, now) is not None


async def test_the_reservation_of_who_never_joined_holds_nobody_off(one: Process, other: Process):
    """A command that opens the store by itself cannot be told from one that has died: its reservation may be taken over."""
    now = await database_now(one.cluster)
    assert await one.store.reserve(RESERVATION, now) is None
    assert await other.store.reserve(RESERVATION, now) is None
