"""Response shapes by API version, and the table of errors."""

import json

import msgspec
import pytest

from gateway import errors
from gateway.api import problems
from gateway.api.dialects import ENVELOPED, PLAIN, Answer, Dialects, PinnedVersions
from gateway.api.problems import Kind, Problem
from gateway.model import Organization

VERSIONS = ("2026-05-25", "2026-07-11", "2026-07-24", "2026-07-31", "2026-08-27")


class Thing(msgspec.Struct):
    id: str = "x"


def content(answer: Answer) -> object:
    return json.loads(answer.body)


def test_one_object():
    """In an envelope, or as it is."""
    assert content(ENVELOPED.one(Thing())) == {"success": True, "data": {"id": "x"}}
    assert content(PLAIN.one(Thing())) == {"id": "x"}
    assert PLAIN.one(Thing(), 201).status == 201


def test_a_page():
    """The last one has a null cursor, or none at all."""
    assert content(ENVELOPED.page([Thing()], "c")) == {"success": True, "data": [{"id": "x"}], "hasMore": True, "nextCursor": "c"}
    assert content(ENVELOPED.page([])) == {"success": True, "data": [], "hasMore": False, "nextCursor": None}
    assert content(PLAIN.page([Thing()], "c")) == {"object": "list", "data": [{"id": "x"}], "hasMore": True, "nextCursor": "c"}
    assert content(PLAIN.page([])) == {"object": "list", "data": [], "hasMore": False}


def test_an_error_has_every_key():
    """Null where it does not apply; `details` for each fault, `param` when there is one."""
    error = {
        "type": "validation_error",
        "code": "validation_error",
        "message": "url is required",
        "param": "url",
        "doc_url": None,
    }
    error_and_details = {**error, "details": [{"field": "url", "message": "is required"}]}
    problem = problems.invalid([("url", "is required")])
    assert content(ENVELOPED.error(problem)) == {"success": False, "error": error_and_details}
    assert content(PLAIN.error(problem)) == {"error": error_and_details}
    several = problems.view(problems.invalid([("a", "x"), ("b", "y")]))
    assert (several.param, len(several.details or [])) == (None, 2)
    refused = problems.view(problems.forbidden("no"))
    assert (refused.param, refused.details, refused.doc_url) == (None, None, None)


@pytest.mark.parametrize(
    ("header", "organization_id", "dialect"),
    [
        (None, None, ENVELOPED),
        (None, "unpinned", ENVELOPED),
        (None, "new", PLAIN),
        (None, "old", ENVELOPED),
        ("2026-05-25", "new", ENVELOPED),
        ("2026-07-11", None, ENVELOPED),
        ("2026-07-24", "old", PLAIN),
        ("2026-08-27", None, PLAIN),
        ("2026-01-01", None, PLAIN),
        ("", None, PLAIN),
        ("nonsense", "old", PLAIN),
    ],
)
def test_the_header_wins_over_the_pin_and_the_pin_over_the_default(
    header: str | None, organization_id: str | None, dialect: object
):
    """An unknown header is the current version."""
    pinned = PinnedVersions()
    pinned.load([Organization("new", "2026-08-27"), Organization("old", None)])
    pinned.changed(Organization("old", "2026-05-25"))
    assert Dialects(VERSIONS, pinned).pick(header, organization_id) is dialect


def test_an_organization_can_be_unpinned():
    """Also one that never was pinned."""
    pinned = PinnedVersions()
    pinned.changed(Organization("a", "2026-08-27"))
    for _ in range(2):
        pinned.changed(Organization("a", None))
        assert pinned.get("a") is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.QueueFull("full"), problems.OVERLOADED),
        (errors.StoreUnavailable("broken"), problems.UNAVAILABLE),
        (errors.Stopping("stopping"), problems.UNAVAILABLE),
        (errors.InvalidEvent([("event", "is required")]), problems.INVALID),
        (errors.InvalidEvent([("data", "is large")], too_large=True), problems.PAYLOAD_TOO_LARGE),
        (errors.EndpointNotFound("gone"), problems.WEBHOOK_NOT_FOUND),
        (errors.DeliveryNotFound("gone"), problems.NOT_FOUND),
        (errors.KeyNotFound("gone"), problems.NOT_FOUND),
        (errors.TooManyEndpoints("many"), problems.INVALID),
        (problems.forbidden("no"), problems.FORBIDDEN),
    ],
)
def test_each_of_our_errors_has_its_answer(error: Exception, kind: Kind):
    """A sentence for people, and the time to wait with every 503."""
    problem = problems.of_error(error)
    assert problem is not None
    assert problem.kind is kind
    assert problem.message
    assert ("Retry-After" in dict(problem.headers)) is (kind.status == 503)


@pytest.mark.parametrize("error", [ValueError("x"), errors.SettingsError("x"), errors.StoreLocked("x")])
def test_a_fault_of_our_own_has_none(error: Exception):
    """It is logged, and answered 500."""
    assert problems.of_error(error) is None


def test_an_error_without_a_sentence_borrows_one():
    """From what its kind says of itself."""
    problem = problems.of_error(errors.QueueFull())
    assert isinstance(problem, Problem)
    assert problem.message.startswith("The event queue is full")
