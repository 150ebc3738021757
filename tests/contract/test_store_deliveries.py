"""The store contract: deliveries, what results do to them, cancellation, expiry, pruning, lists."""

from typing import Any

import pytest
from msgspec.structs import replace

from gateway.clock import DAY
from gateway.model import (
    AttemptError,
    AttemptTrigger,
    Delivery,
    DeliveryState,
    DeliveryTrigger,
    DisabledReason,
    Endpoint,
    Mode,
    Reason,
    Result,
    Tenant,
    Verdict,
)
from gateway.registry.endpoints import deleted, disabled, enabled
from gateway.store.protocol import SCAN_LIMIT, DeliveryFilter, Page, Store
from tests.contract.acts import (
    add_deliveries,
    add_endpoints,
    attempts,
    claim,
    deliver_to,
    ids,
    look_up,
    record,
    retry,
    save_endpoint,
    sweep,
    walk,
)
from tests.fakes import (
    EXHAUSTED,
    GONE,
    START,
    due,
    endpoint,
    event,
    result,
    retry_at,
    tenant,
)

OTHERS = [tenant("other"), tenant(mode=Mode.SANDBOX)]
OFF = DisabledReason.USER


@pytest.fixture
async def to(store: Store) -> Endpoint:
    """An endpoint that is stored."""
    made = endpoint()
    await add_endpoints(store, made)
    return made


# As made


async def test_delivery(store: Store, to: Endpoint):
    """A new delivery is pending and due, as it was made, for its tenant and nobody else."""
    made = due(to, event(type="a.b"), trigger=DeliveryTrigger.REPLAY, due_at=START + 7, api_version="2026-07-11")
    await add_deliveries(store, made)
    assert await look_up(store, made) == Delivery(
        id=made.id,
        tenant=tenant(),
        endpoint_id=to.id,
        event_id=made.event.id,
        event_type="a.b",
        state=DeliveryState.PENDING,
        reason=None,
        trigger=DeliveryTrigger.REPLAY,
        activation=0,
        api_version="2026-07-11",
        attempt_count=0,
        scheduled_count=0,
        due_at=START + 7,
        last_status=None,
        last_error=None,
        created_at=START,
        finished_at=None,
    )
    for other in OTHERS:
        assert await store.delivery(other, made.id) is None


async def test_a_test_is_pending_without_being_due(store: Store, to: Endpoint):
    """A test is its tester's: it is pending, but never due."""
    (made,) = await deliver_to(store, to, trigger=DeliveryTrigger.TEST)
    found = await look_up(store, made)
    assert (found.state, found.due_at, found.trigger) == (DeliveryState.PENDING, None, DeliveryTrigger.TEST)


@pytest.mark.parametrize("count", [1, 127, 129, 700])
async def test_add_deliveries(store: Store, to: Endpoint, count: int):
    """However many deliveries and results a transaction stores, all of them are there."""
    made = await deliver_to(store, to, count)
    await record(store, *(result(delivery, to) for delivery in made))
    page = await walk(lambda below: deliveries(store, below, limit=300))
    assert ids(page) == ids(made)[::-1]
    assert {delivery.state for delivery in page} == {DeliveryState.DELIVERED}


# Results


async def test_a_success(store: Store, to: Endpoint):
    """A success delivers: nothing is due any more, and the last answer is on record."""
    (made,) = await deliver_to(store, to)
    await record(store, result(made, to, status=204, ended_at=START + 50))
    found = await look_up(store, made)
    assert (found.state, found.reason, found.due_at) == (DeliveryState.DELIVERED, None, None)
    assert (found.attempt_count, found.scheduled_count, found.finished_at) == (1, 1, START + 50)
    assert (found.last_status, found.last_error) == (204, None)


