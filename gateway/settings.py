"""Settings: structs handed to the parts that use them, with their defaults, limits and meanings.

The only module that reads settings from files and the environment, once. `config/gateway.toml` repeats all of it for people.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from gateway import signing
from gateway.errors import SettingsError

KIB = 1024
MIB = 1024 * KIB

MAX_SOCKET_PATH = 107
"""Bytes that the path of a Unix socket may have: sockaddr_un, unix(7)."""
_TIB = 1024 * 1024 * MIB
_YEAR_SECONDS = 366 * 24 * 3600

# The upper bounds keep sums of times and numbers inside what clocks and stores can hold; nobody should meet them.
Seconds = Annotated[float, Meta(ge=0, le=_YEAR_SECONDS)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=_YEAR_SECONDS)]
Count = Annotated[int, Meta(ge=0, le=_TIB)]
PositiveCount = Annotated[int, Meta(ge=1, le=_TIB)]
ApiVersion = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$", description="a date like 2026-08-27")]


class Http(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where requests come in."""

    host: Annotated[str, Meta(min_length=1, description="a host or an address")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    socket: str = ""  # the operators' Unix socket; empty: `gateway.sock` beside the embedded store
    grace_seconds: Seconds = 0.0
    max_body_bytes: PositiveCount = 8 * MIB
    max_connections: PositiveCount = 10_000
    read_seconds: PositiveSeconds = 30.0
    trusted_proxies: tuple[str, ...] = ()


class Store(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where everything is kept."""

    url: str = "sqlite:///var/gateway.db"
    # The rest is for PostgreSQL.
    migrate_url: str = ""  # for migrations and partitions: another role, or past a pooler; empty: `url`
    write_connections: Annotated[int, Meta(ge=2, le=100)] = 4
    read_connections: Annotated[int, Meta(ge=1, le=100)] = 4
    connect_seconds: PositiveSeconds = 3.0
    statement_seconds: PositiveSeconds = 3.0
    prepared_statements: bool = True  # false behind a pooler that does not keep them for each client
    listen: bool = True  # be woken by other nodes; false behind a pooler in transaction mode: look every 50 ms


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """This node among those that share a PostgreSQL."""

    name: Annotated[str, Meta(max_length=255, description="at most 255 characters")] = ""  # empty: the host's name
    lease_seconds: Annotated[float, Meta(ge=1, le=3_600)] = 15.0


class Delivery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How deliveries go out."""

    retry_delays: tuple[Seconds, ...] = (60.0, 300.0, 900.0, 1800.0, 3600.0, 3600.0, 3600.0)
    jitter: Annotated[float, Meta(ge=0, le=0.5)] = 0.1
    max_retry_after: Seconds = 3600.0
    timeout_seconds: PositiveSeconds = 10.0
    drain_seconds: Seconds = 12.0
    max_in_flight: PositiveCount = 512
    max_in_flight_per_endpoint: PositiveCount = 32
    disable_after_failed_events: Count = 3
    recovery: Literal["off", "probe"] = "off"
    signature_header_prefix: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$",
            max_length=64,
            description="letters and digits, in parts joined by hyphens, at most 64 characters",
        ),
    ] = "X-Commet"


