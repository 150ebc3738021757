"""What a settings file, the environment and flags may say, and the sentences for what they may not."""

import re
import tomllib
from pathlib import Path

import pytest
from msgspec import structs

from gateway import settings
from gateway.errors import SettingsError
from gateway.publishing.event_types import Catalogue

CONFIG = Path(__file__).parents[2] / "config"


def test_config_gateway_toml_repeats_every_setting_with_its_default():
    """The file that people read says what the code does, section by section and in the same order."""
    written = tomllib.loads((CONFIG / "gateway.toml").read_text(encoding="utf-8"))
    defaults = {
        section: {name: list(value) if isinstance(value, tuple) else value for name, value in structs.asdict(kind()).items()}
        for section, kind in settings.sections().items()
    }
    assert written == defaults
    assert [(section, list(values)) for section, values in written.items()] == [
        (section, list(values)) for section, values in defaults.items()
    ]


def test_every_setting_in_config_gateway_toml_has_a_comment():
    """Each setting, or the group of lines that it stands in, is opened by a comment."""
    text = (CONFIG / "gateway.toml").read_text(encoding="utf-8")
    blocks = [block for block in re.split(r"\n\n", text) if re.search(r"^\w+ = ", block, re.MULTILINE)]
    bare = [block for block in blocks if not re.match(r"(\[\w+\]\n)?#", block)]
    assert bare == []


@pytest.mark.parametrize("name", ["gateway.toml", "production.example.toml", "development.toml"])
def test_the_configurations_that_come_along_load(name):
    settings.load(CONFIG / name, environment={})


def test_config_gateway_toml_changes_nothing():
    assert settings.load(CONFIG / "gateway.toml", environment={}) == settings.Settings()


def test_the_catalogue_that_comes_along_describes_each_of_its_types():
    catalogue = Catalogue.load(CONFIG / "event-types.toml")
    assert len(catalogue.types) == 66
    assert all(description.endswith(".") for description in catalogue.types.values())


def test_flags_win_over_the_environment_which_wins_over_the_file(tmp_path):
    config = tmp_path / "gateway.toml"
    config.write_text('[http]\nhost = "192.0.2.1"\nport = 1\n[delivery]\njitter = 0.3\n')
    loaded = settings.load(
        config, environment={"GATEWAY_HTTP__PORT": "2", "GATEWAY_HTTP__HOST": "192.0.2.2"}, overrides={"http.port": 3}
    )
    assert (loaded.http.host, loaded.http.port, loaded.delivery.jitter) == ("192.0.2.2", 3, 0.3)
    assert loaded.delivery.timeout_seconds == settings.Delivery().timeout_seconds


def test_text_from_the_environment_becomes_what_the_setting_is():
    loaded = settings.load(
        environment={
            "GATEWAY_DELIVERY__RETRY_DELAYS": "1, 2.5,3",
            "GATEWAY_EGRESS__ALLOW": "10.0.0.0/8,::1/128",
            "GATEWAY_EGRESS__REQUIRE_HTTPS": "true",
            "GATEWAY_API__VERSIONS": "2026-01-01",
            "GATEWAY_HTTP__PORT": "0",
        }
    )
    assert loaded.delivery.retry_delays == (1.0, 2.5, 3.0)
    assert loaded.egress == settings.Egress(allow=("10.0.0.0/8", "::1/128"), require_https=True)
    assert loaded.api.versions == ("2026-01-01",)
    assert loaded.http.port == 0


def test_an_empty_text_is_an_empty_list():
    assert settings.load(environment={"GATEWAY_DELIVERY__RETRY_DELAYS": ""}).delivery.retry_delays == ()