async def test_a_failure_that_is_tried_again(store: Store, to: Endpoint):
    """A failure with attempts left moves the due time, counts, and leaves the delivery pending."""
    (made,) = await deliver_to(store, to)
    await record(store, result(made, to, retry_at(START + 60_000), status=None, error=AttemptError.TIMEOUT))
    found = await look_up(store, made)
    assert (found.state, found.reason, found.due_at) == (DeliveryState.PENDING, None, START + 60_000)
    assert (found.attempt_count, found.scheduled_count, found.finished_at) == (1, 1, None)
    assert (found.last_status, found.last_error) == (None, "timeout")


@pytest.mark.parametrize("verdict", [EXHAUSTED, GONE])
async def test_a_failure_for_good(store: Store, to: Endpoint, verdict: Verdict):
    """A failure for good ends the delivery with its reason."""
    (made,) = await deliver_to(store, to)
    await record(store, result(made, to, verdict, ended_at=START + 50))
    found = await look_up(store, made)
    assert (found.state, found.reason, found.due_at) == (DeliveryState.FAILED, verdict.reason, None)
    assert (found.finished_at, found.last_status) == (START + 50, 500)


async def test_an_interrupted_attempt(store: Store, to: Endpoint):
    """An attempt that was cut off is on record, does not count among the schedule's, and leaves the due time as it was."""
    (made,) = await deliver_to(store, to)
    cut_off = Verdict(DeliveryState.PENDING, counts=False)
    await record(store, result(made, to, cut_off, status=None, error=AttemptError.INTERRUPTED))
    found = await look_up(store, made)
    assert (found.state, found.due_at) == (DeliveryState.PENDING, made.due_at)
    assert (found.attempt_count, found.scheduled_count) == (1, 0)


async def in_state(store: Store, to: Endpoint, state: DeliveryState) -> Any:
    """A delivery that has been attempted once and is in *state*."""
    (made,) = await deliver_to(store, to)
    verdicts = {
        DeliveryState.PENDING: retry_at(START + 60_000),
        DeliveryState.DELIVERED: Verdict(DeliveryState.DELIVERED),
        DeliveryState.FAILED: EXHAUSTED,
        DeliveryState.CANCELED: retry_at(START + 60_000),
    }
    await record(store, result(made, to, verdicts[state]))
    if state is DeliveryState.CANCELED:
        off = await save_endpoint(store, disabled(to, OFF, START + 500))
        await sweep(store, off)
    assert (await look_up(store, made)).state is state
    return replace(made, attempt_count=1, scheduled_count=1)


@pytest.mark.parametrize("state", list(DeliveryState))
async def test_a_success_delivers_from_any_state(store: Store, to: Endpoint, state: DeliveryState):
    """Whatever had become of a delivery: once it is answered 2xx it is delivered, without a reason."""
    made = await in_state(store, to, state)
    await record(store, result(made, to, status=200, ended_at=START + 900))
    found = await look_up(store, made)
    assert (found.state, found.reason, found.due_at, found.attempt_count) == (DeliveryState.DELIVERED, None, None, 2)
    # What is delivered already was so at its first 2xx.
    assert (found.finished_at == START + 900) is (state is not DeliveryState.DELIVERED)


async def test_a_delivery_ends_the_retries_that_wait_for_it(store: Store, to: Endpoint):
    """Once a retry by hand is answered 2xx, those that were asked for before are not sent any more."""
    made, other = await deliver_to(store, to, 2)
    for _ in range(3):
        await retry(store, made, to)
    await retry(store, other, to)
    (first,) = [due for due in (await claim(store, to)).manual if due.id == made.id]
    await record(store, result(first, to, Verdict(DeliveryState.DELIVERED, counts=False)))
    assert ids((await claim(store, to)).manual) == [other.id]


async def test_nothing_is_due_before_its_endpoints_pause_ends(store: Store, to: Endpoint):
    """A delivery that waits for a pause shows the end of it as the time of its next attempt."""
    made, later = await deliver_to(store, to, 2)
    await record(store, result(later, to, retry_at(START + 500)))
    async with store.transaction() as transaction:
        await transaction.pause_endpoints([(to.id, START + 300)])
    assert (await look_up(store, made)).due_at == START + 300
    assert (await look_up(store, later)).due_at == START + 500


