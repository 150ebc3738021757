"""The clock of the machine is set an hour ahead or back while deliveries wait: the real arithmetic of it, in time that jumps."""

import pytest

from gateway.clock import HOUR, MINUTE, SECOND, SystemClock, Timestamp
from gateway.model import DeliveryState
from gateway.store.sqlite import SqliteStore
from tests.fakes import START, FakeClock, ScriptedSender, status
from tests.integration.core.conftest import URL, Node, run_node

MINUTES = (0, 1, 5, 15, 30, 60, 60, 60)
EVENTS = 12


class MachineClock(FakeClock):
    """Wall time may be set; the steady clock follows it as that of a machine does."""

    def __init__(self) -> None:
        super().__init__()
        self._machine = SystemClock(wall=lambda: self._wall / 1_000, monotonic=self.monotonic)

    def advance(self, ms: int) -> None:
        self._wall += ms
        self._monotonic_ms += ms
        self._steady = self._machine.steady()
        super().advance(0)

    @property
    def elapsed(self) -> Timestamp:
        """Milliseconds that have really passed."""
        return round(self.monotonic() * 1_000)


class TimedSender(ScriptedSender):
    """Remembers when, of real time, each request was made."""

    def __init__(self, clock: MachineClock) -> None:
        super().__init__()
        self._clock = clock
        self.sent_at: dict[str, list[Timestamp]] = {}

    async def send(self, url, headers, body, *, organization_id):
        self.sent_at.setdefault(headers["webhook-id"], []).append(self._clock.elapsed)
        return await super().send(url, headers, body, organization_id=organization_id)


async def run_for(node: Node, ms: int) -> None:
    """Lets real time pass in steps of half a minute."""
    for _ in range(ms // (30 * SECOND)):
        await node.advance(30 * SECOND)


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["ahead", "back"])
@pytest.mark.parametrize("after", [0, 3 * MINUTE, 40 * MINUTE, 110 * MINUTE], ids=lambda after: f"after {after // MINUTE} min")
async def test_a_jump_loses_nothing(store: SqliteStore, jump: int, after: int):
    """Wherever in its schedule a delivery is, all of its eight attempts are made, in their order, none more than an hour early or
    late; and the lane's limit holds all the time."""
    clock = MachineClock()
    sender = TimedSender(clock)
    sender.script(URL, status(500))
    async with run_node(store, clock=clock, sender=sender, disable_after_failed_events=0, max_in_flight_per_endpoint=4) as node:
        await node.create()
        events = await node.publish(EVENTS)
        await node.quiet()
        await run_for(node, after)
        clock.set_wall(clock.now() + jump)
        await run_for(node, 6 * HOUR)
        assert await node.states() == {DeliveryState.FAILED: EVENTS}
        for event in events:
            times = sender.sent_at[event.id]
            assert len(times) == len(MINUTES)
            scheduled = [sum(MINUTES[: number + 1]) * MINUTE for number in range(len(MINUTES))]
            # The steps of this test, of which each attempt may add one, are not the clock's doing.
            slack = len(MINUTES) * 30 * SECOND
            assert all(abs(at - wanted) <= HOUR + slack for at, wanted in zip(times, scheduled, strict=True))
        assert sender.most_open_of[URL] <= 4


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["ahead", "back"])
async def test_what_is_fresh_goes_out_at_once_after_a_jump(store: SqliteStore, jump: int):
    """New events do not wait for the clock to agree with itself again, and their ids go on growing."""
    clock = MachineClock()
    sender = TimedSender(clock)
    async with run_node(store, clock=clock, sender=sender) as node:
        await node.create()
        before = await node.publish(300)
        clock.set_wall(clock.now() + jump)
        after = await node.publish(300)
        await node.quiet()
        assert len(sender.requests) == 600
        assert max(event.id for event in before) < min(event.id for event in after)
        assert clock.steady() - START == 0
        assert await node.states() == {DeliveryState.DELIVERED: 600}
