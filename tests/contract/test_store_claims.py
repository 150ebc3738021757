"""The store contract: what is handed out to lanes, and what waits where."""

import pytest
from msgspec.structs import replace

from gateway.model import (
    BUCKETS,
    AttemptError,
    DeliveryState,
    DeliveryTrigger,
    DisabledReason,
    DueDelivery,
    Endpoint,
    Mode,
    Reason,
    Verdict,
)
from gateway.registry.endpoints import deleted, disabled, enabled
from gateway.store.protocol import LaneWork, Store
from tests.contract.acts import (
    add_deliveries,
    add_endpoints,
    ask,
    claim,
    deliver_to,
    ids,
    look_up,
    record,
    retry,
    save_endpoint,
    sweep,
)
from tests.fakes import EXHAUSTED, START, due, endpoint, event, result, retry_at, tenant

OFF = DisabledReason.USER
FAILED_BY_HAND = Verdict(DeliveryState.PENDING, counts=False)


@pytest.fixture
async def to(store: Store) -> Endpoint:
    """An endpoint that is stored."""
    made = endpoint()
    await add_endpoints(store, made)
    return made


async def to_be_retried(store: Store, to: Endpoint, *at: int) -> list[DueDelivery]:
    """Deliveries whose first attempt has failed, due again at each of *at*."""
    made = await deliver_to(store, to, len(at))
    await record(store, *(result(each, to, retry_at(when)) for each, when in zip(made, at, strict=True)))
    return made


# First attempts


async def test_first_attempts(store: Store, to: Endpoint):
    """First attempts are handed out oldest first, with their event, and say when some are left behind."""
    made = await deliver_to(store, to, 5)
    answer = await claim(store, to, limit=3)
    assert (list(answer.first), answer.more_first) == (made[:3], True)
    answer = await claim(store, to, limit=3, held=ids(made[:3]))
    assert (list(answer.first), answer.more_first) == (made[3:], False)
    assert (answer.manual, answer.retries, answer.next_retry_at) == ([], [], None)


async def test_a_claim_changes_nothing(store: Store, to: Endpoint):
    """Nothing is noted about what is handed out: what is held is the lane's to know, so that a crash loses nothing."""
    made = await deliver_to(store, to, 2)
    assert (await claim(store, to)) == (await claim(store, to))
    assert (await look_up(store, made[0])).attempt_count == 0


async def test_what_is_held_is_left_out(store: Store, to: Endpoint):
    """A delivery that a lane holds is not handed out, as a first attempt or as a later one."""
    first = await deliver_to(store, to, 3)
    later = await to_be_retried(store, to, START - 2, START - 1)
    answer = await claim(store, to, held=[first[0].id, first[2].id, later[1].id])
    assert (ids(answer.first), answer.more_first) == ([first[1].id], False)
    assert (ids(answer.retries), answer.next_retry_at) == ([later[0].id], None)


async def test_a_bound_in_bytes(store: Store, to: Endpoint):
    """The delivery that passes the bound in bytes is the last, and one is handed out however large it is."""
    made = [due(to, event(data=b"x" * 1_000)) for _ in range(4)]
    await add_deliveries(store, *made)
    answer = await claim(store, to, max_bytes=1_500)
    assert (ids(answer.first), answer.more_first) == (ids(made[:2]), True)
    answer = await claim(store, to, max_bytes=1)
    assert (ids(answer.first), answer.more_first) == (ids(made[:1]), True)


async def test_an_earlier_activation_is_not_handed_out(store: Store, to: Endpoint):
    """Deliveries made before their endpoint went out of service are handed out to nobody, swept or not, first or later."""
    await deliver_to(store, to, 2)
    await to_be_retried(store, to, START - 1)
    off = await save_endpoint(store, disabled(to, OFF, START))
    on = await save_endpoint(store, enabled(off))
    (fresh,) = await deliver_to(store, on)
    answer = await claim(store, on)
    assert (ids(answer.first), list(answer.retries), answer.more_first) == ([fresh.id], [], False)
    assert answer.next_retry_at is None


async def test_a_disabled_endpoint_is_handed_nothing_automatic(store: Store, to: Endpoint):
    """What a disabled endpoint has waiting is not handed out."""
    await deliver_to(store, to, 2)
    off = await save_endpoint(store, disabled(to, OFF, START))
    answer = await claim(store, off)
    assert (list(answer.first), list(answer.retries), list(answer.manual)) == ([], [], [])


async def test_tests_are_handed_to_nobody(store: Store, to: Endpoint):
    """A test is its tester's: no lane is handed it."""
    await deliver_to(store, to, trigger=DeliveryTrigger.TEST)
    assert (await claim(store, to)).first == []


