"""What each event of a tenant has matched, recomputed from the numbered revisions of its endpoints. Pure."""

from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

from gateway.model import Revision
from gateway.publishing.matching import Matcher

_REMEMBERED_REVISIONS = 128


class Matches:
    """The endpoints of a tenant as they were at each revision."""

    def __init__(self) -> None:
        self.last = 0
        """The number of the last revision that is known; 0: there is none."""
        self.missing: list[int] = []
        """Numbers that were passed over."""
        self._of_endpoint: defaultdict[str, list[Revision]] = defaultdict(list)
        self._matchers: OrderedDict[int, Matcher[str]] = OrderedDict()

    def learn(self, revisions: Iterable[Revision]) -> None:
        """More of them, in order; those that are known already are passed over."""
        for revision in revisions:
            if revision.number <= self.last:
                continue
            self.missing += range(self.last + 1, revision.number)
            self._of_endpoint[revision.endpoint_id].append(revision)
            self.last = revision.number

    @property
    def endpoint_ids(self) -> Collection[str]:
        """The endpoints that were ever there."""
        return self._of_endpoint.keys()

    def latest(self, endpoint_id: str) -> Revision:
        """The last revision of an endpoint that was ever there."""
        return self._of_endpoint[endpoint_id][-1]

    def can_tell(self, number: int) -> bool:
        """Whether every change up to the revision *number* is known."""
        return number <= self.last and not (self.missing and self.missing[0] <= number)

    def at(self, number: int, event_type: str) -> Sequence[str]:
        """The ids of the endpoints that wanted events of *event_type* as of the revision *number*."""
        matcher = self._matchers.get(number)
        if matcher is None:
            # Events come in the order of their ids, and so nearly in that of the revisions: few are asked for again and again.
            if len(self._matchers) >= _REMEMBERED_REVISIONS:
                self._matchers.popitem(last=False)
            matcher = self._matchers[number] = Matcher(self._wishes(number))
        return matcher.match(event_type)

    def _wishes(self, number: int) -> Iterator[tuple[str, Sequence[str], str]]:
        for endpoint_id, revisions in self._of_endpoint.items():
            then = next((revision for revision in reversed(revisions) if revision.number <= number), None)
            if then is not None and then.is_active:
                yield endpoint_id, then.events, endpoint_id
