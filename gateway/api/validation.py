"""What a webhook may say: the types of its fields, and the rules that no type can tell. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from msgspec import Meta
from yarl import URL

from gateway.api.json_body import NO_NUL, Check
from gateway.api.problems import Fault
from gateway.api.vocabulary import EventPattern
from gateway.clock import Timestamp, parse_timestamp
from gateway.egress.addresses import AddressGuard, literal_address
from gateway.publishing.event_types import Catalogue, is_event_pattern
from gateway.registry.custom_headers import HIDDEN, MAX_HEADERS, MAX_NAME, MAX_VALUE, HeaderRules

MAX_URL = 2_048
MAX_HOST = 253
MAX_EVENTS = 100
MAX_DESCRIPTION = 500

Url = Annotated[
    str,
    Meta(
        description=f"http or https (https alone with `egress.require_https`), with a host, without user name or fragment, at "
        f"most {MAX_URL:,} characters; an address that deliveries may not go to is refused",
        examples=["https://example.com/hooks"],
        extra_json_schema={"format": "uri", "maxLength": MAX_URL, "pattern": "^[hH][tT][tT][pP][sS]?://"},
    ),
]
EventPatterns = Annotated[
    list[EventPattern],
    Meta(
        description=f"which events it gets: 1 to {MAX_EVENTS} different entries; repeats are dropped",
        extra_json_schema={"minItems": 1},
    ),
]
Description = Annotated[str, Meta(max_length=MAX_DESCRIPTION, pattern=NO_NUL)]

Headers = Annotated[
    dict[
        str,
        Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_VALUE, "pattern": "^[!-~]([\\t -~]*[!-~])?$"})],
    ],
    Meta(
        description=f"sent with each delivery, such as `Authorization`; none that the gateway sets itself, or nobody may. Upper "
        f"and lower case make no difference. On an update `{HIDDEN}` keeps the value that is there",
        examples=[{"X-Team": "billing"}],
        extra_json_schema={
            "maxProperties": MAX_HEADERS,
            "propertyNames": {"minLength": 1, "maxLength": MAX_NAME, "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"},
        },
    ),
]

_START = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)", re.IGNORECASE)
_PORT = re.compile(r":([^\]:]*)$")  # an IPv6 address ends with a bracket
_NUMBER = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")


def read_timestamp(text: str) -> Timestamp | None:
    """The timestamp that *text* names, between 1970 and 9999; None when it names none."""
    try:
        return parse_timestamp(text)
    except (ValueError, OverflowError):
        return None


def header_check(rules: HeaderRules, *, is_new: bool) -> Check:
    """What is wrong with the field `headers`. Where something *is_new* there is no value yet that could be kept."""

    def check(value: object) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield "", "must be an object of strings"
            return
        for field, message in rules.faults(value):
            yield field.removeprefix("headers"), message
        for name, content in value.items():
            if is_new and content == HIDDEN:
                yield f".{name}", f"must not be `{HIDDEN}`, which keeps a value that is there"

    return check


class WebhookRules:
    """What the fields of a webhook may say."""

    def __init__(self, *, require_https: bool, guard: AddressGuard, catalogue: Catalogue | None, versions: Sequence[str]) -> None:
        self._require_https = require_https
        self._guard = guard
        self._catalogue = catalogue
        self._versions = frozenset(versions)
        self._versions_text = ", ".join(versions)
        self.checks: Mapping[str, Check] = {"url": self._url, "events": self._events, "apiVersion": self._api_version}
        """What is wrong with a field, in place of what its type would say."""

    def _url(self, value: object) -> Iterator[Fault]:
        fault = self.url_fault(value) if isinstance(value, str) else "must be a string"
        if fault is not None:
            yield "", fault

    def url_fault(self, text: str) -> str | None:
        """What is wrong with a URL, if anything."""
        if len(text) > MAX_URL:
            return f"must have at most {MAX_URL} characters"
        if not text.isprintable() or any(character.isspace() for character in text):
            return "must not contain spaces or control characters"
        start = _START.match(text)
        if start is None or (self._require_https and start["scheme"].lower() != "https"):
            return "must start with https://" if self._require_https else "must start with http:// or https://"
        if "#" in text:
            return "must not have a fragment (`#…`)"
        if "@" in start["authority"]:
            return "must not have a user name or password"
        return self._authority_fault(start["authority"], text)

    def _authority_fault(self, authority: str, text: str) -> str | None:
        port = _PORT.search(authority)
        if port is not None and not (_NUMBER.fullmatch(port[1]) and 1 <= int(port[1]) <= 65_535):
            return "must have a port from 1 to 65535, or none"
        try:
            url = URL(text)
            host = url.raw_host  # as it will be dialled
        except ValueError:  # also UnicodeError, for a name that IDNA cannot write
            return "is not a URL"
        if not self._guard.allows_port(url.port):
            return f"must have a port that deliveries may go to: {', '.join(map(str, self._guard.ports))}"
        address = literal_address(host or "")
        if address is not None:
            return None if self._guard.allows(str(address)) else "must not lead to a private or reserved address"
        if host is None or authority.startswith("[") or len(host) > MAX_HOST or not _NAME.fullmatch(host):
            return "must name a host"
        return None

    def _events(self, value: object) -> Iterator[Fault]:
        if not isinstance(value, list) or not value:
            yield "", "must be an array of at least one event type"
            return
        good = set()
        for position, entry in enumerate(value):
            fault = self._pattern_fault(entry)
            if fault is None:
                good.add(entry)
            else:
                yield f"[{position}]", fault
        if len(good) > MAX_EVENTS:
            yield "", f"must have at most {MAX_EVENTS} different entries"

    def _pattern_fault(self, entry: object) -> str | None:
        if not isinstance(entry, str):
            return "must be a string"
        if not is_event_pattern(entry):
            return "must be an event type such as `invoice.paid`, `invoice.*` or `*`"
        if self._catalogue is not None and not self._catalogue.covers(entry):
            return "names no event type of the catalogue"
        return None

    def _api_version(self, value: object) -> Iterator[Fault]:
        if not isinstance(value, str):
            yield "", "must be a string"
        elif value not in self._versions:
            yield "", f"must be one of {self._versions_text}"