def test_names_without_two_underscores_are_not_settings():
    """An orchestrator sets such names for a service called "gateway"; the command line has some of its own."""
    environment = {"GATEWAY_PORT": "tcp://192.0.2.1:80", "GATEWAY_URL": "x", "GATEWAY_API_KEY": "y", "OTHER__HTTP": "z"}
    assert settings.load(environment=environment) == settings.Settings()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"delivery.jitter": 3}, "delivery.jitter: must be a number of at most 0.5, not 3"),
        ({"delivery.jitter": -1}, "delivery.jitter: must be a number of at least 0, not -1"),
        ({"delivery.jitter": "nan"}, "delivery.jitter: must be a number of at least 0, not 'nan'"),
        ({"delivery.jitter": "much"}, "delivery.jitter: must be a number, not 'much'"),
        ({"delivery.timeout_seconds": 0}, "delivery.timeout_seconds: must be a number above 0, not 0"),
        ({"delivery.timeout_seconds": float("inf")}, "delivery.timeout_seconds: must be a number of at most 31622400, not inf"),
        ({"delivery.retry_delays": [60, -5]}, "delivery.retry_delays: item 2 must be a number of at least 0, not -5"),
        ({"delivery.retry_delays": 60}, "delivery.retry_delays: must be a list, not 60"),
        ({"http.port": "70000"}, "http.port: must be a whole number of at most 65535, not '70000'"),
        ({"http.port": 10**400}, "http.port: must be a whole number"),
        ({"http.host": ""}, "http.host: must be a host or an address, not ''"),
        ({"http.host": 5}, "http.host: must be a host or an address, not 5"),
        ({"log.level": "loud"}, "log.level: must be one of debug, info, warning, error, not 'loud'"),
        ({"egress.require_https": "ja"}, "egress.require_https: must be true or false, not 'ja'"),
        ({"egress.allow": "10.0.0.1/8"}, "egress.allow: must be networks like 10.0.0.0/8, and 10.0.0.1/8 has host bits set"),
        ({"egress.allowed_ports": "443,70000"}, "egress.allowed_ports: item 2 must be a whole number of at most 65535"),
        ({"egress.nameservers": "10.0.0.2,ns.example"}, "egress.nameservers: must be addresses like 10.0.0.2 or 10.0.0.2:53"),
        ({"egress.nameservers": "10.0.0.2:0"}, "egress.nameservers: must be addresses like 10.0.0.2 or 10.0.0.2:53"),
        ({"egress.deny": ["here"]}, "egress.deny: must be networks like 10.0.0.0/8"),
        ({"api.versions": []}, "api.versions: must not be empty"),
        ({"api.versions": ["2026-1-1"]}, "api.versions: item 1 must be a date like 2026-08-27, not '2026-1-1'"),
        ({"api.versions": ["2026-02-01", "2026-01-01"]}, "api.versions: must be in ascending order, without repeats"),
        ({"delivery.signature_header_prefix": "X:"}, "delivery.signature_header_prefix: must be letters and digits, in parts"),
        ({"htp.port": 1}, "unknown section `htp` (set as a flag); did you mean `http`?"),
        ({"http.prot": 1}, "unknown setting `http.prot` (set as a flag); did you mean `port`?"),
        ({"log.colour": "red"}, "unknown setting `log.colour` (set as a flag); known are format, level"),
    ],
)
def test_a_wrong_setting_is_named_with_what_it_must_be(overrides, sentence):
    with pytest.raises(SettingsError) as refused:
        settings.load(environment={}, overrides=overrides)
    assert str(refused.value).startswith(sentence)


OPERATIONS = {"operations.url": "https://operator.example/told", "operations.secret": "whsec_" + "A" * 44}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"operations.secret": ""}, "operations.secret: must be set with operations.url"),
        ({"operations.secret": "hunter2"}, "operations.secret: must be `whsec_` and base64"),
        ({"operations.secret": "whsec_hunter2!"}, "operations.secret: must be `whsec_` and base64"),
        ({"operations.secret": "whsec_hunter2x"}, "operations.secret: must be `whsec_` and base64 of 24 bytes or more"),
        ({"operations.url": "hunter2"}, "operations.url: must start with http:// or https://"),
        ({"operations.url": "https://u:hunter2@operator.example/"}, "operations.url: must name a host, and have no user name"),
        ({"operations.url": "https:///hunter2"}, "operations.url: must name a host"),
        ({"operations.url": "https://[hunter2/"}, "operations.url: must name a host"),
        ({"operations.url": "https://operator.example/hunter2#x"}, "operations.url: must name a host"),
        ({"operations.url": "https://operator.example/hun ter2"}, "operations.url: must name a host"),
        (
            {"operations.url": "http://operator.example/hunter2", "egress.require_https": True},
            "operations.url: must start with https://, since egress.require_https is set",
        ),
        ({"egress.allowed_ports": [8443]}, "operations.url: its port, 443, is not among egress.allowed_ports"),
    ],
)
def test_where_the_operator_is_told_has_to_be_a_place_to_send_to(overrides, sentence):
    """The sentence names the setting, and shows nothing of its value."""
    with pytest.raises(SettingsError) as refused:
        settings.load(environment={}, overrides={**OPERATIONS, **overrides})
    assert str(refused.value).startswith(sentence)
    assert "hunter" not in str(refused.value)


