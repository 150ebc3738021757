"""What a body may say. It is read field by field, so that everything wrong with it is told in one answer. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from yarl import URL

from gateway.api.problems import INVALID_JSON, Fault, Problem, invalid
from gateway.clock import Timestamp, parse_timestamp
from gateway.egress.addresses import AddressGuard, literal_address
from gateway.publishing.event_types import Catalogue, is_event_pattern
from gateway.registry.custom_headers import HIDDEN, HeaderRules

T = TypeVar("T")

MAX_URL = 2_048
MAX_HOST = 253
MAX_EVENTS = 100
MAX_DESCRIPTION = 500

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANYTHING = msgspec.json.Decoder()
_SYNTAX = msgspec.json.Decoder(msgspec.Raw)  # takes JSON of any form
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_START = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)", re.IGNORECASE)
_PORT = re.compile(r":([^\]:]*)$")  # an IPv6 address ends with a bracket
_NUMBER = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")


def read_json(raw: bytes | msgspec.Raw, decode: Callable[[bytes | msgspec.Raw], T]) -> T:
    """What *decode* makes of *raw*.

    Raises msgspec.ValidationError for JSON of another form, and a 400 for what is no JSON. All of it has to be UTF-8,
    also what *decode* skips.
    """
    try:
        if isinstance(raw, bytes) and not raw.isascii():
            raw.decode()
        return decode(raw)
    except msgspec.ValidationError:
        # Its form is wrong so far; whether it is JSON at all shows at its end.
        read_json(raw, _SYNTAX.decode)
        raise
    except UnicodeDecodeError as error:
        raise Problem(INVALID_JSON, f"the body is not UTF-8 (byte {error.start})") from error
    except msgspec.DecodeError as error:
        if any(escape["half"] for escape in _ESCAPE.finditer(bytes(raw))):
            raise Problem(
                INVALID_JSON, r"the body holds half of a surrogate pair such as `\ud83d`, which is no character"
            ) from error
        raise Problem(INVALID_JSON, f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise Problem(INVALID_JSON, "the body is nested too deeply") from error


def is_blank(raw: bytes | msgspec.Raw) -> bool:
    """Whether there is nothing in *raw*, which is as good as no body."""
    return not bytes(raw).strip(b" \t\r\n")


class Body:
    """A JSON object. Each method reads one field and adds what is wrong with it to *faults*; UNSET is an absent field.

    With *null_is_absent* a null is as good as no field (where something is made); without it null is a value like another.
    """

    def __init__(self, raw: bytes | msgspec.Raw, faults: list[Fault], *, null_is_absent: bool) -> None:
        self._faults = faults
        self._null_is_absent = null_is_absent
        self._fields: Mapping[str, msgspec.Raw] = {}
        if not is_blank(raw):
            try:
                self._fields = read_json(raw, _OBJECT.decode)
            except msgspec.ValidationError:
                raise invalid([("body", "must be a JSON object")]) from None

    def require(self, name: str) -> None:
        """Adds a fault when the field is absent."""
        if isinstance(self.raw(name), UnsetType):
            self.refuse(name, "is required")

    def raw(self, name: str) -> bytes | UnsetType:
        """The field's bytes as they came, copied out of the body."""
        raw = self._fields.get(name)
        if raw is None:
            return UNSET
        content = bytes(raw)
        return UNSET if self._null_is_absent and content == b"null" else content

    def value(self, name: str) -> object:
        """Any JSON value."""
        raw = self.raw(name)
        if isinstance(raw, UnsetType):
            return UNSET
        try:
            return _ANYTHING.decode(raw)
        except msgspec.ValidationError:  # a number out of all ranges, which no field takes
            return float("nan")

    def text(self, name: str, *, most: int, least: int = 0) -> str | UnsetType:
        value = self.value(name)
        if isinstance(value, UnsetType):
            return UNSET
        if not isinstance(value, str):
            self.refuse(name, "must be a string")
        elif not least <= len(value) <= most or "\0" in value:
            range_ = f"{least} to {most}" if least else f"at most {most}"
            self.refuse(name, f"must have {range_} characters, none of them NUL")
        else:
            return value
        return UNSET

    def text_or_null(self, name: str, *, most: int) -> str | None | UnsetType:
        return None if self.value(name) is None else self.text(name, most=most)

    def boolean(self, name: str) -> bool | UnsetType:
        value = self.value(name)
        if isinstance(value, UnsetType | bool):
            return value
        self.refuse(name, "must be true or false")
        return UNSET

    def integer(self, name: str, *, least: int, most: int) -> int | UnsetType:
        value = self.value(name)
        if isinstance(value, UnsetType):
            return UNSET
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        self.refuse(name, f"must be a whole number from {least} to {most}")
        return UNSET

    def headers(self, rules: HeaderRules) -> Mapping[str, str] | UnsetType:
        """The field `headers`, whose null is no headers."""
        value = self.value("headers")
        if isinstance(value, UnsetType):
            return UNSET
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.refuse("headers", "must be an object of strings")
            return UNSET
        faults = [*rules.faults(value)]
        # Where something is made there is no value yet that could be kept.
        if self._null_is_absent:
            keeps_nothing = f"must not be `{HIDDEN}`, which keeps a value that is there"
            faults += [(f"headers.{name}", keeps_nothing) for name, content in value.items() if content == HIDDEN]
        self._faults += faults
        return UNSET if faults else value

    def refuse(self, name: str, message: str) -> None:
        """Adds a fault."""
        self._faults.append((name, message))


