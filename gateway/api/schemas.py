"""The structs that bodies are read as and answers are written from, as JSON Schema: the components of the API's description."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.api import problems
from gateway.api.dialects import EnvelopedError, EnvelopedOne, EnvelopedPage, PlainError, PlainPage
from gateway.api.operations import Operation, Shown
from gateway.api.pages import Page
from gateway.api.parameters import CURSOR, LIMIT
from gateway.api.vocabulary import ModeName, OrganizationId

Schema = dict[str, Any]

_SCHEMAS = "#/components/schemas/"
_SHAPES = (EnvelopedOne, EnvelopedPage, PlainPage, EnvelopedError, PlainError)


def reference(name: str) -> Schema:
    """A reference to a component."""
    return {"$ref": _SCHEMAS + name}


def one_of(schemas: Iterable[Schema]) -> Schema:
    """What is one of *schemas*."""
    several = list(schemas)
    return several[0] if len(several) == 1 else {"oneOf": several}


def each_of(kinds: Any) -> tuple[Any, ...]:
    """One type, or the several in a tuple."""
    return kinds if isinstance(kinds, tuple) else (kinds,)


class Schemas:
    """The schemas of the structs. A view's bears its name without that word."""

    def __init__(self, operations: Sequence[Operation], pages: Sequence[Page], settings: Mapping[str, list[str]]) -> None:
        self._settings = settings
        kinds: list[Any] = [*_SHAPES, problems.ErrorView, OrganizationId, ModeName, LIMIT.kind, CURSOR.kind]
        for operation in operations:
            kinds += [kind for shown in operation.answers for kind in each_of(shown.view)]
            kinds += () if operation.body is None else each_of(operation.body)
            kinds += [parameter.kind for parameter in operation.query]
        kinds += [answer.view for page in pages for answer in page.answers if answer.view is not None]
        schemas, components = msgspec.json.schema_components(kinds, ref_template=_SCHEMAS + "{name}")
        self._schemas = [(kind, self._finished(schema)) for kind, schema in zip(kinds, schemas, strict=True)]
        self.components: dict[str, Schema] = {}
        for name, schema in components.items():
            if name.endswith("View") or name in {shape.__name__ for shape in _SHAPES}:
                _always_there(schema)
            self.components[_shown(name)] = self._finished(schema)
        self.components.pop(msgspec.Struct.__name__)  # whatever `data` holds
        # Else what is enveloped would be plain as well.
        self.components[PlainError.__name__]["not"] = {"required": ["success"]}
        self._shapes: dict[type[msgspec.Struct], Schema] = {
            shape: self.components.pop(shape.__name__) for shape in (EnvelopedOne, EnvelopedPage, PlainPage)
        }

    def of(self, kind: Any) -> Schema:
        """The schema of a type: a reference to it, when it is a struct."""
        return next(schema for known, schema in self._schemas if known is kind)

    def name(self, view: Any) -> str:
        """The name of a view in the document."""
        return "Or".join(_shown(each.__name__) for each in each_of(view))

    def shapes(self, shown: Shown) -> list[Schema]:
        """The plain and the enveloped shape of an answer."""
        name = self.name(shown.view)
        item = one_of(self.of(view) for view in each_of(shown.view))
        if not shown.is_page:
            return [item, self._shape(EnvelopedOne, f"Enveloped{name}", item)]
        items = {"type": "array", "items": item}
        return [self._shape(PlainPage, f"{name}Page", items), self._shape(EnvelopedPage, f"Enveloped{name}Page", items)]

    def _shape(self, shape: type[msgspec.Struct], name: str, data: Schema) -> Schema:
        base = self._shapes[shape]
        self.components[name] = {**base, "title": name, "properties": {**base["properties"], "data": data}}
        return reference(name)

    def _finished(self, node: Any) -> Any:
        """*node* with our names, and with the values that settings hold."""
        if isinstance(node, list):
            return [self._finished(each) for each in node]
        if not isinstance(node, dict):
            return node
        finished = {name: self._finished(value) for name, value in node.items() if name != "x-setting"}
        if "x-setting" in node:
            finished["enum"] = self._settings[node["x-setting"]]
        if isinstance(ref := node.get("$ref"), str):
            finished["$ref"] = _shown(ref)
        if isinstance(title := node.get("title"), str):
            finished["title"] = _shown(title)
        return finished


def _shown(name: str) -> str:
    return name.removesuffix("View")


def _always_there(schema: Schema) -> None:
    """An answer has all of its fields but those that are UNSET by default, which have no default to msgspec."""
    properties: dict[str, Schema] = schema["properties"]
    required = set(schema.get("required", ()))
    schema["required"] = [name for name, each in properties.items() if name in required or "default" in each]
    for each in properties.values():
        each.pop("default", None)
