"""Refusals and failures, as the contract's answers. The one place where the gateway's errors become statuses and codes."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from gateway import errors

Fault = tuple[str, str]
"""A field, as `url`, `events[3]` or `data`, and what is wrong with it."""


class Kind(NamedTuple):
    """A row of the contract's table of errors."""

    status: int
    type: str
    code: str
    means: str


INVALID_JSON = Kind(400, "validation_error", "invalid_json", "the body is not JSON in UTF-8")
INVALID = Kind(400, "validation_error", "validation_error", "what `details` names is wrong with the request, all of it")
UNAUTHORIZED = Kind(401, "authentication_error", "unauthorized", "the API key is absent, not known, expired or revoked")
FORBIDDEN = Kind(
    403, "authentication_error", "forbidden", "the API key lacks the permission, or belongs to another organization or mode"
)
WEBHOOK_NOT_FOUND = Kind(404, "not_found_error", "webhook_not_found", "there is no such webhook within the key's reach")
NOT_FOUND = Kind(
    404, "not_found_error", "not_found", "there is nothing of that id within the key's reach, or nothing at this path"
)
METHOD_NOT_ALLOWED = Kind(405, "validation_error", "method_not_allowed", "`Allow` names the methods that are")
REQUEST_TIMEOUT = Kind(408, "validation_error", "request_timeout", "the request did not come to its end in time")
IDEMPOTENCY_KEY_MISMATCH = Kind(
    409, "conflict_error", "idempotency_key_mismatch", "the idempotency key belongs to another request"
)
IDEMPOTENCY_IN_PROGRESS = Kind(
    409, "conflict_error", "idempotency_in_progress", "the first request with the idempotency key is still under way"
)
ROTATION_IN_PROGRESS = Kind(
    409, "conflict_error", "rotation_in_progress", "two secrets of the webhook are in force, which is the most"
)
PAYLOAD_TOO_LARGE = Kind(413, "validation_error", "payload_too_large", "`message` names the limit")
URL_TOO_LONG = Kind(414, "validation_error", "url_too_long", "`message` names the limit")
UNSUPPORTED_MEDIA_TYPE = Kind(
    415, "validation_error", "unsupported_media_type", "the body has to be JSON; gzip and deflate are unpacked"
)
RATE_LIMITED = Kind(429, "rate_limit_error", "rate_limited", "too many requests; wait `Retry-After` seconds")
HEADERS_TOO_LARGE = Kind(431, "validation_error", "headers_too_large", "`message` names the limit")
INTERNAL = Kind(
    500, "internal_error", "internal_error", "a fault of the gateway, which its log tells of under the `x-request-id`"
)
OVERLOADED = Kind(
    503,
    "internal_error",
    "overloaded",
    "the queue is full, and nothing was kept; try again after `Retry-After` seconds",
)
UNAVAILABLE = Kind(
    503,
    "internal_error",
    "unavailable",
    "the store cannot commit or the gateway is stopping, and nothing was kept; try again after `Retry-After` seconds",
)


KINDS = tuple(kind for kind in list(globals().values()) if isinstance(kind, Kind))
"""All of them."""


_KINDS: dict[type[Exception], Kind] = {
    errors.EndpointNotFound: WEBHOOK_NOT_FOUND,
    errors.DeliveryNotFound: NOT_FOUND,
    errors.KeyNotFound: NOT_FOUND,
    errors.RotationInProgress: ROTATION_IN_PROGRESS,
}
"""Those whose sentence is the answer's."""


