"""What structs are stored as, by column: the same on every backend but for lists, which each stores in its own way."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.model import Actor, ApiKey, AuditEntry, Endpoint, Mode, Revision, Tenant
from gateway.store.sealing import Sealing

StoredList = Callable[[Sequence[str]], object]
"""How a backend stores a list of texts."""

_changes = msgspec.json.Decoder(dict[str, object])
_headers = msgspec.json.Decoder(dict[str, str])


def tenant_parameters(tenant: Tenant) -> dict[str, object]:
    return {"organization_id": tenant.organization_id, "mode": tenant.mode}


def endpoint_parameters(subject: Endpoint, stored: StoredList, sealing: Sealing) -> dict[str, object]:
    previous, headers = subject.previous_secret, stored_headers(subject.headers)
    return {
        **tenant_parameters(subject.tenant),
        "id": subject.id,
        "url": subject.url,
        "events": stored(subject.events),
        "description": subject.description,
        "api_version": subject.api_version,
        "secret": sealing.seal(subject.secret),
        "is_active": subject.is_active,
        "disabled_at": subject.disabled_at,
        "disabled_reason": subject.disabled_reason,
        "activation": subject.activation,
        "deactivated_at": subject.deactivated_at,
        "failed_in_row": subject.failed_in_row,
        "paused_until": subject.paused_until,
        "created_at": subject.created_at,
        "deleted_at": subject.deleted_at,
        "revision": subject.revision,
        "previous_secret": None if previous is None else sealing.seal(previous),
        "previous_secret_until": subject.previous_secret_until,
        "headers": None if headers is None else sealing.seal(headers),
        "probe_count": subject.probe_count,
        "probe_at": subject.probe_at,
    }


def stored_headers(headers: Mapping[str, str]) -> str | None:
    """An endpoint's own headers: a JSON object, or nothing."""
    return msgspec.json.encode(headers).decode() if headers else None


def read_headers(stored: str | None) -> Mapping[str, str]:
    """What `stored_headers` has made."""
    return {} if stored is None else _headers.decode(stored)


def resealed(sealing: Sealing, id: str, *stored: str | None) -> dict[str, object] | None:
    """The secret texts of an endpoint, which are *stored* so, as they are to be stored now; None when they are already."""
    if all(text is None or sealing.is_current(text) for text in stored):
        return None
    secret, previous, headers = (None if text is None else sealing.seal(sealing.open(text, of=id)) for text in stored)
    return {"id": id, "secret": secret, "previous_secret": previous, "headers": headers}


def revision_parameters(subject: Revision, number: int, stored: StoredList) -> dict[str, object]:
    return {
        **tenant_parameters(subject.tenant),
        "number": number,
        "endpoint_id": subject.endpoint_id,
        "events": stored(subject.events),
        "is_active": subject.is_active,
        "cause": subject.cause,
        "actor": subject.actor,
        "at": subject.at,
    }


def key_parameters(subject: ApiKey, stored: StoredList) -> dict[str, object]:
    return {
        "id": subject.id,
        "hash": subject.hash,
        "prefix": subject.prefix,
        "name": subject.name,
        "organization_id": subject.tenant.organization_id if subject.tenant else None,
        "mode": subject.tenant.mode if subject.tenant else None,
        "permissions": None if subject.permissions is None else stored(subject.permissions),
        "created_at": subject.created_at,
        "expires_at": subject.expires_at,
    }


def audit_parameters(subject: AuditEntry) -> dict[str, object]:
    return {
        "id": subject.id,
        "organization_id": subject.tenant.organization_id if subject.tenant else None,
        "mode": subject.tenant.mode if subject.tenant else None,
        "at": subject.at,
        "actor": subject.actor.id,
        "address": subject.actor.address,
        "action": subject.action,
        "target_id": subject.target_id,
        "changes": msgspec.json.encode(subject.changes).decode(),
    }


def audit_entry(row: Sequence[Any]) -> AuditEntry:
    """What `audit_parameters` has made, in the order of the table's columns."""
    return AuditEntry(
        id=row[0],
        tenant=None if row[1] is None else Tenant(row[1], Mode(row[2])),
        at=row[3],
        actor=Actor(row[4], row[5]),
        action=row[6],
        target_id=row[7],
        changes=_changes.decode(row[8]),
    )
