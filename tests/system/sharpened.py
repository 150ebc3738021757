"""The API's description of itself, sharpened for a test: requests that are good by it are good for this gateway and this key, and
answers have the shape that was asked for and nothing that the description does not name."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

Json = dict[str, Any]

PAGES = ("/health/live", "/health/ready", "/metrics", "/openapi.json")
_ENVELOPED = "Enveloped"
_METHODS = {"get", "put", "post", "delete", "patch"}


def sharpened(
    document: Json, *, ids: Mapping[tuple[str, str], str], urls: str, is_service_key: bool, is_enveloped: bool, pages: bool
) -> Json:
    """*document* for a key of acme in live mode, or a service key.

    *ids* holds what is there, by method and path; *urls* is the pattern of those that webhooks may have. Without *pages* only
    the operations of the API are left.
    """
    document = copy.deepcopy(document)
    schemas: dict[str, Json] = document["components"]["schemas"]
    for path in PAGES if not pages else ():
        del document["paths"][path]
    for method, path, operation in _operations(document):
        operation["parameters"] = [
            _sharp(parameter, ids.get((method, path)), is_service_key=is_service_key)
            for parameter in operation["parameters"]
            # Only what a page gave is a good cursor; tests of lists page through them.
            if parameter.get("name") != "cursor"
        ]
    for name in _answered(document):
        if "properties" in schemas[name]:
            schemas[name]["additionalProperties"] = False
    for holder in _holders(document["paths"], document["components"]["responses"]):
        holder["oneOf"] = [each for each in holder["oneOf"] if (_ENVELOPED in each["$ref"]) is is_enveloped]
    for name in ("NewWebhook", "WebhookChanges"):
        schemas[name]["properties"]["url"] = {"type": "string", "pattern": urls}
    if is_service_key:
        document["paths"]["/keys"]["post"]["requestBody"]["required"] = True  # it has to name the organization
    for name in ("NewEvent", "NewKey"):
        properties = schemas[name]["properties"]
        properties["organizationId"], properties["mode"] = {"enum": ["acme"]}, {"enum": ["live"]}
        if is_service_key:
            schemas[name]["required"] = [*schemas[name].get("required", ()), "organizationId"]
    schemas["NewKey"]["properties"]["service"] = {"enum": [False, None]}
    return document


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        for method in _METHODS & item.keys():
            yield method, path, item[method]


def _sharp(parameter: Json, id_: str | None, *, is_service_key: bool) -> Json:
    match parameter.get("name"):
        case "id" if id_ is not None:
            return {**parameter, "schema": {"enum": [id_]}}
        case "organizationId":
            return {**parameter, "schema": {"enum": ["acme"]}, "required": is_service_key}
        case "mode":
            return {**parameter, "schema": {"enum": ["live"]}}
        case _:
            return parameter


def _answered(document: Json) -> set[str]:
    """The names of the schemas that answers have."""
    schemas = document["components"]["schemas"]
    found: set[str] = set()
    waiting = [ref for _, _, operation in _operations(document) for ref in _references(operation["responses"])]
    waiting += _references(document["components"]["responses"])
    while waiting:
        kind, _, name = waiting.pop().removeprefix("#/components/").partition("/")
        if kind == "schemas" and name not in found:
            found.add(name)
            waiting += _references(schemas[name])
    return found


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [ref for value in node.values() for ref in _references(value)]
    return [ref for value in node for ref in _references(value)] if isinstance(node, list) else []


def _holders(*nodes: object) -> Iterator[Json]:
    """What offers an answer in both shapes."""
    for node in nodes:
        if isinstance(node, dict):
            if any(
                each.get("$ref", "").removeprefix("#/components/schemas/").startswith(_ENVELOPED)
                for each in node.get("oneOf", ())
            ):
                yield node
            yield from _holders(*node.values())
        elif isinstance(node, list):
            yield from _holders(*node)
