"""Whether what stands on a page of the record agrees with itself. Pure."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from gateway.audit.finding import Finding, Kind
from gateway.audit.matches import Matches
from gateway.model import AttemptError, AttemptTrigger, DeliveryState, DeliveryTrigger, Reason, Tenant, bucket_of
from gateway.store.record import (
    EndpointPage,
    EventPage,
    QueuedDelivery,
    RecordedAttempt,
    RecordedDelivery,
    RecordedEndpoint,
    RecordedEvent,
)

_PENDING, _DELIVERED, _FAILED, _CANCELED = (
    DeliveryState.PENDING,
    DeliveryState.DELIVERED,
    DeliveryState.FAILED,
    DeliveryState.CANCELED,
)
_REASONS: Mapping[str, frozenset[str | None]] = {
    _PENDING: frozenset({None}),
    _DELIVERED: frozenset({None}),
    _FAILED: frozenset({Reason.ATTEMPTS_EXHAUSTED, Reason.ENDPOINT_GONE, Reason.TEST_FAILED, Reason.INTERRUPTED, Reason.EXPIRED}),
    _CANCELED: frozenset({Reason.ENDPOINT_DISABLED, Reason.ENDPOINT_DELETED}),
}
_GONE = 410


def event_findings(tenant: Tenant, page: EventPage, matches: Matches) -> Iterator[Finding]:
    """What is wrong about the events of *page* and all that belongs to them. *matches* knows the page's revisions."""
    deliveries: defaultdict[str, list[RecordedDelivery]] = defaultdict(list)
    attempts: defaultdict[str, list[RecordedAttempt]] = defaultdict(list)
    for delivery in page.deliveries:
        deliveries[delivery.event_id].append(delivery)
    for attempt in page.attempts:
        attempts[attempt.delivery_id].append(attempt)
    for event in page.events:
        yield from _match_findings(tenant, event, deliveries[event.id], matches)
        if not event.is_found_by_it:
            yield Finding(Kind.EXTERNAL_ID_ASTRAY, tenant, event.id, f"its external id is {event.external_id}")
    for delivery in page.deliveries:
        endpoint = page.endpoints.get(delivery.endpoint_id)
        if endpoint is None:
            yield Finding(Kind.ENDPOINT_MISSING, tenant, delivery.id, f"it goes to {delivery.endpoint_id}")
        yield from _delivery_findings(tenant, delivery, attempts[delivery.id], endpoint)
        if page.queue is not None and delivery.state == _PENDING:
            yield from _queue_findings(tenant, delivery, page.queue.get(delivery.id))


def _match_findings(
    tenant: Tenant, event: RecordedEvent, deliveries: Sequence[RecordedDelivery], matches: Matches
) -> Iterator[Finding]:
    """Whether the event has one delivery for each endpoint that wanted it, and no other."""
    if any(delivery.trigger == DeliveryTrigger.TEST for delivery in deliveries):
        return  # it was made for one endpoint, whatever others want
    if not matches.can_tell(event.revision):
        if event.revision > matches.last:
            yield Finding(
                Kind.REVISION_MISSING, tenant, str(event.revision), f"the event {event.id} was matched against this number"
            )
        return  # a gap has been told
    wanted = matches.at(event.revision, event.type)
    made = [delivery.endpoint_id for delivery in deliveries if delivery.trigger == DeliveryTrigger.EVENT]
    if len(made) == len(wanted) and set(made) == set(wanted):
        return
    for endpoint_id in sorted(set(wanted).difference(made)):
        detail = f"none to {endpoint_id}, which wanted {event.type} at revision {event.revision}"
        yield Finding(Kind.DELIVERY_MISSING, tenant, event.id, detail)
    for endpoint_id in sorted(set(made).difference(wanted)):
        detail = f"one to {endpoint_id}, which did not want {event.type} at revision {event.revision}"
        yield Finding(Kind.DELIVERY_SURPLUS, tenant, event.id, detail)
    for endpoint_id in sorted({endpoint_id for endpoint_id in made if made.count(endpoint_id) > 1}):
        yield Finding(Kind.DELIVERY_DOUBLED, tenant, event.id, f"{made.count(endpoint_id)} to {endpoint_id}")


def _delivery_findings(
    tenant: Tenant, delivery: RecordedDelivery, attempts: Sequence[RecordedAttempt], endpoint: RecordedEndpoint | None
) -> Iterator[Finding]:
    # What a node did after it had lost the endpoint's lease is on record, and moved nothing.
    counting = [attempt for attempt in attempts if not attempt.fenced]
    for position, attempt in enumerate(counting, 1):
        if attempt.number != position:
            detail = f"where number {position} should be is number {attempt.number}"
            yield Finding(Kind.ATTEMPT_MISSING, tenant, delivery.id, detail)
            break
    if faults := [*_count_faults(delivery, counting)]:
        yield Finding(Kind.COUNT_WRONG, tenant, delivery.id, ", ".join(faults))
    if faults := [*_state_faults(delivery, counting, endpoint)]:
        yield Finding(Kind.STATE_UNLAWFUL, tenant, delivery.id, f"it is {delivery.state}, but {', '.join(faults)}")


def _count_faults(delivery: RecordedDelivery, attempts: Sequence[RecordedAttempt]) -> Iterator[str]:
    if delivery.attempt_count != len(attempts):
        yield f"it counts {delivery.attempt_count} attempts, and {len(attempts)} are on record"
    is_test = delivery.trigger == DeliveryTrigger.TEST
    scheduled = sum(
        attempt.trigger == AttemptTrigger.AUTOMATIC and (is_test or attempt.error != AttemptError.INTERRUPTED)
        for attempt in attempts
    )
    if delivery.scheduled_count != scheduled:
        yield f"it counts {delivery.scheduled_count} of the schedule, and {scheduled} are on record"


