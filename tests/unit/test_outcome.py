"""What each answer means: for its delivery, for its endpoint, for its lane."""

from typing import Any

import pytest

from gateway.clock import HOUR, MINUTE
from gateway.delivery.outcome import Moment, Strain, decide, strain_of
from gateway.delivery.retry import RetrySchedule
from gateway.egress.sender import Answer
from gateway.model import AttemptError, DeliveryState, DeliveryTrigger, DueDelivery, Reason, Verdict
from tests.fakes import START, Dice, due, failure, ok, status

SCHEDULE = RetrySchedule(delays=(60.0, 300.0), jitter=0.1, max_retry_after=3_600.0)
AT = Moment(wall=START, steady=START + 500)  # the two clocks need not agree
REDIRECTED = Answer(302, AttemptError.REDIRECT, "redirect", [], b"", None, resent=False)
ERRORS = [failure(error) for error in AttemptError if error not in {AttemptError.INTERRUPTED, AttemptError.REDIRECT}]
REFUSALS = [status(code) for code in (100, 199, 300, 304, 400, 404, 408, 409, 411, 429, 499, 500, 502, 503, 504, 599)]


def verdict(answer: Answer, of: DueDelivery | None = None) -> Verdict:
    return decide(answer, of or due(), SCHEDULE, AT, Dice())


@pytest.mark.parametrize("code", [200, 201, 202, 204, 206, 226, 299])
def test_2xx_is_success(code: int):
    """Any 2xx delivers, and lets the lane grow."""
    assert verdict(status(code)) == Verdict(DeliveryState.DELIVERED)
    assert strain_of(status(code)) is Strain.EASE


@pytest.mark.parametrize("answer", [*REFUSALS, *ERRORS, REDIRECTED], ids=lambda answer: str(answer.status or answer.error))
def test_anything_else_is_tried_again(answer: Answer):
    """No other answer, and no error, is the end before the attempts are used up."""
    assert verdict(answer) == Verdict(DeliveryState.PENDING, due_at=AT.steady + MINUTE)
    assert verdict(answer, due(attempt_count=5, scheduled_count=1)).due_at == AT.steady + 5 * MINUTE


@pytest.mark.parametrize("answer", [*REFUSALS, *ERRORS, REDIRECTED], ids=lambda answer: str(answer.status or answer.error))
def test_the_last_attempt_is_the_last(answer: Answer):
    """When the schedule is used up, the delivery is failed."""
    assert verdict(answer, due(scheduled_count=2)) == Verdict(DeliveryState.FAILED, Reason.ATTEMPTS_EXHAUSTED)


def test_a_success_on_the_last_attempt_is_one():
    """The last attempt may still deliver."""
    assert verdict(ok(), due(scheduled_count=2)).state is DeliveryState.DELIVERED


def test_410_ends_it_and_its_endpoint():
    """410 fails the delivery at once and says that the endpoint is gone."""
    assert verdict(status(410)) == Verdict(DeliveryState.FAILED, Reason.ENDPOINT_GONE, endpoint_gone=True)


def test_an_interrupted_attempt_changes_nothing():
    """What the gateway cut off itself is repeated when it would have been due anyway, and does not count."""
    assert verdict(failure(AttemptError.INTERRUPTED)) == Verdict(DeliveryState.PENDING, counts=False)


@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_pauses_the_endpoint(code: int):
    """On 429 and 503 Retry-After puts off the attempt, and everything automatic for the endpoint."""
    at = AT.steady + 10 * MINUTE
    assert verdict(status(code, retry_after="600")) == Verdict(DeliveryState.PENDING, due_at=at, pause_until=at)


@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_pauses_for_an_hour_at_most(code: int):
    """An endpoint that asks for years is asked again an hour after the schedule, and paused for an hour."""
    asked = verdict(status(code, retry_after="1000000000"))
    assert asked.due_at == AT.steady + MINUTE + HOUR
    assert asked.pause_until == AT.steady + HOUR


def test_a_short_retry_after_brings_nothing_forward():
    """The schedule is the earliest: a second that an endpoint asks for pauses it for a second, and the retry stays."""
    asked = verdict(status(429, retry_after="1"))
    assert (asked.due_at, asked.pause_until) == (AT.steady + MINUTE, AT.steady + 1_000)


