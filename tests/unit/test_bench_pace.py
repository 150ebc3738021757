"""The pace at which the benchmark publishes."""

from scripts.benchmarks.pace import Pace


class Time:
    """A clock that moves only when somebody sleeps, or is busy."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def read(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


async def test_turns_come_at_even_intervals():
    """The first at once, whatever the time between them is spent on."""
    time = Time()
    pace = Pace(4, now=time.read, sleep=time.sleep)
    begun = []
    for _ in range(4):
        await pace.turn()
        begun.append(time.now)
        time.now += 0.125
    assert begun == [100.0, 100.25, 100.5, 100.75]


async def test_what_was_missed_is_caught_up_with():
    """After a long answer the turns that have come meanwhile are taken at once, so that the load stays what it was to be."""
    time = Time()
    pace = Pace(4, now=time.read, sleep=time.sleep)
    await pace.turn()
    time.now += 1.0
    for _ in range(4):
        await pace.turn()
    assert time.slept == []
    await pace.turn()
    assert time.slept == [0.25]