def _state_faults(
    delivery: RecordedDelivery, attempts: Sequence[RecordedAttempt], endpoint: RecordedEndpoint | None
) -> Iterator[str]:
    """What keeps the delivery's state from being the one that its attempts and its endpoint have led to."""
    state, reason = delivery.state, delivery.reason
    if reason not in _REASONS.get(state, ()):
        yield f"its reason is {reason}"
    if (state == _DELIVERED) != any(map(_is_success, attempts)):
        yield "no attempt was answered 2xx" if state == _DELIVERED else "an attempt was answered 2xx"
    if (delivery.finished_at is None) != (state == _PENDING):
        yield "it has no time of its end" if delivery.finished_at is None else "it has a time of its end"
    is_scheduled = state == _PENDING and delivery.trigger != DeliveryTrigger.TEST
    if (delivery.due_at is not None) != is_scheduled:
        yield "no attempt is to come" if is_scheduled else "an attempt is to come"
    if attempts and (delivery.last_status, delivery.last_error) != (attempts[-1].status, attempts[-1].error):
        yield "its last attempt ended otherwise than it says"
    yield from _reason_faults(delivery, attempts)
    if endpoint is not None:
        yield from _endpoint_faults(delivery, endpoint)


def _reason_faults(delivery: RecordedDelivery, attempts: Sequence[RecordedAttempt]) -> Iterator[str]:
    is_test = delivery.trigger == DeliveryTrigger.TEST
    match delivery.reason:
        case Reason.ATTEMPTS_EXHAUSTED if is_test or not delivery.scheduled_count:
            yield "no attempt of a schedule was made"
        case Reason.ENDPOINT_GONE if all(attempt.status != _GONE for attempt in attempts):
            yield "no attempt was answered 410"
        case Reason.TEST_FAILED if not is_test or not attempts:
            yield "no test was made"
        case Reason.INTERRUPTED if not is_test:
            yield "only a test ends by being interrupted"


def _endpoint_faults(delivery: RecordedDelivery, endpoint: RecordedEndpoint) -> Iterator[str]:
    if delivery.activation > endpoint.activation:
        yield f"it was made under activation {delivery.activation} of its endpoint, which is at {endpoint.activation}"
    elif delivery.activation == endpoint.activation:
        if delivery.state == _CANCELED:
            yield "its endpoint was neither disabled nor deleted since"
        # One of an activation that has passed is canceled by definition, and soon in the store as well.
        elif delivery.state == _PENDING and delivery.trigger == DeliveryTrigger.EVENT and not endpoint.is_active:
            yield "its endpoint takes nothing, so that it would wait for ever"
    if delivery.reason == Reason.ENDPOINT_DELETED and not endpoint.is_deleted:
        yield "its endpoint is not deleted"


def _is_success(attempt: RecordedAttempt) -> bool:
    return attempt.error is None and attempt.status is not None and 200 <= attempt.status < 300


def _queue_findings(tenant: Tenant, delivery: RecordedDelivery, queued: QueuedDelivery | None) -> Iterator[Finding]:
    """Whether the queue has a pending delivery as it is."""
    if queued is None:
        yield Finding(Kind.QUEUE_LACKS_DELIVERY, tenant, delivery.id, "it is not there")
        return
    is_test = delivery.trigger == DeliveryTrigger.TEST
    compared = {
        "bucket": (queued.bucket, None if is_test else bucket_of(delivery.endpoint_id)),
        "endpoint": (queued.endpoint_id, delivery.endpoint_id),
        "event": (queued.event_id, delivery.event_id),
        "activation": (queued.activation, delivery.activation),
        "count of attempts": (queued.attempt_count, delivery.attempt_count),
        "count of the schedule": (queued.scheduled_count, delivery.scheduled_count),
        "due time": (queued.due_at, queued.due_at if is_test else delivery.due_at),
    }
    if faults := [f"{name} {there} in place of {here}" for name, (there, here) in compared.items() if there != here]:
        yield Finding(Kind.QUEUE_LACKS_DELIVERY, tenant, delivery.id, f"it has {', '.join(faults)}")


def endpoint_findings(tenant: Tenant, endpoint_ids: Sequence[str], page: EndpointPage, matches: Matches) -> Iterator[Finding]:
    """Whether these endpoints are as their last revisions say. *matches* knows the page's revisions."""
    if page.last_number is not None and page.last_number != matches.last:
        detail = f"the next is counted from {page.last_number}, and {matches.last} is the last on record"
        yield Finding(Kind.REVISION_MISSING, tenant, str(page.last_number), detail)
    for endpoint_id in endpoint_ids:
        latest, endpoint = matches.latest(endpoint_id), page.endpoints.get(endpoint_id)
        if endpoint is None:
            yield Finding(Kind.ENDPOINT_MISSING, tenant, endpoint_id, f"revision {latest.number} speaks of it")
        elif (endpoint.events, endpoint.is_active) != (latest.events, latest.is_active):
            detail = f"{_wishes(endpoint.events, endpoint.is_active)}, and revision {latest.number} says: "
            yield Finding(Kind.ENDPOINT_DIFFERS, tenant, endpoint_id, f"{detail}{_wishes(latest.events, latest.is_active)}")


def _wishes(events: Sequence[str], is_active: bool) -> str:  # noqa: FBT001 - as the endpoint has it
    return f"{'active' if is_active else 'not active'}, {', '.join(events)}"