class Problem(Exception):
    """Ends a request with an error of this kind."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        param: str | None = None,
        faults: Sequence[Fault] | None = None,
        headers: Sequence[tuple[str, str]] = (),
        reason: str | None = None,
    ) -> None:
        """*reason* is what it counts as in the metrics, when that is not its code."""
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        self.faults = faults
        self.headers = tuple(headers)
        self.reason = reason


class FaultView(msgspec.Struct, frozen=True, gc=False):
    """One thing that is wrong with a request."""

    field: Annotated[str, Meta(examples=["url", "events[3]"])]
    message: str


class ErrorView(msgspec.Struct, frozen=True):
    """What was refused or failed. Every key is there; null where it does not apply."""

    type: Annotated[str, Meta(extra_json_schema={"enum": sorted({kind.type for kind in KINDS})})]
    code: Annotated[str, Meta(extra_json_schema={"enum": [kind.code for kind in KINDS]})]
    message: str
    param: Annotated[str | None, Meta(description="the field, when one thing is wrong")]
    details: Annotated[list[FaultView] | None, Meta(description="everything that is wrong, of a validation_error")]
    doc_url: str | None = None


def view(problem: Problem) -> ErrorView:
    """*problem* as the API shows it."""
    details = None if problem.faults is None else [FaultView(field, message) for field, message in problem.faults]
    return ErrorView(
        type=problem.kind.type, code=problem.kind.code, message=problem.message, param=problem.param, details=details
    )


def invalid(faults: Sequence[Fault]) -> Problem:
    """Everything that is wrong with a body or a query, in one answer."""
    if len(faults) == 1:
        field, message = faults[0]
        return Problem(INVALID, f"{field} {message}", param=field, faults=faults)
    return Problem(INVALID, f"{len(faults)} things are wrong with the request; `details` names each", faults=faults)


def too_large(faults: Sequence[Fault]) -> Problem:
    """An event's data is over its limit."""
    field, message = next((fault for fault in faults if fault[0] == "data"), faults[0])
    return Problem(PAYLOAD_TOO_LARGE, f"{field} {message}", param=field)


def too_slow() -> Problem:
    """The rest of a request did not come in time. The connection is of no more use."""
    return Problem(
        REQUEST_TIMEOUT, "the request did not come to its end in time; send it again, faster", headers=[("Connection", "close")]
    )


def url_too_long(most: int) -> Problem:
    """A request line that is too long to be read."""
    return Problem(URL_TOO_LONG, f"the URL has more than {most:,} bytes")


def headers_too_large(what: str) -> Problem:
    """Headers that are too large, or too many, to be read."""
    return Problem(HEADERS_TOO_LARGE, f"the request has {what}")


def not_found(what: str, id_: str) -> Problem:
    """There is no *what* with this id within the caller's reach."""
    return Problem(NOT_FOUND, errors.no_such(what, id_))


def webhook_not_found(id_: str) -> Problem:
    """There is no such webhook within the caller's reach."""
    return Problem(WEBHOOK_NOT_FOUND, errors.no_such("webhook", id_))


def forbidden(message: str) -> Problem:
    """Known, but not allowed to."""
    return Problem(FORBIDDEN, message)


def internal() -> Problem:
    """A fault of the gateway's own, about which only its log says more."""
    return Problem(INTERNAL, "something went wrong on our side; try again, and name the x-request-id if it goes on")


def of_error(error: Exception) -> Problem | None:
    """The answer to whatever ended a request; None for a fault of the gateway's own."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, errors.InvalidEvent | errors.InvalidHeaders):
        is_too_large = isinstance(error, errors.InvalidEvent) and error.too_large
        return too_large(error.faults) if is_too_large else invalid(error.faults)
    if isinstance(error, errors.TooManyEndpoints):
        return Problem(INVALID, _sentence(error), param="webhooks", faults=[("webhooks", _sentence(error))])
    if isinstance(error, errors.QueueFull | errors.StoreUnavailable | errors.ReservationLapsed):
        refusal = OVERLOADED if isinstance(error, errors.QueueFull) else UNAVAILABLE
        # What the store says of itself is for the log: it may speak of files, hosts and other people's statements.
        is_inside = isinstance(error, errors.StoreUnavailable) and not isinstance(error, errors.Stopping)
        sentence = "the store does not answer at the moment; try again" if is_inside else _sentence(error)
        return Problem(refusal, sentence, headers=[("Retry-After", str(error.retry_after_seconds))])
    kind = _KINDS.get(type(error))
    return None if kind is None else Problem(kind, _sentence(error))


def _sentence(error: Exception) -> str:
    return str(error) or (type(error).__doc__ or "").partition("\n")[0]
