"""`GET /openapi.json`: the API's description of itself, in OpenAPI 3.1.

It is made of what the API works with: its operations, the structs that bodies are read as and answers are written from, and
the kinds of its errors. At the root only, and without a key.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

from gateway.api import problems
from gateway.api.boundary import respond_with
from gateway.api.dialects import PLAIN_SINCE, EnvelopedError, PlainError
from gateway.api.idempotency import MAX_KEY
from gateway.api.operations import PREFIXES, Operation, Shown, TenantIn
from gateway.api.pages import Page, PageAnswer
from gateway.api.parameters import CURSOR, ID_PATTERN, LIMIT, Parameter
from gateway.api.schemas import Schema, Schemas, each_of, one_of, reference
from gateway.api.vocabulary import ModeName, OrganizationId
from gateway.settings import KIB, Settings
from gateway.version import VERSION

_ABOUT = f"""Every operation is served under `/` and under `/api/v1`; what has a server of its own is at the root only.
Where GET is answered, HEAD is as well. Another method is a 405 with `Allow`, another path a 404.

A request is judged in this order, and the first thing wrong with it is the answer: route (404), method (405),
who asks (401), how often (429), may they (403), content type (415), size (413), idempotency (409, or the first
answer again), body and query (400; 403 for another tenant named in it), the thing itself (404, 409).

