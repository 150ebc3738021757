"""One HTTP request of a delivery: rendered, signed, sent, judged, and written down."""

import asyncio
from random import Random

import msgspec

from gateway import signing
from gateway.clock import SECOND, Clock, Timestamp, isoformat
from gateway.delivery.body import render_body
from gateway.delivery.outcome import Moment, decide
from gateway.delivery.retry import RetrySchedule
from gateway.egress.sender import Answer, Sender, failure
from gateway.model import Attempt, AttemptError, AttemptTrigger, DueDelivery, Endpoint, Result
from gateway.registry.custom_headers import HeaderRules, hidden

_encode = msgspec.json.Encoder(enc_hook=str).encode  # names of answer headers are a subclass of str


class Attempter:
    """Makes attempts."""

    def __init__(self, *, sender: Sender, clock: Clock, schedule: RetrySchedule, chance: Random, header_prefix: str) -> None:
        self._sender = sender
        self._clock = clock
        self._schedule = schedule
        self._chance = chance
        self._header_rules = HeaderRules(header_prefix)
        self._signature_header = f"{header_prefix}-Signature"
        self._event_header = f"{header_prefix}-Event"
        self._event_id_header = f"{header_prefix}-Event-Id"
        self._timestamp_header = f"{header_prefix}-Timestamp"

    def headers(self, due: DueDelivery, endpoint: Endpoint, body: bytes, at: Timestamp) -> dict[str, str]:
        """The headers of an attempt made at *at*, in both signature families.

        While two secrets are in force one family has a signature of each, the new one's first. The other has room for one: the
        old one's, since receivers know that secret until they are told that they have the new one."""
        event, timestamp = due.event, at // SECOND
        previous = endpoint.previous_secret_at(at)
        keys = [signing.secret_key(secret) for secret in (endpoint.secret, previous) if secret is not None]
        return {
            "Content-Type": "application/json",
            self._signature_header: signing.hex_signature(previous or endpoint.secret, body),
            self._event_header: event.type,
            self._event_id_header: event.id,
            self._timestamp_header: isoformat(event.timestamp),
            "webhook-id": event.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signing.standard_signature(keys, event.id, timestamp, body),
        }

    async def attempt(self, due: DueDelivery, endpoint: Endpoint) -> tuple[Answer, Result]:
        """Sends *due* to *endpoint* once; the answer, and the result to be recorded.

        When it is cancelled the request is given up, and that is the result (`interrupted`): what was sent is on record.
        """
        clock = self._clock
        started_at, started = clock.now(), clock.monotonic()
        body = render_body(due.event, due.api_version)
        headers = self.headers(due, endpoint, body, started_at)
        sent = headers
        if endpoint.headers:
            own = self._header_rules.sent(endpoint.headers)
            sent, headers = headers | own, headers | hidden(own)
        try:
            answer = await self._sender.send(endpoint.url, sent, body, organization_id=endpoint.tenant.organization_id)
        except asyncio.CancelledError:
            # Only a stop cancels, and what it cuts off is to be written down: the cancellation ends here.
            answer = failure(AttemptError.INTERRUPTED, "The gateway stopped before the answer came.")
        return answer, self._result(due, endpoint, headers, answer, started_at, started)

    def _result(
        self, due: DueDelivery, endpoint: Endpoint, headers: dict[str, str], answer: Answer, started_at: int, started: float
    ) -> Result:
        clock = self._clock
        ended = Moment(wall=clock.now(), steady=clock.steady())
        return Result(
            due=due,
            tenant=endpoint.tenant,
            attempt=Attempt(
                delivery_id=due.id,
                number=due.attempt_count + 1,
                trigger=AttemptTrigger.AUTOMATIC if due.retry_id is None else AttemptTrigger.MANUAL,
                started_at=started_at,
                duration_ms=round((clock.monotonic() - started) * 1_000),
                status=answer.status,
                error=answer.error,
                error_message=answer.error_message,
                url=endpoint.url,
                request_headers=_encode(headers),
                resent=answer.resent,
                response_headers=None if answer.headers is None else _encode(answer.headers),
                response_body=answer.body,
            ),
            verdict=decide(answer, due, self._schedule, ended, self._chance),
            ended_at=ended.wall,
        )

    def crashed(self, due: DueDelivery, endpoint: Endpoint) -> Result:
        """The result of an attempt that a fault of the gateway's own ended, before it was sent or afterwards."""
        answer = failure(AttemptError.CRASHED, "The gateway failed to make this attempt; its log says more.")
        return self._result(due, endpoint, {}, answer, self._clock.now(), self._clock.monotonic())
