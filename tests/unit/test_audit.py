"""What the audit log says of a change."""

from msgspec.structs import replace

from gateway.model import DisabledReason
from gateway.registry.audit import endpoint_changes, key_changes, version_changes
from gateway.registry.endpoints import deleted, disabled
from tests.fakes import SECRET, START, api_key, endpoint

OLD_SECRET = "whsec_AAAA"


def test_each_field_from_what_to_what():
    """Only those that people set or see, as the API calls them."""
    before = endpoint(api_version="2026-07-11", failed_in_row=2, paused_until=START)
    after = replace(disabled(before, DisabledReason.FAILURES, START), api_version=None, url="https://new.example/")
    assert endpoint_changes(before, after) == {
        "url": {"from": "https://receiver.example/hook", "to": "https://new.example/"},
        "apiVersion": {"from": "2026-07-11", "to": None},
        "isActive": {"from": True, "to": False},
        "disabledReason": {"from": None, "to": DisabledReason.FAILURES},
    }
    assert endpoint_changes(before, replace(before, failed_in_row=0, revision=9, probe_count=3)) == {}


def test_of_headers_only_the_names():
    """Those that came, went or have another value: what they say may be a secret."""
    before = endpoint(headers={"X-Same": "1", "X-Gone": "s3cret-1", "X-Other": "s3cret-2"})
    after = replace(before, headers={"X-Same": "1", "X-New": "s3cret-3", "X-Other": "s3cret-4"})
    changes = endpoint_changes(before, after)
    assert changes == {"headers": {"added": ["X-New"], "removed": ["X-Gone"], "changed": ["X-Other"]}}
    assert endpoint_changes(after, replace(after, headers={"X-Same": "1", "X-New": "s3cret-3"})) == {
        "headers": {"removed": ["X-Other"]}
    }
    assert endpoint_changes(after, after) == {}


def test_never_a_secret():
    """Neither the one in force nor the one before it, whatever happens to the endpoint; of a rotation there is its end."""
    rotated = endpoint(previous_secret=OLD_SECRET, previous_secret_until=START)
    for changes in (
        endpoint_changes(None, rotated),
        endpoint_changes(endpoint(secret=OLD_SECRET), rotated),
        endpoint_changes(rotated, None),
        endpoint_changes(rotated, deleted(rotated, START)),
    ):
        assert SECRET not in repr(changes)
        assert OLD_SECRET not in repr(changes)
    before = replace(rotated, secret=OLD_SECRET, previous_secret=None, previous_secret_until=None)
    assert endpoint_changes(before, rotated) == {"previousSecretUntil": {"from": None, "to": "2026-03-25T14:30:00.000Z"}}


def test_what_is_made_comes_from_nothing_and_what_ends_goes_there():
    """A key that may do everything says so, and its hash is nobody's business."""
    key = api_key(name=None)
    assert key_changes(None, key) == {
        "prefix": {"from": None, "to": key.prefix},
        "permissions": {"from": None, "to": "everything"},
    }
    assert key_changes(api_key(permissions=("webhook:read",)), None)["permissions"] == {"from": ("webhook:read",), "to": None}
    assert version_changes("2026-07-11", None) == {"apiVersion": {"from": "2026-07-11", "to": None}}
