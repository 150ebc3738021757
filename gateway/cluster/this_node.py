"""This node as others see it: what it is called, how it stands among those that share its store, and whether it leads them.

On the embedded store it stands alone: it holds every bucket for ever."""

import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace

from gateway import ids
from gateway.clock import Clock, Timestamp
from gateway.cluster.leases import Holder
from gateway.cluster.member import Member
from gateway.ids import IdMaker
from gateway.model import BUCKETS, Node, NodeStanding
from gateway.settings import Settings
from gateway.store.protocol import ClusterView, News, Store
from gateway.telemetry.metrics import Metrics
from gateway.version import VERSION

_LEADERS_BUCKET = 0  # who holds it does what concerns the whole store


def standings(view: ClusterView, this: str | None) -> Sequence[NodeStanding]:
    """How each node of *view* stands, by id; *this* is the id of the one that asks. Pure."""
    held = Counter(lease.node_id for lease in view.leases)
    return [NodeStanding(node, held[node.id], is_this=node.id == this) for node in view.nodes]


class ThisNode:
    """See the module. `member` is None where there are no others."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        clock: Clock,
        ids: IdMaker,
        holder: Holder,
        heard: Callable[[News], None],
        reload: Callable[[], Awaitable[None]],
        tell_time: Callable[[Timestamp], None],
    ) -> None:
        """*heard*, *reload* and *tell_time* are as `Member` has them."""
        self._ids = ids
        self._clock = clock
        self._cluster = store.cluster
        self._node = Node(
            self._next_id(),
            settings.node.name or socket.gethostname(),
            VERSION,
            clock.now(),
            lease_seconds=settings.node.lease_seconds,
        )
        self.member: Member | None = None
        if self._cluster is not None:
            self.member = Member(
                cluster=self._cluster,
                intake=store,
                holder=holder,
                clock=clock,
                settings=settings.node,
                listen=settings.store.listen,
                make_node=self._anew,
                heard=heard,
                reload=reload,
                tell_time=tell_time,
            )

    def _next_id(self) -> str:
        return self._ids.next(ids.NODE)

    def _anew(self) -> Node:
        """This node under another id, by which others tell it from what it was before they took it for dead."""
        self._node = replace(self._node, id=self._next_id())
        return self._node

    def leads(self) -> bool:
        """Whether this node does what concerns the whole store."""
        return self.member is None or _LEADERS_BUCKET in self.member.standing.buckets

    async def standings(self) -> Sequence[NodeStanding]:
        """All nodes, this one among them while it takes part. Raises StoreUnavailable."""
        if self._cluster is None or self.member is None:
            return [NodeStanding(replace(self._node, renewed_at=self._clock.now()), BUCKETS, is_this=True)]
        return standings(await self._cluster.view(), self.member.standing.node_id)

    def shown(self) -> dict[str, object] | None:
        """How this node stands, for whoever watches over it; None when there are no others."""
        if self.member is None:
            return None
        standing = self.member.standing
        age = standing.lease_age_seconds
        return {
            "id": standing.node_id,
            "name": standing.name,
            "buckets": list(standing.buckets),
            "leaseAgeSeconds": None if age is None else round(age, 3),
            "nodes": len(standing.nodes),
        }

    def make_metrics(self) -> Metrics:
        """The metrics of this node, with the gauges of its standing."""
        metrics = Metrics(node=lambda: {"id": self._node.id, "name": self._node.name, "version": VERSION})
        if (member := self.member) is not None:
            metrics.gauge("gateway_buckets", "Buckets that this node holds.", lambda: len(member.standing.buckets))
            metrics.gauge("gateway_nodes", "Nodes that this one sees, itself included.", lambda: len(member.standing.nodes))
            metrics.gauge(
                "gateway_lease_age_seconds",
                "Since the last renewal of this node's leases that succeeded was sent.",
                lambda: member.standing.lease_age_seconds,
            )
            metrics.gauge("gateway_evictions", "How often the others took this node for dead.", lambda: member.standing.evictions)
        return metrics
