"""Headers that an endpoint's owner wants with each delivery, such as `Authorization`. Their values are secrets: whoever asks is
shown the names alone. Pure."""

import re
from collections.abc import Iterator, Mapping

from gateway.errors import InvalidHeaders

HIDDEN = "***"
"""Stands for a value wherever headers are shown; given as a value, it keeps the one that is there."""

MAX_HEADERS = 20
MAX_NAME = 128
MAX_VALUE = 2_048
MAX_BYTES = 8_192

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a token (RFC 9110, section 5.6.2)
_VALUE = re.compile(r"[!-~]([\t -~]*[!-~])?")
_RESERVED = frozenset(
    {
        # What the gateway says of itself and of the request.
        *("host", "user-agent", "expect", "accept-encoding"),
        # What holds for one connection (RFC 9110, section 7.6.1), and so is nobody's to set.
        *("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings"),
        # What says on whose behalf a request is made: receivers trust it when it comes from where they know.
        *("forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip"),
        # What makes another request of it, for some receivers.
        *("x-http-method-override", "x-original-url", "x-rewrite-url"),
        # What the metadata services of clouds ask for, so that nobody is led to them.
        *("metadata", "metadata-flavor"),
    }
)
_RESERVED_BEGINNINGS = ("content-", "proxy-", "webhook-", "x-forwarded-", "x-aws-ec2-metadata-token")


class HeaderRules:
    """Which headers may be set. *prefix* is what the names of one signature family begin with (`X-Commet`)."""

    def __init__(self, prefix: str) -> None:
        self._beginnings = (*_RESERVED_BEGINNINGS, f"{_folded(prefix)}-")

    def is_reserved(self, name: str) -> bool:
        """Whether the gateway sets this header itself, or nobody may."""
        folded = _folded(name)
        return folded in _RESERVED or folded.startswith(self._beginnings)

    def faults(self, headers: Mapping[str, object]) -> Iterator[tuple[str, str]]:
        """Everything that is wrong with *headers*, each with its field."""
        if len(headers) > MAX_HEADERS:
            yield "headers", f"must be at most {MAX_HEADERS}"
        if _size(headers) > MAX_BYTES:
            yield "headers", _TOO_LARGE
        seen: set[str] = set()
        for name, value in headers.items():
            fault = self._name_fault(name) or _value_fault(value)
            if fault is None and name.lower() in seen:
                fault = "is there twice: upper and lower case make no difference"
            seen.add(name.lower())
            if fault is not None:
                yield f"headers.{name[:MAX_NAME]}", fault

    def _name_fault(self, name: str) -> str | None:
        if len(name) > MAX_NAME or not _NAME.fullmatch(name):
            return f"is no name of a header: 1 to {MAX_NAME} letters, digits and a few signs such as `-`"
        return "is set by the gateway, or by nobody" if self.is_reserved(name) else None

    def sent(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Those of *headers* that go out: not what has come to be reserved since it was stored, by another prefix."""
        return {name: value for name, value in headers.items() if not self.is_reserved(name)}


_TOO_LARGE = f"must have at most {MAX_BYTES} bytes in all"


def _folded(name: str) -> str:
    """*name* as receivers compare it: CGI and WSGI take `_` and `-` for the same."""
    return name.lower().replace("_", "-")


def _value_fault(value: object) -> str | None:
    if not isinstance(value, str):
        return "must be a string"
    if len(value) > MAX_VALUE or not _VALUE.fullmatch(value):
        return f"must have 1 to {MAX_VALUE} visible ASCII characters, with spaces and tabs only between them"
    return None


def _size(headers: Mapping[str, object]) -> int:
    """The bytes of *headers* on the wire, with `: ` and a line break for each."""
    return sum(len(name) + len(value) + 4 for name, value in headers.items() if isinstance(value, str))


def hidden(headers: Mapping[str, str]) -> dict[str, str]:
    """*headers* as they are shown."""
    return dict.fromkeys(headers, HIDDEN)


def merged(before: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """*given* in the place of *before*: where a value is HIDDEN, the one of before is kept. Raises InvalidHeaders."""
    kept = {name.lower(): value for name, value in before.items()}
    missing = [name for name, value in given.items() if value == HIDDEN and name.lower() not in kept]
    if missing:
        raise InvalidHeaders([(f"headers.{name}", f"has no value yet that `{HIDDEN}` could keep") for name in missing])
    after = {name: kept[name.lower()] if value == HIDDEN else value for name, value in given.items()}
    if _size(after) > MAX_BYTES:
        raise InvalidHeaders([("headers", _TOO_LARGE)])
    return after
