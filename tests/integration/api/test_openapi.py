"""`GET /openapi.json`: the API's description of itself, complete and true. (Whether answers keep to it: tests/system.)"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from jsonschema import Draft202012Validator

from gateway.api import problems
from gateway.api.auth import OPERATOR
from gateway.api.operations import PREFIXES
from gateway.api.server import operations
from gateway.settings import Api as ApiSettings
from gateway.settings import Settings
from tests.integration.api.conftest import Api, serve

Json = dict[str, Any]

PAGES = {"/health/live", "/health/ready", "/metrics", "/openapi.json"}
METHODS = {"get", "put", "post", "delete", "patch"}
WEBHOOK = {"id", "object", "livemode", "url", "events", "description", "isActive", "apiVersion", "createdAt"}
"""What the contract promises of a webhook."""


@pytest.fixture
async def document(api: Api) -> Json:
    found: Json = await api.json("GET", "/openapi.json", key="")
    return found


def every(node: object, name: str) -> Iterator[Any]:
    """What stands under *name*, anywhere."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == name:
                yield value
            yield from every(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from every(value, name)


def found(document: Json, reference: str) -> Any:
    node: Any = document
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


def described(document: Json) -> dict[tuple[str, str], Json]:
    """Its operations, by method and path."""
    return {(method, path): item[method] for path, item in document["paths"].items() for method in METHODS & item.keys()}


def schema_of(document: Json, name: str) -> Json:
    schema: Json = document["components"]["schemas"][name]
    return schema


def shapes(document: Json, operation: Json, status: int) -> set[str]:
    """The names of the shapes of an answer."""
    schema = operation["responses"][str(status)]["content"]["application/json"]["schema"]
    return {each["$ref"].rpartition("/")[2] for each in schema["oneOf"]}


async def test_it_is_openapi(document: Json):
    """By the specification's own schema; each schema in it is one of JSON Schema, and every reference leads somewhere."""
    schemathesis.openapi.from_dict(document).validate()
    assert document["openapi"].startswith("3.1.")
    for name, schema in document["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert schema["title"] == name
    references = set(every(document, "$ref"))
    assert len(references) > 50
    for reference in references:
        assert found(document, reference), reference


async def test_nothing_in_it_is_of_no_use(document: Json):
    """Every component is referred to, but for the answer to a method that a path lacks, which belongs to no operation."""
    references = set(every(document, "$ref"))
    for kind in ("schemas", "responses", "parameters", "headers"):
        for name in document["components"][kind]:
            assert f"#/components/{kind}/{name}" in references or name == "Error405", name


async def test_it_describes_what_there_is_and_nothing_else(api: Api, document: Json):
    """Every route of the server is in it, and every operation of it is one, with the permission that it needs."""
    assert api.client.app is not None
    routes = {resource.canonical for resource in api.client.app.router.resources()}
    known = operations(api.parts)
    assert routes == PAGES | {prefix + operation.path for operation in known for prefix in PREFIXES}
    assert described(document).keys() == {
        *((operation.method.lower(), operation.path) for operation in known),
        *(("get", path) for path in PAGES),
    }
    for operation in known:
        own = described(document)[operation.method.lower(), operation.path]
        assert own["operationId"] == operation.name
        assert own["summary"] == operation.summary
        says = "no API key" if operation.for_operators else f"`{operation.permission}`" if operation.permission else "Any API key"
        assert says in own["description"]
        assert ("requestBody" in own) is (operation.body is not None)
        assert {shown.status for shown in operation.answers} == {int(status) for status in own["responses"] if status < "3"}
        assert own["tags"][0] in {tag["name"] for tag in document["tags"] if tag["description"]}
    assert [server["url"] for server in document["servers"]] == ["/", "/api/v1"]


async def test_every_name_of_an_operation_is_its_own(document: Json):
    """Clients are made of them."""
    names = list(every(document["paths"], "operationId"))
    assert len(names) == len(set(names)) == len(described(document))


async def test_every_error_is_in_it(document: Json):
    """Each kind with its status, and its code and type among those of an error."""
    error = schema_of(document, "Error")["properties"]
    assert set(error["code"]["enum"]) == {kind.code for kind in problems.KINDS}
    assert set(error["type"]["enum"]) == {kind.type for kind in problems.KINDS}
    for kind in problems.KINDS:
        assert f"`{kind.code}`: {kind.means}" in document["components"]["responses"][f"Error{kind.status}"]["description"]


async def test_refusals_are_those_that_an_operation_can_give(document: Json):
    """409, 413 and 415 where a body is taken; 404 where a thing is named; others everywhere."""
    always = {"400", "401", "403", "408", "414", "429", "431", "500", "503"}
    for (method, path), operation in described(document).items():
        assert {"400", "408", "414", "431"} <= operation["responses"].keys(), path  # before it is known what is asked for
        if path not in PAGES:
            expected = always | ({"404"} if "{id}" in path else set())
            expected |= {"409", "413", "415"} if method in {"post", "put", "patch"} else set()
            assert {status for status in operation["responses"] if status >= "4"} == expected, path
    responses = document["components"]["responses"]
    assert "Allow" in responses["Error405"]["headers"]
    for status in (429, 503):
        assert document["components"]["headers"]["Retry-After"]["required"]
        assert {"Retry-After", "x-request-id", "RateLimit-Limit"} <= responses[f"Error{status}"]["headers"].keys()


async def test_it_keeps_the_contract(document: Json):
    """The fields, limits, statuses and shapes that clients were promised."""
    webhook = schema_of(document, "Webhook")
    assert set(webhook["required"]) >= WEBHOOK
    assert "secretKey" in webhook["properties"].keys() - set(webhook["required"])
    assert set(schema_of(document, "DeletedWebhook")["required"]) == {"id", "deleted", "object", "livemode"}
    assert set(schema_of(document, "Test")["required"]) == {"success", "deliveryId", "deliveredAt", "object", "livemode"}
    new, changes = schema_of(document, "NewWebhook"), schema_of(document, "WebhookChanges")
    assert set(new["required"]) == {"url", "events"}
    assert new["properties"].keys() == {"url", "events", "description", "apiVersion", "headers"}
    assert changes.get("required", []) == []
    assert changes["properties"].keys() == {"url", "events", "description", "apiVersion", "headers", "isActive"}
    assert list(every(new["properties"]["description"], "maxLength")) == [500]
    operations = described(document)
    assert shapes(document, operations["post", "/webhooks"], 201) == {"Webhook", "EnvelopedWebhook"}
    assert shapes(document, operations["get", "/webhooks"], 200) == {"WebhookPage", "EnvelopedWebhookPage"}
    assert set(schema_of(document, "EnvelopedWebhook")["required"]) == {"success", "data"}
    assert set(schema_of(document, "EnvelopedWebhookPage")["required"]) == {"success", "data", "hasMore", "nextCursor"}
    page = schema_of(document, "WebhookPage")
    assert set(page["required"]) == {"object", "data", "hasMore"}
    assert set(page["properties"]) == {"object", "data", "hasMore", "nextCursor"}
    error = schema_of(document, "Error")
    assert set(error["required"]) == {"type", "code", "message", "param", "details", "doc_url"}
    named = {each.get("name") for each in operations["get", "/webhooks"]["parameters"]}
    assert named >= {"limit", "cursor", "organizationId", "mode"}
    for (method, path), operation in operations.items():
        names = {each.get("name") or found(document, each["$ref"])["name"] for each in operation["parameters"]}
        assert ("Idempotency-Key" in names) is (method in {"post", "put", "patch"}), path
        assert ("commet-version" in names) is (path not in PAGES)
        assert ("id" in names) is ("{id}" in path)


async def test_a_setting_shows(tmp_path: Path):
    """The versions that may be given are those that this gateway knows."""
    async with serve(tmp_path, Settings(api=ApiSettings(versions=("2026-07-11", "2027-01-01")))) as api:
        document = await api.json("GET", "/openapi.json")
        version = schema_of(document, "NewWebhook")["properties"]["apiVersion"]
        assert list(every(version, "enum")) == [["2026-07-11", "2027-01-01"]]
        assert list(every(document, "x-setting")) == []


async def test_every_parameter_of_a_list_is_read_and_no_other(api: Api, document: Json):
    """What is read may not be repeated; what is not is ignored."""
    lists = {path: item["get"] for path, item in document["paths"].items() if "get" in item and path not in PAGES}
    lists = {path: operation for path, operation in lists.items() if "{id}" not in path}
    names = {each["name"] for operation in lists.values() for each in operation["parameters"] if each.get("in") == "query"}
    assert len(lists) >= 7
    service = await api.make_key(None)
    for path, operation in lists.items():
        own = {each["name"] for each in operation["parameters"] if each.get("in") == "query"}
        tenant = {"organizationId": "acme"} if "organizationId" in own else {}
        for name in names:
            query = "&".join(f"{each}={value}" for each, value in (*tenant.items(), (name, "a.b"), (name, "a.b")) if each != name)
            answer = await api.ask("GET", f"{path}?{query}&{name}=acme&{name}=acme", key=service)
            assert answer.status == (400 if name in own else 200), (path, name, await answer.text())


async def test_it_is_for_everybody_and_may_be_kept(api: Api):
    """Without a key, at the root only; whoever has it asks whether it is still the same."""
    first = await api.ask("GET", "/openapi.json", key="")
    assert first.status == 200
    assert first.headers["Content-Type"] == "application/json"
    etag = first.headers["ETag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = await api.ask("GET", "/openapi.json", key="", headers={"If-None-Match": known})
        assert (again.status, await again.read(), again.headers["ETag"]) == (304, b"", etag)
        assert again.headers["x-request-id"]
    assert (await api.ask("GET", "/openapi.json", key="", headers={"If-None-Match": '"other"'})).status == 200
    assert (await api.ask("GET", "/api/v1/openapi.json")).status == 404
    refused = await api.ask("POST", "/openapi.json")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")


async def test_operators_get_the_same(tmp_path: Path):
    """Over their socket."""
    async with serve(tmp_path, Settings(), authority=OPERATOR) as api:
        document = await api.json("GET", "/openapi.json", key="")
        schemathesis.openapi.from_dict(document).validate()
