"""Whether this node keeps up with what it has accepted. If it does not, publishers are refused, so that what is accepted does not
wait for long.

What counts is work for endpoints that answer promptly while the node itself is what holds it up: its loop is busy, its slots are
taken, or its commits are behind. What waits for an endpoint that is slow, strained or dead never counts, however much it is: each
lane counts for no more than a few seconds of what it gets done."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from gateway.clock import Clock
from gateway.delivery.lane_limit import Standing
from gateway.delivery.lanes import Lane

_LOOKS = 10  # in a sample
_LOOK_SECONDS = 0.05
_BUSY_SECONDS = 0.01  # by which timers are late on average when the loop has more to do than it can
_MOST_OF_LANE = 2  # times the backlog that the node may have, in seconds of the lane's own rate
_LEAST = 2_000  # deliveries that may wait in any case: a node that has had little to do does not know how fast it is
_BURST = 10_000  # deliveries that may come in at once to a node that keeps up, before it is looked at again
_FADING = 0.8  # of the rate from one sample to the next, when less was started than it can


def backlog(lanes: Iterable[tuple[int, float]], *, most_seconds: float) -> float:
    """How many deliveries wait for the node. Of each of *lanes*: how many wait there, and how many a second are started: whatever
    takes the lane much longer than *most_seconds* waits for its endpoint. Pure."""
    return sum(min(waiting, _MOST_OF_LANE * most_seconds * rate) for waiting, rate in lanes)


class Pressure:
    """Watches one node."""

    def __init__(self, *, clock: Clock, max_backlog_seconds: float) -> None:
        self._clock = clock
        self._most_seconds = max_backlog_seconds
        self._started: dict[str, tuple[Lane, int]] = {}  # first attempts, since the last sample
        self._room: int | None = None  # deliveries that may still be taken before the next sample; None: any number
        self._rate = 0.0  # deliveries a second that it gets done, at least
        self._deliveries_each = 1.0  # of an event

    def started(self, lane: Lane) -> None:
        """The first attempt of a delivery has started."""
        _, count = self._started.get(lane.endpoint.id, (lane, 0))
        self._started[lane.endpoint.id] = lane, count + 1

    def made(self, deliveries: int, events: int) -> None:
        """A commit has made *deliveries* of *events*."""
        self._deliveries_each += 0.1 * (deliveries / events - self._deliveries_each)
        if self._room is not None:
            self._room -= deliveries

    def refuses(self, waiting_events: int) -> bool:
        """Whether no more events should be taken, when so many wait for their commit already."""
        return self._room is not None and self._room <= waiting_events * self._deliveries_each

    def sample(self, lags: Sequence[float], *, is_held_up: bool, seconds: float) -> None:
        """Judges the last *seconds*: by how many seconds timers were late, and whether lanes had to wait for the node."""
        started, self._started = self._started, {}
        rate = sum(count for _, count in started.values()) / seconds
        self._rate = max(rate, _FADING * self._rate)
        if not self._most_seconds:
            self._room = None
        elif not (is_held_up or sum(lags) > _BUSY_SECONDS * len(lags)):
            # Whatever waits, waits for its endpoints.
            self._room = int(max(_BURST, self._rate * self._most_seconds))
        else:
            prompt = [(lane.waiting, n / seconds) for lane, n in started.values() if lane.limit.standing is Standing.PROMPT]
            most = max(_LEAST, self._rate * self._most_seconds)
            self._room = int(most - backlog(prompt, most_seconds=self._most_seconds))

    async def run(self, is_held_up: Callable[[], bool]) -> None:
        """Samples until it is cancelled."""
        while True:
            began_at = self._clock.monotonic()
            lags, held_up = [], 0
            is_idle = not self._started
            if is_idle:  # then nothing waits for the node, and it is to cost nothing
                await asyncio.sleep(_LOOKS * _LOOK_SECONDS)
            for _ in range(0 if is_idle else _LOOKS):
                due_at = self._clock.monotonic() + _LOOK_SECONDS
                await asyncio.sleep(_LOOK_SECONDS)
                lags.append(self._clock.monotonic() - due_at)
                held_up += is_held_up()
            self.sample(lags, is_held_up=2 * held_up > _LOOKS, seconds=self._clock.monotonic() - began_at)
