"""Fakes that behave, and builders of the gateway's nouns for tests."""

import asyncio
import itertools
import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec
from msgspec.structs import replace

from gateway import ids
from gateway.clock import Timestamp
from gateway.egress.sender import Answer, Sender
from gateway.model import (
    AcceptedEvent,
    Actor,
    ApiKey,
    Attempt,
    AttemptError,
    AttemptTrigger,
    DeliveryState,
    DueDelivery,
    Endpoint,
    Mode,
    Reason,
    Result,
    Tenant,
    Verdict,
)

ACTOR = Actor("key_1", "198.51.100.7")
START: Timestamp = 1_774_449_000_000  # 2026-03-25T14:30:00.000Z
API_VERSION = "2026-08-27"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PATIENCE_SECONDS = 20.0  # that a test waits for a fact before it fails

_serial = itertools.count(1)


# Time


class FakeClock:
    """See `gateway.clock.Clock`. Time stands still until it is moved."""

    def __init__(self, at: Timestamp = START) -> None:
        self._wall = at
        self._steady = at
        self._monotonic_ms = 0
        self._alarms: list[tuple[Timestamp, asyncio.Future[None]]] = []

    def now(self) -> Timestamp:
        return self._wall

    def steady(self) -> Timestamp:
        return self._steady

    def monotonic(self) -> float:
        return self._monotonic_ms / 1_000

    async def wait(self, event: asyncio.Event, until: Timestamp | None) -> None:
        if until is None:
            await event.wait()
            return
        if event.is_set() or until <= self._steady:
            return
        alarm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (until, alarm)
        self._alarms.append(entry)
        waiting = asyncio.ensure_future(event.wait())
        both: list[asyncio.Future[Any]] = [waiting, alarm]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            self._alarms.remove(entry)

    def advance(self, ms: int) -> None:
        """Moves all three times on, and wakes whoever waits for one that has come."""
        self._wall += ms
        self._steady += ms
        self._monotonic_ms += ms
        for until, alarm in self._alarms:
            if until <= self._steady and not alarm.done():
                alarm.set_result(None)

    def set_wall(self, at: Timestamp) -> None:
        """Sets the wall clock apart from the other two, as an operator may."""
        self._wall = at

    @property
    def is_waking(self) -> bool:
        """Whether somebody whose time has come has not taken note of it yet."""
        return any(alarm.done() for _, alarm in self._alarms)


class Dice(random.Random):
    """Always falls on *value*, from 0 to 1."""

    def __new__(cls, value: float = 0.5) -> Self:
        return super().__new__(cls)

    def __init__(self, value: float = 0.5) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


# Nouns


def make_id(prefix: str, at: Timestamp = START) -> str:
    """An id made at *at*, greater than the ones that were made before it for the same millisecond."""
    return f"{ids.floor(prefix, at)}{next(_serial):016d}"


def tenant(organization_id: str = "acme", mode: Mode = Mode.LIVE) -> Tenant:
    return Tenant(organization_id, mode)


def endpoint(*, at: Timestamp = START, **fields: Any) -> Endpoint:
    """An active endpoint of `acme` that wants every event, unless *fields* say otherwise."""
    made = Endpoint(
        id=make_id(ids.ENDPOINT, at),
        tenant=tenant(),
        url="https://receiver.example/hook",
        events=("*",),
        description=None,
        api_version=None,
        secret=SECRET,
        is_active=True,
        disabled_at=None,
        disabled_reason=None,
        activation=0,
        deactivated_at=None,
        failed_in_row=0,
        paused_until=None,
        created_at=at,
        deleted_at=None,
    )
    return replace(made, **fields)


def event(*, at: Timestamp = START, **fields: Any) -> AcceptedEvent:
    """An `invoice.paid` of `acme`, unless *fields* say otherwise."""
    made = AcceptedEvent(
        id=make_id(ids.EVENT, at),
        tenant=tenant(),
        type="invoice.paid",
        timestamp=at,
        external_id=None,
        data=b'{"amount":1}',
        created_at=at,
    )
    return replace(made, **fields)


def due(to: Endpoint | None = None, of: AcceptedEvent | None = None, **fields: Any) -> DueDelivery:
    """A first attempt at the event *of* for the endpoint *to*, unless *fields* say otherwise."""
    to = to or endpoint()
    of = of or event(tenant=to.tenant)
    made = DueDelivery(
        id=make_id(ids.DELIVERY, of.created_at),
        endpoint_id=to.id,
        event=of,
        api_version=API_VERSION,
        activation=to.activation,
        attempt_count=0,
        scheduled_count=0,
        due_at=of.created_at,
        created_at=of.created_at,
    )
    return replace(made, **fields)


DELIVERED = Verdict(DeliveryState.DELIVERED)
EXHAUSTED = Verdict(DeliveryState.FAILED, Reason.ATTEMPTS_EXHAUSTED)
GONE = Verdict(DeliveryState.FAILED, Reason.ENDPOINT_GONE, endpoint_gone=True)


