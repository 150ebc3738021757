"""Which lane may start a request now. State only: no I/O, no clock.

The node's open requests are shared so that no number of endpoints that are dead, slow or not known yet fills it: lanes down to
one probe hold at most a quarter of them together, lanes that have not answered yet or answer slowly half, and any lane at most
half as many as are still free, so that some are free however many lanes would take more. Organizations are held to half while
another waits."""

from collections import Counter, OrderedDict
from collections.abc import Iterator

from gateway.delivery.lane_limit import Standing
from gateway.delivery.lanes import Lane


class Admission:
    """Counts the open requests of a node, and keeps the lanes that wait for others of their standing."""

    def __init__(self, max_in_flight: int) -> None:
        self._most = max_in_flight
        self._most_of_organization = max(1, max_in_flight // 2)
        self._most_of = {
            Standing.PROMPT: max_in_flight,
            Standing.DOUBTFUL: max(1, max_in_flight // 2),
            Standing.PROBING: max(1, max_in_flight // 4),
        }
        self._open = 0
        self._open_of = dict.fromkeys(Standing, 0)
        self._open_of_organization: Counter[str] = Counter()
        self._parked: dict[Standing, OrderedDict[str, Lane]] = {standing: OrderedDict() for standing in Standing}

    @property
    def is_full(self) -> bool:
        return self._open >= self._most

    def admits(self, lane: Lane) -> bool:
        """Whether *lane* may start a request. If not, it is heard of again: by `let_in` when there is room among its kind, or
        when one of its own requests ends."""
        standing = lane.limit.standing
        if self._open_of[standing] >= self._most_of[standing]:
            self._parked[standing][lane.endpoint.id] = lane
            return False
        return 2 * lane.open_requests <= self._most - self._open

    def is_parked(self, lane: Lane) -> bool:
        """Whether it waits for others of its standing."""
        return lane.endpoint.id in self._parked[lane.limit.standing]

    def forget(self, lane: Lane) -> None:
        """*lane* waits for nothing any more."""
        for parked in self._parked.values():
            parked.pop(lane.endpoint.id, None)

    def let_in(self) -> Iterator[Lane]:
        """The lanes that waited and for which there is room now. Each has to be queued, or to pass its place on, before the
        next is asked for."""
        for standing, parked in self._parked.items():
            room = self._most_of[standing] - self._open_of[standing]
            while parked and room > 0:
                _, lane = parked.popitem(last=False)
                yield lane
                room -= lane.is_queued  # it may have nothing to send any more

    def whose_turn(self, organizations: Iterator[str]) -> str:
        """The next of *organizations*; those that hold half of the node's requests let the others pass."""
        first = next(organizations)
        most = self._most_of_organization
        if self._open_of_organization[first] < most:
            return first
        return next((other for other in organizations if self._open_of_organization[other] < most), first)

    def started(self, lane: Lane) -> None:
        """*lane* has one more request open."""
        lane.open_requests += 1
        self._open += 1
        self._open_of[lane.limit.standing] += 1
        self._open_of_organization[lane.endpoint.tenant.organization_id] += 1

    def ended(self, lane: Lane) -> None:
        """One of *lane*'s requests has ended. Comes before the lane learns from it."""
        organization_id = lane.endpoint.tenant.organization_id
        self._open_of_organization[organization_id] -= 1
        if not self._open_of_organization[organization_id]:
            del self._open_of_organization[organization_id]
        self._open -= 1
        lane.open_requests -= 1
        self._open_of[lane.limit.standing] -= 1

    def learned(self, lane: Lane, earlier: Standing) -> None:
        """*lane*, which was of standing *earlier*, may be of another now; the requests that it has open count there."""
        standing = lane.limit.standing
        if standing is not earlier:
            self._open_of[earlier] -= lane.open_requests
            self._open_of[standing] += lane.open_requests
            self._parked[earlier].pop(lane.endpoint.id, None)