@pytest.mark.parametrize("state", [state for state in DeliveryState if state is not DeliveryState.PENDING])
@pytest.mark.parametrize("verdict", [EXHAUSTED, GONE, retry_at(START + 5), Verdict(DeliveryState.PENDING, counts=False)])
async def test_a_failure_moves_only_what_is_pending(store: Store, to: Endpoint, state: DeliveryState, verdict: Verdict):
    """A failure leaves a delivery that is delivered, failed or canceled in its state, with its reason and its end; that it
    was attempted is on record."""
    made = await in_state(store, to, state)
    before = await look_up(store, made)
    await record(store, result(made, to, verdict, status=502, ended_at=START + 900))
    after = await look_up(store, made)
    kept = ("state", "reason", "due_at", "finished_at")
    assert {name: getattr(after, name) for name in kept} == {name: getattr(before, name) for name in kept}
    assert (after.attempt_count, after.last_status) == (2, 502)
    assert len(await attempts(store, tenant(), made.id)) == 2


@pytest.mark.parametrize("verdict", [EXHAUSTED, GONE, retry_at(START + 5)])
@pytest.mark.parametrize("is_deleted", [False, True])
async def test_a_failure_after_the_activation_has_passed(
    store: Store,
    to: Endpoint,
    verdict: Verdict,
    is_deleted: bool,  # noqa: FBT001 - a column of the table
):
    """An attempt that was under way when its endpoint went out of service is on record; its failure leaves the delivery
    canceled, before the sweep and after it."""
    (made,) = await deliver_to(store, to)
    off = await save_endpoint(store, deleted(to, START + 1) if is_deleted else disabled(to, OFF, START + 1))
    reason = Reason.ENDPOINT_DELETED if is_deleted else Reason.ENDPOINT_DISABLED
    await record(store, result(made, to, verdict))
    for _ in range(2):
        found = await look_up(store, made)
        assert (found.state, found.reason, found.due_at, found.finished_at) == (DeliveryState.CANCELED, reason, None, START + 1)
        assert found.attempt_count == 1
        await sweep(store, off)


async def test_a_success_after_the_activation_has_passed(store: Store, to: Endpoint):
    """An attempt that was under way when its endpoint was disabled delivers when it is answered 2xx, and stays delivered."""
    (made,) = await deliver_to(store, to)
    off = await save_endpoint(store, disabled(to, OFF, START + 1))
    await record(store, result(made, to))
    assert await sweep(store, off) == 0
    assert (await look_up(store, made)).state is DeliveryState.DELIVERED


async def test_results_of_one_transaction(store: Store, to: Endpoint):
    """Successes and failures of many deliveries in one transaction each reach their own."""
    made = await deliver_to(store, to, 300)
    verdicts = [Verdict(DeliveryState.DELIVERED), retry_at(START + 60_000), EXHAUSTED]
    await record(store, *(result(delivery, to, verdicts[place % 3]) for place, delivery in enumerate(made)))
    for place, delivery in enumerate(made[:30]):
        assert (await look_up(store, delivery)).state is verdicts[place % 3].state
    assert len((await deliveries(store, limit=300, state=DeliveryState.FAILED)).items) == 100


# Attempts


async def test_attempts(store: Store, to: Endpoint):
    """Attempts come back by number as they were made, every field of them, for their tenant and nobody else."""
    (made,) = await deliver_to(store, to)
    full = result(
        made,
        to,
        retry_at(START),
        status=503,
        error=None,
        error_message="a sentence",
        url="https://é.example/?q=1",
        resent=True,
        response_headers=b'[["Retry-After","1"]]',
        response_body=b"\x00\xff",
    )
    again = replace(made, attempt_count=1, scheduled_count=1, retry_id="whrt_1")
    bare = result(again, to, retry_at(START), status=None, error=AttemptError.TIMEOUT, response_headers=None, response_body=None)
    await record(store, full)
    await record(store, bare)
    assert await attempts(store, tenant(), made.id) == [full.attempt, bare.attempt]
    assert bare.attempt.trigger is AttemptTrigger.MANUAL
    assert await attempts(store, OTHERS[0], made.id) == []


