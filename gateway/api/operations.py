"""What the API can do: its operations as data, and the call that each one's handler gets."""

from collections.abc import Awaitable, Callable
from enum import Enum

import msgspec
from msgspec import UNSET

from gateway.api.auth import Principal, tenant_of
from gateway.api.dialects import Answer, Dialect
from gateway.api.idempotency import Ticket
from gateway.api.parameters import Parameters
from gateway.api.problems import Fault, invalid
from gateway.api.validation import Body
from gateway.clock import Timestamp
from gateway.model import Actor, Tenant
from gateway.settings import KIB

PREFIXES = ("", "/api/v1")
"""Every operation is served under each."""

MAX_BODY = 64 * KIB

_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class TenantIn(Enum):
    """Where a key that reaches all names the tenant of a request. A tenant's key always has its own."""

    QUERY = "query"
    QUERY_OR_ALL = "query or all"  # absent: everybody's
    BODY = "body"  # the handler reads it
    NOWHERE = "nowhere"


class Call(msgspec.Struct):
    """A request that has been let in, for its operation's handler.

    Handlers read parameters and the body, which gathers `faults`; they `check()` before they go on.
    """

    principal: Principal
    dialect: Dialect
    now: Timestamp
    id: str  # the one in the path; empty when it has none
    parameters: Parameters
    body: bytes
    faults: list[Fault]
    named_tenant: Tenant | None  # None: not named (yet), or everybody
    ticket: Ticket | None  # of a request with an `Idempotency-Key`
    client_address: Callable[[], str | None]  # looked up only for what changes something

    @property
    def tenant(self) -> Tenant:
        """The tenant of an operation that needs one. Raises the faults when it is not known."""
        if self.named_tenant is None:
            raise invalid(self.faults)
        return self.named_tenant

    @property
    def actor(self) -> Actor:
        """Who is on record as having done it."""
        return Actor(self.principal.actor, self.client_address())

    def read_body(self, *, null_is_absent: bool = False) -> Body:
        """The body as an object. A tenant's key may name no other tenant in it."""
        body = Body(self.body, self.faults, null_is_absent=null_is_absent)
        if self.principal.tenant is not None:
            organization_id, mode = (_name(body, field) for field in ("organizationId", "mode"))
            tenant_of(self.principal, organization_id, mode, self.faults)
        return body

    def check(self) -> None:
        """Raises a 400 with everything that is wrong so far."""
        if self.faults:
            raise invalid(self.faults)


def _name(body: Body, field: str) -> str | None:
    """The string in *field*; null names nobody."""
    value = body.value(field)
    if value is None or isinstance(value, str):
        return value
    if value is not UNSET:
        body.refuse(field, "must be a string")
    return None


Handler = Callable[[Call], Awaitable[Answer]]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the API can do."""

    name: str
    method: str
    path: str  # below the prefix; `{id}` stands for an id
    permission: str | None  # `resource:verb`; None: any key
    handler: Handler
    summary: str
    tenant_in: TenantIn = TenantIn.QUERY
    for_all_tenants: bool = False  # of no use to a tenant's key
    max_body_bytes: int = MAX_BODY

    @property
    def takes_body(self) -> bool:
        """Whether a body is read, and an `Idempotency-Key` heeded."""
        return self.method in _METHODS_WITH_BODY
