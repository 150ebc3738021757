"""What bodies and webhooks may say."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from gateway.api.problems import INVALID_JSON, Fault, Problem
from gateway.api.validation import Body, WebhookRules, read_timestamp
from gateway.egress.addresses import AddressGuard
from gateway.publishing.event_types import Catalogue
from tests.forbidden_targets import HOSTS

VERSIONS = ("2026-07-11", "2026-08-27")


def rules(
    *, https: bool = False, allow: tuple[str, ...] = (), ports: tuple[int, ...] = (), catalogue: Catalogue | None = None
) -> WebhookRules:
    guard = AddressGuard(allow, (), ports=ports)
    return WebhookRules(require_https=https, guard=guard, catalogue=catalogue, versions=VERSIONS)


def body_of(fields: object, *, null_is_absent: bool = False) -> tuple[Body, list[Fault]]:
    faults: list[Fault] = []
    return Body(msgspec.json.encode(fields), faults, null_is_absent=null_is_absent), faults


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
    body, faults = body_of({"url": url})
    assert rules().url(body) == url
    assert faults == []


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
    body, faults = body_of({"url": url})
    assert rules().url(body) is UNSET
    assert [field for field, _ in faults] == ["url"]
    assert why in faults[0][1]


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


def test_events_are_kept_once_and_in_order():
    """Repeats are dropped before they are counted."""
    body, faults = body_of({"events": ["b.c", "*", "a.*", "b.c"] * 100})
    assert rules().events(body) == ("b.c", "*", "a.*")
    assert faults == []


def test_each_bad_entry_is_told_by_its_place():
    """As it was sent, repeats counted."""
    body, faults = body_of({"events": ["a.b", "a.b", "A.B", None, 5, "a", "a.b\n", ".*", "a.*.b", "**"]})
    assert rules().events(body) is UNSET
    assert [field for field, _ in faults] == [f"events[{position}]" for position in range(2, 10)]


@pytest.mark.parametrize("events", [[], "a.b", {}, 5, True, [f"a.b{number}" for number in range(101)]])
def test_events_are_an_array_of_1_to_100(events: object):
    """Anything else is one fault of the field itself."""
    body, faults = body_of({"events": events})
    assert rules().events(body) is UNSET
    assert [field for field, _ in faults] == ["events"]


def test_the_catalogue_has_to_cover_a_pattern():
    """When there is one."""
    body, faults = body_of({"events": ["a.b", "a.*", "*", "b.c"]})
    assert rules(catalogue=Catalogue({"a.b": ""})).events(body) is UNSET
    assert [field for field, _ in faults] == ["events[3]"]


def test_null_is_a_value_or_none():
    """Where something is made it is as good as absent; elsewhere only what may be empty takes it."""
    fields = {"url": None, "events": None, "description": None, "apiVersion": None, "isActive": None}
    body, faults = body_of(fields, null_is_absent=True)
    judge = rules()
    values = (judge.url(body), judge.events(body), judge.description(body), judge.api_version(body), body.boolean("isActive"))
    assert values == (UNSET,) * 5
    assert faults == []
    body, faults = body_of(fields)
    values = (judge.url(body), judge.events(body), judge.description(body), judge.api_version(body), body.boolean("isActive"))
    assert values == (UNSET, UNSET, None, None, UNSET)
    assert [field for field, _ in faults] == ["url", "events", "isActive"]


def test_texts_have_their_lengths_in_characters():
    """500 of any script are a description; a NUL is no character."""
    for text, is_good in (("é" * 500, True), ("x" * 501, False), ("a\x00", False), ("", True)):
        body, faults = body_of({"description": text})
        assert (rules().description(body) == text) is is_good
        assert (faults == []) is is_good


@pytest.mark.parametrize("raw", [b"[]", b"5", b"null", b'"x"'])
def test_a_body_is_an_object(raw: bytes):
    """JSON of another form is a fault of the whole body."""
    with pytest.raises(Problem) as problem:
        Body(raw, [], null_is_absent=False)
    assert problem.value.faults == [("body", "must be a JSON object")]


@pytest.mark.parametrize("raw", [b"[[[[", b"[" * 100_000, b"[1e999,", b'"x" y', b"[1,]", b'{"a":1}}', b"nul"])
def test_what_is_no_json_is_no_json_whatever_its_form(raw: bytes):
    """Though its beginning already shows that it is no object."""
    with pytest.raises(Problem) as problem:
        Body(raw, [], null_is_absent=False)
    assert problem.value.kind is INVALID_JSON


@pytest.mark.parametrize(
    ("raw", "is_half"),
    [
        (rb'{"a":"\\ud800"', False),
        (rb'{"a":"\ud83d\ude00"', False),
        (rb'{"a":"\ud800"}', True),
        (rb'{"a":"x\uDFFFy"}', True),
        (rb'{"a":"\\\ud83d\ud83d\ude00"}', True),
    ],
)
def test_half_of_a_surrogate_pair_is_named(raw: bytes, is_half: bool):  # noqa: FBT001 - a column of the table
    """Rather than that the body is cut off, which it is not."""
    with pytest.raises(Problem) as problem:
        Body(raw, [], null_is_absent=False)
    assert problem.value.kind is INVALID_JSON
    assert ("half of a surrogate pair" in problem.value.message) is is_half


@given(raw=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: f'{{"url":{text}}}'.encode(errors="replace")))
def test_no_bytes_break_the_reader(raw: bytes):
    """Whatever the bytes, they are read or they are a problem."""
    with contextlib.suppress(Problem):
        body = Body(raw, [], null_is_absent=False)
        rules().url(body)
        rules().events(body)
        body.integer("url", least=1, most=2)
        body.boolean("url")


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
