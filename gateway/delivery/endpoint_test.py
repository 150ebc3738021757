"""The test operation: one event of type `webhook.test`, to one endpoint, once, now, outside of the lanes."""

import msgspec
import structlog

from gateway import ids
from gateway.clock import Clock, Timestamp
from gateway.delivery.attempt import Attempter
from gateway.ids import IdMaker
from gateway.model import AcceptedEvent, DeliveryState, DeliveryTrigger, DueDelivery, Endpoint, Result
from gateway.store.protocol import Changer, NewEvent, Transaction

log = structlog.get_logger()

EVENT_TYPE = "webhook.test"


class MakeTest(msgspec.Struct, frozen=True):
    """Stores the test's event and its delivery, which no lane is ever handed."""

    due: DueDelivery
    endpoint: Endpoint

    async def apply(self, transaction: Transaction) -> None:
        active = await transaction.active_endpoints(self.endpoint.tenant)
        await transaction.add_events([NewEvent(self.due.event, active.revision)])
        await transaction.add_deliveries([(self.endpoint.tenant, self.due)])


class TestResult(msgspec.Struct, frozen=True):
    """What the test operation answers."""

    __test__ = False  # not a test case

    delivery_id: str
    success: bool
    finished_at: Timestamp


class RecordTest(msgspec.Struct, frozen=True):
    """Stores the result of a test, and lets a retry by hand that was asked for meanwhile go. It does not count for the
    endpoint's health."""

    result: Result

    async def apply(self, transaction: Transaction) -> TestResult:
        await transaction.record_results([self.result])
        result = self.result
        endpoint = await transaction.endpoint(result.tenant, result.due.endpoint_id)
        if endpoint is not None:
            transaction.effects.retried_endpoints.append(endpoint)
        return TestResult(result.due.id, result.verdict.state is DeliveryState.DELIVERED, result.ended_at)


class EndpointTester:
    """Sends tests."""

    def __init__(self, *, changer: Changer, attempter: Attempter, ids: IdMaker, clock: Clock, current_version: str) -> None:
        self._changer = changer
        self._attempter = attempter
        self._ids = ids
        self._clock = clock
        self._current_version = current_version

    async def run(self, endpoint: Endpoint, pinned_version: str | None) -> RecordTest:
        """Sends a test to *endpoint*, also when it is disabled; the change that records the result.

        Raises StoreUnavailable, Stopping.
        """
        test = self.draft(endpoint, pinned_version)
        await self._changer.change(test)
        return await self.send(test)

    def draft(self, endpoint: Endpoint, pinned_version: str | None) -> MakeTest:
        """The change that stores a test of *endpoint*, to be sent after it."""
        event_id, at = self._ids.next_with_time(ids.EVENT)
        data = msgspec.json.encode({"webhookId": endpoint.id, "message": "This is a test of your webhook endpoint."})
        event = AcceptedEvent(event_id, endpoint.tenant, EVENT_TYPE, at, None, data, at)
        delivery_id, created_at = self._ids.next_with_time(ids.DELIVERY)
        due = DueDelivery(
            id=delivery_id,
            endpoint_id=endpoint.id,
            event=event,
            api_version=endpoint.api_version or pinned_version or self._current_version,
            activation=endpoint.activation,
            attempt_count=0,
            scheduled_count=0,
            due_at=created_at,
            created_at=created_at,
            trigger=DeliveryTrigger.TEST,
        )
        return MakeTest(due, endpoint)

    async def send(self, test: MakeTest) -> RecordTest:
        """Sends a test that is stored; the change that records the result."""
        try:
            _, result = await self._attempter.attempt(test.due, test.endpoint)
        except Exception:
            log.exception("attempt.crashed", delivery_id=test.due.id, endpoint_id=test.endpoint.id)
            result = self._attempter.crashed(test.due, test.endpoint)
        return RecordTest(result)