class Intake(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much may wait."""

    max_queue: PositiveCount = 20_000
    max_queue_bytes: PositiveCount = 64 * MIB
    max_backlog_seconds: Seconds = 2.0


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one organization or key may use."""

    endpoints_per_organization: PositiveCount = 1_000
    requests_per_second: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0
    bad_keys_per_minute: Count = 60


class Egress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which addresses deliveries may go to."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    allowed_ports: tuple[Annotated[int, Meta(ge=1, le=65_535)], ...] = ()
    require_https: bool = False
    proxy: str = ""
    ca_file: str = ""
    nameservers: tuple[str, ...] = ()  # empty: the system's

    def __post_init__(self) -> None:
        for nameserver in self.nameservers:
            if not _is_address(nameserver):
                raise SettingsError(f"egress.nameservers: must be addresses like 10.0.0.2 or 10.0.0.2:53, not {nameserver!r}")
        if self.proxy and not _is_proxy(self.proxy):
            # It is not shown: it may hold a password.
            raise SettingsError(
                "egress.proxy: must be `http://HOST:PORT` or `http://USER:PASSWORD@HOST:PORT`, where `:/@?#[]%` in the user's "
                "name and the password are written as %3A and so on"
            )

    def __repr__(self) -> str:
        proxy = "***" if self.proxy else ""  # it may hold a password
        return (
            f"Egress(allow={self.allow}, deny={self.deny}, allowed_ports={self.allowed_ports}, "
            f"require_https={self.require_https}, proxy={proxy!r}, ca_file={self.ca_file!r}, "
            f"nameservers={self.nameservers})"
        )


IN_CLEAR = "clear"
"""In the place of an encryption key: encrypts nothing."""
_FERNET_KEY = re.compile(r"[A-Za-z0-9_-]{43}=")


class Secrets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How secrets are kept. Raises SettingsError when a key is none."""

    encryption_key: tuple[str, ...] = ()  # the first encrypts, all decrypt; `clear` as the first encrypts nothing

    def __post_init__(self) -> None:
        for number, key in enumerate(self.encryption_key, 1):
            # The value is not shown.
            if key != IN_CLEAR and not _FERNET_KEY.fullmatch(key):
                raise SettingsError(
                    f"secrets.encryption_key: item {number} is no key, which has 43 letters, digits, `-` and `_` and then `=`: "
                    f"`gateway secrets new-key` prints one"
                )

    def __repr__(self) -> str:
        return f"Secrets({len(self.encryption_key)} keys)"


class Operations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the gateway tells its operator what happens to endpoints."""

    url: str = ""
    secret: str = ""

    def __repr__(self) -> str:
        return f"Operations(url={self.url!r})"


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long history is kept."""

    days: Annotated[int, Meta(ge=1, le=36_500)] = 30
    audit_days: Annotated[int, Meta(ge=1, le=36_500)] = 365


class Events(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What events may be."""

    catalogue: str = ""
    max_data_bytes: PositiveCount = 256 * KIB


class Api(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The known API versions, oldest first; the last is the current one."""

    versions: Annotated[tuple[ApiVersion, ...], Meta(min_length=1)] = (
        "2026-05-25",
        "2026-07-11",
        "2026-07-24",
        "2026-07-31",
        "2026-08-27",
    )


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings, one section for each part. Raises SettingsError when they do not fit together."""

    http: Http = Http()
    store: Store = Store()
    node: Node = Node()
    delivery: Delivery = Delivery()
    intake: Intake = Intake()
    limits: Limits = Limits()
    egress: Egress = Egress()
    secrets: Secrets = Secrets()
    operations: Operations = Operations()
    retention: Retention = Retention()
    events: Events = Events()
    api: Api = Api()
    log: Log = Log()

    def __post_init__(self) -> None:
        for name, networks in (
            ("egress.allow", self.egress.allow),
            ("egress.deny", self.egress.deny),
            ("http.trusted_proxies", self.http.trusted_proxies),
        ):
            for network in networks:
                try:
                    ip_network(network)
                except ValueError as error:
                    raise SettingsError(f"{name}: must be networks like 10.0.0.0/8, and {error}") from error
        if list(self.api.versions) != sorted(set(self.api.versions)):
            raise SettingsError("api.versions: must be in ascending order, without repeats")
        is_file = self.store.url.startswith(_SQLITE) and self.store.url != _SQLITE
        if not is_file and not self.store.url.startswith(_POSTGRESQL):
            # The value is not shown: it may hold a password.
            raise SettingsError(
                f"store.url: must be `{_SQLITE}PATH` (an absolute path makes four slashes) or `{_POSTGRESQL[0]}HOST/DATABASE`"
            )
        if self.store.migrate_url and not self.store.migrate_url.startswith(_POSTGRESQL):
            raise SettingsError(f"store.migrate_url: must be `{_POSTGRESQL[0]}HOST/DATABASE`")
        for name, url in (("url", self.store.url), ("migrate_url", self.store.migrate_url)):
            if url.startswith(_POSTGRESQL) and not _is_url(url):
                raise SettingsError(
                    f"store.{name}: is not a URL; in a user's name and a password, `:/@?#[]%` are written as %3A and so on"
                )

        self._check_operations()
        if not self.is_embedded and self.store.statement_seconds + _SILENT_SECONDS >= self.node.lease_seconds:
            raise SettingsError(
                f"node.lease_seconds: must be more than store.statement_seconds + {_SILENT_SECONDS:g}, so that the server has "
                f"ended what a node that froze had under way before others take its place"
            )

    def _check_operations(self) -> None:
        """Neither value is shown: both may hold a secret."""
        url, secret = self.operations.url, self.operations.secret
        if secret and not _is_secret(secret):
            raise SettingsError(
                f"operations.secret: must be `whsec_` and base64 of {_SECRET_BYTES} bytes or more, "
                f"as `openssl rand -base64 32` prints"
            )
        if not url:
            return
        schemes = ("https://",) if self.egress.require_https else ("http://", "https://")
        if not url.lower().startswith(schemes):
            why = ", since egress.require_https is set" if self.egress.require_https else ""
            raise SettingsError(f"operations.url: must start with {' or '.join(schemes)}{why}")
        parts = urlsplit(url) if _is_url(url) else None
        if parts is None or not parts.hostname or "@" in parts.netloc or "#" in url or not url.isprintable() or " " in url:
            raise SettingsError("operations.url: must name a host, and have no user name, no fragment (`#…`) and no spaces")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if self.egress.allowed_ports and port not in self.egress.allowed_ports:
            raise SettingsError(f"operations.url: its port, {port}, is not among egress.allowed_ports")
        if not secret:
            raise SettingsError(
                "operations.secret: must be set with operations.url: `whsec_` and what `openssl rand -base64 32` prints"
            )

    @property
    def is_embedded(self) -> bool:
        """Whether everything is in a file that belongs to this process alone."""
        return self.store.url.startswith(_SQLITE)

    @property
    def store_path(self) -> Path:
        """The file of the embedded store."""
        return Path(self.store.url.removeprefix(_SQLITE))

    @property
    def socket_path(self) -> Path | None:
        """The operators' Unix socket; None when there is none, since the store is anybody's who may reach it."""
        if self.http.socket:
            return Path(self.http.socket)
        return self.store_path.with_name(self.store_path.name + ".sock") if self.is_embedded else None


_SECRET = frozenset({"secrets.encryption_key", "operations.secret"})  # values that no sentence shows
_SILENT_SECONDS = 2.0  # after a statement's, the server ends a transaction of which it hears no more
_SECRET_BYTES = 24  # the least that the Standard Webhooks specification has
_SQLITE = "sqlite:///"
_POSTGRESQL = ("postgresql://", "postgres://")


def _is_address(text: str) -> bool:
    """Whether *text* is an IP address, with a port or without."""
    is_bare_ipv6 = text.count(":") > 1 and not text.startswith("[")
    try:
        parts = urlsplit(f"//[{text}]" if is_bare_ipv6 else f"//{text}")
        ip_address(parts.hostname or "")
        has_port = parts.port != 0
    except ValueError:
        return False
    return has_port and not parts.path


def _is_secret(text: str) -> bool:
    """Whether *text* can sign, and is no word that somebody thought of."""
    try:
        return len(signing.secret_key(text)) >= _SECRET_BYTES
    except ValueError:
        return False


def _is_url(url: str) -> bool:
    """Whether the parts of *url* can be told apart; several hosts, as PostgreSQL takes them, are fine."""
    try:
        hosts = urlsplit(url).netloc.rpartition("@")[2]
        for host in hosts.split(","):
            _ = urlsplit(f"//{host}").port
    except ValueError:
        return False
    return True


def _is_proxy(url: str) -> bool:
    """Whether *url* is an HTTP proxy's, with nothing in it that has no meaning."""
    try:
        parts = urlsplit(url)
        is_place = bool(parts.hostname) and parts.port is not None and 1 <= parts.port <= 65_535
    except ValueError:
        return False
    return (
        is_place
        and url.isprintable()
        and parts.scheme == "http"
        and parts.path in {"", "/"}
        and not (parts.query or parts.fragment)
    )


class _Given(msgspec.Struct, frozen=True):
    """What somebody set, and where."""

    value: object
    source: str


def load(
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """The defaults, overlaid by the file *config*, then `GATEWAY_<SECTION>__<KEY>` of *environment* (the process's
    own when None), then *overrides* (`section.key` to value). A list given as text is comma-separated.

    Raises SettingsError, naming the setting and where it was set, when one is unknown or wrong.
    """
    given: dict[str, dict[str, _Given]] = {}
    if config is not None:
        for section, values in _read(config).items():
            if not isinstance(values, dict):
                raise SettingsError(f"`{section}` must be a section, `[{section}]`, with settings in it (in {config})")
            given[section] = {key: _Given(value, f"in {config}") for key, value in values.items()}
    for name, text in (os.environ if environment is None else environment).items():
        # Names without `__` are no settings: GATEWAY_URL, or what an orchestrator sets for a service called "gateway".
        if name.startswith("GATEWAY_") and "__" in name:
            section, _, key = name.removeprefix("GATEWAY_").lower().partition("__")
            given.setdefault(section, {})[key] = _Given(text, f"in {name}")
    for path, value in (overrides or {}).items():
        section, _, key = path.partition(".")
        given.setdefault(section, {})[key] = _Given(value, "as a flag")
    return _assemble(given)


def sections() -> dict[str, type[msgspec.Struct]]:
    """The sections of the settings and the struct of each."""
    return get_type_hints(Settings)


def _read(config: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{config} cannot be read: {error.strerror}") from error
    except ValueError as error:  # also what is not UTF-8, and numbers without end
        raise SettingsError(f"{config} is not TOML: {error}") from error


def _assemble(given: Mapping[str, Mapping[str, _Given]]) -> Settings:
    known_sections = sections()
    assembled: dict[str, Any] = {}
    for section, settings in given.items():
        if section not in known_sections:
            source = next(iter(settings.values())).source if settings else "in the configuration"
            raise SettingsError(f"unknown section `{section}` (set {source}){_suggest(section, known_sections)}")
        kinds = get_type_hints(known_sections[section], include_extras=True)
        values = {}
        for key, setting in settings.items():
            if key not in kinds:
                raise SettingsError(f"unknown setting `{section}.{key}` (set {setting.source}){_suggest(key, kinds)}")
            values[key] = _converted(f"{section}.{key}", kinds[key], setting)
        assembled[section] = known_sections[section](**values)
    return Settings(**assembled)


def _converted(name: str, kind: object, given: _Given) -> object:
    base, _ = _parts(kind)
    value = given.value
    if isinstance(value, str) and get_origin(base) is tuple:
        value = [part.strip() for part in value.split(",") if part.strip()]
    fault = _fault(kind, value)
    if fault is not None:
        if name in _SECRET:
            fault = fault.partition(", not ")[0]
        raise SettingsError(f"{name}: {fault} (set {given.source})")
    # Not strict: the environment's values are text.
    return msgspec.convert(value, type=cast("type[object]", kind), strict=False)


def _parts(kind: object) -> tuple[object, Meta | None]:
    """The type itself, and what limits it."""
    if get_origin(kind) is Annotated:
        base, meta = get_args(kind)
        return base, meta
    return kind, None


def _fault(kind: object, value: object) -> str | None:
    """What is wrong with *value* as a *kind*, to follow the setting's name; None when nothing is.

    msgspec decides; the words are ours, since its own speak of types, and their form is no promise of it.
    """
    base, meta = _parts(kind)
    if get_origin(base) is tuple:
        return _list_fault(base, meta, value)
    if _converts(value, kind):
        return None
    return f"must be {_demand(base, meta, value)}, not {_shown(value)}"


def _list_fault(base: object, meta: Meta | None, value: object) -> str | None:
    if not isinstance(value, list | tuple):
        return f"must be a list, not {_shown(value)}"
    if meta is not None and meta.min_length and len(value) < meta.min_length:
        return "must not be empty"
    item_kind = get_args(base)[0]
    faults = ((number, _fault(item_kind, item)) for number, item in enumerate(value, 1))
    return next((f"item {number} {fault}" for number, fault in faults if fault), None)


_NOUNS: dict[object, str] = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}


def _demand(base: object, meta: Meta | None, value: object) -> str:
    """What a value must be, in words; of the limits, the one that *value* breaks."""
    if get_origin(base) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(base))
    if meta is not None and meta.description:
        return meta.description
    noun = _NOUNS[base]
    if meta is None or not _converts(value, base) or not _converts(value, float):
        return noun
    number = msgspec.convert(value, type=float, strict=False)
    if meta.le is not None and number > meta.le:
        return f"{noun} of at most {meta.le}"
    if meta.gt is not None:
        return f"{noun} above {meta.gt}"
    return f"{noun} of at least {meta.ge}"


def _converts(value: object, kind: object) -> bool:
    try:
        msgspec.convert(value, type=cast("type[object]", kind), strict=False)
    except msgspec.ValidationError:
        return False
    return True


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _suggest(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean `{close[0]}`?" if close else f"; known are {', '.join(sorted(known))}"
