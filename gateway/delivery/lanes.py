"""Lanes: the line of deliveries in front of one endpoint, and the turns that lanes take. State only: no I/O, no clock.

A lane buffers a little; what does not fit stays in the store and is claimed when the buffer runs low. A delivery that a
lane has is held until its result is committed. Commits may end while a claim is under way, and its answer may be from before
them or after: whatever they did meanwhile is remembered and set against it."""

import itertools
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence

from gateway.clock import Timestamp
from gateway.delivery.lane_limit import LaneLimit
from gateway.model import DueDelivery, Endpoint, bucket_of
from gateway.store.protocol import Claim, Claimed, LaneWork

BUFFER = 256  # deliveries
BUFFER_BYTES = 1024 * 1024  # of event data
_LOW = BUFFER // 4


class _Asked:
    """A claim that is under way, and what came to pass since it was sent."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.let_go: set[str] = set()  # deliveries that were held at some moment since: the answer may still show them
        self.has_more_first = False  # some were left behind since
        self.has_unseen_first = False  # others have committed some since
        self.has_more_manual = False
        self.next_retry_at: Timestamp | None = None  # of those that were put back since


class Lane:
    """The line in front of one endpoint."""

    def __init__(self, endpoint: Endpoint, *, most_open: int) -> None:
        self.endpoint = endpoint
        self.bucket = bucket_of(endpoint.id)
        self.limit = LaneLimit(most_open)
        self.open_requests = 0
        self.paused_until: Timestamp = endpoint.paused_until or 0
        self.is_queued = False  # it waits for its turn
        self.held: set[str] = set()  # ids of deliveries
        self.looks: set[Timestamp] = set()  # when it will be looked at
        # What the store has besides the buffer.
        self.has_more_first = False  # older than whatever is fresh
        self.has_unseen_first = False  # committed by other nodes, beside what is fresh here
        self.has_more_manual = False
        self.has_blocked_manual = False  # retries by hand whose delivery is held
        self.next_retry_at: Timestamp | None = None
        self._left_behind = 0  # first attempts that this node has left in the store, about
        self._manual: deque[DueDelivery] = deque()
        self._retries: deque[DueDelivery] = deque()
        self._first: deque[DueDelivery] = deque()
        self._bytes = 0
        self._asked: _Asked | None = None

    @property
    def buffered(self) -> int:
        return len(self._manual) + len(self._retries) + len(self._first)

    @property
    def waiting(self) -> int:
        """About how many first attempts wait, those in the store included that this node has left there."""
        return len(self._first) + self._left_behind

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do, and nothing known to come."""
        return not (
            self.held
            or self.open_requests
            or self._asked is not None
            or self.has_more_first
            or self.has_unseen_first
            or self.has_more_manual
            or self.has_blocked_manual
            or self.next_retry_at is not None
        )

    def offer(self, due: DueDelivery) -> None:
        """Takes a delivery of a fresh commit, or leaves it in the store."""
        is_full = self.buffered >= BUFFER or self._bytes >= BUFFER_BYTES
        # Those of other nodes are fetched when the buffer runs low, so it must not be kept full without them.
        is_others_turn = self.has_unseen_first and not self._is_low
        if self.has_more_first or is_full or is_others_turn:
            # Once some are left behind, later ones stay behind them until a claim has fetched all.
            self.expect_first()
            self._left_behind += 1
            return
        self._hold(self._first, due)

    def expect(self, work: LaneWork) -> None:
        """Takes note of what waits in the store, as far as it is not held."""
        if work.has_first_attempts:
            self.expect_first()
        if work.has_manual:
            self.expect_manual()
        if work.next_retry_at is not None:
            self.expect_retry(work.next_retry_at)

    def expect_first(self) -> None:
        """First attempts wait in the store."""
        self.has_more_first = True
        if self._asked is not None:
            self._asked.has_more_first = True

    def expect_unseen(self) -> None:
        """First attempts were committed by other nodes, or here without being handed over. They come beside those that are fresh
        here: of events published through different nodes at once, none is the first."""
        self.has_unseen_first = True
        if self._asked is not None:
            self._asked.has_unseen_first = True

    def expect_manual(self) -> None:
        """Retries by hand wait in the store."""
        self.has_more_manual = True
        if self._asked is not None:
            self._asked.has_more_manual = True

    def _hold(self, line: deque[DueDelivery], due: DueDelivery) -> None:
        line.append(due)
        self.held.add(due.id)
        self._bytes += len(due.event.data)

    def _give_back(self, delivery_id: str) -> bool:
        """Lets go of an automatic attempt that has not started; whether there was one."""
        for line in (self._retries, self._first):
            for place, due in enumerate(line):
                if due.id == delivery_id:
                    del line[place]
                    self._let_go(delivery_id)
                    self._bytes -= len(due.event.data)
                    return True
        return False

    @property
    def _is_low(self) -> bool:
        return self.buffered <= _LOW and self._bytes < BUFFER_BYTES

    def can_start(self, now: Timestamp) -> bool:
        """Whether an attempt may start now."""
        if self.open_requests >= self.limit.open_requests:
            return False
        if self._manual:
            return True
        return bool(self._retries or self._first) and self.paused_until <= now

    def take(self) -> DueDelivery:
        """The delivery to attempt next: retries by hand first, then later attempts, then first ones, so that the oldest
        events of an endpoint in trouble run through their schedule on time."""
        line = self._manual or self._retries or self._first
        due = line.popleft()
        self._bytes -= len(due.event.data)
        return due

    def release(self, due: DueDelivery) -> None:
        """The result of *due* is committed."""
        self._let_go(due.id)
        if self.has_blocked_manual:
            self.has_blocked_manual, self.has_more_manual = False, True

    def _let_go(self, delivery_id: str) -> None:
        self.held.discard(delivery_id)
        if self._asked is not None:
            self._asked.let_go.add(delivery_id)

    def expect_retry(self, at: Timestamp) -> None:
        """A later attempt waits in the store until *at*."""
        self.next_retry_at = _earlier(self.next_retry_at, at)
        if self._asked is not None:
            self._asked.next_retry_at = _earlier(self._asked.next_retry_at, at)

    def wants_claim(self, now: Timestamp) -> bool:
        """Whether the store has something for the buffer now."""
        if self._asked is not None:
            return False
        if self.has_more_manual:
            return len(self._manual) < BUFFER  # whatever else is in the buffer
        if self.paused_until > now or not self.endpoint.is_active:
            return False
        if self.next_retry_at is not None and self.next_retry_at <= now and not self._retries:
            return True  # they go before the first attempts that fill the buffer
        has_first = self.has_more_first or self.has_unseen_first
        return self._is_low and (has_first or (self.next_retry_at is not None and self.next_retry_at <= now))

    def next_look_at(self, now: Timestamp) -> Timestamp | None:
        """When something changes by the passing of time alone; None when nothing does."""
        if not self.endpoint.is_active:
            return None
        if self.paused_until > now:
            return self.paused_until
        return self.next_retry_at

    def claim(self, now: Timestamp) -> Claim:
        """What to ask the store for."""
        is_sending = self.endpoint.is_active and self.paused_until <= now
        waiting = (due.id for due in itertools.chain(self._retries, self._first))
        claim = Claim(
            endpoint=self.endpoint,
            now=now,
            limit=max(1, BUFFER - self.buffered),
            max_bytes=max(1, BUFFER_BYTES - self._bytes),
            held=tuple(self.held),
            under_way=tuple(self.held.difference(waiting)) if self.has_more_manual else (),
            manual=self.has_more_manual,
            retries=is_sending and self.next_retry_at is not None and self.next_retry_at <= now,
            first=is_sending and (self.has_more_first or self.has_unseen_first) and self._is_low,
        )
        self._asked = _Asked(claim)
        return claim

    def fill(self, claim: Claim, claimed: Claimed) -> None:
        """Takes in the answer to *claim*; one to a claim that was given up is none of its."""
        asked = self._asked
        if asked is None or asked.claim is not claim:
            return
        self._asked = None
        if claim.manual:
            self.has_more_manual = claimed.more_manual or asked.has_more_manual
            self.has_blocked_manual = claimed.blocked_manual
            if self.has_blocked_manual and asked.let_go:
                self.has_blocked_manual, self.has_more_manual = False, True  # it may have been blocked by one of those
            self._fill_manual(claimed.manual, asked)
        for line, found in ((self._retries, claimed.retries), (self._first, claimed.first)):
            for due in found:
                is_known = due.id in self.held or due.id in asked.let_go
                if not is_known and due.activation == self.endpoint.activation:
                    self._hold(line, due)
        if claim.retries:
            self.next_retry_at = claimed.next_retry_at
            if asked.next_retry_at is not None:
                self.expect_retry(asked.next_retry_at)
        if claim.first:
            self.has_more_first = claimed.more_first or asked.has_more_first
            self.has_unseen_first = asked.has_unseen_first
            self._left_behind = max(0, self._left_behind - len(claimed.first)) if self.has_more_first else 0

    def _fill_manual(self, found: Sequence[DueDelivery], asked: _Asked) -> None:
        if self.endpoint.deleted_at is not None:
            return
        for due in found:
            if due.id in asked.let_go:
                self.has_more_manual = True  # this very retry may be done with: look again
            elif due.id not in self.held or self._give_back(due.id):
                self._hold(self._manual, due)
            else:
                self.has_blocked_manual = True  # its automatic attempt started while the store was asked

    def abandon(self) -> None:
        """Its bucket is no longer this node's: lets go of everything that is not under way, and of what it knew."""
        for line in (self._manual, self._retries, self._first):
            for due in line:
                self.held.discard(due.id)
            line.clear()
        self._bytes = self._left_behind = 0
        self._asked = None
        self.has_more_first = self.has_unseen_first = self.has_more_manual = self.has_blocked_manual = False
        self.next_retry_at = None

    def change(self, endpoint: Endpoint) -> None:
        """The endpoint is now as given. What was handed out under an earlier activation is let go unsent; an attempt
        under way goes on. One from before an earlier change is not taken."""
        if endpoint.revision < self.endpoint.revision:
            return
        if endpoint.activation > self.endpoint.activation:
            lines = [self._retries, self._first]
            if endpoint.deleted_at is not None:
                lines.append(self._manual)
                self.has_more_manual = self.has_blocked_manual = False
            for line in lines:
                for due in line:
                    self._let_go(due.id)
                    self._bytes -= len(due.event.data)
                line.clear()
            self.has_more_first = self.has_unseen_first = False
            self._left_behind = 0
            self.next_retry_at = None
        if endpoint.url != self.endpoint.url or endpoint.is_active != self.endpoint.is_active:
            self.paused_until = 0
        self.endpoint = endpoint


def _earlier(at: Timestamp | None, other: Timestamp) -> Timestamp:
    return other if at is None else min(at, other)


class Turns:
    """Whose turn it is: organizations in rotation, and within each its lanes, so that neither an organization with many
    endpoints nor an endpoint with many deliveries stands before the others."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str, deque[Lane]] = OrderedDict()

    def __len__(self) -> int:
        """How many organizations have a lane waiting."""
        return len(self._lanes)

    def add(self, lane: Lane) -> None:
        """*lane* waits for its turn, behind the other lanes of its organization."""
        if not lane.is_queued:
            lane.is_queued = True
            self._lanes.setdefault(lane.endpoint.tenant.organization_id, deque()).append(lane)

    def organizations(self) -> Iterator[str]:
        """The organizations with a lane waiting, the one whose turn it is first."""
        return iter(self._lanes)

    def next(self, organization_id: str) -> Lane:
        """The lane of *organization_id* whose turn it is; the organization goes to the end."""
        waiting = self._lanes[organization_id]
        lane = waiting.popleft()
        lane.is_queued = False
        if waiting:
            self._lanes.move_to_end(organization_id)
        else:
            del self._lanes[organization_id]
        return lane
