"""The events that are published: all alike but for the time of sending, which travels in their data.

CLOCK_MONOTONIC is one clock for the whole machine, so any process can tell how long a delivery was on its way."""

EVENT_TYPE = "subscription.activated"
ORGANIZATION = "bench"

_MARK = b'"sentAt":"'
_DIGITS = 19
_BEFORE, _AFTER = (
    b'{"sentAt":"%019d","subscriptionId":"sub_9f8s7d6f5g4h3j2k","customerId":"cus_1q2w3e4r5t6y7u8i","externalId":"user-4711",'
    b'"planId":"pln_0a9s8d7f6g5h4j3k","planName":"Team, paid yearly","status":"active","currency":"EUR","unitAmount":4900,'
    b'"quantity":12,"billingInterval":"yearly","startDate":"2026-03-25T14:30:00.000Z","currentPeriodEnd":"2027-03-25T14:30:00.000Z",'
    b'"trialEndsAt":null,"metadata":{"source":"checkout","campaign":"spring","seats":"12"}}'
).split(b"%019d")

# As long as what the gateway sends around the data; the baseline posts it.
_BODY_BEFORE = (
    b'{"id":"whev_0AbCdEfGhIjKlMnOpQrStUvW","event":"subscription.activated","timestamp":"2026-03-25T14:30:00.000Z",'
    b'"organizationId":"bench","mode":"live","apiVersion":"2026-08-27","data":' + _BEFORE
)
_BODY_AFTER = _AFTER + b"}"

DELIVERY_HEADERS = {
    "Content-Type": "application/json",
    "User-Agent": "webhook-gateway/0.1.0",
    "X-Commet-Signature": "0123456789abcdef" * 4,
    "X-Commet-Event": EVENT_TYPE,
    "X-Commet-Event-Id": "whev_0AbCdEfGhIjKlMnOpQrStUvW",
    "X-Commet-Timestamp": "2026-03-25T14:30:00.000Z",
    "webhook-id": "whev_0AbCdEfGhIjKlMnOpQrStUvW",
    "webhook-timestamp": "1774449000",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
"""Headers as the gateway's, for the baseline."""


def numbered_type(number: int) -> str:
    """A type of events of its own; as long as `EVENT_TYPE`, for numbers of one digit."""
    return f"subscription.receiver{number}"


def event_data(sent_at: int) -> bytes:
    """The data of an event published at *sent_at*, nanoseconds of the monotonic clock."""
    return b"%b%019d%b" % (_BEFORE, sent_at, _AFTER)


def delivery_body(sent_at: int) -> bytes:
    """A body as an endpoint receives it."""
    return b"%b%019d%b" % (_BODY_BEFORE, sent_at, _BODY_AFTER)


def find_sent_at(message: bytes, start: int, end: int) -> int | None:
    """The time of sending that `message[start:end]` carries, if it does."""
    at = message.find(_MARK, start, end)
    if at < 0:
        return None
    at += len(_MARK)
    digits = message[at : at + _DIGITS]
    return int(digits) if digits.isdigit() else None
