"""Which headers an endpoint's owner may set, and what becomes of their values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidHeaders
from gateway.registry.custom_headers import HIDDEN, MAX_HEADERS, HeaderRules, hidden, merged

RULES = HeaderRules("X-Commet")

OURS = """
Host host User-Agent Expect Accept-Encoding Content-Length content-type Content-Encoding Connection Keep-Alive TE Trailer
Transfer-Encoding Upgrade HTTP2-Settings Proxy-Authorization Proxy-Connection Forwarded Via X-Forwarded-For x-forwarded-host
X-Real-IP webhook-id Webhook-Signature webhook-anything X-Commet-Signature x-commet-event-id X-COMMET-Anything
X-HTTP-Method-Override X-Original-URL X-Rewrite-URL Metadata Metadata-Flavor X-aws-ec2-metadata-token
X-aws-ec2-metadata-token-ttl-seconds X_Forwarded_For x-forwarded_for Content_Length X_Commet_Signature webhook_id User_Agent
"""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "Bearer abc.def-ghi"),
        ("Cookie", "session=1; other=2"),
        ("X-Tenant", "a"),
        ("x_odd!#$%&'*+.^`|~-name", "\ttab".strip()),
        ("X-Spaced", "a\tb  c"),
        ("X-Commetary", "no such family"),
        ("Metadata-Version", "1"),
        ("Webhook", "1"),
        ("N" * 128, "v" * 2_048),
    ],
)
def test_a_header_of_ones_own_is_fine(name: str, value: str):
    """Any token, any visible text."""
    assert list(RULES.faults({name: value})) == []
    assert RULES.sent({name: value}) == {name: value}


@pytest.mark.parametrize("name", OURS.split())
def test_what_the_gateway_sets_is_reserved(name: str):
    """And what belongs to one connection, or says on whose behalf somebody asks: in any case of letters, with `_` for `-`."""
    assert list(RULES.faults({name: "x"})) == [(f"headers.{name}", "is set by the gateway, or by nobody")]
    assert RULES.sent({name: "x", "X-Mine": "y"}) == {"X-Mine": "y"}


@pytest.mark.parametrize(
    "name", ["", " ", "X Y", "X:Y", "X\r\nHost", "Ünder", "X-\N{FULLWIDTH DIGIT ONE}", "(x)", "X\0", "N" * 129]
)
def test_what_is_no_token_is_no_name(name: str):
    ((field, fault),) = RULES.faults({name: "x"})
    assert field == f"headers.{name[:128]}"
    assert fault.startswith("is no name of a header")


@pytest.mark.parametrize(
    "value",
    ["", " x", "x ", "\tx", "a\r\nX-Injected: 1", "a\nb", "a\rb", "a\0b", "caf\xe9", "\x7f", "v" * 2_049, 1, None, True, []],
)
def test_what_could_break_out_of_a_line_is_no_value(value: object):
    ((field, fault),) = RULES.faults({"X-Mine": value})
    assert field == "headers.X-Mine"
    assert fault.startswith("must ")


def test_all_that_is_wrong_is_told():
    """Each header on its own, their number, their sum."""
    many: dict[str, object] = {f"X-{number}": "v" * 500 for number in range(MAX_HEADERS + 1)}
    faults = list(RULES.faults({**many, "Host": "x", "x-1": "again", "X Y": 1}))
    assert [field for field, _ in faults] == ["headers", "headers", "headers.Host", "headers.x-1", "headers.X Y"]
    assert dict(faults)["headers.x-1"] == "is there twice: upper and lower case make no difference"


def test_another_prefix_reserves_other_names():
    """A header that was stored before the prefix was changed is left out from then on."""
    assert HeaderRules("Acme").sent({"Acme-Event": "x", "X-Commet-Event": "y"}) == {"X-Commet-Event": "y"}


def test_values_are_hidden_and_kept():
    """What is shown can be given back: a hidden value is the one that is there, whatever the case of its name."""
    before = {"Authorization": "Bearer 1", "X-Old": "2"}
    assert hidden(before) == {"Authorization": HIDDEN, "X-Old": HIDDEN}
    assert merged(before, hidden(before)) == before
    assert merged(before, {"authorization": HIDDEN, "X-New": "3"}) == {"authorization": "Bearer 1", "X-New": "3"}
    assert merged(before, {}) == {}


def test_there_has_to_be_a_value_to_keep():
    with pytest.raises(InvalidHeaders) as refused:
        merged({"X-Old": "1"}, {"X-New": HIDDEN, "X-Old": HIDDEN})
    assert refused.value.faults == [("headers.X-New", "has no value yet that `***` could keep")]


def test_kept_values_count():
    """The sum of all holds for what is stored."""
    before = {f"X-{number}": "v" * 2_000 for number in range(4)}
    with pytest.raises(InvalidHeaders, match="8192 bytes"):
        merged(before, {**hidden(before), "X-New": "v" * 2_000})


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20) | st.none() | st.integers(), max_size=5))
def test_what_has_no_fault_stays_on_its_line(headers: dict[str, object]):
    """Whatever the text: there is no line break in what passes, and nothing that is not ASCII."""
    if not list(RULES.faults(headers)):
        line = "".join(f"{name}: {value}" for name, value in headers.items())
        assert line.isascii()
        assert not set(line) & set("\r\n\0")