async def test_attempts_are_shown_up_to_a_thousand(store: Store, to: Endpoint):
    """A delivery that was attempted more than 1,000 times shows the last 1,000."""
    (made,) = await deliver_to(store, to)
    results: list[Result] = [result(replace(made, attempt_count=number), to, retry_at(START)) for number in range(1_010)]
    for start in range(0, len(results), 100):
        await record(store, *results[start : start + 100])
    assert [attempt.number for attempt in await attempts(store, tenant(), made.id)] == list(range(11, 1_011))


# Canceled by definition


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_what_waits_is_canceled_by_definition(store: Store, to: Endpoint, is_deleted: bool):  # noqa: FBT001 - a column of the table
    """From the commit that takes its endpoint out of service, a waiting delivery shows as canceled in every read, with its
    reason and time, although nothing is stored about it yet; storing it changes nothing that is seen."""
    (first,) = await deliver_to(store, to)
    (later,) = await deliver_to(store, to)
    await record(store, result(later, to, retry_at(START + 60_000)))
    off = await save_endpoint(store, deleted(to, START + 5) if is_deleted else disabled(to, OFF, START + 5))
    reason = Reason.ENDPOINT_DELETED if is_deleted else Reason.ENDPOINT_DISABLED
    for swept in (0, 2):
        for made in (first, later):
            found = await look_up(store, made)
            assert (found.state, found.reason) == (DeliveryState.CANCELED, reason)
            assert (found.due_at, found.finished_at) == (None, START + 5)
        page = await deliveries(store, state=DeliveryState.CANCELED)
        assert ids(page.items) == [later.id, first.id]
        assert (await deliveries(store, state=DeliveryState.PENDING)).items == []
        if not swept:
            assert await sweep(store, off) == 2


async def test_enabling_revives_nothing(store: Store, to: Endpoint):
    """Deliveries that were canceled stay so when the endpoint is enabled, swept or not; new ones are pending."""
    (swept,) = await deliver_to(store, to)
    off = await save_endpoint(store, disabled(to, OFF, START + 1))
    await sweep(store, off)
    on = await save_endpoint(store, enabled(off))
    (unswept,) = await deliver_to(store, on)
    again = await save_endpoint(store, enabled(disabled(on, OFF, START + 2)))
    (fresh,) = await deliver_to(store, again)
    states = [(await look_up(store, made)).state for made in (swept, unswept, fresh)]
    assert states == [DeliveryState.CANCELED, DeliveryState.CANCELED, DeliveryState.PENDING]
    assert ids((await claim(store, again)).first) == [fresh.id]
    assert await sweep(store, again) == 1
    assert (await look_up(store, fresh)).state is DeliveryState.PENDING


async def test_what_has_ended_is_not_canceled(store: Store, to: Endpoint):
    """Deliveries that are delivered or failed, and a test under way, stay what they are when their endpoint is disabled."""
    delivered, failed = await deliver_to(store, to, 2)
    (test,) = await deliver_to(store, to, trigger=DeliveryTrigger.TEST)
    await record(store, result(delivered, to), result(failed, to, EXHAUSTED))
    off = await save_endpoint(store, disabled(to, OFF, START + 1))
    assert await sweep(store, off) == 0
    states = [(await look_up(store, made)).state for made in (delivered, failed, test)]
    assert states == [DeliveryState.DELIVERED, DeliveryState.FAILED, DeliveryState.PENDING]
    await record(store, result(test, to, Verdict(DeliveryState.FAILED, Reason.TEST_FAILED)))
    assert (await look_up(store, test)).reason is Reason.TEST_FAILED


