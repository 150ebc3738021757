"""Buckets that come and go: what a dispatcher starts, what it lets go of, and under which lease its results are recorded."""

import asyncio

from msgspec.structs import replace

from gateway.clock import SECOND
from gateway.model import BUCKETS, DeliveryState, Endpoint, Result, bucket_of
from gateway.store.protocol import Effects, NewEvent
from gateway.store.sqlite import SqliteStore
from tests.fakes import ScriptedSender, due, event, hold, ok, status
from tests.integration.core.conftest import URL, Node, run_node

OTHER = "https://other.example/hook"


async def work(node: Node, *endpoints: Endpoint) -> None:
    """The buckets of *endpoints* are the node's again."""
    buckets = {bucket_of(endpoint.id) for endpoint in endpoints}
    node.dispatcher.hold(dict.fromkeys(buckets, 7), await node.store.lane_work(buckets))


async def in_another_bucket(node: Node, than: Endpoint) -> Endpoint:
    while True:
        made = await node.create(OTHER)
        if bucket_of(made.id) != bucket_of(than.id):
            return made
        await node.delete(made)


def test_buckets_are_spread_evenly():
    """Of many endpoints every bucket gets its share."""
    counts = [0] * BUCKETS
    for number in range(64_000):
        counts[bucket_of(f"wh_{number:024d}")] += 1
    assert min(counts) > 800
    assert max(counts) < 1_200


async def test_what_belongs_to_others_is_not_started(node: Node):
    """Nothing is sent to endpoints in buckets of others; once theirs is held, what waits in it is sent."""
    mine = await node.create()
    theirs = await in_another_bucket(node, mine)
    node.dispatcher.lose([bucket_of(theirs.id)])
    await node.publish(3)
    await node.quiet()
    assert {request.url for request in node.sender.requests} == {URL}
    await work(node, theirs)
    await node.quiet()
    assert [request.url for request in node.sender.requests].count(OTHER) == 3
    assert await node.states() == {DeliveryState.DELIVERED: 6}


async def test_deliveries_that_a_change_has_made_are_started(node: Node):
    """What a transaction stores beside the events that it matches is sent at once where it belongs, and elsewhere left alone."""
    mine = await node.create()
    theirs = await in_another_bucket(node, mine)
    node.dispatcher.lose([bucket_of(theirs.id)])
    made = [due(each, event()) for each in (mine, theirs)]
    async with node.store.transaction() as transaction:
        await transaction.add_events([NewEvent(each.event, 0) for each in made])
        await transaction.add_deliveries([(each.event.tenant, each) for each in made])
    node.dispatcher.committed([], [], Effects(new_work=[mine, theirs]))
    await node.quiet()
    assert [request.event_id for request in node.sender.requests] == [made[0].event.id]


async def test_news_of_work_starts_it(node: Node):
    """New deliveries and retries by hand that others have committed are fetched when they are heard of."""
    subject = await node.create()
    bucket = bucket_of(subject.id)
    node.dispatcher.lose([bucket])
    await node.publish()
    node.dispatcher.hold({bucket: 7}, ())
    await node.quiet()
    assert node.sender.requests == []
    node.dispatcher.heard(Effects(), [subject])
    await node.quiet()
    assert len(node.sender.requests) == 1
    node.dispatcher.lose([bucket])
    await node.retry(await node.only_delivery())
    node.dispatcher.hold({bucket: 8}, ())
    node.dispatcher.heard(Effects(retried_endpoints=[subject]), ())
    await node.quiet()
    assert len(node.sender.requests) == 2


async def test_news_of_others_work_is_let_be(node: Node):
    """News of endpoints in buckets that are not held starts nothing and keeps nothing."""
    subject = await node.create()
    node.dispatcher.lose(range(BUCKETS))
    await node.publish()
    node.dispatcher.heard(Effects(endpoints=[subject], retried_endpoints=[subject]), [subject])
    await node.quiet()
    assert (node.sender.requests, node.dispatcher._lanes) == ([], {})


async def test_a_change_through_another_node_holds_for_what_is_published_after(node: Node):
    """An event that was matched against an endpoint as another node has changed it goes to its new URL, before any news of the
    change; and older news of it, which come late, take nothing back."""
    subject = await node.create()
    await node.publish()
    await node.quiet()
    changed = replace(subject, url=OTHER, revision=subject.revision + 1)
    fresh = due(changed, event(tenant=subject.tenant))
    node.dispatcher.committed([(changed, fresh)], (), Effects())
    node.dispatcher.heard(Effects(endpoints=[subject]), ())
    await node.sender.received(2)
    assert [request.url for request in node.sender.requests] == [URL, OTHER]


