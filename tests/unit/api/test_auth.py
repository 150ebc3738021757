"""Who asks, and for which tenant."""

import pytest
from msgspec.structs import replace

from gateway.api.auth import OPERATOR, Authenticator, Principal, tenant_of
from gateway.api.problems import Fault, Problem
from gateway.model import ApiKey, Mode, Tenant
from gateway.registry.keys import make_key
from gateway.registry.organizations import is_organization_id

LIVE = Tenant("acme", Mode.LIVE)


def key(
    *, tenant: Tenant | None = LIVE, permissions: tuple[str, ...] | None = None, days: int | None = None
) -> tuple[str, ApiKey]:
    return make_key("key_1", tenant=tenant, permissions=permissions, name=None, at=0, expires_in_days=days)


def test_a_key_is_known_from_its_making_to_its_end():
    """Loaded or made, until it is revoked or has expired."""
    text, record = key(days=1)
    keys = Authenticator()
    assert keys.authenticate(text, 0) is None
    keys.changed(record)
    principal = keys.authenticate(text, 0)
    assert principal is not None
    assert (principal.actor, principal.tenant) == ("key_1", LIVE)
    assert keys.authenticate(text, 86_400_000) is None
    keys.changed(replace(record, revoked_at=5))
    assert keys.authenticate(text, 0) is None
    keys.load([record, replace(record, hash=b"x", revoked_at=1)])
    assert keys.authenticate(text, 0) is not None
    keys.load([])
    assert keys.authenticate(text, 0) is None


@pytest.mark.parametrize("text", ["", "ck_live_", "\udcff", "é", "x" * 100_000])
def test_what_is_no_key_is_nobodys(text: str):
    """Whatever stands in the header."""
    keys = Authenticator()
    keys.changed(key()[1])
    assert keys.authenticate(text, 0) is None


def test_last_use_is_told_once():
    """The time of the last use since it was asked for, and of successful uses only."""
    text, record = key()
    keys = Authenticator()
    keys.changed(record)
    keys.authenticate(text, 1)
    keys.authenticate(text, 2)
    keys.authenticate("other", 3)
    assert keys.drain_used() == {"key_1": 2}
    assert keys.drain_used() == {}


def test_a_use_that_could_not_be_stored_is_told_again():
    """Unless there is a later one by then."""
    keys = Authenticator()
    text, record = key()
    keys.changed(record)
    keys.authenticate(text, 2)
    keys.give_back_used({"key_1": 1, "key_2": 1})
    assert keys.drain_used() == {"key_1": 2, "key_2": 1}


def test_permissions_are_exact():
    """None is everything; write does not imply read."""
    principal = Principal(actor="a", key=None, tenant=LIVE, permissions=frozenset({"webhook:write"}))
    assert principal.allows("webhook:write")
    assert not principal.allows("webhook:read")
    assert OPERATOR.allows("key:write")


def test_a_tenants_key_has_its_own_tenant():
    """Which it may name, and no other."""
    principal = Principal(actor="a", key=None, tenant=LIVE, permissions=None)
    faults: list[Fault] = []
    for organization_id, mode in ((None, None), ("acme", None), (None, "live"), ("acme", "live")):
        assert tenant_of(principal, organization_id, mode, faults) == LIVE
    assert faults == []
    for organization_id, mode in (("other", None), ("", None), (None, "sandbox"), ("acme", "sandbox")):
        with pytest.raises(Problem) as problem:
            tenant_of(principal, organization_id, mode, faults)
        assert problem.value.kind.status == 403
    tenant_of(principal, None, "nonsense", faults)
    assert faults == [("mode", "must be live or sandbox")]


def test_who_reaches_all_has_to_name_one():
    """Live is the default; what is wrong is told by field."""
    faults: list[Fault] = []
    assert tenant_of(OPERATOR, "acme", None, faults) == LIVE
    assert tenant_of(OPERATOR, "acme", "sandbox", faults) == Tenant("acme", Mode.SANDBOX)
    assert tenant_of(OPERATOR, None, None, faults, required=False) is None
    assert faults == []
    assert tenant_of(OPERATOR, None, "x", faults) is None
    assert tenant_of(OPERATOR, "", None, faults) is None
    assert [field for field, _ in faults] == ["mode", "organizationId", "organizationId"]


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("acme", True),
        ("org_1:é", True),
        ("x" * 255, True),
        ("", False),
        ("x" * 256, False),
        ("a b", False),
        ("a\x00", False),
        ("\ud800", False),
    ],
)
def test_an_organizations_id_is_printable(text: str, is_good: bool):  # noqa: FBT001
    """1 to 255 characters, no spaces, nothing that a store could not keep."""
    assert is_organization_id(text) is is_good