def retry_at(at: Timestamp, **fields: Any) -> Verdict:
    return Verdict(DeliveryState.PENDING, due_at=at, **fields)


def result(of: DueDelivery, to: Endpoint, verdict: Verdict = DELIVERED, **fields: Any) -> Result:
    """The result of an attempt of *of* at *to*. *fields* are the attempt's; `ended_at` is the result's."""
    ended_at = fields.pop("ended_at", START + 100)
    attempt = Attempt(
        delivery_id=of.id,
        number=of.attempt_count + 1,
        trigger=AttemptTrigger.AUTOMATIC if of.retry_id is None else AttemptTrigger.MANUAL,
        started_at=ended_at - 84,
        duration_ms=84,
        status=200 if verdict.state is DeliveryState.DELIVERED else 500,
        error=None,
        error_message=None,
        url=to.url,
        request_headers=b'{"webhook-id":"x"}',
        resent=False,
        response_headers=b'[["Server","receiver"]]',
        response_body=b"answer",
    )
    return Result(due=of, tenant=to.tenant, attempt=replace(attempt, **fields), verdict=verdict, ended_at=ended_at)


def api_key(*, at: Timestamp = START, **fields: Any) -> ApiKey:
    """A full key of `acme`, unless *fields* say otherwise."""
    key_id = make_id(ids.API_KEY, at)
    made = ApiKey(
        id=key_id,
        hash=key_id.encode().ljust(32, b"."),
        prefix="ck_live_abcd",
        name="a key",
        tenant=tenant(),
        permissions=None,
        created_at=at,
        expires_at=None,
        last_used_at=None,
        revoked_at=None,
    )
    return replace(made, **fields)


# Receivers


class Request(msgspec.Struct, frozen=True):
    """A request that was sent."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    organization_id: str

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]


def status(code: int, *, retry_after: str | None = None) -> Answer:
    """The endpoint answers *code*."""
    headers = [] if retry_after is None else [("Retry-After", retry_after)]
    return Answer(status=code, error=None, error_message=None, headers=headers, body=b"", retry_after=retry_after, resent=False)


def ok() -> Answer:
    return status(200)


def failure(error: AttemptError = AttemptError.TIMEOUT) -> Answer:
    """The endpoint does not answer."""
    return Answer(status=None, error=error, error_message=str(error), headers=None, body=None, retry_after=None, resent=False)


class Hold(msgspec.Struct, frozen=True):
    """The endpoint answers *then* once it is released."""

    then: Answer


def hold(then: Answer | None = None) -> Hold:
    return Hold(then or ok())


class Crash(msgspec.Struct, frozen=True):
    """A fault of the gateway itself."""


class ScriptedSender(Sender):
    """Answers by a script for each URL, whose last step holds for ever; a URL without one answers 200."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.open_requests = 0
        self.most_open = 0
        self.open_of: Counter[str] = Counter()  # by URL
        self.most_open_of: Counter[str] = Counter()
        self._scripts: dict[str, deque[Answer | Hold | Crash]] = {}
        self._held: list[tuple[str, asyncio.Future[None]]] = []
        self._changed = asyncio.Event()

    def script(self, url: str, *steps: Answer | Hold | Crash) -> None:
        """*url* answers *steps*, one after another, then the last again and again."""
        self._scripts[url] = deque(steps)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes, *, organization_id: str) -> Answer:
        self.requests.append(Request(url, dict(headers), body, organization_id))
        self.open_requests += 1
        self.open_of[url] += 1
        self.most_open = max(self.most_open, self.open_requests)
        self.most_open_of[url] = max(self.most_open_of[url], self.open_of[url])
        self._changed.set()
        try:
            return await self._answer(url)
        finally:
            self.open_requests -= 1
            self.open_of[url] -= 1
            self._changed.set()

    async def _answer(self, url: str) -> Answer:
        steps = self._scripts.get(url)
        step = ok() if not steps else steps[0] if len(steps) == 1 else steps.popleft()
        match step:
            case Answer():
                return step
            case Hold():
                released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                entry = (url, released)
                self._held.append(entry)
                try:
                    await released
                finally:
                    if entry in self._held:
                        self._held.remove(entry)
                return step.then
        raise RuntimeError("a bug in the sender")

    @property
    def held_requests(self) -> int:
        """Requests that wait to be released."""
        return len(self._held)

    def release(self, url: str | None = None, *, count: int | None = None) -> None:
        """Lets up to *count* held requests have their answer, oldest first: those to *url*, or all."""
        wanted = [entry for entry in self._held if url is None or entry[0] == url][:count]
        for entry in wanted:
            self._held.remove(entry)
            if not entry[1].done():
                entry[1].set_result(None)

    def to(self, url: str) -> Sequence[Request]:
        """The requests to *url*."""
        return [request for request in self.requests if request.url == url]

    async def received(self, count: int) -> None:
        """Returns when *count* requests have been sent in all."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.requests) < count:
                self._changed.clear()
                await self._changed.wait()
