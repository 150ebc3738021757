"""What an attempt's answer means: for its delivery, for its endpoint, for its lane. Pure."""

from enum import Enum
from http import HTTPStatus
from random import Random

import msgspec

from gateway.clock import SECOND, Timestamp
from gateway.delivery.retry import RetrySchedule, retry_after_ms
from gateway.egress.sender import Answer
from gateway.model import AttemptError, DeliveryState, DeliveryTrigger, DueDelivery, Reason, Verdict

_PAUSING = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_STRAINING_STATUSES = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
# What says nothing about the endpoint; a redirect has a status.
_OWN_ERRORS = frozenset({AttemptError.INTERRUPTED, AttemptError.CRASHED})
_SERVER_ERRORS = 500


class Strain(Enum):
    """What an answer says about how much more the endpoint can take."""

    EASE = "ease"  # it answered 2xx: a little more
    NONE = "none"  # it answered, and did not want this: neither more nor less
    STRAIN = "strain"  # no answer came of it, or one that says that it is too much or broken: half


def is_success(answer: Answer) -> bool:
    """Whether the endpoint took it: a 2xx status."""
    return answer.error is None and answer.status is not None and 200 <= answer.status < 300


def strain_of(answer: Answer) -> Strain:
    """What *answer* does to the limit of its lane."""
    if is_success(answer):
        return Strain.EASE
    if answer.status is None:
        return Strain.NONE if answer.error in _OWN_ERRORS else Strain.STRAIN
    return Strain.STRAIN if answer.status >= _SERVER_ERRORS or answer.status in _STRAINING_STATUSES else Strain.NONE


class Moment(msgspec.Struct, frozen=True):
    """The end of an attempt, on both clocks."""

    wall: Timestamp
    steady: Timestamp  # what due times are measured in


def decide(  # noqa: PLR0911 - a table of cases
    answer: Answer, due: DueDelivery, schedule: RetrySchedule, at: Moment, chance: Random
) -> Verdict:
    """What becomes of *due* after *answer*."""
    if due.trigger is DeliveryTrigger.TEST and due.retry_id is None:
        return _decide_test(answer)
    counts = due.retry_id is None
    if is_success(answer):
        return Verdict(DeliveryState.DELIVERED, counts=counts)
    if answer.status == HTTPStatus.GONE and due.trigger is not DeliveryTrigger.TEST:
        return Verdict(DeliveryState.FAILED, Reason.ENDPOINT_GONE, endpoint_gone=True, counts=counts)
    if answer.error is AttemptError.INTERRUPTED:
        return Verdict(DeliveryState.PENDING, counts=False)
    pause_ms = retry_after_ms(answer.retry_after, at.wall) if answer.status in _PAUSING else None
    until = None if pause_ms is None else at.steady + pause_ms
    pause_until = None if until is None else min(until, at.steady + round(schedule.max_retry_after * SECOND))
    if not counts:
        return Verdict(DeliveryState.PENDING, pause_until=pause_until, counts=False)
    due_at = schedule.next_attempt_at(due.scheduled_count + 1, at.steady, chance, retry_after_until=until)
    if due_at is None:
        return Verdict(DeliveryState.FAILED, Reason.ATTEMPTS_EXHAUSTED, pause_until=pause_until)
    return Verdict(DeliveryState.PENDING, due_at=due_at, pause_until=pause_until)


def _decide_test(answer: Answer) -> Verdict:
    """A test is never retried, and says nothing about its endpoint."""
    if is_success(answer):
        return Verdict(DeliveryState.DELIVERED)
    if answer.error is AttemptError.INTERRUPTED:
        return Verdict(DeliveryState.FAILED, Reason.INTERRUPTED)
    return Verdict(DeliveryState.FAILED, Reason.TEST_FAILED)