def read_timestamp(text: str) -> Timestamp | None:
    """The timestamp that *text* names, between 1970 and 9999; None when it names none."""
    try:
        return parse_timestamp(text)
    except (ValueError, OverflowError):
        return None


class WebhookRules:
    """What the fields of a webhook may say."""

    def __init__(self, *, require_https: bool, guard: AddressGuard, catalogue: Catalogue | None, versions: Sequence[str]) -> None:
        self._require_https = require_https
        self._guard = guard
        self._catalogue = catalogue
        self._versions = frozenset(versions)
        self._versions_text = ", ".join(versions)

    def url(self, body: Body) -> str | UnsetType:
        value = body.value("url")
        if isinstance(value, UnsetType):
            return UNSET
        fault = self.url_fault(value) if isinstance(value, str) else "must be a string"
        if fault is None:
            return str(value)
        body.refuse("url", fault)
        return UNSET

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

    def events(self, body: Body) -> tuple[str, ...] | UnsetType:
        """The patterns, each once."""
        value = body.value("events")
        if isinstance(value, UnsetType):
            return UNSET
        if not isinstance(value, list) or not value:
            body.refuse("events", "must be an array of at least one event type")
            return UNSET
        good: dict[str, None] = {}
        is_good = True
        for position, entry in enumerate(value):
            fault = self._pattern_fault(entry)
            if fault is None:
                good[entry] = None
            else:
                is_good = False
                body.refuse(f"events[{position}]", fault)
        if len(good) > MAX_EVENTS:
            body.refuse("events", f"must have at most {MAX_EVENTS} different entries")
            is_good = False
        return tuple(good) if is_good else UNSET

    def _pattern_fault(self, entry: object) -> str | None:
        if not isinstance(entry, str):
            return "must be a string"
        if not is_event_pattern(entry):
            return "must be an event type such as `invoice.paid`, `invoice.*` or `*`"
        if self._catalogue is not None and not self._catalogue.covers(entry):
            return "names no event type of the catalogue"
        return None

    def api_version(self, body: Body) -> str | None | UnsetType:
        version = body.text_or_null("apiVersion", most=MAX_DESCRIPTION)
        if isinstance(version, str) and version not in self._versions:
            body.refuse("apiVersion", f"must be one of {self._versions_text}")
            return UNSET
        return version

    def description(self, body: Body) -> str | None | UnsetType:
        return body.text_or_null("description", most=MAX_DESCRIPTION)
