"""What is done beside the deliveries, in small steps: storing that deliveries are canceled, taking away secrets that are not in
force any more, and pruning history. Where several nodes share a store, what concerns all of it is done by the one that leads.

History is pruned at leisure: each step is followed by a rest, in which whatever else there is to do has its turn."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec
import structlog

from gateway.clock import DAY, HOUR, MINUTE, SECOND, Clock, Timestamp
from gateway.errors import EndpointNotFound, GatewayError
from gateway.model import DueDelivery, Endpoint, Result
from gateway.registry.endpoints import GATEWAY_ACTOR, FinishRotation, cancel_reason
from gateway.registry.keys import TouchKeys
from gateway.store.protocol import Change, Changer, Effects, Transaction

log = structlog.get_logger()

SWEEP_STEP = 1_000  # deliveries
PRUNE_STEP = 200  # events and deliveries, answers, or entries: some milliseconds
EXPIRE_STEP = 1_000  # deliveries
ROTATION_STEP = 100  # endpoints

REST = 9
"""Tidying up rests so many times as long as its last step took, so that it has a tenth of what it could have, and those that
wait for their commit hardly notice."""

BEHIND_AFTER = 6 * HOUR
"""Tidying up is begun every hour. When it is not done after so long it has fallen behind, and goes on in haste: history must not
grow faster than it is pruned."""

HASTY_REST = 1
HASTY_PRUNE_STEP = 1_000  # events and deliveries


class Sweep(msgspec.Struct, frozen=True):
    """Stores that deliveries of an endpoint's earlier activations are canceled; whether there may be more."""

    endpoint: Endpoint

    async def apply(self, transaction: Transaction) -> bool:
        # As it is by now: it may have been deleted since it was disabled.
        endpoint = await transaction.endpoint_by_id(self.endpoint.id) or self.endpoint
        at = endpoint.deactivated_at or endpoint.created_at
        count = await transaction.cancel_passed(endpoint, cancel_reason(endpoint), at, limit=SWEEP_STEP)
        if count < SWEEP_STEP:
            await transaction.mark_swept(endpoint)
        return count == SWEEP_STEP


class Expire(msgspec.Struct, frozen=True):
    """Fails what still waits although its day of history is about to be pruned; whether there may be more."""

    before: Timestamp
    at: Timestamp

    async def apply(self, transaction: Transaction) -> bool:
        return await transaction.expire(self.before, self.at, limit=EXPIRE_STEP) > 0


class Prune(msgspec.Struct, frozen=True):
    """Deletes old events with their deliveries and attempts; whether there may be more."""

    before: Timestamp
    limit: int

    async def apply(self, transaction: Transaction) -> bool:
        return await transaction.prune(self.before, limit=self.limit) > 0


class ForgetAnswers(msgspec.Struct, frozen=True):
    """Deletes kept answers that have expired; whether there may be more."""

    at: Timestamp

    async def apply(self, transaction: Transaction) -> bool:
        return await transaction.forget_answers(self.at, limit=PRUNE_STEP) == PRUNE_STEP


class ForgetAuditEntries(msgspec.Struct, frozen=True):
    """Deletes old entries of the audit log; whether there may be more."""

    before: Timestamp

    async def apply(self, transaction: Transaction) -> bool:
        return await transaction.forget_audit_entries(self.before, limit=PRUNE_STEP) == PRUNE_STEP


class InterruptTests(msgspec.Struct, frozen=True):
    """Fails the tests made before *before* that were under way when their node went down."""

    before: Timestamp
    at: Timestamp

    async def apply(self, transaction: Transaction) -> int:
        return await transaction.interrupt_tests(self.before, self.at)


class EndedOverlaps(Protocol):
    """Who has a secret that is not in force any more."""

    async def __call__(self, at: Timestamp, *, limit: int) -> Sequence[Endpoint]:
        """See `store.protocol.Log.ended_overlaps`."""


class UsedKeys(Protocol):
    """Who knows when keys were last used."""

    def drain_used(self) -> dict[str, Timestamp]:
        """When each key was last used, of those used since the last call."""

    def give_back_used(self, used: Mapping[str, Timestamp]) -> None:
        """*used* is still to be stored."""


