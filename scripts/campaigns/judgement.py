"""Whether the promises were kept, by what publishers were told, what arrived, and what is on record. Pure."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from scripts.campaigns.arrival import Arrival
from scripts.campaigns.publishers import Accepted

WANTED = {"/quick": ("*",), "/slow": ("load.*",), "/moody": ("load.applied", "load.moved.*"), "/quiet": ("nothing.ever",)}
"""What each endpoint wants."""

Sent = tuple[str, str, int]
"""Path, event and life: what one process sent of one delivery."""


def paths_of(event_type: str) -> Iterator[str]:
    """The endpoints that want events of a type."""
    for path, patterns in WANTED.items():
        if any(
            pattern in {"*", event_type} or (pattern.endswith(".*") and event_type.startswith(pattern[:-1]))
            for pattern in patterns
        ):
            yield path


class Repeat(msgspec.Struct, frozen=True):
    """A request that came again though it had not been refused."""

    before: Arrival
    after: Arrival


class Kill(msgspec.Struct, frozen=True):
    """What one kill left in the air, and what of it was sent twice."""

    life: int
    requests: int  # that the process sent
    in_flight: int  # those of them that were open, or answered and not yet on record
    repeated: int


class Verdict(msgspec.Struct, frozen=True):
    """What came of a campaign."""

    lost: int  # pairs of an accepted event and an endpoint that wanted it, which it never took
    strays: int  # requests of events that nobody published, or to endpoints that did not want them
    doubled: int  # numbers that became more than one event, or another than the publisher was told
    repeated_without_a_kill: int
    repeated_though_on_record: int
    kills: list[Kill]

    @property
    def faults(self) -> list[str]:
        """What was not as promised."""
        named = {
            "lost": self.lost,
            "strays": self.strays,
            "doubled": self.doubled,
            "repeated without a kill": self.repeated_without_a_kill,
            "repeated though on record": self.repeated_though_on_record,
            "kills that repeated more than was in flight": sum(kill.repeated > kill.in_flight for kill in self.kills),
        }
        return [f"{count} {name}" for name, count in named.items() if count]


def repeats(arrivals: Sequence[Arrival]) -> Iterator[Repeat]:
    """In the order in which they came again."""
    last: dict[tuple[str, str], Arrival] = {}
    for arrival in arrivals:
        before = last.get((arrival.path, arrival.event_id))
        if before is not None and before.status in {None, 200}:
            yield Repeat(before, arrival)
        last[arrival.path, arrival.event_id] = arrival


def missing(accepted: Mapping[int, Accepted], arrivals: Sequence[Arrival]) -> set[tuple[int, str]]:
    """Accepted events, by number, and endpoints that wanted them and have not taken them."""
    taken = {(arrival.number, arrival.path) for arrival in arrivals if arrival.status == 200}
    return {(number, path) for number, event in accepted.items() for path in paths_of(event.type)} - taken


def judge(
    accepted: Mapping[int, Accepted],
    types: Mapping[int, str],
    arrivals: Sequence[Arrival],
    recorded: Mapping[Sent, int],
    killed: Collection[int],
) -> Verdict:
    """*types* are those of all numbers that were ever sent, *recorded* the attempts on record, *killed* the lives that a kill
    ended."""
    unrecorded = Counter((arrival.path, arrival.event_id, arrival.life) for arrival in arrivals)
    unrecorded.subtract(recorded)
    in_flight: Counter[int] = Counter()
    for (_, _, life), count in unrecorded.items():
        in_flight[life] += max(0, count)
    found = list(repeats(arrivals))
    repeated = Counter(repeat.before.life for repeat in found)
    requests = Counter(arrival.life for arrival in arrivals)
    ids: defaultdict[int, set[str]] = defaultdict(set)
    for arrival in arrivals:
        ids[arrival.number].add(arrival.event_id)
    return Verdict(
        lost=len(missing(accepted, arrivals)),
        strays=sum(arrival.number not in types or arrival.path not in paths_of(types[arrival.number]) for arrival in arrivals),
        doubled=sum(len(known) > 1 or (number in accepted and accepted[number].id not in known) for number, known in ids.items()),
        repeated_without_a_kill=sum(
            repeat.before.life == repeat.after.life or repeat.before.life not in killed for repeat in found
        ),
        repeated_though_on_record=sum(
            unrecorded[repeat.before.path, repeat.before.event_id, repeat.before.life] < 1 for repeat in found
        ),
        kills=[Kill(life, requests[life], in_flight[life], repeated[life]) for life in sorted(killed)],
    )
