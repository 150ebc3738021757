"""What a node concludes from looking at the others: who is dead, and who is on the way out. Pure: views and times come in as
arguments."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from gateway.cluster.shares import fair_shares
from gateway.model import Node
from gateway.store.protocol import ClusterView

LONGEST_GAP = 1 / 3
"""Of the lease: looks further apart than this say nothing about what the others did in between."""

PARTING_LEASES = 10
"""A node is taken to be on its way out for so many lengths of the lease. A mistake costs no more than unequal shares."""


class Conclusion(msgspec.Struct, frozen=True):
    """What a look comes to."""

    overdue: Sequence[Node]  # they have stood still for the lease's length, as of this count of renewals
    staying: frozenset[str]  # ids of the nodes that the buckets are to be shared among


class _Sight(msgspec.Struct):
    """When a node was first seen with a count of renewals."""

    renewals: int
    since: float


class Observation:
    """All that a node has seen of the others.

    Times are of this node's monotonic clock. It says nothing of when another node renewed, only of when this one saw it: so
    a node is overdue once a look was sent its lease's length after the answer arrived that first showed its count.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._looked_at: float | None = None
        self._sights: dict[str, _Sight] = {}
        self._owners: dict[int, str | None] = {}
        self._parting: dict[str, float] = {}  # until when a node is taken to be on its way out

    def look(self, view: ClusterView, *, me: str, asked_at: float, answered_at: float) -> Conclusion:
        """Takes in what was seen. The node itself, *me*, is never judged: whether it lives is for the others to say."""
        longest_gap = LONGEST_GAP * min(map(self._lease_of, view.nodes), default=self._lease_seconds)
        if self._looked_at is not None and answered_at - self._looked_at > longest_gap:
            # The store was away, or this node was. The others may have been kept from renewing just as well: each has its
            # full time again, or the first to come back would evict all the others.
            self._sights.clear()
            self._owners.clear()
        self._looked_at = answered_at
        return Conclusion(self._overdue(view, me, asked_at, answered_at), self._staying(view, me, answered_at))

    def _lease_of(self, node: Node) -> float:
        """How long *node* may stand still: as long as it counts on itself, whatever this node's own lease is."""
        return self._lease_seconds if node.lease_seconds is None else node.lease_seconds

    def _overdue(self, view: ClusterView, me: str, asked_at: float, answered_at: float) -> Sequence[Node]:
        sights: dict[str, _Sight] = {}
        overdue = []
        for node in view.nodes:
            sight = self._sights.get(node.id)
            if sight is None or sight.renewals != node.renewals:
                sight = _Sight(node.renewals, answered_at)
            elif node.id != me and asked_at - sight.since >= self._lease_of(node):
                overdue.append(node)
            sights[node.id] = sight
        self._sights = sights
        return overdue

    def _staying(self, view: ClusterView, me: str, at: float) -> frozenset[str]:
        """All but those on their way out, which take nothing any more: their share is the others'.

        Who gives back what belongs to its share is on its way out, until it takes something again.
        """
        owners = {lease.bucket: lease.node_id for lease in view.leases}
        count = Counter(owners.values())
        gave = {owner for bucket, owner in self._owners.items() if owners.get(bucket) != owner}
        took = {owner for bucket, owner in owners.items() if self._owners.get(bucket, owner) != owner}
        self._owners = owners
        ids = {node.id for node in view.nodes}
        self._parting = {node_id: until for node_id, until in self._parting.items() if node_id in ids - took and at < until}
        shares = fair_shares(ids - self._parting.keys() | {me})
        for node_id in shares.keys() & gave - took - {me}:
            if count[node_id] < shares[node_id]:
                self._parting[node_id] = at + PARTING_LEASES * self._lease_seconds
        return frozenset(ids - self._parting.keys() | {me})