def test_a_date_is_measured_on_the_wall_clock():
    """A Retry-After date is compared with wall time, and the wait goes by the steady clock."""
    asked = verdict(status(503, retry_after="Wed, 25 Mar 2026 14:40:00 GMT"))
    assert asked.pause_until == AT.steady + 10 * MINUTE


@pytest.mark.parametrize("code", [200, 301, 404, 410, 500])
def test_retry_after_means_nothing_elsewhere(code: int):
    """On other statuses the header is not looked at."""
    assert verdict(status(code, retry_after="600")).pause_until is None
    assert verdict(status(code, retry_after="600")) == verdict(status(code))


def test_the_last_attempt_still_pauses():
    """An endpoint that asks for a pause gets it, also when this delivery has no attempts left."""
    assert verdict(status(503, retry_after="60"), due(scheduled_count=2)).pause_until == AT.steady + MINUTE


def manual(**fields: Any) -> DueDelivery:
    return due(retry_id="whrt_1", **fields)


def test_a_retry_by_hand_counts_and_moves_nothing():
    """A retry by hand that fails leaves the delivery as it is; it is none of the eight, also when they are used up."""
    assert verdict(status(500), manual()) == Verdict(DeliveryState.PENDING, counts=False)
    assert verdict(status(500), manual(scheduled_count=2)) == Verdict(DeliveryState.PENDING, counts=False)
    assert verdict(failure(), manual()) == Verdict(DeliveryState.PENDING, counts=False)


def test_a_retry_by_hand_may_deliver_or_find_the_endpoint_gone():
    """Its 2xx delivers, its 410 says that the endpoint is gone, its 429 pauses."""
    assert verdict(ok(), manual()) == Verdict(DeliveryState.DELIVERED, counts=False)
    assert verdict(status(410), manual()).endpoint_gone
    assert verdict(status(429, retry_after="60"), manual()).pause_until == AT.steady + MINUTE


@pytest.mark.parametrize(
    "answer",
    [*REFUSALS, *ERRORS, status(410)],
    ids=lambda answer: str(answer.status or answer.error),
)
def test_a_test_is_never_retried(answer: Answer):
    """A test that is not answered 2xx has failed, and says nothing about its endpoint."""
    assert verdict(answer, due(trigger=DeliveryTrigger.TEST)) == Verdict(DeliveryState.FAILED, Reason.TEST_FAILED)


def test_a_test_that_is_cut_off_says_so():
    """The gateway stopped: that is no failure of the endpoint."""
    answer = failure(AttemptError.INTERRUPTED)
    assert verdict(answer, due(trigger=DeliveryTrigger.TEST)) == Verdict(DeliveryState.FAILED, Reason.INTERRUPTED)


def test_a_retry_of_a_test_finds_no_endpoint_gone():
    """A 410 disables on any attempt but a test's, and a retry by hand of one is still that."""
    retried = verdict(status(410), due(trigger=DeliveryTrigger.TEST, retry_id="whrt_1"))
    assert retried == Verdict(DeliveryState.PENDING, counts=False)


def test_a_test_may_succeed():
    """A test that is answered 2xx is delivered."""
    assert verdict(status(204), due(trigger=DeliveryTrigger.TEST)) == Verdict(DeliveryState.DELIVERED)


OWN = {AttemptError.INTERRUPTED, AttemptError.CRASHED}


@pytest.mark.parametrize("error", list(AttemptError))
def test_errors_strain(error: AttemptError):
    """An endpoint that brings no answer about is asked less; what the gateway did itself says nothing about it."""
    assert strain_of(failure(error)) is (Strain.NONE if error in OWN else Strain.STRAIN)


@pytest.mark.parametrize(
    ("code", "strain"),
    [
        (302, Strain.NONE),
        (400, Strain.NONE),
        (404, Strain.NONE),
        (408, Strain.STRAIN),
        (410, Strain.NONE),
        (429, Strain.STRAIN),
        (500, Strain.STRAIN),
        (503, Strain.STRAIN),
    ],
)
def test_statuses_strain(code: int, strain: Strain):
    """5xx, 408 and 429 say that it is too much; another refusal says neither that nor the opposite."""
    assert strain_of(status(code)) is strain
