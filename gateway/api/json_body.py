"""Reading a JSON body as a struct: field by field, so that everything wrong with it is told in one answer. Pure.

The struct says what may be in the body, and describes it in the API's own description as well.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import FieldInfo

from gateway.api.problems import INVALID_JSON, Fault, Problem, invalid

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

Check = Callable[[Any], Iterable[Fault]]
"""What is wrong with a field's value, which may be any JSON; each with its place in the field: `` for all of it, or `[3]`."""

NO_NUL = r"^[^\u0000]*$"
"""The pattern of texts that are kept: a NUL is no character."""

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANYTHING = msgspec.json.Decoder()
_SYNTAX = msgspec.json.Decoder(msgspec.Raw)  # takes JSON of any form
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def read_json(raw: bytes | msgspec.Raw, decode: Callable[[bytes | msgspec.Raw], T]) -> T:
    """What *decode* makes of *raw*.

    Raises msgspec.ValidationError for JSON of another form, and a 400 for what is no JSON. All of it has to be UTF-8,
    also what *decode* skips.
    """
    try:
        if isinstance(raw, bytes) and not raw.isascii():
            raw.decode()
        return decode(raw)
    except msgspec.ValidationError:
        # Its form is wrong so far; whether it is JSON at all shows at its end.
        read_json(raw, _SYNTAX.decode)
        raise
    except UnicodeDecodeError as error:
        raise Problem(INVALID_JSON, f"the body is not UTF-8 (byte {error.start})") from error
    except msgspec.DecodeError as error:
        if any(escape["half"] for escape in _ESCAPE.finditer(bytes(raw))):
            raise Problem(
                INVALID_JSON, r"the body holds half of a surrogate pair such as `\ud83d`, which is no character"
            ) from error
        raise Problem(INVALID_JSON, f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise Problem(INVALID_JSON, "the body is nested too deeply") from error


def is_blank(raw: bytes | msgspec.Raw) -> bool:
    """Whether there is nothing in *raw*, which is as good as no body."""
    return not bytes(raw).strip(b" \t\r\n")


class JsonObject:
    """A body as it came: a JSON object, whose fields have yet to be read. Raises a 400 for anything else."""

    def __init__(self, raw: bytes | msgspec.Raw) -> None:
        self._fields: Mapping[str, msgspec.Raw] = {}
        if not is_blank(raw):
            try:
                self._fields = read_json(raw, _OBJECT.decode)
            except msgspec.ValidationError:
                raise invalid([("body", "must be a JSON object")]) from None

    def raw(self, name: str) -> bytes | UnsetType:
        """The field's bytes as they came, copied out of the body; UNSET for an absent one."""
        raw = self._fields.get(name)
        return UNSET if raw is None else bytes(raw)

    def value(self, name: str) -> Any:
        """Any JSON value; UNSET for an absent field."""
        raw = self.raw(name)
        if isinstance(raw, UnsetType):
            return UNSET
        try:
            return _ANYTHING.decode(raw)
        except msgspec.ValidationError:  # a number out of all ranges, which no field takes
            return float("nan")


class Body(Generic[S]):
    """A JSON object read as an S. What is wrong with it is added to *faults*; a field that these speak of already is let be.

    A field without a default is required. Null is a value where the field's type has None, and as good as absent where the
    field is required; elsewhere it is as wrong as any other. *checks*, by the fields' names, judge in place of the types.
    """

    def __init__(self, given: JsonObject, kind: type[S], faults: list[Fault], checks: Mapping[str, Check] | None = None) -> None:
        self._kind = kind
        self._faults = faults
        self.values: dict[str, Any] = {}  # of the fields that are there and right, by their names in the struct
        known = {name for name, _ in faults}
        for field in _fields(kind):
            if field.name not in known:
                self._read(field, given.value(field.name), (checks or {}).get(field.name))

    def _read(self, field: "_Field", value: Any, check: Check | None) -> None:
        if value is None and field.takes_null:
            self.values[field.attribute] = None
        elif field.is_required and (value is None or value is UNSET):
            self.refuse(field.name, "is required")
        elif value is not UNSET:
            value = field.whole(value)
            faults = [(field.name + place, message) for place, message in (check or field.faults)(value)]
            self._faults += faults
            if not faults:
                self.values[field.attribute] = msgspec.convert(value, field.type)

    def refuse(self, name: str, message: str) -> None:
        """Adds a fault."""
        self._faults.append((name, message))

    def whole(self) -> S:
        """The struct. Raises a 400 with everything that is wrong so far."""
        if self._faults:
            raise invalid(self._faults)
        return self._kind(**self.values)


class _Field(msgspec.Struct, frozen=True):
    """A field of a struct, as bodies have it."""

    name: str
    attribute: str
    type: Any
    is_required: bool
    takes_null: bool

    def whole(self, value: Any) -> Any:
        """*value*; as the whole number that it is where one is asked for: in JSON `3.0` and `3` are the same."""
        base = get_args(self.type)[0] if get_origin(self.type) is Annotated else self.type
        return int(value) if base is int and isinstance(value, float) and value.is_integer() else value

    def faults(self, value: object) -> list[Fault]:
        """What is wrong with *value*. msgspec decides; the words are ours."""
        try:
            msgspec.convert(value, self.type)
        except msgspec.ValidationError:
            return [("", _demand(self.type, value))]
        return []


@functools.cache
def _fields(kind: type[msgspec.Struct]) -> tuple[_Field, ...]:
    return tuple(_field(field) for field in msgspec.structs.fields(kind))


def _field(field: FieldInfo) -> _Field:
    kinds = list(alternatives(field.type))
    [own] = (kind for kind in kinds if kind not in {NoneType, UnsetType})
    return _Field(
        name=field.encode_name, attribute=field.name, type=own, is_required=field.required, takes_null=NoneType in kinds
    )


def alternatives(kind: Any) -> Iterator[Any]:
    """The types that a union is of; a type that is none is its own."""
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(base) in {Union, UnionType}:
        for part in get_args(base):
            yield from alternatives(part)
    else:
        yield kind


def _demand(kind: Any, value: object) -> str:
    """What a value must be, in words; of the limits, those that *value* breaks."""
    base, limits = get_args(kind) if get_origin(kind) is Annotated else (kind, Meta())
    if base is bool:
        return "must be true or false"
    if base is int:
        return f"must be a whole number from {limits.ge} to {limits.le}"
    if base is not str:
        return "must be an array" if get_origin(base) in {list, tuple} else "must be an object"
    if not isinstance(value, str):
        return "must be a string"
    range_ = f"{limits.min_length} to {limits.max_length}" if limits.min_length else f"at most {limits.max_length}"
    return f"must have {range_} characters, none of them NUL"
