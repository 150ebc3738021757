"""Judges each request in the contract's order, and answers it.

Route (404), method (405), who asks (401), how often (429), may they (403), content type (415), size (413), idempotency
(409, or the first answer again); then the operation: body and query (400; 403 for another tenant), the thing itself
(404, 409).
"""

import functools
from collections.abc import Sequence

from aiohttp import web
from multidict import MultiDict

from gateway.api import problems
from gateway.api.auth import Principal, tenant_of
from gateway.api.boundary import ACTOR, DIALECT, respond
from gateway.api.client_address import ClientAddresses
from gateway.api.dialects import Answer, Dialects
from gateway.api.idempotency import Idempotency, Ticket, identify
from gateway.api.operations import PREFIXES, Call, Operation, TenantIn
from gateway.api.parameters import Parameters
from gateway.api.parts import ApiParts
from gateway.api.problems import Fault, Problem
from gateway.api.request_body import read_body
from gateway.clock import Timestamp
from gateway.model import Tenant
from gateway.registry.organizations import RESERVED, is_reserved

_NO_QUERY: MultiDict[str] = MultiDict()


class Pipeline:
    """Lets requests in, or refuses them. With an *authority* every request has it, and no key is asked for."""

    def __init__(self, parts: ApiParts, *, dialects: Dialects, authority: Principal | None) -> None:
        self._clock = parts.clock
        self._keys = parts.keys
        self._look_for_news = parts.look_for_news
        self._authority = authority
        self._dialects = dialects
        self._idempotency = Idempotency(parts.log)
        self._limiter = parts.limiter
        self._bad_keys = parts.bad_keys
        self._addresses = ClientAddresses(parts.settings.http.trusted_proxies)

    async def run(self, operation: Operation, request: web.Request) -> web.Response:
        """The answer of *operation*. Raises Problem and GatewayError."""
        headers = request.headers
        now = self._clock.now()
        principal = await self._authenticate(request, now)
        organization_id = None if principal.tenant is None else principal.tenant.organization_id
        request[ACTOR] = principal.actor
        version = headers.get("commet-version")
        dialect = request[DIALECT] = self._dialects.pick(version, organization_id)
        limits = () if self._limiter is None else self._limit(principal)
        if operation.for_operators and principal.key is not None:
            raise problems.forbidden("this is for operators at the gateway's machine, and no API key reaches it")
        if operation.permission is not None and not principal.allows(operation.permission):
            raise problems.forbidden(f"the API key lacks the permission `{operation.permission}`")
        if operation.for_all_tenants and principal.tenant is not None:
            raise problems.forbidden("this takes a service key, which reaches every organization")
        body = await read_body(request, operation.max_body_bytes) if operation.takes_body else b""
        ticket: Ticket | None = None
        if operation.takes_body and "Idempotency-Key" in headers:
            begun = await self._begin(request, principal, body, now)
            if isinstance(begun, Answer):
                return respond(begun, (*limits, ("Idempotent-Replayed", "true")))
            ticket = begun
        is_answered = False
        try:
            faults: list[Fault] = []
            has_query = bool(request.rel_url.raw_query_string)
            parameters = Parameters(request.query if has_query else _NO_QUERY, faults)
            tenant = principal.tenant
            if has_query or (tenant is None and operation.tenant_in is not TenantIn.BODY):
                tenant = _named_tenant(operation, principal, parameters, faults)
            if tenant is not None and version is None and organization_id is None:
                dialect = request[DIALECT] = self._dialects.pick(None, tenant.organization_id)
            if tenant is not None and operation.permission == "webhook:write" and is_reserved(tenant.organization_id):
                raise problems.forbidden(f"{RESERVED}; its webhook is set by `operations.url` and `operations.secret`")
            id_ = request.match_info.get("id", "")
            address = functools.partial(self._addresses.of, request)
            call = Call(principal, dialect, now, id_, parameters, body, faults, tenant, ticket, address, operation)
            answer = await operation.handler(call)
            is_answered = True
        finally:
            if ticket is not None:
                await self._idempotency.end(ticket, is_answered=is_answered)
        return respond(answer, limits)

    async def admit_service(self, request: web.Request) -> None:
        """Lets in whoever reaches all organizations, whatever else a key may do. Raises Problem for others."""
        principal = await self._authenticate(request, self._clock.now())
        if principal.tenant is not None:
            raise problems.forbidden("this takes a service key, which reaches every organization")

    async def _authenticate(self, request: web.Request, now: Timestamp) -> Principal:
        if self._authority is not None:
            return self._authority
        text = request.headers.get("x-api-key")
        principal = self._keys.authenticate(text, now) if text else None
        if principal is not None:
            return principal
        address = None if self._bad_keys is None else self._addresses.of(request)
        if self._bad_keys is not None and address is not None:
            self._bad_keys.count(address, self._clock.monotonic())
        if not text:
            raise Problem(problems.UNAUTHORIZED, "an API key is required; send it as the header `x-api-key`")
        if self._look_for_news is not None:
            # Another node may have made it a moment ago.
            await self._look_for_news()
            principal = self._keys.authenticate(text, now)
        if principal is None:
            raise Problem(problems.UNAUTHORIZED, "the API key is not known, has expired or was revoked")
        if self._bad_keys is not None and address is not None:
            self._bad_keys.forgive(address)
        return principal

    def _limit(self, principal: Principal) -> Sequence[tuple[str, str]]:
        """The headers that say where the key stands; an operator has no limit."""
        if self._limiter is None or principal.key is None:
            return ()
        standing = self._limiter.take(principal.actor, self._clock.monotonic())
        if not standing.allowed:
            raise Problem(problems.RATE_LIMITED, "too many requests with this API key; slow down", headers=standing.headers())
        return standing.headers()

    async def _begin(self, request: web.Request, principal: Principal, body: bytes, now: Timestamp) -> Ticket | Answer:
        keys = request.headers.getall("Idempotency-Key")
        if len(keys) > 1:
            raise problems.invalid([("Idempotency-Key", "must not be repeated")])
        url = request.rel_url
        tenant = principal.tenant
        identity = identify(
            actor=principal.actor,
            credential=principal.actor if principal.key is None else request.headers["x-api-key"],
            key=keys[0],
            request=(
                request.method.encode(),
                url.raw_path.removeprefix(PREFIXES[1]).encode(),
                url.raw_query_string.encode(),
                # Who reaches all names the tenant in the query or the body.
                b"" if tenant is None else f"{tenant.mode} {tenant.organization_id}".encode(),
                body,
            ),
        )
        return await self._idempotency.begin(identity, now)


def _named_tenant(operation: Operation, principal: Principal, parameters: Parameters, faults: list[Fault]) -> Tenant | None:
    if principal.tenant is None and operation.tenant_in is TenantIn.NOWHERE:
        return None
    organization_id, mode = parameters.one("organizationId"), parameters.one("mode")
    if principal.tenant is None and operation.tenant_in is TenantIn.BODY:
        for name, value in (("organizationId", organization_id), ("mode", mode)):
            if value is not None:
                faults.append((name, "must be named in the body here, not in the query"))
        return None
    return tenant_of(principal, organization_id, mode, faults, required=operation.tenant_in is TenantIn.QUERY)
