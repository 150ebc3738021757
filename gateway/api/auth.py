"""Who asks, and for which tenant."""

import hmac
from collections.abc import Iterable, Mapping

import msgspec

from gateway.api.problems import Fault, Problem, forbidden
from gateway.clock import Timestamp
from gateway.model import ApiKey, Mode, Tenant
from gateway.registry.keys import hash_key
from gateway.registry.organizations import MAX_ORGANIZATION_ID, is_organization_id


class Principal(msgspec.Struct, frozen=True):
    """Who asks: the holder of an API key, or an operator at the machine."""

    actor: str  # the key's id, or "operator"
    key: ApiKey | None
    tenant: Tenant | None  # None reaches all, and has to name one
    permissions: frozenset[str] | None  # None: everything

    def allows(self, permission: str) -> bool:
        return self.permissions is None or permission in self.permissions


OPERATOR = Principal(actor="operator", key=None, tenant=None, permissions=None)
"""Whoever may open the operators' socket."""


class Authenticator:
    """The API keys, in memory: loaded at start, and told of each change."""

    def __init__(self) -> None:
        self._principals: dict[bytes, Principal] = {}
        self._used: dict[str, Timestamp] = {}

    def load(self, keys: Iterable[ApiKey]) -> None:
        """Forgets what it knew for *keys*."""
        self._principals = {key.hash: _principal(key) for key in keys if key.revoked_at is None}

    def changed(self, key: ApiKey) -> None:
        """*key* was made or revoked."""
        if key.revoked_at is None:
            self._principals[key.hash] = _principal(key)
        else:
            self._principals.pop(key.hash, None)

    def authenticate(self, text: str, now: Timestamp) -> Principal | None:
        """Whose key *text* is; None when it is nobody's, or has expired. Remembers that it was used."""
        try:
            given = hash_key(text)
        except UnicodeEncodeError:  # bytes in the header that are no text
            return None
        principal = self._principals.get(given)
        # The look-up is by a hash, whose timing tells nothing about the key; compared once more for those who doubt it.
        if principal is None or principal.key is None or not hmac.compare_digest(given, principal.key.hash):
            return None
        if principal.key.expires_at is not None and principal.key.expires_at <= now:
            return None
        self._used[principal.key.id] = now
        return principal

    def drain_used(self) -> dict[str, Timestamp]:
        """When each key was last used, of those used since the last call."""
        used, self._used = self._used, {}
        return used

    def give_back_used(self, used: Mapping[str, Timestamp]) -> None:
        """*used* could not be stored, and is to be told again."""
        self._used = {**used, **self._used}


def _principal(key: ApiKey) -> Principal:
    permissions = None if key.permissions is None else frozenset(key.permissions)
    return Principal(actor=key.id, key=key, tenant=key.tenant, permissions=permissions)


def tenant_of(
    principal: Principal, organization_id: str | None, mode: str | None, faults: list[Fault], *, required: bool = True
) -> Tenant | None:
    """The tenant of a request that names *organization_id* and *mode*, or does not.

    A tenant's key has its own; naming another raises a 403. Who reaches all has to name an organization, unless it is
    not *required*, and may name a mode (live, when absent). None when it cannot be said, with what is wrong in *faults*.
    """
    named_mode = _mode(mode, faults)
    own = principal.tenant
    if own is not None:
        if (organization_id is not None and organization_id != own.organization_id) or (named_mode or own.mode) is not own.mode:
            raise other_tenant()
        return own
    if organization_id is None:
        if required:
            faults.append(("organizationId", "is required with a key that reaches every organization"))
        return None
    if not is_organization_id(organization_id):
        faults.append(("organizationId", f"must have 1 to {MAX_ORGANIZATION_ID} printable characters, no spaces"))
        return None
    if mode is not None and named_mode is None:
        return None
    return Tenant(organization_id, named_mode or Mode.LIVE)


def other_tenant() -> Problem:
    """A tenant's key named another tenant."""
    return forbidden("the API key belongs to another organization or mode than the request names")


def _mode(text: str | None, faults: list[Fault]) -> Mode | None:
    if text is None:
        return None
    try:
        return Mode(text)
    except ValueError:
        faults.append(("mode", "must be live or sandbox"))
        return None
