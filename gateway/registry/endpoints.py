"""Changes of endpoints and of their secrets. Each writes a numbered revision and an entry of the audit log in the same commit,
and whatever takes an endpoint out of service raises its activation, which cancels what waits for it."""

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from gateway import signing
from gateway.clock import MINUTE, SECOND, Timestamp
from gateway.errors import EndpointNotFound, RotationInProgress, TooManyEndpoints, no_such
from gateway.model import Actor, AuditAction, DisabledReason, Endpoint, Reason, Revision, RevisionCause, Tenant
from gateway.registry import audit
from gateway.registry.custom_headers import merged
from gateway.store.protocol import Transaction

GATEWAY_ACTOR = Actor("gateway")
"""The actor of what the gateway does by itself."""


def new_endpoint(
    endpoint_id: str,
    tenant: Tenant,
    *,
    url: str,
    events: tuple[str, ...],
    description: str | None,
    api_version: str | None,
    at: Timestamp,
    headers: Mapping[str, str] | None = None,
) -> Endpoint:
    """An active endpoint with a new secret."""
    return Endpoint(
        id=endpoint_id,
        tenant=tenant,
        url=url,
        events=events,
        description=description,
        api_version=api_version,
        secret=signing.new_secret(),
        is_active=True,
        disabled_at=None,
        disabled_reason=None,
        activation=0,
        deactivated_at=None,
        failed_in_row=0,
        paused_until=None,
        created_at=at,
        deleted_at=None,
        headers=headers or {},
    )


FIRST_PAUSE = MINUTE
"""Between the disabling of an endpoint and its first probe."""


def disabled(endpoint: Endpoint, reason: DisabledReason, at: Timestamp, *, probe_at: Timestamp | None = None) -> Endpoint:
    """*endpoint* out of service; what waits for it is canceled. From *probe_at* on it is probed, or with None not at all."""
    return replace(
        endpoint,
        is_active=False,
        disabled_at=at,
        disabled_reason=reason,
        activation=endpoint.activation + 1,
        deactivated_at=at,
        paused_until=None,
        probe_count=0,
        probe_at=probe_at,
    )


def enabled(endpoint: Endpoint) -> Endpoint:
    """*endpoint* back in service, with a clean slate."""
    return replace(
        endpoint,
        is_active=True,
        disabled_at=None,
        disabled_reason=None,
        failed_in_row=0,
        paused_until=None,
        probe_count=0,
        probe_at=None,
    )


def deleted(endpoint: Endpoint, at: Timestamp) -> Endpoint:
    """What is left of *endpoint*: enough for its history to make sense. Secrets go, and headers, which may hold some."""
    return replace(
        without_previous_secret(endpoint),
        secret="",
        headers={},
        is_active=False,
        activation=endpoint.activation + 1,
        deactivated_at=at,
        paused_until=None,
        deleted_at=at,
        probe_count=0,
        probe_at=None,
    )


def without_previous_secret(endpoint: Endpoint) -> Endpoint:
    """*endpoint* with its current secret alone."""
    return replace(endpoint, previous_secret=None, previous_secret_until=None)


def cancel_reason(endpoint: Endpoint) -> Reason:
    """Why a delivery of an earlier activation of *endpoint* is canceled."""
    return Reason.ENDPOINT_DELETED if endpoint.deleted_at is not None else Reason.ENDPOINT_DISABLED


async def save(
    transaction: Transaction,
    before: Endpoint,
    after: Endpoint,
    cause: RevisionCause,
    *,
    actor: Actor,
    at: Timestamp,
    action: AuditAction | None = None,
) -> Endpoint:
    """Stores within *transaction* what has become of an endpoint; the endpoint as it is now. The audit log tells of *action*,
    where that is more than the cause says."""
    after = await _revised(transaction, after, cause, actor, at)
    await transaction.save_endpoint(after)
    gone = after.deleted_at is not None
    await _note(transaction, action or AuditAction(f"webhook.{cause}"), before, None if gone else after, actor=actor, at=at)
    return after


async def _note(
    transaction: Transaction, action: AuditAction, before: Endpoint | None, after: Endpoint | None, *, actor: Actor, at: Timestamp
) -> None:
    subject = after or before
    if subject is not None:
        changes = audit.endpoint_changes(before, after)
        await audit.note(transaction, action, subject.id, tenant=subject.tenant, actor=actor, at=at, changes=changes)


async def _revised(transaction: Transaction, endpoint: Endpoint, cause: RevisionCause, actor: Actor, at: Timestamp) -> Endpoint:
    """*endpoint* with the number of the revision that this adds."""
    number = await transaction.add_revision(
        Revision(
            tenant=endpoint.tenant,
            number=0,  # the store numbers it
            endpoint_id=endpoint.id,
            events=endpoint.events,
            is_active=endpoint.is_active,
            cause=cause,
            actor=actor.id,
            at=at,
        )
    )
    return replace(endpoint, revision=number)


async def disable(
    transaction: Transaction,
    endpoint: Endpoint,
    reason: DisabledReason,
    *,
    actor: Actor,
    at: Timestamp,
    probe_at: Timestamp | None = None,
) -> Endpoint:
    """Takes *endpoint* out of service within *transaction*; the endpoint as it is now."""
    after = disabled(endpoint, reason, at, probe_at=probe_at)
    return await save(transaction, endpoint, after, RevisionCause.DISABLED, actor=actor, at=at)


