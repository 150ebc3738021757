"""What can be watched from outside: counters that grow with each commit, and gauges that are read when somebody looks.

No label has values without bound: an organization, an endpoint or an event type is none."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.model import OPERATIONS_ENDPOINT, DeliveryState, DisabledReason, Endpoint, Result

Reading = Callable[[], float | None]
"""The value of a gauge now; None: there is none at the moment."""

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """A node's metrics. Each belongs to a registry of its own, so that several gateways fit into one process."""

    def __init__(self, *, node: Callable[[], dict[str, str]]) -> None:
        """*node* says who this node is, as of the moment that somebody looks."""
        self._registry = registry = CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        registry.register(_Identity(node))
        self._deliveries = prometheus_client.Counter(
            "gateway_deliveries_made", "Deliveries of events, made with their commit.", registry=registry
        )
        self._attempts = prometheus_client.Counter(
            "gateway_attempts", "Attempts on record, by what they led to.", ["state"], registry=registry
        )
        for state in (DeliveryState.DELIVERED, DeliveryState.PENDING, DeliveryState.FAILED):
            self._attempts.labels(state)  # shown from the beginning
        self._fenced = prometheus_client.Counter(
            "gateway_results_fenced", "Results whose node had lost the endpoint's lease by then.", registry=registry
        )
        self._disabled = prometheus_client.Counter(
            "gateway_endpoints_disabled", "Endpoints that the gateway itself took out of service.", ["reason"], registry=registry
        )
        for reason in (DisabledReason.FAILURES, DisabledReason.GONE):
            self._disabled.labels(reason)
        self._recovered = prometheus_client.Counter(
            "gateway_endpoints_recovered", "Endpoints that a probe has enabled again.", registry=registry
        )
        self._operations = prometheus_client.Counter(
            "gateway_operations_attempts",
            "Attempts to tell the operator, at operations.url, by what they led to.",
            ["state"],
            registry=registry,
        )
        for state in (DeliveryState.DELIVERED, DeliveryState.PENDING, DeliveryState.FAILED):
            self._operations.labels(state)

    def gauge(self, name: str, meaning: str, reading: Reading) -> None:
        """Adds a gauge that is read each time."""
        self._registry.register(_Gauge(name, meaning, reading))

    def counter(self, name: str, meaning: str, label: str, reading: Callable[[], Mapping[str, float]]) -> None:
        """Adds counters that are read each time, one for each value of *label* that has come up."""
        self._registry.register(_Counters(name, meaning, label, reading))

    def committed(self, made: int, results: Sequence[Result], fenced: Sequence[Result]) -> None:
        """Counts what a commit brought. Of *results* those that are *fenced* led to nothing."""
        self._deliveries.inc(made)
        states = Counter(result.verdict.state for result in results)
        states.subtract(result.verdict.state for result in fenced)
        for state, count in states.items():
            self._attempts.labels(state).inc(count)
        self._fenced.inc(len(fenced))
        for result in results:
            if result.due.endpoint_id == OPERATIONS_ENDPOINT:
                self._operations.labels(result.verdict.state).inc()

    def endpoints_changed(self, disabled: Sequence[Endpoint], recovered: Sequence[Endpoint]) -> None:
        """Counts endpoints that the gateway itself has disabled and enabled."""
        for endpoint in disabled:
            self._disabled.labels(endpoint.disabled_reason).inc()
        self._recovered.inc(len(recovered))

    def render(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return prometheus_client.generate_latest(self._registry)


class _Identity(Collector):
    def __init__(self, reading: Callable[[], dict[str, str]]) -> None:
        self._reading = reading

    def describe(self) -> Iterable[Metric]:
        return [InfoMetricFamily("gateway_node", "This node.")]

    def collect(self) -> Iterable[Metric]:
        return [InfoMetricFamily("gateway_node", "This node.", value=self._reading())]


class _Gauge(Collector):
    def __init__(self, name: str, meaning: str, reading: Reading) -> None:
        self._name = name
        self._meaning = meaning
        self._reading = reading

    def describe(self) -> Iterable[Metric]:
        return [GaugeMetricFamily(self._name, self._meaning)]

    def collect(self) -> Iterable[Metric]:
        value = self._reading()
        return [] if value is None else [GaugeMetricFamily(self._name, self._meaning, value=value)]


class _Counters(Collector):
    def __init__(self, name: str, meaning: str, label: str, reading: Callable[[], Mapping[str, float]]) -> None:
        self._name = name
        self._meaning = meaning
        self._label = label
        self._reading = reading

    def describe(self) -> Iterable[Metric]:
        return [CounterMetricFamily(self._name, self._meaning, labels=[self._label])]

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._meaning, labels=[self._label])
        for value, count in self._reading().items():
            family.add_metric([value], count)
        return [family]