async def test_replays_are_handed_out(store: Store, to: Endpoint):
    """A delivery that a replay made is handed out as what it is."""
    (made,) = await deliver_to(store, to, trigger=DeliveryTrigger.REPLAY)
    assert list((await claim(store, to)).first) == [made]


async def test_claims_are_answered_in_order(store: Store, to: Endpoint):
    """Several claims at once are answered each with its own endpoint's deliveries, in their order."""
    other, idle = endpoint(), endpoint(tenant=tenant(mode=Mode.SANDBOX))
    await add_endpoints(store, other, idle)
    shared = event()
    here, there = due(to, shared), due(other, shared)
    await add_deliveries(store, here, there)
    answers = await store.claim([ask(other), ask(idle), ask(to)])
    assert [ids(answer.first) for answer in answers] == [[there.id], [], [here.id]]
    assert list(await store.claim([])) == []


async def test_kinds_that_are_not_asked_for(store: Store, to: Endpoint):
    """Only the kinds that a claim looks for are in its answer."""
    await deliver_to(store, to)
    (later,) = await to_be_retried(store, to, START - 1)
    await retry(store, later, to)
    nothing = await claim(store, to, manual=False, retries=False, first=False)
    assert (nothing.manual, nothing.retries, nothing.first) == ([], [], [])
    assert (nothing.more_first, nothing.more_manual, nothing.blocked_manual) == (False, False, False)


# Later attempts


async def test_retries(store: Store, to: Endpoint):
    """Later attempts are handed out once they are due, earliest due first, as many as there is room for; the answer tells
    when the next of those that were left behind is due."""
    made = await to_be_retried(store, to, START + 5, START - 5, START, START - 9)
    answer = await claim(store, to)
    assert ids(answer.retries) == ids([made[3], made[1], made[2]])
    assert answer.next_retry_at == START + 5
    assert answer.retries[0].scheduled_count == answer.retries[0].attempt_count == 1
    assert [each.due_at for each in answer.retries] == [START - 9, START - 5, START]
    answer = await claim(store, to, limit=1)
    assert (ids(answer.retries), answer.next_retry_at) == ([made[3].id], START - 5)
    answer = await claim(store, to, now=START + 5, held=ids(made[1:]))
    assert (ids(answer.retries), answer.next_retry_at) == ([made[0].id], None)


async def test_retries_go_before_first_attempts(store: Store, to: Endpoint):
    """What room there is goes to retries by hand, then to later attempts, then to first ones."""
    (first,) = await deliver_to(store, to)
    (later,) = await to_be_retried(store, to, START)
    (by_hand,) = await deliver_to(store, to)
    await record(store, result(by_hand, to, EXHAUSTED))
    await retry(store, by_hand, to)
    answers = [await claim(store, to, limit=limit) for limit in (1, 2, 3)]
    assert [ids(answer.manual) for answer in answers] == [[by_hand.id]] * 3
    assert [ids(answer.retries) for answer in answers] == [[], [later.id], [later.id]]
    assert [ids(answer.first) for answer in answers] == [[], [], [first.id]]
    assert [answer.more_first for answer in answers] == [True, True, False]
    assert [answer.next_retry_at for answer in answers] == [START, None, None]


async def test_what_was_interrupted_is_handed_out_again(store: Store, to: Endpoint):
    """An attempt that was cut off is handed out again as what it was: a first attempt, or a later one that is due."""
    cut_off = {"status": None, "error": AttemptError.INTERRUPTED}
    (first,) = await deliver_to(store, to)
    (later,) = await to_be_retried(store, to, START - 5)
    await record(store, result(first, to, FAILED_BY_HAND, **cut_off))
    again = replace(later, attempt_count=1, scheduled_count=1)
    await record(store, result(again, to, FAILED_BY_HAND, **cut_off))
    answer = await claim(store, to)
    assert list(answer.first) == [replace(first, attempt_count=1)]
    assert list(answer.retries) == [replace(again, attempt_count=2, due_at=START - 5)]


# Retries by hand


async def test_a_retry_by_hand(store: Store, to: Endpoint):
    """A retry by hand is handed out with its own id and its delivery's counts, until its result is stored."""
    (made,) = await deliver_to(store, to)
    await record(store, result(made, to, EXHAUSTED))
    retry_id = await retry(store, made, to)
    (handed_out,) = (await claim(store, to)).manual
    assert (handed_out.retry_id, handed_out.id, handed_out.event) == (retry_id, made.id, made.event)
    assert (handed_out.attempt_count, handed_out.scheduled_count) == (1, 1)
    await record(store, result(handed_out, to, FAILED_BY_HAND))
    answer = await claim(store, to)
    assert (list(answer.manual), answer.more_manual, answer.blocked_manual) == ([], False, False)
    assert (await look_up(store, made)).scheduled_count == 1


