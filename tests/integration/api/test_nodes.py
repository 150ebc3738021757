"""The list of nodes: who may see it, and what it shows."""

from gateway.cluster.this_node import standings
from gateway.model import Lease, Node, NodeStanding
from gateway.store.protocol import ClusterView
from tests.integration.api.conftest import Api

STARTED = 1_774_449_000_000


def node(number: int) -> Node:
    at = STARTED + number
    return Node(id=f"node_{number}", name=f"host-{number}", version="1.2.3", started_at=at, renewals=7, renewed_at=at + 1_000)


async def test_a_node_shows_what_it_is_and_holds(api: Api):
    """With the times of the database's clock; the one that answers is marked."""
    api.standings[:] = [NodeStanding(node(1), 40, is_this=False), NodeStanding(node(2), 24, is_this=True)]
    page = await api.json("GET", "/nodes", key=await api.make_key(None))
    assert page["object"] == "list"
    assert page["data"][0] == {
        "id": "node_1",
        "object": "node",
        "name": "host-1",
        "version": "1.2.3",
        "startedAt": "2026-03-25T14:30:00.001Z",
        "renewedAt": "2026-03-25T14:30:01.001Z",
        "buckets": 40,
        "isThis": False,
    }
    assert [(shown["id"], shown["isThis"]) for shown in page["data"]] == [("node_1", False), ("node_2", True)]


async def test_pages_of_nodes_go_on_where_the_last_one_ended(api: Api):
    """Also when nodes have come and gone in between."""
    key = await api.make_key(None)
    api.standings[:] = [NodeStanding(node(number), 0, is_this=False) for number in range(1, 6)]
    first = await api.json("GET", "/nodes?limit=2", key=key)
    assert [shown["id"] for shown in first["data"]] == ["node_1", "node_2"]
    del api.standings[1]
    second = await api.json("GET", f"/nodes?limit=3&cursor={first['nextCursor']}", key=key)
    assert [shown["id"] for shown in second["data"]] == ["node_3", "node_4", "node_5"]
    assert "nextCursor" not in second
    await api.json("GET", f"/organizations?cursor={first['nextCursor']}", key=key, status=400)


async def test_nodes_are_nothing_for_a_tenants_key(api: Api):
    """They are everybody's; and a service key needs `key:read`."""
    refused = await api.json("GET", "/nodes", status=403)
    assert refused["error"]["message"] == "this takes a service key, which reaches every organization"
    await api.json("GET", "/nodes", key=await api.make_key(None, permissions=("event:write",)), status=403)
    await api.json("GET", "/nodes", key=await api.make_key(None, permissions=("key:read",)))


def test_buckets_are_counted_by_who_holds_them():
    """Those that are free are nobody's; a process that delivers nothing is none of the nodes."""
    leases = [Lease(0, "node_1", 1), Lease(1, "node_2", 4), Lease(2, None, 2), Lease(3, "node_1", 1)]
    view = ClusterView(now=STARTED, nodes=[node(1), node(2), node(3)], leases=leases)
    shown = standings(view, "node_2")
    assert [(standing.node.id, standing.buckets, standing.is_this) for standing in shown] == [
        ("node_1", 2, False),
        ("node_2", 1, True),
        ("node_3", 0, False),
    ]
    assert not any(standing.is_this for standing in standings(view, None))
