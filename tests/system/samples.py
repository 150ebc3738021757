"""Sample payloads for every event type, made from the schemas that the published client library ships.

The same on every run. An object has all of its properties, and each choice that a schema leaves falls elsewhere in the next
sample, so that together they show most of what receivers may meet.
"""

import functools
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commet
from jsonschema import Draft202012Validator

Schema = Mapping[str, Any]

_MOMENT = "2026-03-25T14:30:00.000Z"
_WORDS = ("Acme Corp", "Größe M", "東京", 'a "quoted" word', "line\nbreak", "<b>&amp;</b>", "🚀", "\u2028", "")


@dataclass(frozen=True)
class Sample:
    """An event of one type."""

    event: str
    data: bytes  # a JSON object, spaced as no library would do it: it has to arrive byte for byte
    body: Draft202012Validator  # of what an endpoint receives


@functools.cache
def samples() -> tuple[Sample, ...]:
    """One for each type."""
    text = Path(commet.__file__).with_name("docs").joinpath("webhooks.openapi.json").read_text(encoding="utf-8")
    document = json.loads(text)
    made: list[Sample] = []
    for event, operation in document["webhooks"].items():
        schema = operation["post"]["requestBody"]["content"]["application/json"]["schema"]
        generator = _Generator(document["components"]["schemas"], itertools.count(len(made)))
        data = json.dumps(generator.value("data", schema["properties"]["data"]), ensure_ascii=False, indent=1)
        body = Draft202012Validator({**schema, "components": document["components"]})
        made.append(Sample(event, data.encode(), body))
    return tuple(made)


class _Generator:
    def __init__(self, components: Schema, numbers: Iterator[int]) -> None:
        self._components = components
        self._numbers = numbers

    def value(self, name: str, schema: Schema) -> object:  # noqa: C901, PLR0911 - one line for each kind of schema
        """Something that *schema* allows; *name* is that of the property."""
        number = next(self._numbers)
        match schema:
            case {"$ref": str(reference)}:
                return self.value(name, self._components[reference.rpartition("/")[2]])
            case {"const": constant}:
                return constant
            case {"enum": choices} | {"anyOf": [{"enum": choices}]}:
                return choices[number % len(choices)]
            case {"anyOf": schemas} | {"oneOf": schemas}:
                return self.value(name, schemas[number % len(schemas)])
            case {"type": "object"}:
                return self._object(schema)
            case {"type": "array", "items": items}:
                return [self.value(name, items) for _ in range(number % 3)]
            case {"type": "string"}:
                return self._text(name, schema, number)
            case {"type": "integer"}:
                return int(schema.get("exclusiveMinimum", schema.get("minimum", -3))) + 1 + number
            case {"type": "number"}:
                return number * 1.25 if number % 2 else number * 100
            case {"type": "boolean"}:
                return number % 2 == 0
            case {"type": "null"}:
                return None
        return {"anything": [name, number]}

    def _object(self, schema: Schema) -> dict[str, object]:
        known = {name: self.value(name, property_) for name, property_ in schema.get("properties", {}).items()}
        if schema.get("additionalProperties") == {}:
            known |= {"key": "value", "ключ": {"nested": [1, None]}}
        return known

    def _text(self, name: str, schema: Schema, number: int) -> str:
        if schema.get("format") == "date-time" or name.endswith("At"):
            return _MOMENT
        if name.endswith("Id"):
            return f"{name.removesuffix('Id')}_{number:08x}"
        return _WORDS[number % len(_WORDS)]