async def test_a_retry_by_hand_moves_no_automatic_attempt(store: Store, to: Endpoint):
    """A retry by hand that fails leaves the due time and the count of the schedule as they were."""
    (made,) = await to_be_retried(store, to, START + 500)
    await retry(store, made, to)
    (handed_out,) = (await claim(store, to)).manual
    await record(store, result(handed_out, to, FAILED_BY_HAND, status=502))
    found = await look_up(store, made)
    assert (found.state, found.due_at, found.scheduled_count) == (DeliveryState.PENDING, START + 500, 1)
    assert (found.attempt_count, found.last_status) == (2, 502)
    answer = await claim(store, to, now=START + 500)
    assert ids(answer.retries) == [made.id]


async def test_a_retry_by_hand_that_succeeds_ends_it(store: Store, to: Endpoint):
    """A retry by hand that is answered 2xx delivers, and nothing more is due."""
    (made,) = await to_be_retried(store, to, START + 500)
    await retry(store, made, to)
    (handed_out,) = (await claim(store, to)).manual
    await record(store, result(handed_out, to, Verdict(DeliveryState.DELIVERED, counts=False)))
    assert (await look_up(store, made)).state is DeliveryState.DELIVERED
    answer = await claim(store, to, now=START + 500)
    assert (list(answer.retries), list(answer.manual), answer.next_retry_at) == ([], [], None)


@pytest.mark.parametrize("state", list(DeliveryState))
async def test_a_retry_by_hand_is_handed_out_whatever_the_state(store: Store, to: Endpoint, state: DeliveryState):
    """Any delivery can be retried by hand, a canceled one of a disabled endpoint included."""
    (made,) = await deliver_to(store, to)
    if state is DeliveryState.CANCELED:
        to = await save_endpoint(store, disabled(to, OFF, START))
        await sweep(store, to)
    elif state is not DeliveryState.PENDING:
        await record(store, result(made, to, Verdict(state, Reason.ATTEMPTS_EXHAUSTED)))
    await retry(store, made, to)
    answer = await claim(store, to)
    assert ids(answer.manual) == [made.id]
    assert made.id not in ids(answer.first)


async def test_a_delivery_is_handed_out_once(store: Store, to: Endpoint):
    """A delivery that is handed out by hand is not handed out as a first or later attempt in the same answer."""
    (first,) = await deliver_to(store, to)
    (later,) = await to_be_retried(store, to, START - 1)
    await retry(store, first, to)
    await retry(store, later, to)
    answer = await claim(store, to)
    assert ids(answer.manual) == [first.id, later.id]
    assert (list(answer.first), list(answer.retries), answer.more_first, answer.next_retry_at) == ([], [], False, None)


async def test_retries_of_one_delivery_come_one_by_one(store: Store, to: Endpoint):
    """Of several retries by hand of one delivery the oldest is handed out; the next after its result."""
    (made,) = await deliver_to(store, to)
    retry_ids = [await retry(store, made, to) for _ in range(3)]
    handed_out = []
    count = 0
    while found := (await claim(store, to)).manual:
        (each,) = found
        handed_out.append(each.retry_id)
        assert each.attempt_count == count
        await record(store, result(each, to, FAILED_BY_HAND))
        count += 1
    assert handed_out == retry_ids


async def test_retries_by_hand_that_are_left_behind(store: Store, to: Endpoint):
    """The answer tells apart retries that there was no room for, and those whose delivery is being attempted."""
    made = await deliver_to(store, to, 3)
    for each in made:
        await retry(store, each, to)
    answer = await claim(store, to, limit=2)
    assert (ids(answer.manual), answer.more_manual) == (ids(made[:2]), True)
    answer = await claim(store, to, held=[made[0].id], under_way=[made[0].id])
    assert (ids(answer.manual), answer.more_manual, answer.blocked_manual) == (ids(made[1:]), False, True)
    answer = await claim(store, to)
    assert (ids(answer.manual), answer.more_manual, answer.blocked_manual) == (ids(made), False, False)


async def test_a_delivery_that_only_waits_in_its_lane_is_retried_by_hand(store: Store, to: Endpoint):
    """A delivery that is held but not under way is handed out by hand, and still not as a first attempt."""
    (made,) = await deliver_to(store, to)
    await retry(store, made, to)
    answer = await claim(store, to, held=[made.id])
    assert (ids(answer.manual), list(answer.first), answer.blocked_manual) == ([made.id], [], False)


