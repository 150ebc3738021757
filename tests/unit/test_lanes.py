"""Lanes: the buffer, what spills into the store, the order of attempts, pauses, changes of the endpoint, claims."""

from typing import Any

import pytest
from msgspec.structs import replace

from gateway.delivery.lanes import BUFFER, BUFFER_BYTES, Lane
from gateway.delivery.outcome import Strain
from gateway.model import DisabledReason, DueDelivery, Endpoint
from gateway.registry.endpoints import deleted, disabled, enabled
from gateway.store.protocol import Claimed
from tests.fakes import START, due, endpoint, event

E = endpoint()


def lane(to: Endpoint = E, *, most_open: int = 4) -> Lane:
    return Lane(to, most_open=most_open)


def first(**fields: Any) -> DueDelivery:
    return due(E, **fields)


def later(**fields: Any) -> DueDelivery:
    return due(E, attempt_count=1, scheduled_count=1, **fields)


def manual(of: DueDelivery | None = None) -> DueDelivery:
    return replace(of or first(), retry_id="whrt_1")


def fill(subject: Lane, **claimed: Any) -> None:
    """The lane asks for everything, and gets *claimed*."""
    if claimed.get("manual"):
        subject.has_more_manual = True
    subject.fill(subject.claim(START), Claimed(**claimed))


# The buffer


def test_a_new_lane_is_idle():
    """A lane without work has nothing to do, wants nothing, and waits for nothing."""
    subject = lane()
    assert subject.is_idle
    assert not subject.can_start(START)
    assert not subject.wants_claim(START)
    assert subject.next_look_at(START) is None


def test_fresh_deliveries_are_buffered_in_order():
    """Fresh deliveries are held and handed out in the order in which they came."""
    subject = lane()
    offered = [first() for _ in range(3)]
    for delivery in offered:
        subject.offer(delivery)
    assert subject.held == {delivery.id for delivery in offered}
    assert subject.can_start(START)
    assert [subject.take() for _ in range(3)] == offered
    assert not subject.can_start(START)


def test_what_does_not_fit_spills():
    """A full buffer leaves what comes in the store, and holds none of it."""
    subject = lane()
    for _ in range(BUFFER):
        subject.offer(first())
    assert not subject.has_more_first
    spilled = first()
    subject.offer(spilled)
    assert subject.buffered == BUFFER
    assert subject.has_more_first
    assert spilled.id not in subject.held