The header `commet-version` picks the shape of an answer: before {PLAIN_SINCE} it is enveloped, with `success`; from
then on plain. Fields may be added to answers, and unknown fields of bodies are ignored."""

_ORGANIZATION = Parameter(
    "organizationId", OrganizationId, "whose; a service key has to name it, another key may name no other than its own"
)
_EVERYBODYS = Parameter("organizationId", OrganizationId, "whose; everybody's, when a service key does not name it")
_MODE = Parameter("mode", ModeName, "in which mode; a key of one organization may name no other than its own. live, when absent")

_REQUEST_HEADERS: Mapping[str, Schema] = {
    "commet-version": {
        "description": f"The API version, which picks the shape of the answer; an unknown one means the current one. Absent: "
        f"what the organization is pinned to, else 2026-07-11. Before {PLAIN_SINCE} answers are enveloped.",
        "schema": {"type": "string", "examples": ["2026-08-27"]},
    },
    "x-request-id": {
        "description": "An id of the caller's own, given back when it is 1 to 128 letters, digits, `.`, `_` and `-`.",
        "schema": {"type": "string"},
    },
    "Idempotency-Key": {
        "description": "For 24 hours a repeat with the same key gets the first answer, and the work is not done twice.",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
    },
}
_WHOLE_NUMBER: Schema = {"type": "integer", "minimum": 0}
_HEADERS: Mapping[str, Schema] = {
    "x-request-id": {
        "description": "The id of the request, which the log knows it by.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
    },
    "RateLimit-Limit": {"description": "What the key may ask in a second, when there is a limit.", "schema": _WHOLE_NUMBER},
    "RateLimit-Remaining": {"description": "What it may ask at once now.", "schema": _WHOLE_NUMBER},
    "RateLimit-Reset": {"description": "Seconds until it may ask all at once again.", "schema": _WHOLE_NUMBER},
    "Retry-After": {
        "description": "Seconds after which to try again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "Allow": {"description": "The methods that are allowed.", "required": True, "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "The answer is that of an earlier request with this idempotency key.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "ETag": {"description": "Names this version of the document.", "required": True, "schema": {"type": "string"}},
}
_LIMITED = ("x-request-id", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
_UNREAD = (400, 408, 414, 431)  # what is refused before it is known what it asks for
_OF_STATUS = {405: ("x-request-id", "Allow"), 429: (*_LIMITED, "Retry-After"), 503: (*_LIMITED, "Retry-After")}


class OpenApiPage:
    """Shows the document."""

    def __init__(self) -> None:
        self._document = b""
        self._etag = ""

    def page(self) -> Page:
        """What can be asked."""
        return Page(
            name="get_openapi",
            path="/openapi.json",
            handler=self.show,
            summary="Get this document",
            answers=(
                PageAnswer(200, "This document.", view=dict[str, Any], headers=("ETag",)),
                PageAnswer(304, "It is the one that `If-None-Match` names.", content_type="", headers=("ETag",)),
            ),
        )

    def tell(self, operations: Sequence[Operation], pages: Sequence[Page], settings: Settings) -> None:
        """Makes the document of all that there is."""
        document = describe(operations, pages, settings)
        self._document = json.dumps(document, ensure_ascii=False).encode()
        self._etag = f'"{hashlib.sha256(self._document).hexdigest()[:32]}"'

    async def show(self, request: web.Request) -> web.Response:
        known = request.headers.get("If-None-Match", "")
        is_known = known == "*" or self._etag in (each.strip().removeprefix("W/") for each in known.split(","))
        response = respond_with(b"" if is_known else self._document, "application/json")
        response.headers["ETag"] = self._etag
        response.headers["Cache-Control"] = "no-cache"  # it may be kept, and is asked for anew
        if is_known:
            response.set_status(304)
        return response


def describe(operations: Sequence[Operation], pages: Sequence[Page], settings: Settings) -> Schema:
    """The document."""
    schemas = Schemas(operations, pages, {"api.versions": list(settings.api.versions)})
    paths: dict[str, Schema] = {}
    tags: dict[str, str] = {}
    for operation in operations:
        tags.setdefault(_tag(operation), (type(getattr(operation.handler, "__self__", None)).__doc__ or "").partition("\n")[0])
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    for page in pages:
        paths[page.path] = {"servers": [{"url": "/"}], "get": _page(page, schemas)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Webhook gateway", "version": VERSION, "description": _ABOUT},
        "servers": [{"url": prefix or "/"} for prefix in PREFIXES],
        "security": [{"apiKey": []}],
        "tags": [
            *({"name": name, "description": text} for name, text in tags.items()),
            {"name": "gateway", "description": "The gateway itself."},
        ],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "apiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "x-api-key",
                    "description": "`ck_…`: everything in one organization and mode; `rk_…`: what its permissions say there; "
                    "`sk_…`: a service key, which reaches every organization.",
                }
            },
            "parameters": {name: {"name": name, "in": "header", **header} for name, header in _REQUEST_HEADERS.items()},
            "headers": dict(_HEADERS),
            "responses": {f"Error{status}": _error(status) for status in sorted({kind.status for kind in problems.KINDS})},
            "schemas": dict(sorted(schemas.components.items())),
        },
    }


def _tag(operation: Operation) -> str:
    return operation.path.split("/")[1]


def _operation(operation: Operation, schemas: Schemas) -> Schema:
    described: Schema = {
        "operationId": operation.name,
        "tags": [_tag(operation)],
        "summary": operation.summary,
        "description": " ".join(part for part in (operation.description, _who(operation)) if part),
        "parameters": [*_path_parameters(operation, schemas), *_query(operation, schemas), *_headers_of(operation)],
    }
    if operation.body is not None:
        described["requestBody"] = {
            "description": f"At most {_size(operation.max_body_bytes)}.",
            "required": operation.needs_body,
            "content": {"application/json": {"schema": one_of(schemas.of(kind) for kind in each_of(operation.body))}},
        }
    described["responses"] = {
        **_answers(operation, schemas),
        **{str(status): _ref_error(status) for status in _refusals(operation)},
    }
    return described


def _size(count: int) -> str:
    return f"{count // KIB:,} KiB" if count % KIB == 0 else f"{count:,} bytes"


def _who(operation: Operation) -> str:
    if operation.for_operators:
        return "For operators at the gateway's machine: no API key reaches it."
    permission = "Any API key may ask" if operation.permission is None else f"Needs the permission `{operation.permission}`"
    return f"{permission}{', of a service key' if operation.for_all_tenants else ''}."


def _path_parameters(operation: Operation, schemas: Schemas) -> list[Schema]:
    if "{id}" not in operation.path:
        return []
    schema = (
        schemas.of(OrganizationId) if operation.path.startswith("/organizations") else {"type": "string", "pattern": ID_PATTERN}
    )
    return [{"name": "id", "in": "path", "required": True, "schema": schema}]


def _query(operation: Operation, schemas: Schemas) -> list[Schema]:
    tenant = {TenantIn.QUERY: (_ORGANIZATION, _MODE), TenantIn.QUERY_OR_ALL: (_EVERYBODYS, _MODE)}.get(operation.tenant_in, ())
    listed = (LIMIT, CURSOR) if operation.is_list else ()
    return [
        {"name": each.name, "in": "query", "description": each.means, "schema": schemas.of(each.kind)}
        for each in (*operation.query, *listed, *tenant)
    ]


def _headers_of(operation: Operation) -> list[Schema]:
    names = _REQUEST_HEADERS if operation.takes_body else [name for name in _REQUEST_HEADERS if name != "Idempotency-Key"]
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _answers(operation: Operation, schemas: Schemas) -> Schema:
    headers = (*_LIMITED, "Idempotent-Replayed") if operation.takes_body else _LIMITED
    by_status: dict[int, list[Shown]] = {}
    for shown in operation.answers:
        by_status.setdefault(shown.status, []).append(shown)
    return {
        str(status): {
            "description": "; or ".join(_meaning(each, schemas) for each in several),
            "headers": _header_refs(headers),
            "content": {"application/json": {"schema": one_of(shape for each in several for shape in schemas.shapes(each))}},
        }
        for status, several in by_status.items()
    }


def _meaning(shown: Shown, schemas: Schemas) -> str:
    what = f"A page of {schemas.name(shown.view)}" if shown.is_page else schemas.name(shown.view)
    return f"{what}, {shown.means}" if shown.means else what


def _refusals(operation: Operation) -> list[int]:
    """The statuses that refuse or fail the operation. A 405 is no answer of an operation, but of a path that lacks it."""
    statuses = {*_UNREAD, 400, 401, 403, 429, 500, 503}
    if "{id}" in operation.path:
        statuses.add(404)
    if operation.takes_body:
        statuses |= {409, 413, 415}
    return sorted(statuses)


def _page(page: Page, schemas: Schemas) -> Schema:
    refusals = sorted({*_UNREAD, 401, 403, 429, 500, 503} if page.takes_service_key else {*_UNREAD, 500})
    return {
        "operationId": page.name,
        "tags": ["gateway"],
        "summary": page.summary,
        "security": [{"apiKey": []}] if page.takes_service_key else [],
        "description": "Takes a service key." if page.takes_service_key else "Takes no key.",
        "parameters": [{"$ref": "#/components/parameters/x-request-id"}],
        "responses": {
            **{str(status): _ref_error(status) for status in refusals},
            **{str(answer.status): _page_answer(answer, schemas) for answer in page.answers},
        },
    }


def _page_answer(answer: PageAnswer, schemas: Schemas) -> Schema:
    described: Schema = {"description": answer.means, "headers": _header_refs(("x-request-id", *answer.headers))}
    if answer.content_type:
        schema = {"type": "string"} if answer.view is None else schemas.of(answer.view)
        described["content"] = {answer.content_type: {"schema": schema}}
    return described


def _error(status: int) -> Schema:
    meanings = "\n".join(f"- `{kind.code}`: {kind.means}" for kind in problems.KINDS if kind.status == status)
    return {
        "description": f"{HTTPStatus(status).phrase}.\n\n{meanings}",
        "headers": _header_refs(_OF_STATUS.get(status, _LIMITED)),
        "content": {"application/json": {"schema": one_of(reference(shape.__name__) for shape in (PlainError, EnvelopedError))}},
    }


def _ref_error(status: int) -> Schema:
    return {"$ref": f"#/components/responses/Error{status}"}


def _header_refs(names: Iterable[str]) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