async def test_a_test_under_way_is_not_retried_beside(store: Store, to: Endpoint):
    """A retry by hand of a test waits until the tester has its result."""
    (made,) = await deliver_to(store, to, trigger=DeliveryTrigger.TEST)
    await retry(store, made, to)
    answer = await claim(store, to)
    assert (list(answer.manual), answer.blocked_manual) == ([], True)
    await record(store, result(made, to, Verdict(DeliveryState.FAILED, Reason.TEST_FAILED)))
    answer = await claim(store, to)
    assert (ids(answer.manual), answer.blocked_manual) == ([made.id], False)


async def test_deletion_ends_retries_by_hand(store: Store, to: Endpoint):
    """Retries by hand that wait for an endpoint go with it; those of another stay."""
    other = endpoint()
    await add_endpoints(store, other)
    (mine,), (theirs,) = await deliver_to(store, to), await deliver_to(store, other)
    await retry(store, mine, to)
    await retry(store, theirs, other)
    gone = await save_endpoint(store, deleted(to, START))
    answer = await claim(store, gone)
    assert (list(answer.manual), answer.blocked_manual) == ([], False)
    assert ids((await claim(store, other)).manual) == [theirs.id]


async def test_an_interrupted_retry_by_hand_is_handed_out_again(store: Store, to: Endpoint):
    """A retry by hand that was cut off when the gateway stopped is not lost: it is handed out again."""
    (made,) = await deliver_to(store, to)
    await record(store, result(made, to, EXHAUSTED))
    await retry(store, made, to)
    (handed_out,) = (await claim(store, to)).manual
    await record(store, result(handed_out, to, FAILED_BY_HAND, status=None, error=AttemptError.INTERRUPTED))
    (again,) = (await claim(store, to)).manual
    assert again == replace(handed_out, attempt_count=2)
    await record(store, result(again, to, FAILED_BY_HAND))
    assert (await claim(store, to)).manual == []


# What waits where


async def test_lane_work(store: Store, to: Endpoint):
    """Every endpoint that has work is named once with what kinds, and no other is."""
    first, later, by_hand, idle = (endpoint() for _ in range(4))
    await add_endpoints(store, first, later, by_hand, idle)
    await deliver_to(store, first, 3)
    await to_be_retried(store, later, START + 7, START + 5)
    (failed,) = await deliver_to(store, by_hand)
    await record(store, result(failed, by_hand, EXHAUSTED))
    await retry(store, failed, by_hand)
    await deliver_to(store, to)
    await to_be_retried(store, to, START + 1)
    (done,) = await deliver_to(store, idle)
    await record(store, result(done, idle))
    await deliver_to(store, idle, trigger=DeliveryTrigger.TEST)
    work = {each.endpoint.id: each for each in await store.lane_work(range(BUCKETS))}
    assert work == {
        first.id: LaneWork(first, has_first_attempts=True, next_retry_at=None, has_manual=False),
        later.id: LaneWork(later, has_first_attempts=False, next_retry_at=START + 5, has_manual=False),
        by_hand.id: LaneWork(by_hand, has_first_attempts=False, next_retry_at=None, has_manual=True),
        to.id: LaneWork(to, has_first_attempts=True, next_retry_at=START + 1, has_manual=False),
    }


async def test_lane_work_of_many_endpoints(store: Store):
    """However many endpoints have work, all are found."""
    endpoints = [endpoint() for _ in range(300)]
    await add_endpoints(store, *endpoints)
    await add_deliveries(store, *(due(each) for each in endpoints))
    assert sorted(each.endpoint.id for each in await store.lane_work(range(BUCKETS))) == sorted(ids(endpoints))


async def test_lane_work_leaves_out_what_is_canceled(store: Store, to: Endpoint):
    """What waited for an endpoint that has gone out of service is no work, swept or not."""
    await deliver_to(store, to)
    await to_be_retried(store, to, START)
    off = await save_endpoint(store, disabled(to, OFF, START))
    on = await save_endpoint(store, enabled(off))
    for each in await store.lane_work(range(BUCKETS)):
        assert (each.has_first_attempts, each.next_retry_at, each.has_manual) == (False, None, False)
    await sweep(store, on)
    assert list(await store.lane_work(range(BUCKETS))) == []


async def test_no_work(store: Store):
    """An empty store has no work."""
    assert list(await store.lane_work(range(BUCKETS))) == []
    assert list(await store.unswept_endpoints()) == []
