"""Recovery: endpoints that were disabled by failures are probed, with growing pauses, and enabled again when they answer.

A probe is a test of the endpoint, on record like any other. Where several nodes share a store, the one that leads probes. It
first takes the probe, by moving the time of the next one in the transaction that stores the test; so a node that leads after it,
or after a crash, does not make it a second time.
"""

import asyncio
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Protocol

import msgspec
import structlog
from msgspec.structs import replace

from gateway.clock import DAY, MINUTE, SECOND, Clock, Timestamp, isoformat
from gateway.delivery.endpoint_test import EndpointTester, MakeTest, RecordTest
from gateway.delivery.health import log_disabled
from gateway.delivery.operator_events import OperatorEvents, WebhookEnabled, about, webhook_disabled
from gateway.errors import GatewayError
from gateway.model import AttemptError, DeliveryState, DisabledReason, DueDelivery, Endpoint, Result, RevisionCause
from gateway.registry import endpoints
from gateway.store.protocol import Changer, Effects, Transaction

log = structlog.get_logger()

LONGEST_PAUSE = DAY
PROBES_AT_ONCE = 16
LOOK_EVERY = 10 * SECOND
REST = MINUTE
"""After the store, or a fault of the gateway's own, was in the way."""


def pause_after(probes: int) -> int:
    """The milliseconds until the next probe, when so many have failed: 1 minute, 2, 4 and so on up to a day. Pure."""
    return min(endpoints.FIRST_PAUSE << min(probes, 16), LONGEST_PAUSE)


class SetProbes(msgspec.Struct, frozen=True):
    """Has the endpoints probed that were disabled by failures before recovery was switched on, from *at* on; with None ends
    all probing."""

    at: Timestamp | None

    async def apply(self, transaction: Transaction) -> None:
        if self.at is None:
            await transaction.end_probes()
        else:
            await transaction.schedule_probes(self.at)


class TakeProbe(msgspec.Struct, frozen=True):
    """Takes the probe of *endpoint* that is due, and stores the test; the endpoint as it is now, or None when there is nothing
    to probe any more: somebody else has taken it, or has changed the endpoint."""

    endpoint: Endpoint
    test: MakeTest
    held_until: Timestamp  # when it is made again, should this node not live to tell of it

    async def apply(self, transaction: Transaction) -> Endpoint | None:
        now = (await transaction.endpoints_by_id([self.endpoint.id])).get(self.endpoint.id)
        if now is None or now.probe_at is None or now.probe_at != self.endpoint.probe_at or now.url != self.endpoint.url:
            return None
        taken = replace(now, probe_at=self.held_until)
        await transaction.save_endpoint(taken)
        await self.test.apply(transaction)
        return taken


class RecordProbe(msgspec.Struct, frozen=True):
    """Stores the result of a probe, and what it means for the endpoint, unless that was changed meanwhile."""

    endpoint: Endpoint  # as the probe was taken
    test: RecordTest
    operator: OperatorEvents | None
    at: Timestamp
    steady: Timestamp  # what the next probe is counted from

    async def apply(self, transaction: Transaction) -> None:
        await self.test.apply(transaction)
        now = (await transaction.endpoints_by_id([self.endpoint.id])).get(self.endpoint.id)
        if now is None or now.probe_at != self.endpoint.probe_at or now.url != self.endpoint.url:
            return
        result, probes = self.test.result, now.probe_count + 1
        if result.verdict.state is DeliveryState.DELIVERED:
            await self._enable(transaction, now, probes)
        elif result.attempt.status == HTTPStatus.GONE:
            await self._give_up(transaction, now)
        elif result.attempt.error is AttemptError.INTERRUPTED:
            await transaction.save_endpoint(replace(now, probe_at=self.steady))  # the next start makes it again
        else:
            await transaction.save_endpoint(replace(now, probe_count=probes, probe_at=self.steady + pause_after(probes)))

    async def _enable(self, transaction: Transaction, before: Endpoint, probes: int) -> None:
        after = await self._save(transaction, before, endpoints.enabled(before), RevisionCause.ENABLED)
        transaction.effects.recovered.append(after)
        log.info(
            "endpoint.recovered",
            endpoint_id=after.id,
            organization_id=after.tenant.organization_id,
            mode=after.tenant.mode,
            probes=probes,
        )
        if self.operator is None:
            return
        told = WebhookEnabled(
            **about(after),
            disabled_at=None if before.disabled_at is None else isoformat(before.disabled_at),
            enabled_at=isoformat(self.at),
            probes=probes,
            last_delivery_id=self.test.result.due.id,
        )
        await self.operator.tell(transaction, [told])

    async def _save(self, transaction: Transaction, before: Endpoint, after: Endpoint, cause: RevisionCause) -> Endpoint:
        return await endpoints.save(transaction, before, after, cause, actor=endpoints.GATEWAY_ACTOR, at=self.at)

    async def _give_up(self, transaction: Transaction, before: Endpoint) -> None:
        """It says that it is gone: nobody asks it again. It stays disabled, as of when it was."""
        after = replace(before, disabled_reason=DisabledReason.GONE, probe_count=0, probe_at=None)
        after = await self._save(transaction, before, after, RevisionCause.DISABLED)
        transaction.effects.disabled.append(after)
        log_disabled(after)
        if self.operator is not None:
            await self.operator.tell(transaction, [webhook_disabled(after, DisabledReason.GONE, self.test.result)])


