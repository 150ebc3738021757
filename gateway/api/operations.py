"""What the API can do: its operations as data, and the call that each one's handler gets."""

from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from gateway.api.auth import Principal, tenant_of
from gateway.api.dialects import Answer, Dialect
from gateway.api.idempotency import Ticket
from gateway.api.json_body import Body, Check, JsonObject
from gateway.api.parameters import Parameter, Parameters
from gateway.api.problems import Fault, invalid
from gateway.clock import Timestamp
from gateway.model import Actor, Tenant
from gateway.settings import KIB

PREFIXES = ("", "/api/v1")
"""Every operation is served under each."""

MAX_BODY = 64 * KIB

S = TypeVar("S", bound=msgspec.Struct)

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
    operation: "Operation"

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

    def read_body(self, kind: type[S], checks: Mapping[str, Check] | None = None) -> Body[S]:
        """The body, read as a *kind*. A tenant's key may name no other tenant in it."""
        assert kind is getattr(self.operation.body, "__origin__", self.operation.body), (
            f"{self.operation.name} has to say that it takes a {kind.__name__}"
        )
        given = JsonObject(self.body)
        if self.principal.tenant is not None:
            organization_id, mode = (self._name(given, field) for field in ("organizationId", "mode"))
            tenant_of(self.principal, organization_id, mode, self.faults)
        return Body(given, kind, self.faults, checks)

    def _name(self, given: JsonObject, field: str) -> str | None:
        """The string in *field*; null names nobody."""
        value = given.value(field)
        if value is None or isinstance(value, str):
            return value
        if value is not UNSET:
            self.faults.append((field, "must be a string"))
        return None

    def check(self) -> None:
        """Raises a 400 with everything that is wrong so far."""
        if self.faults:
            raise invalid(self.faults)


Handler = Callable[[Call], Awaitable[Answer]]


class Shown(msgspec.Struct, frozen=True):
    """An answer that an operation gives, by its struct."""

    view: Any  # the struct; several in a tuple: one of them
    status: int
    is_page: bool
    means: str  # beyond the operation's summary


def one(view: Any, status: int = 200, *, means: str = "") -> Shown:
    """An answer with a single *view*."""
    return Shown(view, status, is_page=False, means=means)


def page(view: Any, status: int = 200, *, means: str = "") -> Shown:
    """An answer with a page of *view*s."""
    return Shown(view, status, is_page=True, means=means)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the API can do. All that it says of itself stands in the API's description, which is made of it."""

    name: str
    method: str
    path: str  # below the prefix; `{id}` stands for an id
    permission: str | None  # `resource:verb`; None: any key
    handler: Handler
    summary: str
    description: str = ""
    body: Any = None  # the struct that its body is read as; several in a tuple: one of them; None: it needs none
    needs_body: bool = True  # whether a body has to be there
    query: tuple[Parameter, ...] = ()  # what it reads, beyond the tenant, and the limit and cursor of a list
    answers: tuple[Shown, ...]
    tenant_in: TenantIn = TenantIn.QUERY
    for_all_tenants: bool = False  # of no use to a tenant's key
    for_operators: bool = False  # of no use to any key
    max_body_bytes: int = MAX_BODY

    @property
    def takes_body(self) -> bool:
        """Whether a body is read, and an `Idempotency-Key` heeded."""
        return self.method in _METHODS_WITH_BODY

    @property
    def is_list(self) -> bool:
        """Whether it is asked for page by page."""
        return self.method == "GET" and any(shown.is_page for shown in self.answers)
