"""How often the operator hears of deliveries that failed for good: of the first at once, then at most once a minute for each
endpoint, with a count."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog
from msgspec.structs import replace

from gateway.clock import HOUR, MINUTE, SECOND, Clock, Timestamp
from gateway.delivery.operator_events import DeliveryFailed, OperatorEvents, failed_meanwhile, failed_now
from gateway.errors import GatewayError
from gateway.model import Endpoint, FailureNotice, Result
from gateway.store.protocol import Changer, Transaction

log = structlog.get_logger()

TOLD_EVERY = MINUTE
LOOK_EVERY = 10 * SECOND
FORGOTTEN_AFTER = HOUR
TOLD_AT_ONCE = 50  # endpoints, in one change


def may_tell(before: FailureNotice | None, now: Timestamp) -> bool:
    """Whether the operator may be told of an endpoint now. A time that is yet to come is that of a clock that was set back."""
    return before is None or not 0 <= now - before.told_at < TOLD_EVERY


async def count_failures(
    transaction: Transaction, failed: Sequence[tuple[Endpoint, Sequence[Result]]], now: Timestamp
) -> Sequence[DeliveryFailed]:
    """Counts results that failed for good, of each endpoint in the order in which they ended; what is to be told at once."""
    told: list[DeliveryFailed] = []
    notices: list[FailureNotice] = []
    known = await transaction.failure_notices([endpoint.id for endpoint, _ in failed])
    for endpoint, results in failed:
        before, last = known.get(endpoint.id), results[-1]
        untold = 0 if before is None else before.untold
        if before is not None and not may_tell(before, now):
            notices.append(replace(before, untold=untold + len(results), delivery_id=last.due.id))
            continue
        since = before.told_at if before is not None and untold else results[0].ended_at
        notices.append(FailureNotice(endpoint.id, now, 0, last.due.id))
        told.append(failed_now(endpoint, last, untold + len(results), since))
    await transaction.save_failure_notices(notices)
    return told


class TellFailures(msgspec.Struct, frozen=True):
    """Tells of what was counted since the operator was last told, a minute ago; whether there may be more."""

    operator: OperatorEvents
    now: Timestamp

    async def apply(self, transaction: Transaction) -> bool:
        waiting = await transaction.untold_failures(self.now - TOLD_EVERY + 1, limit=TOLD_AT_ONCE)
        if not waiting:
            return False
        # Locked in the order in which everybody does so, and read again: results may have come meanwhile.
        endpoints = await transaction.endpoints_by_id([notice.endpoint_id for notice in waiting])
        notices = await transaction.failure_notices(list(endpoints))
        due = [notice for notice in notices.values() if notice.untold and may_tell(notice, self.now)]
        await transaction.save_failure_notices([replace(notice, told_at=self.now, untold=0) for notice in due])
        await self.operator.tell(transaction, await self._told(transaction, due, endpoints))
        return len(waiting) == TOLD_AT_ONCE and bool(due)

    async def _told(
        self, transaction: Transaction, due: Sequence[FailureNotice], endpoints: Mapping[str, Endpoint]
    ) -> Sequence[DeliveryFailed]:
        told = []
        for notice in due:
            endpoint = endpoints[notice.endpoint_id]
            last = await transaction.delivery(endpoint.tenant, notice.delivery_id)
            if last is not None:  # else it was pruned, so long has nobody told of it
                told.append(failed_meanwhile(endpoint, last, notice.untold, notice.told_at))
        return told


class ForgetFailures(msgspec.Struct, frozen=True):
    """Deletes what is remembered of endpoints that have not failed for long."""

    told_before: Timestamp

    async def apply(self, transaction: Transaction) -> None:
        await transaction.forget_failure_notices(self.told_before)


class FailureTeller:
    """Tells of what was counted, when its minute is over."""

    def __init__(self, *, changer: Changer, operator: OperatorEvents, clock: Clock, leads: Callable[[], bool]) -> None:
        """*leads* says whether this node does what concerns the whole store."""
        self._changer = changer
        self._operator = operator
        self._clock = clock
        self._leads = leads
        self._forget_at: Timestamp = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        never = asyncio.Event()
        while True:
            pause = LOOK_EVERY
            if self._leads():
                try:
                    await self._turn()
                except GatewayError as error:
                    # The store is unavailable, or the gateway is stopping: what was counted stays.
                    log.warning("operations.untold", error=str(error))
                    pause = MINUTE
                except Exception:
                    # Whatever it was, the next turn may do better.
                    log.exception("operations.crashed")
                    pause = MINUTE
            await self._clock.wait(never, self._clock.steady() + pause)

    async def _turn(self) -> None:
        now = self._clock.steady()
        while await self._changer.change(TellFailures(self._operator, now)):
            pass
        if now >= self._forget_at:
            await self._changer.change(ForgetFailures(now - FORGOTTEN_AFTER))
            self._forget_at = now + HOUR