class CreateEndpoint(msgspec.Struct, frozen=True):
    """Stores a new endpoint. Raises TooManyEndpoints."""

    endpoint: Endpoint
    actor: Actor
    most: int  # endpoints that the organization may have

    async def apply(self, transaction: Transaction) -> Endpoint:
        if await transaction.count_endpoints(self.endpoint.tenant.organization_id) >= self.most:
            raise TooManyEndpoints(f"the organization has {self.most} endpoints, which is the limit; delete one first")
        at = self.endpoint.created_at
        endpoint = await _revised(transaction, self.endpoint, RevisionCause.CREATED, self.actor, at)
        await transaction.add_endpoint(endpoint)
        await _note(transaction, AuditAction.WEBHOOK_CREATED, None, endpoint, actor=self.actor, at=at)
        return endpoint


class EndpointPatch(msgspec.Struct, frozen=True):
    """The fields to change; those left UNSET stay as they are."""

    url: str | UnsetType = UNSET
    events: tuple[str, ...] | UnsetType = UNSET
    description: str | None | UnsetType = UNSET
    api_version: str | None | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET
    headers: Mapping[str, str] | UnsetType = UNSET

    def __repr__(self) -> str:
        return "EndpointPatch(…)"  # headers are secrets


class UpdateEndpoint(msgspec.Struct, frozen=True):
    """Changes the given fields of an endpoint. Raises EndpointNotFound, InvalidHeaders."""

    tenant: Tenant
    endpoint_id: str
    patch: EndpointPatch
    actor: Actor
    at: Timestamp

    async def apply(self, transaction: Transaction) -> Endpoint:
        before = await transaction.endpoint(self.tenant, self.endpoint_id)
        if before is None:
            raise EndpointNotFound(no_such("webhook", self.endpoint_id))
        after, cause = self._patched(before)
        if after == before:
            return before
        return await save(transaction, before, after, cause, actor=self.actor, at=self.at)

    def _patched(self, before: Endpoint) -> tuple[Endpoint, RevisionCause]:
        patch = self.patch
        changes = {
            name: value
            for name in ("url", "events", "description", "api_version")
            if (value := getattr(patch, name)) is not UNSET
        }
        after = replace(before, **changes)
        if not isinstance(patch.headers, UnsetType):
            after = replace(after, headers=merged(before.headers, patch.headers))
        if after.url != before.url:
            # Another receiver: what the last one did says nothing about it.
            after = replace(after, failed_in_row=0, paused_until=None)
            if before.probe_at is not None:
                after = replace(after, probe_count=0, probe_at=self.at + FIRST_PAUSE)
        if patch.is_active is True and not before.is_active:
            return enabled(after), RevisionCause.ENABLED
        if patch.is_active is False and before.is_active:
            return disabled(after, DisabledReason.USER, self.at), RevisionCause.DISABLED
        if patch.is_active is False and before.disabled_reason is DisabledReason.FAILURES:
            # It is off by somebody's will from now on: no probe enables it.
            return replace(after, disabled_reason=DisabledReason.USER, probe_count=0, probe_at=None), RevisionCause.DISABLED
        return after, RevisionCause.UPDATED


class DeleteEndpoint(msgspec.Struct, frozen=True):
    """Deletes an endpoint for good. Raises EndpointNotFound."""

    tenant: Tenant
    endpoint_id: str
    actor: Actor
    at: Timestamp

    async def apply(self, transaction: Transaction) -> Endpoint:
        before = await transaction.endpoint(self.tenant, self.endpoint_id)
        if before is None:
            raise EndpointNotFound(no_such("webhook", self.endpoint_id))
        after = deleted(before, self.at)
        return await save(transaction, before, after, RevisionCause.DELETED, actor=self.actor, at=self.at)


class RotateSecret(msgspec.Struct, frozen=True):
    """Gives an endpoint a new secret; the one that it had stays in force beside it for *overlap_seconds*.

    Raises EndpointNotFound, RotationInProgress."""

    tenant: Tenant
    endpoint_id: str
    overlap_seconds: int
    actor: Actor
    at: Timestamp

    async def apply(self, transaction: Transaction) -> Endpoint:
        before = await transaction.endpoint(self.tenant, self.endpoint_id)
        if before is None:
            raise EndpointNotFound(no_such("webhook", self.endpoint_id))
        if before.previous_secret_at(self.at) is not None:
            raise RotationInProgress(
                "the secret before this one is still in force, and two at a time are the most: "
                'end that with {"finish": true}, or wait until `previousSecretExpiresAt`'
            )
        after = replace(without_previous_secret(before), secret=signing.new_secret())
        if self.overlap_seconds:
            until = self.at + self.overlap_seconds * SECOND
            after = replace(after, previous_secret=before.secret, previous_secret_until=until)
        action = AuditAction.WEBHOOK_SECRET_ROTATED
        return await save(transaction, before, after, RevisionCause.UPDATED, actor=self.actor, at=self.at, action=action)


class FinishRotation(msgspec.Struct, frozen=True):
    """Takes an endpoint's previous secret out of force, if it has one; with *only_ended* one that is not in force any more at
    *at*. Raises EndpointNotFound."""

    tenant: Tenant
    endpoint_id: str
    actor: Actor
    at: Timestamp
    only_ended: bool = False

    async def apply(self, transaction: Transaction) -> Endpoint:
        before = await transaction.endpoint(self.tenant, self.endpoint_id)
        if before is None:
            raise EndpointNotFound(no_such("webhook", self.endpoint_id))
        is_in_force = before.previous_secret_at(self.at) is not None
        if before.previous_secret_until is None or (self.only_ended and is_in_force):
            return before
        after, action = without_previous_secret(before), AuditAction.WEBHOOK_ROTATION_FINISHED
        return await save(transaction, before, after, RevisionCause.UPDATED, actor=self.actor, at=self.at, action=action)