class Maintenance:
    """Runs beside everything else and hurries nobody."""

    def __init__(
        self,
        *,
        changer: Changer,
        unswept: Callable[[], Awaitable[Sequence[Endpoint]]],
        ended_overlaps: EndedOverlaps,
        clock: Clock,
        retention_days: int,
        audit_days: int,
        test_seconds: float,
        used_keys: UsedKeys,
        leads: Callable[[], bool],
    ) -> None:
        """*unswept* reads the endpoints that still have something to sweep; a test that is not on record as ended after
        *test_seconds* is that of a node that went down; *leads* says whether this node does what concerns the whole store."""
        self._changer = changer
        self._find_unswept = unswept
        self._ended_overlaps = ended_overlaps
        self._test_ms = round(test_seconds * SECOND)
        self._leads = leads
        self._clock = clock
        self._retention = retention_days * DAY
        self._audit_retention = audit_days * DAY
        self._used_keys = used_keys
        self._touch_keys_at: Timestamp = 0
        self._unswept: deque[Endpoint] = deque()
        self._wake = asyncio.Event()
        self._tidy_up_at: Timestamp = 0
        self._tidying: deque[Change[bool]] = deque()  # each is repeated until nothing is left of it
        self._behind_at: Timestamp = 0
        self._step_at: Timestamp = 0
        self._rest = REST

    def committed(self, _fresh: Sequence[tuple[Endpoint, DueDelivery]], _results: Sequence[Result], effects: Effects) -> None:
        """Takes note of endpoints that went out of service."""
        for endpoint in effects.endpoints:
            if endpoint.deactivated_at is not None and not endpoint.is_active:
                self.sweep(endpoint)

    def sweep(self, endpoint: Endpoint) -> None:
        """Has the deliveries of earlier activations of *endpoint* canceled in the store, too."""
        self._unswept.append(endpoint)
        self._wake.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self._turn()
            except GatewayError as error:
                # The store is unavailable, or the gateway is stopping: what is left is found again.
                log.warning("maintenance.failed", error=str(error))
                await self._clock.wait(asyncio.Event(), self._clock.steady() + MINUTE)

    async def _turn(self) -> None:
        self._wake.clear()
        while self._unswept:
            if not await self._changer.change(Sweep(self._unswept[0])):
                self._unswept.popleft()
        if self._clock.steady() >= self._touch_keys_at:
            # Not whenever there is something to sweep: each key is written once a minute at most.
            await self.touch_keys()
            if self._leads():
                await self._end_rotations()
            self._touch_keys_at = self._clock.steady() + MINUTE
        await self._tidy_up()
        await self._clock.wait(self._wake, min(self._touch_keys_at, self._step_at) if self._tidying else self._touch_keys_at)

    async def _end_rotations(self) -> None:
        """Takes away the previous secrets whose time is over. Nobody signs with them any more, by the same clock."""
        now = self._clock.now()
        while ended := await self._ended_overlaps(now, limit=ROTATION_STEP):
            for endpoint in ended:
                with suppress(EndpointNotFound):  # deleted meanwhile
                    await self._changer.change(FinishRotation(endpoint.tenant, endpoint.id, GATEWAY_ACTOR, now, only_ended=True))

    async def touch_keys(self) -> None:
        """Stores when keys were last used."""
        if used := self._used_keys.drain_used():
            try:
                await self._changer.change(TouchKeys(used))
            except GatewayError:
                self._used_keys.give_back_used(used)
                raise

    async def _tidy_up(self) -> None:
        """Begins every hour, and goes on with what was begun, a step for each call."""
        now = self._clock.steady()
        if not self._leads():
            self._tidying.clear()  # it is another's
        elif self._tidying and now >= self._behind_at:
            await self._begin_to_tidy_up(is_behind=True)
        elif self._tidying and now >= self._step_at:
            await self._take_step()
        elif not self._tidying and now >= self._tidy_up_at:
            await self._begin_to_tidy_up(is_behind=False)

    async def _begin_to_tidy_up(self, *, is_behind: bool) -> None:
        now = self._clock.now()
        for endpoint in await self._find_unswept():
            self.sweep(endpoint)
        await self._changer.change(InterruptTests(now - self._test_ms, now))
        before = now - self._retention
        self._tidying = deque(
            (
                Expire(before, now),
                # What has just expired stays for an hour, so that somebody can see it.
                Prune(before - HOUR, HASTY_PRUNE_STEP if is_behind else PRUNE_STEP),
                ForgetAnswers(now),
                ForgetAuditEntries(now - self._audit_retention),
            )
        )
        self._rest = HASTY_REST if is_behind else REST
        self._step_at = self._clock.steady()
        self._tidy_up_at = self._step_at + HOUR
        self._behind_at = self._step_at + BEHIND_AFTER

    async def _take_step(self) -> None:
        began_at = self._clock.monotonic()
        if not await self._changer.change(self._tidying[0]):
            self._tidying.popleft()
        # With the commit before it, which it waited for: the busier the store, the longer the rest.
        took = self._clock.monotonic() - began_at
        self._step_at = self._clock.steady() + round(self._rest * took * SECOND)
