"""How a JSON body is read as a struct, and what is said of one that is none."""

import contextlib
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec import UNSET, Meta, UnsetType

from gateway.api.json_body import NO_NUL, Body, JsonObject
from gateway.api.keys import NewKey
from gateway.api.problems import INVALID, INVALID_JSON, Fault, Problem
from gateway.api.validation import WebhookRules
from gateway.api.webhooks import NewWebhook, WebhookChanges
from gateway.egress.addresses import AddressGuard


class Sample(msgspec.Struct, kw_only=True, rename="camel"):
    must_be: Annotated[str, Meta(min_length=1, max_length=5, pattern=NO_NUL)]
    may_be: Annotated[str, Meta(max_length=5, pattern=NO_NUL)] | None = None
    changes: bool | UnsetType = UNSET
    clears: Annotated[Annotated[int, Meta(ge=1, le=9)] | None, Meta(description="null clears it")] | UnsetType = UNSET
    many: list[str] | UnsetType = UNSET
    by_name: dict[str, str] | UnsetType = UNSET


def read(fields: object, faults: list[Fault] | None = None) -> Body[Sample]:
    return Body(JsonObject(msgspec.json.encode(fields)), Sample, [] if faults is None else faults)


def test_a_good_body_is_the_struct():
    """Unknown fields are ignored, absent ones have their defaults, and null is a value where the type has it."""
    body = read({"mustBe": "x", "mayBe": None, "clears": None, "changes": False, "unknown": [1]})
    assert body.whole() == Sample(must_be="x", may_be=None, changes=False, clears=None)
    assert read({"mustBe": "x"}).whole() == Sample(must_be="x")
    assert read({"mustBe": "x", "clears": 3.0}).whole() == Sample(must_be="x", clears=3)
    assert read({"mustBe": "x", "many": ["a"], "byName": {"a": "b"}}).whole() == Sample(
        must_be="x", many=["a"], by_name={"a": "b"}
    )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "mustBe is required"),
        ({"mustBe": None}, "mustBe is required"),
        ({"mustBe": 5}, "mustBe must be a string"),
        ({"mustBe": ""}, "mustBe must have 1 to 5 characters, none of them NUL"),
        ({"mustBe": "éééééé"}, "mustBe must have 1 to 5 characters, none of them NUL"),
        ({"mustBe": "\0"}, "mustBe must have 1 to 5 characters, none of them NUL"),
        ({"mayBe": "123456"}, "mayBe must have at most 5 characters, none of them NUL"),
        ({"changes": None}, "changes must be true or false"),
        ({"changes": 1}, "changes must be true or false"),
        ({"clears": 0}, "clears must be a whole number from 1 to 9"),
        ({"clears": True}, "clears must be a whole number from 1 to 9"),
        ({"clears": 1.5}, "clears must be a whole number from 1 to 9"),
        ({"clears": 10**30}, "clears must be a whole number from 1 to 9"),
        ({"many": {}}, "many must be an array"),
        ({"byName": []}, "byName must be an object"),
    ],
)
def test_a_fault_is_a_sentence_about_its_field(fields: dict[str, Any], sentence: str):
    """Of the limits that the struct states."""
    with pytest.raises(Problem) as problem:
        read({"mustBe": "x", **fields} if fields and "mustBe" not in fields else fields).whole()
    assert problem.value.kind is INVALID
    assert problem.value.message == sentence


def test_all_faults_are_told_in_one_answer():
    """In the order of the struct, those from elsewhere first; a field that is known to be wrong is not judged again."""
    faults: list[Fault] = [("limit", "is wrong"), ("changes", "is wrong already")]
    body = read({"mayBe": 5, "changes": 5, "clears": 5}, faults)
    assert body.values == {"clears": 5}
    body.refuse("clears", "must not be 5")
    with pytest.raises(Problem) as problem:
        body.whole()
    assert [field for field, _ in problem.value.faults or ()] == ["limit", "changes", "mustBe", "mayBe", "clears"]


def test_a_check_judges_in_place_of_the_type():
    """Each of its faults names its place in the field."""
    faults: list[Fault] = []
    given = JsonObject(b'{"mustBe": "x", "many": [1, "b"]}')
    Body(given, Sample, faults, {"many": lambda value: [(f"[{value.index(1)}]", "must be a text"), ("", "is odd")]})
    assert faults == [("many[0]", "must be a text"), ("many", "is odd")]


@pytest.mark.parametrize("raw", [b"[]", b"5", b"null", b'"x"'])
def test_a_body_is_an_object(raw: bytes):
    """JSON of another form is a fault of the whole body."""
    with pytest.raises(Problem) as problem:
        JsonObject(raw)
    assert problem.value.faults == [("body", "must be a JSON object")]


@pytest.mark.parametrize("raw", [b"[[[[", b"[" * 100_000, b"[1e999,", b'"x" y', b"[1,]", b'{"a":1}}', b"nul"])
def test_what_is_no_json_is_no_json_whatever_its_form(raw: bytes):
    """Though its beginning already shows that it is no object."""
    with pytest.raises(Problem) as problem:
        JsonObject(raw)
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
        JsonObject(raw)
    assert problem.value.kind is INVALID_JSON
    assert ("half of a surrogate pair" in problem.value.message) is is_half


@for_all(raw=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: f'{{"url":{text}}}'.encode(errors="replace")))
def test_no_bytes_break_the_reader(raw: bytes):
    """Whatever the bytes, they are read or they are a problem."""
    with contextlib.suppress(Problem):
        given = JsonObject(raw)
        checks = WebhookRules(require_https=False, guard=AddressGuard((), ()), catalogue=None, versions=("2026-07-11",)).checks
        for kind in (Sample, NewWebhook, WebhookChanges, NewKey):
            faults: list[Fault] = []
            Body(given, kind, faults, checks if "events" in kind.__struct_fields__ else None)
