"""What is counted with each commit."""

from gateway.model import OPERATIONS, OPERATIONS_ENDPOINT, DisabledReason
from gateway.registry.endpoints import disabled
from gateway.telemetry.metrics import Metrics
from tests.fakes import DELIVERED, EXHAUSTED, START, due, endpoint, result, retry_at


def shown(metrics: Metrics) -> list[str]:
    return metrics.render().decode().splitlines()


def test_endpoints_that_the_gateway_disables_and_enables_are_counted():
    """Those that failed, those that are gone, and those that a probe has enabled again; each is shown from the start."""
    metrics = Metrics(node=lambda: {"name": "here"})
    assert 'gateway_endpoints_disabled_total{reason="gone"} 0.0' in shown(metrics)
    failing = [disabled(endpoint(), DisabledReason.FAILURES, START) for _ in range(2)]
    metrics.endpoints_changed([*failing, disabled(endpoint(), DisabledReason.GONE, START)], [endpoint()])
    lines = shown(metrics)
    assert 'gateway_endpoints_disabled_total{reason="failures"} 2.0' in lines
    assert 'gateway_endpoints_disabled_total{reason="gone"} 1.0' in lines
    assert "gateway_endpoints_recovered_total 1.0" in lines


def test_attempts_to_tell_the_operator_are_counted_by_themselves():
    """By what they led to; those of others are not among them."""
    metrics = Metrics(node=lambda: {"name": "here"})
    own, other = endpoint(id=OPERATIONS_ENDPOINT, tenant=OPERATIONS), endpoint()
    results = [result(due(own), own, verdict) for verdict in (DELIVERED, retry_at(START), EXHAUSTED, EXHAUSTED)]
    metrics.committed(0, [*results, result(due(other), other, EXHAUSTED)], [])
    counted = [line for line in shown(metrics) if line.startswith("gateway_operations_attempts_total")]
    assert counted == [
        'gateway_operations_attempts_total{state="delivered"} 1.0',
        'gateway_operations_attempts_total{state="pending"} 1.0',
        'gateway_operations_attempts_total{state="failed"} 2.0',
    ]
