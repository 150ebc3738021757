"""`GET /metrics`: for service keys, at the root, in Prometheus's format."""

from collections import Counter

import pytest

from gateway.model import Mode, Tenant
from gateway.telemetry.metrics import Metrics
from tests.integration.api.conftest import Api


@pytest.mark.parametrize("permissions", [None, ("webhook:read",)])
async def test_a_service_key_reads_the_metrics(api: Api, permissions: tuple[str, ...] | None):
    """Whoever reaches all organizations sees the metrics, as text that Prometheus takes; a restricted key is enough."""
    key = await api.make_key(tenant=None, permissions=permissions)
    response = await api.client.get("/metrics", headers={"x-api-key": key})
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    text = await response.text()
    assert 'gateway_node_info{name="here"} 1.0' in text
    assert "gateway_deliveries_made_total 0.0" in text


async def test_nobody_else_does(api: Api):
    """Without a key it is a 401, with a tenant's a 403: metrics tell about everybody."""
    assert (await api.client.get("/metrics")).status == 401
    key = await api.make_key(tenant=Tenant("acme", Mode.LIVE))
    assert (await api.client.get("/metrics", headers={"x-api-key": key})).status == 403


@pytest.mark.parametrize("path", ["/api/v1/metrics"])
async def test_they_are_at_the_root_only(api: Api, path: str):
    """There is one place for them, which is not the API's."""
    assert (await api.client.get(path)).status == 404


async def test_they_are_read_and_nothing_else(api: Api):
    """Other methods are refused by name."""
    response = await api.client.post("/metrics")
    assert response.status == 405
    assert response.headers["Allow"] == "GET, HEAD"


async def test_what_is_counted_elsewhere_is_read_each_time():
    """A counter for each value of a label that has come up."""
    metrics = Metrics(node=lambda: {"name": "here"})
    refused: Counter[str] = Counter()
    metrics.counter("gateway_requests_refused", "Refused.", "reason", lambda: refused)
    for count in (1, 2):
        refused["bad_keys"] += 1
        assert f'gateway_requests_refused_total{{reason="bad_keys"}} {count}.0' in metrics.render().decode()
