"""The health of endpoints: results recorded together with what they say about who receives them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import structlog
from msgspec.structs import replace

from gateway.clock import Clock, Timestamp
from gateway.delivery.failure_notices import count_failures
from gateway.delivery.operator_events import OperatorEvents, Told, webhook_disabled
from gateway.model import OPERATIONS, DeliveryState, DeliveryTrigger, DisabledReason, Endpoint, Result
from gateway.registry import endpoints
from gateway.store.protocol import Transaction

log = structlog.get_logger()


def failures_after(failed_in_row: int, ended: Iterable[bool], most: int) -> tuple[int, bool]:
    """The count of events in a row that failed for good, after events *ended* (True: delivered) in this order; and
    whether it reached *most* at any time (never, when *most* is 0). Pure."""
    reached = False
    for delivered in ended:
        failed_in_row = 0 if delivered else failed_in_row + 1
        reached = reached or (0 < most <= failed_in_row)
    return failed_in_row, reached


def speaks_of(result: Result, endpoint: Endpoint) -> bool:
    """Whether *result* is one of the endpoint as it is now, and not of an earlier activation or another URL. Pure."""
    return result.due.activation == endpoint.activation and result.attempt.url == endpoint.url


async def _has_failed(transaction: Transaction, result: Result, endpoint: Endpoint) -> bool:
    """Whether *result*, which is recorded, has failed its delivery for good. One of an earlier activation was canceled."""
    if result.verdict.state is not DeliveryState.FAILED or result.due.activation != endpoint.activation:
        return False
    if result.due.retry_id is None:
        return True
    # A 410 to a retry by hand fails what was waiting; what was delivered, or had failed before, stays as it was.
    now = await transaction.delivery(result.tenant, result.due.id)
    return now is not None and now.state is DeliveryState.FAILED and now.finished_at == result.ended_at


def log_disabled(endpoint: Endpoint) -> None:
    """The gateway itself took *endpoint* out of service."""
    log.warning(
        "endpoint.disabled",
        endpoint_id=endpoint.id,
        organization_id=endpoint.tenant.organization_id,
        mode=endpoint.tenant.mode,
        reason=endpoint.disabled_reason,
        failed_in_row=endpoint.failed_in_row,
    )


class HealthRecorder:
    """Records results: the attempts, the deliveries' new states, and the endpoints' health, in one transaction."""

    def __init__(
        self,
        *,
        clock: Clock,
        disable_after_failed_events: int,
        operator: OperatorEvents | None = None,
        probes: bool = False,
    ) -> None:
        """*operator* is told of it, if there is one; with *probes* an endpoint that is disabled by failures is to be probed."""
        self._clock = clock
        self._most = disable_after_failed_events
        self._operator = operator
        self._probes = probes

    async def record(self, transaction: Transaction, results: Sequence[Result]) -> None:
        """Stores *results*, counts failures in a row by end of attempt, and disables what has failed too often or is gone."""
        counting = await transaction.record_results(results)
        by_endpoint: defaultdict[str, list[Result]] = defaultdict(list)
        for result in counting:
            # A test, and a retry of one, says nothing about its endpoint.
            if result.verdict.state is not DeliveryState.PENDING and result.due.trigger is not DeliveryTrigger.TEST:
                by_endpoint[result.due.endpoint_id].append(result)
        asked = [result for result in counting if result.verdict.pause_until is not None]
        harmed = {
            endpoint_id: ended
            for endpoint_id, ended in by_endpoint.items()
            if any(result.verdict.state is not DeliveryState.DELIVERED for result in ended)
        }
        concerned = {result.due.endpoint_id for result in asked} | set(harmed)
        endpoints_now = await transaction.endpoints_by_id(concerned) if concerned else {}
        endpoints_now |= await self._pause(transaction, asked, endpoints_now)
        told: list[Told] = await self._count_failures(transaction, harmed, endpoints_now)
        for endpoint_id, ended in harmed.items():
            if (endpoint := endpoints_now.get(endpoint_id)) and endpoint.tenant != OPERATIONS:
                told += await self._judge(transaction, endpoint, ended)
        if unharmed := by_endpoint.keys() - harmed.keys():
            await transaction.reset_failures(unharmed)
        if self._operator is not None:
            await self._operator.tell(transaction, told)

    async def _count_failures(
        self, transaction: Transaction, harmed: Mapping[str, Sequence[Result]], endpoints_now: Mapping[str, Endpoint]
    ) -> list[Told]:
        """What is to be told at once of deliveries that have failed for good; of the operator's own it is for the log."""
        failed: list[tuple[Endpoint, Sequence[Result]]] = []
        for endpoint_id, ended in harmed.items():
            endpoint = endpoints_now.get(endpoint_id)
            if endpoint is None:
                continue
            lost = [result for result in ended if await _has_failed(transaction, result, endpoint)]
            if endpoint.tenant == OPERATIONS:
                for result in lost:
                    log.warning("operations.undelivered", delivery_id=result.due.id, event_type=result.due.event.type)
            elif lost:
                failed.append((endpoint, sorted(lost, key=lambda result: result.ended_at)))
        if not failed or self._operator is None:
            return []
        return list(await count_failures(transaction, failed, self._clock.steady()))

    async def _pause(
        self, transaction: Transaction, asked: Sequence[Result], endpoints_now: Mapping[str, Endpoint]
    ) -> dict[str, Endpoint]:
        """Pauses the endpoints that *asked* for it; those, as they are then."""
        pauses: dict[str, Timestamp] = {}
        for result in asked:
            endpoint, until = endpoints_now.get(result.due.endpoint_id), result.verdict.pause_until
            if endpoint is not None and until is not None and speaks_of(result, endpoint):
                pauses[endpoint.id] = max(until, pauses.get(endpoint.id, endpoint.paused_until or 0))
        if pauses:
            await transaction.pause_endpoints(list(pauses.items()))
        return {endpoint_id: replace(endpoints_now[endpoint_id], paused_until=until) for endpoint_id, until in pauses.items()}

    async def _judge(self, transaction: Transaction, endpoint: Endpoint, ended: list[Result]) -> Sequence[Told]:
        """What the results say about *endpoint*; what is to be told of it."""
        if endpoint.deleted_at is not None or not endpoint.is_active:
            return ()
        # What an earlier activation, or another URL, did says nothing about this one.
        telling = sorted(
            (result for result in ended if result.verdict.state is DeliveryState.DELIVERED or speaks_of(result, endpoint)),
            key=lambda result: result.ended_at,
        )
        gone = [result for result in ended if result.verdict.endpoint_gone and result.attempt.url == endpoint.url]
        if gone:
            return [await self._disable(transaction, endpoint, DisabledReason.GONE, gone[0])]
        delivered = [result.verdict.state is DeliveryState.DELIVERED for result in telling]
        count, reached = failures_after(endpoint.failed_in_row, delivered, self._most)
        if reached:
            last = next(result for result in reversed(telling) if result.verdict.state is not DeliveryState.DELIVERED)
            return [await self._disable(transaction, replace(endpoint, failed_in_row=count), DisabledReason.FAILURES, last)]
        if count != endpoint.failed_in_row:
            await transaction.save_endpoint(replace(endpoint, failed_in_row=count))
        return ()

    async def _disable(self, transaction: Transaction, endpoint: Endpoint, reason: DisabledReason, last: Result) -> Told:
        is_probed = self._probes and reason is DisabledReason.FAILURES
        probe_at = self._clock.steady() + endpoints.FIRST_PAUSE if is_probed else None
        now = await endpoints.disable(
            transaction, endpoint, reason, actor=endpoints.GATEWAY_ACTOR, at=self._clock.now(), probe_at=probe_at
        )
        transaction.effects.disabled.append(now)
        log_disabled(now)
        return webhook_disabled(now, reason, last)