async def test_letting_go_waits_for_what_is_under_way(node: Node):
    """A bucket is quiet once the results of its open attempts are committed, and not before; what waited is not started."""
    subject = await node.create()
    node.sender.script(URL, hold(), hold(), ok())
    await node.publish(3)
    await node.quiet()
    under_way = node.sender.held_requests
    leaving = asyncio.create_task(node.dispatcher.let_go([bucket_of(subject.id)]))
    await node.quiet()
    node.scripted.close_gate()
    node.sender.release()
    await node.scripted.gated.wait()
    assert not leaving.done()
    node.scripted.gate.set()
    await leaving
    await node.quiet()
    assert len(node.sender.requests) == under_way < 3
    await work(node, subject)
    await node.quiet()
    assert await node.states() == {DeliveryState.DELIVERED: 3}
    assert len(node.sender.requests) == 3


async def test_letting_go_of_a_quiet_bucket_is_done_at_once(node: Node):
    """A bucket in which nothing is under way is let go without waiting, whatever else goes on."""
    subject = await node.create()
    quiet = await in_another_bucket(node, subject)
    node.sender.script(URL, hold())
    node.sender.script(OTHER, ok())
    await node.publish()
    await node.quiet()
    await node.dispatcher.let_go([bucket_of(quiet.id)])
    assert node.sender.held_requests == 1


async def test_nothing_starts_when_the_lease_has_passed(node: Node):
    """A node that cannot renew its lease starts nothing after its end, and goes on when it has renewed."""
    await node.create()
    node.dispatcher.lease_until(node.clock.monotonic() + 5)
    await node.publish()
    await node.quiet()
    assert len(node.sender.requests) == 1
    node.clock.advance(5 * SECOND)
    await node.publish(2)
    await node.quiet()
    assert len(node.sender.requests) == 1
    node.dispatcher.lease_until(node.clock.monotonic() + 5)
    await node.quiet()
    assert len(node.sender.requests) == 3


async def test_results_name_the_lease_that_they_were_started_under(node: Node):
    """An attempt belongs to the lease under which it began, also when the bucket has come back under a later one."""
    subject = await node.create()
    epochs: list[int | None] = []
    node.writer.listen(lambda _, results, __: epochs.extend(result.epoch for result in results))
    bucket = bucket_of(subject.id)
    node.dispatcher.hold({bucket: 3}, ())
    node.sender.script(URL, hold(), ok())
    await node.publish()
    await node.quiet()
    node.dispatcher.lose([bucket])
    node.dispatcher.hold({bucket: 5}, ())
    node.sender.release()
    await node.publish()
    await node.quiet()
    assert epochs == [3, 5]


async def test_the_limit_of_an_endpoint_outlives_a_lost_lease(store: SqliteStore):
    """A bucket that goes and comes back while an attempt is open: the endpoint still gets one request at a time."""
    sender = ScriptedSender()
    async with run_node(store, sender=sender, max_in_flight_per_endpoint=1) as node:
        subject = await node.create()
        sender.script(URL, hold(), ok())
        await node.publish(5)
        await node.quiet()
        node.dispatcher.lose([bucket_of(subject.id)])
        await work(node, subject)
        await node.quiet()
        assert len(sender.requests) == 1
        sender.release()
        await node.quiet()
        assert sender.most_open_of[URL] == 1
        assert await node.states() == {DeliveryState.DELIVERED: 5}


async def test_a_fenced_result_makes_the_store_be_asked(node: Node):
    """When a result did not count and the bucket is held again, the delivery's next attempt is looked up in the store."""
    subject = await node.create()
    node.sender.script(URL, status(500), ok())
    results: list[Result] = []
    node.writer.listen(lambda _, ended, __: results.extend(ended))
    await node.publish()
    await node.quiet()
    asked = node.claims.count
    node.dispatcher._uncommitted += 1
    node.dispatcher.committed((), results, Effects(fenced=results))
    await node.quiet()
    assert node.claims.count > asked
    assert node.dispatcher._lanes[subject.id].next_retry_at is not None


async def test_a_repeated_hold_sends_nothing_twice(node: Node):
    """What waits in the store may be told again and again: what is held already is not taken again."""
    subject = await node.create()
    node.sender.script(URL, hold(), ok())
    await node.publish(50)
    await node.quiet()
    for _ in range(3):
        await work(node, subject)
        await node.quiet()
    node.sender.release()
    await node.quiet()
    assert len(node.sender.requests) == len({request.event_id for request in node.sender.requests}) == 50