# Tests that were interrupted, expiry, pruning


async def test_interrupt_tests(store: Store, to: Endpoint):
    """Tests that are still pending fail when they are old enough, and nothing else does."""
    (test,) = await deliver_to(store, to, trigger=DeliveryTrigger.TEST)
    (done,) = await deliver_to(store, to, trigger=DeliveryTrigger.TEST)
    (plain,) = await deliver_to(store, to)
    await record(store, result(done, to))
    async with store.transaction() as transaction:
        assert await transaction.interrupt_tests(START, START + 9) == 0
        assert await transaction.interrupt_tests(START + 1, START + 9) == 1
    found = await look_up(store, test)
    assert (found.state, found.reason, found.finished_at) == (DeliveryState.FAILED, Reason.INTERRUPTED, START + 9)
    assert (await look_up(store, done)).state is DeliveryState.DELIVERED
    assert (await look_up(store, plain)).state is DeliveryState.PENDING
    async with store.transaction() as transaction:
        assert await transaction.interrupt_tests(START + 1, START + 9) == 0


async def expire(store: Store, before: int, *, limit: int = 100) -> int:
    async with store.transaction() as transaction:
        return await transaction.expire(before, START + 999, limit=limit)


async def prune(store: Store, before: int, *, limit: int = 100) -> int:
    async with store.transaction() as transaction:
        return await transaction.prune(before, limit=limit)


async def test_expire(store: Store, to: Endpoint):
    """What still waits and is old enough fails, and is never handed out again; what has ended, or is younger, stays."""
    waiting, delivered = await deliver_to(store, to, 2)
    (later,) = await deliver_to(store, to, at=START + 1)
    (young,) = await deliver_to(store, to, at=START + 10)
    await record(store, result(delivered, to), result(later, to, retry_at(START + 2)))
    while await expire(store, START + 10, limit=2):
        pass
    for made in (waiting, later):
        found = await look_up(store, made)
        assert (found.state, found.reason, found.finished_at) == (DeliveryState.FAILED, Reason.EXPIRED, START + 999)
    assert (await look_up(store, delivered)).state is DeliveryState.DELIVERED
    assert (await look_up(store, young)).state is DeliveryState.PENDING
    handed_out = await claim(store, to, now=START + 100)
    assert (ids(handed_out.first), ids(handed_out.retries)) == ([young.id], [])


async def test_expire_goes_on_where_it_ended(store: Store, to: Endpoint):
    """Each call looks at the next few, and says 0 when all that are old enough have been seen."""
    await deliver_to(store, to, 5)
    looked = [await expire(store, START + 1, limit=2) for _ in range(4)]
    assert looked == [2, 2, 1, 0]
    (next_day,) = await deliver_to(store, to, at=START + 5)
    assert await expire(store, START + 1) == 0
    assert await expire(store, START + 6) == 1
    assert (await look_up(store, next_day)).reason is Reason.EXPIRED


async def test_expire_loses_its_place_with_the_transaction(store: Store, to: Endpoint):
    """A call whose transaction is rolled back has not looked at anything."""
    (made,) = await deliver_to(store, to)
    with pytest.raises(RuntimeError):
        await _expire_and_fail(store)
    assert await expire(store, START + 1) == 1
    assert (await look_up(store, made)).reason is Reason.EXPIRED


async def _expire_and_fail(store: Store) -> None:
    async with store.transaction() as transaction:
        await transaction.expire(START + 1, START, limit=10)
        raise RuntimeError


async def test_expire_after_everything_was_pruned(store: Store, to: Endpoint):
    """A store that was pruned to the last row expires what comes after as it did before."""
    await deliver_to(store, to, 5)
    while await expire(store, START + 1):
        pass
    while await prune(store, START + 1):
        pass
    (made,) = await deliver_to(store, to, at=START + 10)
    while await expire(store, START + 11):
        pass
    assert (await look_up(store, made)).reason is Reason.EXPIRED