def test_large_events_fill_the_buffer_too():
    """The buffer is bounded in bytes: the delivery that passes the bound is the last."""
    subject = lane()
    large = event(data=b"x" * (BUFFER_BYTES // 2 + 1))
    for _ in range(3):
        subject.offer(first(of=large))
    assert (subject.buffered, subject.has_more_first) == (2, True)
    subject.take()
    subject.has_more_first = False
    subject.offer(first(of=large))  # the bytes of what was taken are free again
    assert subject.buffered == 2


def test_fresh_deliveries_stay_behind_what_has_spilled():
    """Once a lane has spilled, what comes stays in the store, although there is room, until a claim has fetched all."""
    subject = lane()
    for _ in range(BUFFER + 1):
        subject.offer(first())
    for _ in range(BUFFER):
        subject.take()
    subject.offer(first())
    left_behind = not subject.can_start(START)
    fill(subject, first=[first()], more_first=True)
    subject.offer(first())
    fill(subject, first=[first()], more_first=False)
    subject.offer(first())
    assert left_behind
    assert subject.buffered == 3  # two of the claims, and the last that was offered


def test_a_delivery_is_held_until_its_result_is_committed():
    """What was handed out and is being attempted stays held, so that no claim hands it out again."""
    subject = lane()
    delivery = first()
    subject.offer(delivery)
    subject.take()
    assert subject.held == {delivery.id}
    assert not subject.is_idle
    subject.release(delivery)
    assert subject.is_idle


# Order and pauses


def test_the_order_is_by_hand_then_retries_then_first():
    """Retries by hand go first, then later attempts, then first ones, whatever came first."""
    subject = lane()
    plain, retry, by_hand = first(), later(), manual()
    subject.offer(plain)
    subject.has_more_manual, subject.next_retry_at = True, START
    fill(subject, manual=[by_hand], retries=[retry])
    assert [subject.take() for _ in range(3)] == [by_hand, retry, plain]


def test_the_limit_holds_for_everything():
    """No more requests are open than the limit says, retries by hand included."""
    subject = lane(most_open=1)
    fill(subject, manual=[manual()])
    subject.open_requests = 1
    assert not subject.can_start(START)


def test_a_pause_stops_what_is_automatic():
    """A paused lane starts and claims nothing automatic until its time has come, but what was asked for by hand."""
    subject = lane()
    subject.offer(first())
    subject.paused_until = START + 1_000
    subject.has_more_first = True
    assert not subject.can_start(START)
    assert not subject.wants_claim(START)
    assert subject.next_look_at(START) == START + 1_000
    fill(subject, manual=[manual()])
    assert subject.can_start(START)
    assert subject.can_start(START + 1_000)
    assert subject.take().retry_id is not None
    assert not subject.can_start(START)
    assert subject.can_start(START + 1_000)


def test_a_stored_pause_holds_from_the_start():
    """A lane of an endpoint whose pause is on record is paused."""
    subject = lane(endpoint(paused_until=START + 1_000))
    subject.offer(first())
    assert not subject.can_start(START + 999)
    assert subject.can_start(START + 1_000)


# Claims


def test_a_claim_leaves_out_what_is_held():
    """The claim names everything that is held, asks for no more than there is room, and for the current activation."""
    subject = lane()
    held = [first(of=event(data=b"x" * 1_000)) for _ in range(10)]
    for delivery in held:
        subject.offer(delivery)
    subject.take()
    subject.has_more_first = True
    claim = subject.claim(START)
    assert set(claim.held) == {delivery.id for delivery in held}
    assert claim.limit == BUFFER - 9
    assert claim.max_bytes == BUFFER_BYTES - 9_000
    assert (claim.endpoint, claim.now) == (E, START)
    assert (claim.manual, claim.retries, claim.first) == (False, False, True)


def test_a_lane_claims_when_it_runs_low():
    """A lane with a full enough buffer does not ask for more; one that runs low does."""
    subject = lane()
    for _ in range(BUFFER + 1):
        subject.offer(first())
    while subject.buffered > BUFFER // 4:
        assert not subject.wants_claim(START)
        subject.take()
    assert subject.wants_claim(START)


def test_due_retries_do_not_wait_behind_a_buffer_of_first_attempts():
    """Later attempts that fall due are fetched at once, also into a lane whose buffer is full of first ones, so that an
    endpoint in trouble runs through its oldest events' schedule on time."""
    subject = lane()
    for _ in range(BUFFER + 1):
        subject.offer(first())
    subject.expect_retry(START + 100)
    assert not subject.wants_claim(START + 99)
    assert subject.wants_claim(START + 100)
    claim = subject.claim(START + 100)
    assert (claim.retries, claim.first) == (True, False)
    assert claim.limit >= 1
    retry = later()
    subject.fill(claim, Claimed(retries=[retry], next_retry_at=START + 100))
    assert not subject.wants_claim(START + 100)  # one at a time, as long as there is no room
    assert subject.take() == retry
    assert subject.wants_claim(START + 100)


def test_retries_are_claimed_when_they_are_due():
    """The lane waits for the earliest of the later attempts that it knows of."""
    subject = lane()
    subject.expect_retry(START + 500)
    subject.expect_retry(START + 300)
    subject.expect_retry(START + 400)
    assert not subject.is_idle
    assert subject.next_look_at(START) == START + 300
    assert not subject.wants_claim(START + 299)
    assert subject.wants_claim(START + 300)
    claim = subject.claim(START + 300)
    assert claim.retries
    subject.fill(claim, Claimed(next_retry_at=START + 400))
    assert subject.next_look_at(START + 300) == START + 400
    subject.fill(subject.claim(START + 400), Claimed())
    assert subject.is_idle


def test_an_answer_changes_only_what_was_asked_for():
    """A claim for retries by hand says nothing about what else is left in the store."""
    subject = lane()
    subject.paused_until = START + 1_000
    subject.has_more_first, subject.next_retry_at = True, START + 10
    fill(subject, manual=[manual()])
    assert subject.has_more_first
    assert subject.next_retry_at == START + 10
    assert not subject.has_more_manual


# Retries by hand


def test_a_retry_by_hand_is_claimed_into_a_full_and_paused_lane():
    """A retry by hand goes past a pause and past a full buffer: it is claimed at once."""
    subject = lane()
    for _ in range(BUFFER):
        subject.offer(first())
    subject.paused_until = START + 1_000
    subject.has_more_manual = True
    assert subject.wants_claim(START)
    claim = subject.claim(START)
    assert claim.manual
    assert claim.limit >= 1
    assert (claim.retries, claim.first) == (False, False)
    by_hand = manual()
    subject.fill(claim, Claimed(manual=[by_hand]))
    assert subject.can_start(START)
    assert subject.take() == by_hand


def test_a_delivery_that_waits_in_the_buffer_may_be_retried_by_hand():
    """A retry by hand of a delivery whose automatic attempt waits in the buffer takes its place, and is held once."""
    subject = lane()
    waiting, other = first(), first()
    subject.offer(waiting)
    subject.offer(other)
    subject.paused_until = START + 1_000
    subject.has_more_manual = True
    claim = subject.claim(START)
    assert set(claim.under_way) == set()
    by_hand = manual(waiting)
    subject.fill(claim, Claimed(manual=[by_hand]))
    assert subject.buffered == 2
    assert [subject.take(), subject.take()] == [by_hand, other]
    assert subject.held == {waiting.id, other.id}
    subject.release(by_hand)
    assert subject.held == {other.id}


def test_a_delivery_that_is_being_attempted_is_not_retried_beside():
    """A retry by hand never runs beside another attempt of its delivery: it waits, and is asked for again afterwards."""
    subject = lane()
    delivery = first()
    subject.offer(delivery)
    subject.take()
    subject.has_more_manual = True
    claim = subject.claim(START)
    assert set(claim.under_way) == {delivery.id}
    subject.fill(claim, Claimed(blocked_manual=True))
    assert not subject.wants_claim(START)
    subject.release(delivery)
    assert not subject.is_idle
    assert subject.wants_claim(START)


def test_a_delivery_that_starts_during_the_claim_is_not_retried_beside():
    """The race: a delivery waits when the store is asked, and is being attempted when the answer comes. The retry by hand
    that the store handed out is let be, and asked for again once the attempt is committed."""
    subject = lane()
    delivery = first()
    subject.offer(delivery)
    subject.has_more_manual = True
    claim = subject.claim(START)
    subject.take()
    subject.fill(claim, Claimed(manual=[manual(delivery)]))
    assert not subject.can_start(START)
    assert not subject.wants_claim(START)
    subject.release(delivery)
    assert subject.wants_claim(START)


# Commits during a claim


def test_one_claim_at_a_time():
    """While a claim is under way the lane wants no other, and is not idle."""
    subject = lane()
    subject.expect_first()
    claim = subject.claim(START)
    subject.has_more_first = False
    assert not subject.wants_claim(START)
    assert not subject.is_idle
    subject.fill(claim, Claimed())
    assert subject.is_idle


def test_what_was_committed_during_the_claim_is_not_sent_again():
    """The race: a result is committed after the store looked and before its answer comes. The answer still shows the
    delivery, and it is not taken again, neither as a first attempt nor as a later one."""
    subject = lane()
    one, other, retried = first(), first(), later()
    subject.offer(one)
    subject.take()
    subject.expect_first()
    subject.expect_retry(START)
    claim = subject.claim(START)
    subject.release(one)
    subject.fill(claim, Claimed(first=[one, other], retries=[retried]))
    assert subject.held == {other.id, retried.id}
    assert [subject.take(), subject.take()] == [retried, other]


def test_a_fresh_delivery_that_the_claim_shows_too_is_taken_once():
    """The race: a delivery comes out of a commit into its lane, and the store shows it as well."""
    subject = lane()
    subject.expect_retry(START)
    claim = subject.claim(START)
    fresh = first()
    subject.offer(fresh)
    subject.fill(claim, Claimed(first=[fresh], retries=[later(id=fresh.id)]))
    assert subject.buffered == 1


def test_what_is_left_behind_during_the_claim_is_asked_for_again():
    """The race: the store says that nothing is left, but from before a commit whose deliveries stayed behind."""
    subject = lane()
    subject.expect_first()
    claim = subject.claim(START)
    subject.offer(first())
    subject.fill(claim, Claimed(more_first=False))
    assert subject.has_more_first
    assert subject.wants_claim(START)


def test_a_retry_that_is_put_back_during_the_claim_is_remembered():
    """The race: the store knows of no later attempt, and one was put back meanwhile; of two, the earlier counts."""
    subject = lane()
    subject.expect_retry(START)
    claim = subject.claim(START)
    subject.expect_retry(START + 70)
    subject.fill(claim, Claimed(next_retry_at=None))
    assert subject.next_retry_at == START + 70
    claim = subject.claim(START + 70)
    subject.expect_retry(START + 90)
    subject.fill(claim, Claimed(next_retry_at=START + 80))
    assert subject.next_retry_at == START + 80


def test_a_retry_by_hand_that_comes_during_the_claim_is_asked_for_again():
    """The race: somebody asks for a retry by hand after the store looked."""
    subject = lane()
    subject.expect_manual()
    claim = subject.claim(START)
    subject.expect_manual()
    subject.fill(claim, Claimed())
    assert subject.wants_claim(START)


def test_a_retry_by_hand_that_ended_during_the_claim_is_not_made_again():
    """The race: the retry's result is committed while the store's answer is on its way. The answer is looked up again."""
    subject = lane()
    by_hand = manual()
    fill(subject, manual=[by_hand])
    assert subject.take() == by_hand
    subject.expect_manual()
    claim = subject.claim(START)
    subject.release(by_hand)
    subject.fill(claim, Claimed(manual=[by_hand]))
    assert not subject.can_start(START)
    assert subject.wants_claim(START)


def test_a_retry_by_hand_whose_obstacle_ended_during_the_claim():
    """The race: the store says that an attempt stands in the way of a retry by hand, and that attempt has ended."""
    subject = lane()
    delivery = first()
    subject.offer(delivery)
    subject.take()
    subject.expect_manual()
    claim = subject.claim(START)
    subject.release(delivery)
    subject.fill(claim, Claimed(blocked_manual=True))
    assert subject.wants_claim(START)


def test_a_claim_from_before_the_endpoint_was_disabled_brings_nothing():
    """The race: the endpoint goes out of service while the store looks. What the answer brings is canceled by then."""
    subject = lane()
    subject.expect_first()
    subject.expect_retry(START)
    claim = subject.claim(START)
    subject.change(disabled(E, DisabledReason.USER, START))
    subject.fill(claim, Claimed(first=[first()], retries=[later()]))
    assert subject.buffered == 0
    subject.change(deleted(E, START))
    subject.expect_manual()
    claim = subject.claim(START)
    subject.fill(claim, Claimed(manual=[manual()]))
    assert subject.buffered == 0


def test_the_answer_to_a_claim_that_was_given_up_is_not_taken():
    """The lane's bucket went and came back while the store looked: the answer belongs to the time before."""
    subject = lane()
    subject.expect_first()
    claim = subject.claim(START)
    subject.abandon()
    subject.fill(claim, Claimed(first=[first()], more_first=True))
    assert subject.is_idle
    subject.expect_first()
    again = subject.claim(START)
    subject.fill(claim, Claimed(first=[first()]))
    assert subject.buffered == 0
    subject.fill(again, Claimed(first=[first()]))
    assert subject.buffered == 1


def test_what_other_nodes_committed_does_not_hold_back_what_is_fresh():
    """While work of other nodes waits to be fetched, fresh deliveries go into the buffer all the same."""
    subject = lane()
    subject.expect_unseen()
    fresh, foreign = first(), first()
    subject.offer(fresh)
    assert not subject.is_idle
    assert subject.wants_claim(START)
    claim = subject.claim(START)
    assert claim.first
    subject.fill(claim, Claimed(first=[fresh, foreign]))
    assert (subject.buffered, subject.wants_claim(START)) == (2, False)


def test_what_other_nodes_committed_is_not_starved_by_what_is_fresh():
    """However much is fresh, the buffer runs low in the end, and the work of other nodes is fetched."""
    subject = lane()
    subject.expect_unseen()
    for _ in range(BUFFER):
        subject.offer(first())
    assert 0 < subject.buffered < BUFFER
    for _ in range(BUFFER):
        if subject.wants_claim(START):
            break
        subject.offer(first())
        subject.offer(first())
        subject.take()
    assert subject.wants_claim(START)
    assert subject.claim(START).first


def test_news_that_come_during_the_claim_are_asked_for_again():
    """The race: other nodes commit after the store looked."""
    subject = lane()
    subject.expect_unseen()
    claim = subject.claim(START)
    subject.expect_unseen()
    subject.fill(claim, Claimed())
    assert subject.wants_claim(START)
    subject.fill(subject.claim(START), Claimed())
    assert subject.is_idle


def test_an_abandoned_lane_holds_what_is_under_way():
    """When its bucket goes a lane lets go of all that waits, and keeps hold of what is being sent."""
    subject = lane()
    under_way, waiting = first(), first()
    subject.offer(under_way)
    subject.offer(waiting)
    assert subject.take() == under_way
    subject.open_requests += 1
    subject.expect_retry(START + 5)
    subject.abandon()
    assert subject.held == {under_way.id}
    assert not subject.can_start(START)
    assert not subject.wants_claim(START + 5)


# Changes of the endpoint


@pytest.mark.parametrize("is_deleted", [False, True])
def test_disabling_lets_go_of_what_waits(is_deleted: bool):  # noqa: FBT001 - a column of the table
    """What waits in the buffer of an endpoint that is disabled or deleted is let go unsent; what is under way is not."""
    subject = lane()
    under_way, *waiting = [first() for _ in range(5)]
    for delivery in (under_way, *waiting):
        subject.offer(delivery)
    subject.take()
    subject.open_requests = 1
    fill(subject, retries=[later()])
    subject.has_more_first = True
    subject.expect_retry(START)
    subject.change(deleted(E, START) if is_deleted else disabled(E, DisabledReason.USER, START))
    assert subject.held == {under_way.id}
    assert subject.buffered == 0
    assert not subject.can_start(START)
    assert not subject.wants_claim(START)
    assert subject.next_look_at(START) is None


def test_retries_by_hand_survive_disabling_but_not_deletion():
    """What was asked for by hand is sent to a disabled endpoint, too, but not to a deleted one."""
    subject = lane()
    fill(subject, manual=[manual(), manual()])
    off = disabled(E, DisabledReason.USER, START)
    subject.change(off)
    assert subject.can_start(START)
    subject.take()
    subject.has_more_manual = subject.has_blocked_manual = True
    subject.change(deleted(off, START))
    assert not subject.can_start(START)
    assert not subject.wants_claim(START)
    assert not subject.has_blocked_manual


def test_a_disabled_endpoint_gets_retries_by_hand():
    """A lane of a disabled endpoint asks for retries by hand and nothing else."""
    subject = lane(disabled(E, DisabledReason.USER, START))
    subject.has_more_manual = subject.has_more_first = True
    subject.next_retry_at = START
    assert subject.wants_claim(START)
    claim = subject.claim(START)
    assert (claim.manual, claim.retries, claim.first) == (True, False, False)


def test_another_url_ends_the_pause():
    """A pause that the old receiver asked for does not hold for the new one; another change leaves it."""
    subject = lane()
    subject.paused_until = START + 1_000
    subject.change(replace(E, description="new"))
    assert subject.paused_until == START + 1_000
    subject.change(replace(E, url="https://other.example/"))
    assert subject.paused_until <= START
    assert subject.endpoint.url == "https://other.example/"


def test_enabling_begins_with_a_clean_slate():
    """An endpoint that was paused, disabled and enabled is not paused, also by an answer that came while it was disabled."""
    subject = lane()
    subject.paused_until = START + 1_000
    off = disabled(E, DisabledReason.USER, START)
    subject.change(off)
    subject.paused_until = START + 1_000
    subject.change(enabled(off))
    subject.offer(first())
    assert subject.can_start(START)


def test_changing_what_is_wanted_keeps_what_waits():
    """A change that does not take the endpoint out of service loses nothing of the buffer."""
    subject = lane()
    subject.offer(first())
    subject.change(replace(E, events=("other.event",)))
    assert subject.can_start(START)


def test_what_waits_is_counted_with_what_was_left_in_the_store():
    """About: a claim takes off what it brought, and one that comes back short says that nothing is left."""
    subject = lane()
    for _ in range(BUFFER + 10):
        subject.offer(first())
    assert (subject.buffered, subject.waiting) == (BUFFER, BUFFER + 10)
    for _ in range(BUFFER):
        subject.take()
    claim = subject.claim(START)
    subject.fill(claim, Claimed(first=[first() for _ in range(4)], more_first=True))
    assert subject.waiting == 4 + 6
    claim = subject.claim(START)
    subject.fill(claim, Claimed(first=[first()]))
    assert subject.waiting == 5


def test_a_strained_lane_starts_one_probe():
    """A lane that is down to one probe has one request open, and no more until it has succeeded."""
    subject = lane()
    subject.offer(first())
    subject.offer(first())
    subject.limit.learn(Strain.STRAIN, 0.1)
    subject.take()
    subject.open_requests = 1
    assert not subject.can_start(START)
    subject.limit.learn(Strain.EASE, 0.1)
    assert subject.can_start(START)
