"""Endpoints that remember every request: which process sent it, in which order the answers were given, what came twice."""

import asyncio
import itertools
import re
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from tests.receiver import Connection, Receiver, Request, Step
from tests.system.load import event_of, number_of

_MARK = re.compile(r"X-Life-(\d+)-Event-Id")

Delivery = tuple[str, str]
"""Path and event: an endpoint gets each event once, unless it is repeated."""


def marked(life: int) -> Mapping[str, object]:
    """Settings by which every request tells the *life* that sent it: a process, counted among all that were started."""
    return {"delivery.signature_header_prefix": f"X-Life-{life}"}


def life_of(request: Request) -> int:
    """Which process sent *request*, as marked."""
    for name in request.headers:
        if found := _MARK.fullmatch(name):
            return int(found[1])
    raise AssertionError(f"nobody marked this request: {dict(request.headers)}")


@dataclass(eq=False)
class Arrival:
    """A request that reached an endpoint."""

    delivery: Delivery
    number: int
    life: int  # of the process that sent it
    at: float  # `time.monotonic()`, seconds
    status: int | None = None  # as answered; None when its sender was gone before


class Witness:
    """The receiver's endpoints: they answer in their own way, and remember in which order they did."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.arrivals: list[Arrival] = []
        self.answered: list[Arrival] = []  # in the order of the answers
        self.numbers: defaultdict[str, set[int]] = defaultdict(set)  # path → numbers of the events that were answered 200
        self.ids: defaultdict[int, set[str]] = defaultdict(set)  # number → ids of its events

    def step(self, *, seconds: float = 0.0, refuses_every: int = 0, refuses: Callable[[Arrival], bool] | None = None) -> Step:
        """Answers 200 after *seconds*, and 503 in place of it to one of *refuses_every* requests, and 500 to those that it
        *refuses* at that time."""
        turns = itertools.count(1)

        def take(connection: Connection) -> Awaitable[None] | None:
            request = self._receiver.requests[-1]
            arrival = Arrival((request.path, event_of(request)), number_of(request), life_of(request), time.monotonic())
            self.arrivals.append(arrival)
            self.ids[arrival.number].add(event_of(request))
            is_refused = bool(refuses_every) and next(turns) % refuses_every == 0

            def answer() -> None:
                status = 503 if is_refused else 500 if refuses is not None and refuses(arrival) else 200
                connection.answer(status)
                arrival.status = status
                self.answered.append(arrival)
                if status == 200:
                    self.numbers[request.path].add(arrival.number)

            if not seconds:
                answer()
                return None
            return _later(seconds, answer)

        return take

    async def have_all(self, numbers: Iterable[int], paths: Iterable[str], *, seconds: float = 30.0) -> None:
        """Returns when every event of *numbers* was answered 200 on each of *paths*."""
        wanted, where = set(numbers), tuple(paths)
        await self._receiver.wait_until(
            lambda: all(wanted <= self.numbers[path] for path in where), "every event at every endpoint", seconds=seconds
        )

    def count(self) -> Counter[Delivery]:
        """How often each delivery arrived."""
        return Counter(arrival.delivery for arrival in self.arrivals)

    def open_requests(self, life: int) -> list[Arrival]:
        """Those of *life* that have no answer."""
        return [arrival for arrival in self.arrivals if arrival.life == life and arrival.status is None]

    def last_answered(self, life: int, count: int) -> list[Arrival]:
        """The last *count* of *life* that have an answer, in the order of the answers."""
        return [arrival for arrival in self.answered if arrival.life == life][-count:]

    def repeats(self) -> Iterator[tuple[Arrival, Arrival]]:
        """Arrivals that came again though they had not been refused, each with the next of the same delivery."""
        last: dict[Delivery, Arrival] = {}
        for arrival in self.arrivals:
            before = last.get(arrival.delivery)
            if before is not None and before.status in {None, 200}:
                yield before, arrival
            last[arrival.delivery] = arrival


async def _later(seconds: float, act: Callable[[], None]) -> None:
    await asyncio.sleep(seconds)
    act()