async def test_prune(store: Store, to: Endpoint):
    """Old events go with their deliveries, attempts and waiting retries by hand, in steps or by the day; the rest stays as
    it is."""
    old = await deliver_to(store, to, 3, at=START - 2 * DAY)
    (young,) = await deliver_to(store, to)
    await record(store, *(result(made, to, EXHAUSTED) for made in (*old, young)))
    await retry(store, old[0], to)
    await retry(store, young, to)
    assert [await prune(store, START, limit=4) for _ in range(3)] in ([2, 1, 0], [0, 0, 0])
    for made in old:
        assert await store.event(tenant(), made.event.id) is None
        assert await store.delivery(tenant(), made.id) is None
        assert await attempts(store, tenant(), made.id) == []
    assert await store.event(tenant(), young.event.id) == young.event
    assert len(await attempts(store, tenant(), young.id)) == 1
    assert ids((await claim(store, to)).manual) == [young.id]


async def test_an_event_with_more_deliveries_than_a_step_takes_is_pruned(store: Store):
    """A step is as long as its rows are many, whosever they are; an event that alone has more goes alone."""
    all_of_them = [endpoint() for _ in range(5)]
    await add_endpoints(store, *all_of_them)
    wide, narrow = event(at=START - 2 * DAY), event(at=START - 2 * DAY)
    made = [due(each, wide) for each in all_of_them] + [due(all_of_them[0], narrow)]
    await add_deliveries(store, *made)
    assert [await prune(store, START, limit=4) for _ in range(3)] in ([1, 1, 0], [0, 0, 0])
    assert [await store.delivery(tenant(), each.id) for each in made] == [None] * len(made)


async def test_a_pruned_external_id_may_be_used_again(store: Store, to: Endpoint):
    """An external id is taken for as long as its event is kept."""
    await add_deliveries(store, due(to, event(external_id="x", at=START - DAY)))
    await prune(store, START)
    again = event(external_id="x")
    await add_deliveries(store, due(to, again))
    async with store.transaction() as transaction:
        assert await transaction.take_external_ids([event(external_id="x")]) == {(tenant(), "x"): again}


# Lists


async def deliveries(
    store: Store, below: str | None = None, *, limit: int = 10, of: Tenant | None = None, **only: Any
) -> Page[Delivery]:
    return await store.deliveries(of or tenant(), DeliveryFilter(**only), below=below, limit=limit)


async def test_deliveries(store: Store, to: Endpoint):
    """Deliveries are listed newest first, page by page, each tenant's own; the list shows what the single read shows."""
    other = endpoint(tenant=OTHERS[0])
    await add_endpoints(store, other)
    made = await deliver_to(store, to, 5)
    (foreign,) = await deliver_to(store, other)
    page = await deliveries(store, limit=3)
    assert list(page.items) == [await look_up(store, each) for each in made[:1:-1]]
    rest = await deliveries(store, page.next_below, limit=3)
    assert (ids(rest.items), rest.next_below) == (ids(made[1::-1]), None)
    assert ids((await deliveries(store, of=OTHERS[0])).items) == [foreign.id]