class ToProbe(Protocol):
    """Finds what is to be probed."""

    async def __call__(self, *, limit: int) -> Sequence[Endpoint]:
        """Up to *limit* endpoints that are probed, in the order in which they are due."""


class Recovery:
    """Makes the probes that are due, a few at a time."""

    def __init__(
        self,
        *,
        changer: Changer,
        to_probe: ToProbe,
        tester: EndpointTester,
        operator: OperatorEvents | None,
        clock: Clock,
        pinned: Callable[[str], str | None],
        leads: Callable[[], bool],
        test_seconds: float,
    ) -> None:
        """*pinned* tells the version that an organization is pinned to; *leads* says whether this node does what concerns the
        whole store; a probe that is not on record as ended after *test_seconds* is that of a node that went down."""
        self._changer = changer
        self._to_probe = to_probe
        self._tester = tester
        self._operator = operator
        self._clock = clock
        self._pinned = pinned
        self._leads = leads
        self._test_ms = round(test_seconds * SECOND)
        self._under_way: set[str] = set()  # ids of endpoints
        self._rests_until: Timestamp = 0
        self._wake = asyncio.Event()

    def committed(self, _fresh: Sequence[tuple[Endpoint, DueDelivery]], _results: Sequence[Result], effects: Effects) -> None:
        """Takes note of endpoints that are to be probed from now on."""
        if any(endpoint.probe_at is not None for endpoint in effects.endpoints):
            self._wake.set()

    async def run(self) -> None:
        """Until it is cancelled: what is under way then is recorded as interrupted."""
        async with asyncio.TaskGroup() as probes:
            while True:
                self._wake.clear()  # before looking for work, so that no wake-up is lost
                look_at = await self._start_due(probes)
                await self._clock.wait(self._wake, look_at)

    async def _start_due(self, probes: asyncio.TaskGroup) -> Timestamp:
        """Starts the probes that are due; when to look again, at the latest."""
        now = self._clock.steady()
        look_at = now + LOOK_EVERY
        if not self._leads() or self._rests_until > now:
            return look_at
        try:
            found = await self._to_probe(limit=2 * PROBES_AT_ONCE + 1)
        except GatewayError as error:
            log.warning("recovery.failed", error=str(error))
            return now + REST
        except Exception:
            # Whatever it was, the next look may do better.
            log.exception("recovery.crashed")
            return now + REST
        for endpoint in found:
            if endpoint.id in self._under_way or endpoint.probe_at is None:
                continue
            if endpoint.probe_at > now:
                return min(look_at, endpoint.probe_at)
            if len(self._under_way) == PROBES_AT_ONCE:
                break
            self._under_way.add(endpoint.id)
            probes.create_task(self._probe(endpoint), name=f"probe {endpoint.id}")
        return look_at

    async def _probe(self, endpoint: Endpoint) -> None:
        try:
            await self._take_and_make(endpoint)
        except GatewayError as error:
            # The store is unavailable, or the gateway is stopping: the probe is made again.
            log.warning("recovery.failed", error=str(error), endpoint_id=endpoint.id)
            self._rests_until = self._clock.steady() + REST
        except Exception:
            # A fault in one probe must not end the others.
            log.exception("recovery.crashed", endpoint_id=endpoint.id)
            self._rests_until = self._clock.steady() + REST
        finally:
            self._under_way.discard(endpoint.id)
            self._wake.set()

    async def _take_and_make(self, endpoint: Endpoint) -> None:
        test = self._tester.draft(endpoint, self._pinned(endpoint.tenant.organization_id))
        taken = await self._changer.change(TakeProbe(endpoint, test, self._clock.steady() + self._test_ms))
        if taken is None:
            return
        recorded = await self._tester.send(replace(test, endpoint=taken))
        now = self._clock.now()
        await self._changer.change(RecordProbe(taken, recorded, self._operator, now, self._clock.steady()))
