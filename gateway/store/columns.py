"""What structs are stored as, by column: the same on every backend but for lists, which each stores in its own way."""

from collections.abc import Callable, Sequence

from gateway.model import ApiKey, Endpoint, Revision, Tenant

StoredList = Callable[[Sequence[str]], object]
"""How a backend stores a list of texts."""


def tenant_parameters(tenant: Tenant) -> dict[str, object]:
    return {"organization_id": tenant.organization_id, "mode": tenant.mode}


def endpoint_parameters(subject: Endpoint, stored: StoredList) -> dict[str, object]:
    return {
        **tenant_parameters(subject.tenant),
        "id": subject.id,
        "url": subject.url,
        "events": stored(subject.events),
        "description": subject.description,
        "api_version": subject.api_version,
        "secret": subject.secret,
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
    }


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