async def test_filters(store: Store, to: Endpoint):
    """Deliveries are found by endpoint, event, type and state, alone and together, never another tenant's."""
    other, foreign = endpoint(), endpoint(tenant=OTHERS[0])
    await add_endpoints(store, other, foreign)
    shared = event(type="a.b")
    here, there, abroad = due(to, shared), due(other, shared), due(foreign, event(tenant=OTHERS[0]))
    await add_deliveries(store, here, there, abroad)
    delivered, failed = await deliver_to(store, to, 2)
    await record(store, result(delivered, to), result(failed, to, EXHAUSTED))

    async def found(**only: Any) -> set[str]:
        return set(ids((await deliveries(store, **only)).items))

    assert await found(endpoint_id=to.id) == {here.id, delivered.id, failed.id}
    assert await found(event_id=shared.id) == {here.id, there.id}
    assert await found(event_id=shared.id, endpoint_id=to.id) == {here.id}
    assert await found(event_type="a.b") == {here.id, there.id}
    assert await found(event_type="a.b", endpoint_id=other.id) == {there.id}
    assert await found(state=DeliveryState.PENDING) == {here.id, there.id}
    assert await found(state=DeliveryState.FAILED) == {failed.id}
    assert await found(state=DeliveryState.FAILED, event_type="a.b") == set()
    assert await found(state=DeliveryState.FAILED, endpoint_id=to.id) == {failed.id}
    assert await found(state=DeliveryState.DELIVERED, endpoint_id=to.id) == {delivered.id}
    assert await found(endpoint_id=foreign.id) == set()
    assert await found(event_id=abroad.event.id) == set()
    assert await found(endpoint_id=foreign.id, of=OTHERS[0]) == {abroad.id}


async def test_spans_of_time(store: Store, to: Endpoint):
    """`since` is inclusive and `until` exclusive, on the time of making, whatever else is filtered by."""
    made = [(await deliver_to(store, to, at=START + place))[0] for place in range(6)]
    await record(store, *(result(each, to, EXHAUSTED) for each in made))
    filters: list[dict[str, Any]] = [{}, {"endpoint_id": to.id}, {"event_type": "invoice.paid"}, {"state": DeliveryState.FAILED}]
    for only in filters:
        page = await deliveries(store, since=START + 1, until=START + 4, **only)
        assert ids(page.items) == ids(made[3:0:-1])
        page = await deliveries(store, made[3].id, since=START + 1, until=START + 5, **only)
        assert ids(page.items) == ids(made[2:0:-1])


@pytest.mark.parametrize("kind", ["all", "endpoint", "type", "failed"])
async def test_a_list_of_deliveries_keeps_its_place(store: Store, to: Endpoint, kind: str):
    """While deliveries are added and old ones pruned, pages neither skip nor repeat what is there throughout."""
    kinds: dict[str, dict[str, Any]] = {
        "all": {},
        "endpoint": {"endpoint_id": to.id},
        "type": {"event_type": "invoice.paid"},
        "failed": {"state": DeliveryState.FAILED},
    }
    only = kinds[kind]
    made = [(await deliver_to(store, to, at=START + place - (DAY if place < 2 else 0)))[0] for place in range(9)]
    await record(store, *(result(each, to, EXHAUSTED) for each in made))
    first = await deliveries(store, limit=3, **only)
    newer = await deliver_to(store, to, 3, at=START + 20)
    await record(store, *(result(each, to, EXHAUSTED) for each in newer))
    await prune(store, START)
    rest = await walk(lambda below: deliveries(store, below or first.next_below, limit=3, **only))
    assert ids([*first.items, *rest]) == ids(made[:1:-1])


async def test_the_scan_of_a_filtered_page_is_bounded(store: Store, to: Endpoint):
    """A page that would walk over more rows than SCAN_LIMIT ends early, and says where to go on, whatever index it walks."""
    shared = event()
    rare = due(to, event(type="rare.one"))
    many = [due(to, shared) for _ in range(SCAN_LIMIT)]
    await add_deliveries(store, rare, *many)
    filters: list[dict[str, Any]] = [{}, {"endpoint_id": to.id}]
    for only in filters:
        page = await deliveries(store, event_type="rare.one", **only)
        assert page.items == []
        assert page.next_below is not None
        page = await deliveries(store, page.next_below, event_type="rare.one", **only)
        assert (ids(page.items), page.next_below) == ([rare.id], None)
    page = await deliveries(store, event_id=shared.id, event_type="rare.one")
    assert page.items == []
    assert page.next_below == many[0].id
    assert (await deliveries(store, page.next_below, event_id=shared.id, event_type="rare.one")).next_below is None
