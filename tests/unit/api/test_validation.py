"""What webhooks may say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.problems import Fault
from gateway.api.validation import WebhookRules, read_timestamp
from gateway.egress.addresses import AddressGuard
from gateway.publishing.event_types import Catalogue
from tests.forbidden_targets import HOSTS

VERSIONS = ("2026-07-11", "2026-08-27")


def rules(
    *, https: bool = False, allow: tuple[str, ...] = (), ports: tuple[int, ...] = (), catalogue: Catalogue | None = None
) -> WebhookRules:
    guard = AddressGuard(allow, (), ports=ports)
    return WebhookRules(require_https=https, guard=guard, catalogue=catalogue, versions=VERSIONS)


def faults_of(field: str, value: object, judge: WebhookRules | None = None) -> list[Fault]:
    return list((judge or rules()).checks[field](value))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "http://example.com:8080/a/b?c=d&e=%20",
        "HTTPS://EXAMPLE.COM/",
        "https://bücher.example/straße",
        "https://xn--bcher-kva.example",
        "https://a_b.example/",
        "https://example.com./",
        "https://localhost/x",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]:443/x",
        "https://example.com/a@b:c",
        "https://example.com/" + "x" * 2028,
    ],
)
def test_a_good_url_is_taken_as_typed(url: str):
    """Also with a name in another script, a port, or an address that anybody may reach."""
    assert faults_of("url", url) == []


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "start with"),
        ("example.com", "start with"),
        ("ftp://example.com", "start with"),
        ("http:example.com", "start with"),
        ("//example.com", "start with"),
        ("javascript:alert(1)", "start with"),
        (" https://example.com", "spaces or control"),
        ("https://example.com/a b", "spaces or control"),
        ("https://example.com/\n", "spaces or control"),
        ("https://example.com/\x00", "spaces or control"),
        ("https://example.com/\u2028", "spaces or control"),
        ("https://example.com/\u202e", "spaces or control"),
        ("https://exa\u00admple.com/", "spaces or control"),
        ("https://user@example.com/", "user name"),
        ("https://user:password@example.com/", "user name"),
        ("https://@example.com/", "user name"),
        ("https://example.com/#x", "fragment"),
        ("https://example.com#", "fragment"),
        ("https://", "host"),
        ("https:///path", "host"),
        ("https://?q", "host"),
        ("https://:80/", "URL"),
        ("https://./", "host"),
        ("https://a..b/", "host"),
        ("https://-a.example/", "host"),
        ("https://a,b/", "host"),
        ("https://%61.example/", "host"),
        ("https://" + "a" * 64 + ".example/", "host"),
        ("https://" + "a." * 130 + "example/", "host"),
        ("https://[v1.x]/", "host"),
        ("https://a\\b/", "URL"),
        ("https://[::1/", "URL"),
        ("https://example.com:/", "port"),
        ("https://example.com:0/", "port"),
        ("https://example.com:65536/", "port"),
        ("https://example.com:+80/", "port"),
        ("https://example.com:\N{FULLWIDTH DIGIT EIGHT}0/", "port"),
        ("https://example.com:80:90/", "URL"),
        ("https://example.com/" + "x" * 2029, "2048"),
        ("https://127.0.0.1/", "private"),
        ("https://127.1/", "private"),
        ("https://0x7f000001/", "private"),
        ("https://2130706433/", "private"),
        ("https://017700000001/", "private"),
        ("https://\uff11\uff12\uff17.0.0.1/", "private"),
        ("https://127。0。0。1/", "private"),
        ("https://%31%32%37.0.0.1/", "private"),
        ("https://10.0.0.1:8080/", "private"),
        ("https://169.254.169.254/latest", "private"),
        ("https://[::1]/", "private"),
        ("https://[::ffff:127.0.0.1]/", "private"),
        ("https://[fe80::1%25eth0]/", "private"),
        ("https://[64:ff9b::7f00:1]/", "private"),
    ],
)
def test_a_bad_url_is_refused(url: str, why: str):
    """With what is wrong about it: form, user names, fragments, ports, and addresses in whatever spelling."""
    [(place, message)] = faults_of("url", url)
    assert place == ""
    assert why in message


def test_https_may_be_required():
    """Then http is refused, in any case."""
    assert rules(https=True).url_fault("Http://example.com") == "must start with https://"
    assert rules(https=True).url_fault("HTTPS://example.com") is None


def test_an_operator_may_allow_private_addresses():
    """The guard's word holds."""
    assert rules(allow=("127.0.0.0/8",)).url_fault("http://127.0.0.1:9000/x") is None


@pytest.mark.parametrize("host", HOSTS, ids=ascii)
def test_no_spelling_of_an_address_inside_is_taken(host: str):
    """Where a URL names one by number it is refused when it is given, and not only when it is dialled."""
    assert rules().url_fault(f"https://{host}/")


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("https://example.com/", None),
        ("https://example.com:443/", None),
        ("http://example.com:8443/", None),
        ("http://example.com/", "must have a port that deliveries may go to: 443, 8443"),
        ("https://example.com:444/", "must have a port that deliveries may go to: 443, 8443"),
        ("https://[2606:4700::1111]:80/", "must have a port that deliveries may go to: 443, 8443"),
    ],
)
def test_an_operator_may_allow_some_ports_only(url: str, fault: str | None):
    """The port of the scheme counts when none is given."""
    assert rules(ports=(443, 8443)).url_fault(url) == fault


@given(st.text(max_size=40).map(lambda rest: f"https://{rest}"))
def test_no_url_breaks_the_judge(url: str):
    """Whatever the text, it is a URL or it is not."""
    assert rules().url_fault(url) is None or url


def test_repeated_events_are_counted_once():
    """They are dropped."""
    assert faults_of("events", ["b.c", "*", "a.*", "b.c"] * 100) == []


def test_each_bad_entry_is_told_by_its_place():
    """As it was sent, repeats counted."""
    faults = faults_of("events", ["a.b", "a.b", "A.B", None, 5, "a", "a.b\n", ".*", "a.*.b", "**"])
    assert [place for place, _ in faults] == [f"[{position}]" for position in range(2, 10)]


@pytest.mark.parametrize("events", [[], "a.b", {}, 5, True, [f"a.b{number}" for number in range(101)]])
def test_events_are_an_array_of_1_to_100(events: object):
    """Anything else is one fault of the field itself."""
    assert [place for place, _ in faults_of("events", events)] == [""]


def test_the_catalogue_has_to_cover_a_pattern():
    """When there is one."""
    faults = faults_of("events", ["a.b", "a.*", "*", "b.c"], rules(catalogue=Catalogue({"a.b": ""})))
    assert [place for place, _ in faults] == ["[3]"]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00.001+01:00", 1),
        ("1970-01-01 00:00:01", 1_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ("9999-12-31T23:59:59-00:01", None),
        ("1969-12-31T23:59:59Z", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("2026-02-30T00:00:00Z", None),
        ("2026-01-01", None),
        ("", None),
        ("T", None),
        ("5", None),
    ],
)
def test_a_timestamp_lies_in_the_years_1970_to_9999(text: str, at: int | None):
    """None for all else."""
    assert read_timestamp(text) == at