def test_where_the_operator_is_told_may_be_any_url_and_nowhere():
    """With a secret, in any case of the scheme, on any port that is allowed; a secret alone does no harm."""
    for url in (OPERATIONS["operations.url"], "HTTP://10.0.0.1:8443/told?a=b", ""):
        loaded = settings.load(environment={}, overrides={**OPERATIONS, "operations.url": url})
        assert loaded.operations.url == url
        assert loaded.operations.secret not in repr(loaded)


def test_a_store_url_of_another_kind_is_refused_without_being_shown():
    """It may hold a password."""
    for name, url in (("store.url", "mysql://gateway:hunter2@db/gateway"), ("store.migrate_url", "sqlite:///hunter2")):
        with pytest.raises(SettingsError) as refused:
            settings.load(environment={}, overrides={name: url})
        assert str(refused.value).startswith(f"{name}: must be `")
        assert "postgresql://HOST/DATABASE`" in str(refused.value)
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["postgresql://u:hunter2/x@db/gateway", "postgresql://u:hunter2@db:port/gateway", "postgresql://u:hunter2@[db/gateway"]
)
def test_a_url_that_is_none_is_refused_without_being_shown(url):
    """A password with a slash in it makes no URL: the sentence says what to do, and shows nothing of it."""
    with pytest.raises(SettingsError) as refused:
        settings.load(environment={"GATEWAY_STORE__URL": url})
    assert "store.url: is not a URL; in a user's name and a password" in str(refused.value)
    assert "hunter" not in str(refused.value)


def test_a_url_may_name_several_hosts():
    """As PostgreSQL takes them, with a port each or without; an empty host is a socket."""
    for url in ("postgresql://u:p%2F@one:5432,two:5433,three/gateway", "postgresql:///gateway?host=/run/postgresql"):
        assert settings.load(environment={"GATEWAY_STORE__URL": url}).store.url == url


@pytest.mark.parametrize(
    "url",
    [
        "https://u:hunter2@proxy:3128",
        "socks5://u:hunter2@proxy:1080",
        "proxy:3128",
        "http://u:hunter2@proxy",
        "http://u:hunter2@proxy:0",
        "http://u:hunter2@proxy:port",
        "http://u:hunter2@:3128",
        "http://u:hunter2/x@proxy:3128",
        "http://u:hunter2@proxy:3128/path",
        "http://u:hunter2@proxy:3128?x",
        "http://u:hunter2@[proxy:3128",
        "http://u:hunter2@proxy:3128\r\nX: y",
    ],
)
def test_what_is_no_proxy_is_refused_without_being_shown(url):
    """It may hold a password, in whatever is wrong with it."""
    with pytest.raises(SettingsError) as refused:
        settings.load(environment={"GATEWAY_EGRESS__PROXY": url})
    assert str(refused.value).startswith("egress.proxy: must be `http://HOST:PORT`")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://proxy.internal:3128", "http://u:p%2F@10.0.0.1:8080/", "http://[fd00::1]:3128"])
def test_a_proxy_is_taken_and_not_shown(url):
    loaded = settings.load(environment={}, overrides={"egress.proxy": url})
    assert loaded.egress.proxy == url
    assert url not in repr(loaded)


@pytest.mark.parametrize("url", ["postgresql://gateway:hunter2@db/gateway", "postgres://db/gateway"])
def test_a_shared_store_has_no_operators_socket_unless_one_is_named(url):
    """Whoever may reach the database opens the store himself; the embedded store belongs to one process, which answers."""
    shared = settings.load(environment={}, overrides={"store.url": url})
    assert (shared.is_embedded, shared.socket_path) == (False, None)
    named = settings.load(environment={}, overrides={"store.url": url, "http.socket": "/run/gateway.sock"})
    assert named.socket_path == Path("/run/gateway.sock")
    embedded = settings.load(environment={}, overrides={"store.url": "sqlite:////srv/gateway.db"})
    assert (embedded.is_embedded, embedded.socket_path) == (True, Path("/srv/gateway.db.sock"))


