"""API keys: how one is made, and the changes of them. Only a hash of a key is ever stored."""

import hashlib
import secrets
import string

import msgspec

from gateway.clock import DAY, Timestamp
from gateway.errors import KeyNotFound, no_such
from gateway.model import Actor, ApiKey, AuditAction, Resource, Tenant, Verb
from gateway.registry import audit
from gateway.store.protocol import Transaction

VERBS = {resource: tuple(Verb) if resource is not Resource.AUDIT else (Verb.READ,) for resource in Resource}
"""What can be allowed of each resource. Nobody writes the audit log: it is written by what is done."""

PERMISSIONS = tuple(f"{resource}:{verb}" for resource, verbs in VERBS.items() for verb in verbs)
"""Every permission that a restricted key can have."""

_ALPHABET = string.ascii_letters + string.digits
_RANDOM_LENGTH = 32  # 190 bits
_SHOWN_LENGTH = 4  # of the random part, by which people recognize a key


def hash_key(text: str) -> bytes:
    """The hash that a key is kept and found by. Keys are random, so that a fast hash is enough."""
    return hashlib.sha256(text.encode()).digest()


def make_key(
    key_id: str,
    *,
    tenant: Tenant | None,
    permissions: tuple[str, ...] | None,
    name: str | None,
    at: Timestamp,
    expires_in_days: int | None = None,
) -> tuple[str, ApiKey]:
    """A new key, as text and as its record. *tenant* None makes a service key."""
    kind = "sk" if tenant is None else "ck" if permissions is None else "rk"
    prefix = f"{kind}_" if tenant is None else f"{kind}_{tenant.mode}_"
    text = prefix + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_LENGTH))
    return text, ApiKey(
        id=key_id,
        hash=hash_key(text),
        prefix=text[: len(prefix) + _SHOWN_LENGTH],
        name=name,
        tenant=tenant,
        permissions=permissions,
        created_at=at,
        expires_at=None if expires_in_days is None else at + expires_in_days * DAY,
        last_used_at=None,
        revoked_at=None,
    )


class AddKey(msgspec.Struct, frozen=True):
    """Stores a new key."""

    key: ApiKey
    actor: Actor

    async def apply(self, transaction: Transaction) -> ApiKey:
        key = self.key
        await transaction.add_key(key)
        await audit.note(
            transaction,
            AuditAction.KEY_CREATED,
            key.id,
            tenant=key.tenant,
            actor=self.actor,
            at=key.created_at,
            changes=audit.key_changes(None, key),
        )
        return key


class RevokeKey(msgspec.Struct, frozen=True):
    """Ends a key at once. With a *tenant*, only one of that tenant. Raises KeyNotFound."""

    key_id: str
    tenant: Tenant | None
    actor: Actor
    at: Timestamp

    async def apply(self, transaction: Transaction) -> ApiKey:
        key = await transaction.revoke_key(self.key_id, self.tenant, self.at)
        if key is None:
            raise KeyNotFound(no_such("API key", self.key_id))
        await audit.note(
            transaction,
            AuditAction.KEY_REVOKED,
            key.id,
            tenant=key.tenant,
            actor=self.actor,
            at=self.at,
            changes=audit.key_changes(key, None),
        )
        return key


class TouchKeys(msgspec.Struct, frozen=True):
    """Stores when keys were last used."""

    used: dict[str, Timestamp]

    async def apply(self, transaction: Transaction) -> None:
        await transaction.touch_keys(list(self.used.items()))
