"""The operation on the audit log: it is read, and nothing else."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from gateway.api.cursors import Cursors, scope
from gateway.api.dialects import Answer
from gateway.api.operations import Call, Operation, TenantIn, page
from gateway.api.parameters import SINCE, UNTIL, Id, Parameter, Text
from gateway.api.parts import ApiParts
from gateway.api.vocabulary import OrganizationId, Time
from gateway.clock import isoformat
from gateway.model import AuditAction, AuditEntry, Mode
from gateway.store.protocol import AuditFilter


class AuditEntryView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What somebody has done, as the API shows it."""

    id: str
    object: Literal["audit_entry"] = "audit_entry"
    action: Annotated[str, Meta(extra_json_schema={"enum": list(AuditAction)})]
    target_id: str
    actor: Annotated[str, Meta(description="a key's id, `operator`, `process` or `gateway`")]
    address: Annotated[str | None, Meta(description="the client's; null: the gateway's own machine")]
    changes: Annotated[Mapping[str, Any], Meta(description="by field; never a secret")]
    organization_id: Annotated[OrganizationId | None, Meta(description="null: it concerns no one organization and mode")]
    mode: Mode | None
    livemode: bool | None
    created_at: Time


def audit_entry_view(entry: AuditEntry) -> AuditEntryView:
    """*entry* as the API shows it."""
    tenant = entry.tenant
    return AuditEntryView(
        id=entry.id,
        action=entry.action,
        target_id=entry.target_id,
        actor=entry.actor.id,
        address=entry.actor.address,
        changes=entry.changes,
        organization_id=None if tenant is None else tenant.organization_id,
        mode=None if tenant is None else tenant.mode,
        livemode=None if tenant is None else tenant.livemode,
        created_at=isoformat(entry.at),
    )


class AuditLog:
    """Shows who did what."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts
        self._cursors = Cursors(parts.cursor_key)

    def operations(self) -> list[Operation]:
        """What can be done with the audit log."""
        return [
            Operation(
                name="list_audit_log",
                method="GET",
                path="/audit-log",
                permission="audit:read",
                handler=self.page,
                summary="List who changed what",
                query=(
                    Parameter("actor", Id, "only what this key, `operator`, `process` or `gateway` did"),
                    Parameter("action", AuditAction, "only this"),
                    Parameter("targetId", Text, "only what was done to this"),
                    SINCE,
                    UNTIL,
                ),
                answers=(page(AuditEntryView),),
                tenant_in=TenantIn.QUERY_OR_ALL,
            )
        ]

    async def page(self, call: Call) -> Answer:
        parameters = call.parameters
        only = AuditFilter(
            actor=parameters.id("actor"),
            action=parameters.member("action", AuditAction),
            target_id=parameters.text("targetId"),
            since=parameters.timestamp("since"),
            until=parameters.timestamp("until"),
        )
        list_ = scope("audit log", call.named_tenant, only)
        below = None if call.faults else parameters.cursor(self._cursors, list_)
        limit = parameters.limit()
        call.check()
        page = await self._parts.log.audit_log(call.named_tenant, only, below=below, limit=limit)
        return call.dialect.page([audit_entry_view(entry) for entry in page.items], self._cursors.seal(list_, page.next_below))