def test_the_sentence_says_where_a_wrong_setting_was_set(tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text("[http]\nport = -1\n")
    with pytest.raises(SettingsError, match=r"http\.port: .* \(set in .*mine\.toml\)"):
        settings.load(config, environment={})
    with pytest.raises(SettingsError, match=r"http\.port: .* \(set in GATEWAY_HTTP__PORT\)"):
        settings.load(environment={"GATEWAY_HTTP__PORT": "x"})
    with pytest.raises(SettingsError, match=r"unknown section `htp` \(set in GATEWAY_HTP__PORT\)"):
        settings.load(environment={"GATEWAY_HTP__PORT": "1"})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[http\n", "is not TOML"),
        (b"\xff", "is not TOML"),
        (b"[http]\nport = " + b"9" * 5_000, "is not TOML"),
        (b"port = 1\n", "`port` must be a section, `[port]`, with settings in it"),
        (b"[[http]]\nport = 1\n", "`http` must be a section, `[http]`, with settings in it"),
        (b"[htp]\n", "unknown section `htp`"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, sentence):
    config = tmp_path / "gateway.toml"
    config.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        settings.load(config, environment={})
    assert sentence in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        settings.load(tmp_path / "gateway.toml", environment={})


@pytest.mark.parametrize(
    ("url", "socket", "store_path", "socket_path"),
    [
        ("sqlite:///var/gateway.db", "", "var/gateway.db", "var/gateway.db.sock"),
        ("sqlite:////srv/hooks/one.db", "", "/srv/hooks/one.db", "/srv/hooks/one.db.sock"),
        ("sqlite:///one.db", "/run/gateway.sock", "one.db", "/run/gateway.sock"),
    ],
)
def test_the_operators_socket_lies_beside_the_store_unless_it_is_set(url, socket, store_path, socket_path):
    loaded = settings.load(environment={}, overrides={"store.url": url, "http.socket": socket})
    assert (loaded.store_path, loaded.socket_path) == (Path(store_path), Path(socket_path))


@pytest.mark.parametrize(("lease", "statement"), [(3, 3), (15, 13), (4.9, 3)])
def test_a_lease_outlasts_what_a_frozen_node_had_under_way(lease, statement):
    """On PostgreSQL the server has to have ended it before another node takes over; the embedded store has no leases."""
    given = {"node.lease_seconds": lease, "store.statement_seconds": statement}
    with pytest.raises(SettingsError) as refused:
        settings.load(environment={}, overrides={**given, "store.url": "postgresql://db/gateway"})
    assert str(refused.value).startswith("node.lease_seconds: must be more than store.statement_seconds + 2")
    assert settings.load(environment={}, overrides=given).node.lease_seconds == lease


@pytest.mark.parametrize("key", ["short", "A" * 44, "A" * 43 + "==", "/" * 43 + "=", "Clear", "A" * 43 + "=\n", ""])
def test_what_is_no_encryption_key_is_refused_and_not_shown(key):
    """Whichever of the keys it is."""
    good = "A" * 43 + "="
    for place, keys in enumerate(((key,), (good, key)), 1):
        with pytest.raises(SettingsError, match=rf"secrets\.encryption_key: item {place} is no key") as refused:
            settings.Secrets(encryption_key=keys)
        assert not key or key not in str(refused.value)
        assert good not in str(refused.value)
    assert good not in repr(settings.Secrets(encryption_key=(good,)))


@pytest.mark.parametrize("value", [{"one": "hunter2"}, ["clear", ["hunter2"]], 5, [5]])
def test_what_is_no_list_of_keys_is_not_shown(value):
    """A key that stands where none belongs is still a key."""
    with pytest.raises(SettingsError, match=r"secrets\.encryption_key: .*must be a (list|text) \(set as a flag\)") as refused:
        settings.load(environment={}, overrides={"secrets.encryption_key": value})
    assert "hunter2" not in str(refused.value)


def test_encryption_keys_come_from_the_environment():
    """Comma-separated."""
    keys = ("clear", "A" * 43 + "=", "B" * 43 + "=")
    loaded = settings.load(environment={"GATEWAY_SECRETS__ENCRYPTION_KEY": ", ".join(keys)})
    assert loaded.secrets.encryption_key == keys
