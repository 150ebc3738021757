"""The operation on nodes: for service keys and operators."""

from bisect import bisect_right
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.api.cursors import Cursors, scope
from gateway.api.dialects import Answer
from gateway.api.operations import Call, Operation, TenantIn, page
from gateway.api.parts import ApiParts
from gateway.api.vocabulary import Time
from gateway.clock import isoformat
from gateway.model import BUCKETS, NodeStanding


class NodeView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A node as the API shows it."""

    id: str
    object: Literal["node"] = "node"
    name: str
    version: str
    started_at: Time
    renewed_at: Annotated[Time, Meta(description="when it last said that it lives")]
    buckets: Annotated[int, Meta(ge=0, le=BUCKETS, description=f"of the {BUCKETS} that endpoints are spread over")]
    is_this: Annotated[bool, Meta(description="whether it is the node that answers")]


class Nodes:
    """Shows the nodes that share the store."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._cursors = Cursors(parts.cursor_key)

    def operations(self) -> list[Operation]:
        """What can be done with nodes."""
        return [
            Operation(
                name="list_nodes",
                method="GET",
                path="/nodes",
                permission="key:read",
                handler=self.page,
                summary="List the nodes that share the store",
                answers=(page(NodeView),),
                tenant_in=TenantIn.NOWHERE,
                for_all_tenants=True,
            )
        ]

    async def page(self, call: Call) -> Answer:
        """By id, which is the order in which they began. A page goes on after the last id of the one before."""
        limit = call.parameters.limit()
        list_ = scope("nodes", None)
        after = call.parameters.cursor(self._cursors, list_)
        call.check()
        known = await self._parts.nodes()
        start = 0 if after is None else bisect_right(known, after, key=lambda standing: standing.node.id)
        shown = known[start : start + limit]
        last = shown[-1].node.id if start + limit < len(known) else None
        return call.dialect.page([_view(standing) for standing in shown], self._cursors.seal(list_, last))


def _view(standing: NodeStanding) -> NodeView:
    node = standing.node
    return NodeView(
        id=node.id,
        name=node.name,
        version=node.version,
        started_at=isoformat(node.started_at),
        renewed_at=isoformat(node.renewed_at),
        buckets=standing.buckets,
        is_this=standing.is_this,
    )
