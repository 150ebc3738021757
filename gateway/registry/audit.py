"""The audit log: who changed what. An entry is written in the transaction of the change itself, so that neither exists without
the other. Never a secret, nor what a header of an endpoint says: it is read by more people than those are for."""

from collections.abc import Mapping

import msgspec

from gateway import ids
from gateway.clock import Timestamp, isoformat
from gateway.model import Actor, ApiKey, AuditAction, AuditEntry, Endpoint, Tenant
from gateway.store.protocol import Transaction


async def note(
    transaction: Transaction,
    action: AuditAction,
    target_id: str,
    *,
    tenant: Tenant | None,
    actor: Actor,
    at: Timestamp,
    changes: Mapping[str, object] | None = None,
) -> None:
    """Writes down, within *transaction*, that *actor* has done *action*."""
    entry_id = ids.of(ids.AUDIT_ENTRY, at)
    await transaction.add_audit_entry(AuditEntry(entry_id, tenant, at, actor, action, target_id, changes or {}))


class Note(msgspec.Struct, frozen=True):
    """Writes down what was done outside of the store."""

    action: AuditAction
    target_id: str
    actor: Actor
    at: Timestamp

    async def apply(self, transaction: Transaction) -> None:
        await note(transaction, self.action, self.target_id, tenant=None, actor=self.actor, at=self.at)


# What has changed: each field of the API that did, as {"from": …, "to": …}


def endpoint_changes(before: Endpoint | None, after: Endpoint | None) -> dict[str, object]:
    """What has changed of an endpoint that people look at; of its headers only the names. None: it is not there. Pure."""
    changes = _differences(_fields_of_endpoint(before), _fields_of_endpoint(after))
    old, new = (subject.headers if subject else {} for subject in (before, after))
    headers = {
        "added": sorted(new.keys() - old.keys()),
        "removed": sorted(old.keys() - new.keys()),
        "changed": sorted(name for name in new.keys() & old.keys() if new[name] != old[name]),
    }
    if any(headers.values()):
        changes["headers"] = {verb: names for verb, names in headers.items() if names}
    return changes


def key_changes(before: ApiKey | None, after: ApiKey | None) -> dict[str, object]:
    """What a new key is like, or one that is no more. Pure."""
    return _differences(_fields_of_key(before), _fields_of_key(after))


def version_changes(before: str | None, after: str | None) -> dict[str, object]:
    """What an organization is pinned to. Pure."""
    return _differences({"apiVersion": before}, {"apiVersion": after})


def _fields_of_endpoint(endpoint: Endpoint | None) -> Mapping[str, object]:
    if endpoint is None:
        return {}
    return {
        "url": endpoint.url,
        "events": endpoint.events,
        "description": endpoint.description,
        "apiVersion": endpoint.api_version,
        "isActive": endpoint.is_active,
        "disabledReason": endpoint.disabled_reason,
        "previousSecretUntil": _time(endpoint.previous_secret_until),
    }


def _fields_of_key(key: ApiKey | None) -> Mapping[str, object]:
    if key is None:
        return {}
    return {
        "name": key.name,
        "prefix": key.prefix,
        "permissions": "everything" if key.permissions is None else key.permissions,
        "expiresAt": _time(key.expires_at),
    }


def _differences(before: Mapping[str, object], after: Mapping[str, object]) -> dict[str, object]:
    return {
        name: {"from": before.get(name), "to": after.get(name)}
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    }


def _time(at: Timestamp | None) -> str | None:
    return None if at is None else isoformat(at)
