"""VI/JSON: the same values as in ``decode`` and ``encode``, as JSON.

Objects carry ``_typeName``; in a place of type Any, plain values are boxed as ``_typeName`` and
``_value``. Names are WSDL names. Parsing is as strict as for XML and under the same limits.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from casemate.errors import FormatError, LimitError
from casemate.vim25 import decode, encode, lexical, types, versions, xmlnodes
from casemate.vim25.encode import format_time, named_ref
from casemate.vim25.shapes import Field, Kind, Method, TypeRef
from casemate.vim25.values import MoRef, Obj, Raw, Typed, Value

TYPE, VALUE = "_typeName", "_value"
_REFERENCE = "ManagedObjectReference"
_WORDS = {"base64Binary": "binary", "anyURI": "string"}
_INTEGERS = {"byte": 8, "short": 16, "int": 32, "long": 64}


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FormatError("a name is given twice in one object")
    return found


def _constant(text: str) -> object:
    raise FormatError(f"{text} is not JSON")


def parse(data: bytes) -> object:
    """Return what a JSON text says. Raises FormatError, LimitError."""
    if len(data) > xmlnodes.SIZE_LIMIT:
        raise LimitError(f"request of {len(data)} bytes: the limit is {xmlnodes.SIZE_LIMIT}")
    try:
        found = json.loads(data, object_pairs_hook=_pairs, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {type(error).__name__}") from error
    _measure(found)
    return found


def _measure(value: object) -> None:
    """Raise LimitError when there is too much or it is too deep."""
    count, level = 0, [value]
    for _ in range(xmlnodes.DEPTH_LIMIT):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list):
                below += item
        count += len(below)
        if count > xmlnodes.ELEMENT_LIMIT:
            raise LimitError(f"more than {xmlnodes.ELEMENT_LIMIT} values")
        level = below
    if level:
        raise LimitError(f"values nested deeper than {xmlnodes.DEPTH_LIMIT}")


def arguments(method: Method, body: object) -> dict[str, Value]:
    """Return the checked arguments of a call. Raises FormatError."""
    if not isinstance(body, dict):
        raise FormatError("the parameters are one JSON object")
    fields = {parameter.name: parameter for parameter in method.parameters}
    return _fields(method.name, fields, body)


def _fields(
    owner: str, fields: Mapping[str, Field], given: Mapping[str, object]
) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, item in given.items():
        if name == TYPE or item is None:
            continue
        declared = fields.get(name)
        if declared is None:
            raise FormatError(f"{owner} has no property {name:.80}")
        found[name] = _value(declared.type, item, name)
    for name, declared in fields.items():
        if not (declared.optional or declared.type.array or name in found):
            raise FormatError(f"Required property {name} is missing from {owner}")
    return found


def _value(ref: TypeRef, item: object, name: str) -> Value:
    if ref.array:
        return _many(ref, item, name)
    match ref.kind:
        case Kind.PRIMITIVE:
            return _primitive(ref.name, item, name)
        case Kind.ENUM:
            return _enum(ref.name, item)
        case Kind.MOREF:
            return _reference(ref.name, item, name)
        case Kind.ANY:
            return _any(item, name)
        case Kind.DATA:
            return _data(ref.name, item, name)


def _many(ref: TypeRef, item: object, name: str) -> Value:
    if not isinstance(item, list):
        raise FormatError(f"{name} is a list")
    values = tuple(_value(ref.item, one, name) for one in item)
    if ref.kind is Kind.PRIMITIVE and ref.name == "byte":
        return bytes(value & 255 for value in values if isinstance(value, int))
    return values


def _enum(kind: str, item: object) -> str:
    if not isinstance(item, str) or item not in types.enum_type(kind).values:
        raise FormatError(f"{item!r:.80} is not a value of {kind}")
    return item


def _primitive(kind: str, item: object, name: str) -> Value:
    if kind == "boolean" and isinstance(item, bool):
        return item
    number = isinstance(item, int | float) and not isinstance(item, bool)
    if kind in _INTEGERS and isinstance(item, int) and number:
        bits = _INTEGERS[kind]
        if not -(1 << bits - 1) <= item < 1 << bits - 1:
            raise FormatError(f"{name}: the number does not fit into {bits} bits")
        return item
    if kind in {"float", "double"} and isinstance(item, int | float) and number:
        try:
            return float(item)
        except OverflowError as error:
            raise FormatError(f"{name}: the number is too large") from error
    if isinstance(item, str):
        return _text(kind, item, name)
    raise FormatError(f"{name} is not a {kind}")


def _text(kind: str, item: str, name: str) -> Value:
    match kind:
        case "string" | "anyURI":
            if encode.ILLEGAL.search(item):
                raise FormatError(f"{name} holds a character that no text of the API has")
            return item
        case "dateTime":
            return lexical.parse_time(item)
        case "base64Binary":
            try:
                return base64.b64decode(item, validate=True)
            except (binascii.Error, ValueError) as error:
                raise FormatError(f"{name} is not base64") from error
        case _:
            raise FormatError(f"{name} is not a {kind}")


def _reference(base: str, item: object, name: str) -> MoRef:
    if not isinstance(item, dict):
        raise FormatError(f"{name} is not a reference")
    kind, value = item.get("type"), item.get("value")
    if not isinstance(kind, str) or types.kind_of(kind) is not Kind.MOREF:
        raise FormatError(f"{name} is a reference without a known type")
    if not types.is_subtype(kind, base):
        raise FormatError(f"{name} refers to a {kind} where a {base} belongs")
    return reference(kind, value if isinstance(value, str) else "")


def reference(kind: str, value: str) -> MoRef:
    """Return a reference with a well-formed id. Raises FormatError."""
    if not value or len(value) > decode.ID_LIMIT or not value.isprintable():
        raise FormatError("a reference to no valid id")
    return MoRef(kind, value)


def _data(base: str, item: object, name: str) -> Obj:
    if not isinstance(item, dict):
        raise FormatError(f"{name} is not an object")
    kind = item.get(TYPE, base)
    if not isinstance(kind, str) or types.kind_of(kind) is not Kind.DATA:
        raise FormatError(f"{name} has the unknown type {kind!r:.80}")
    if not types.is_subtype(kind, base):
        raise FormatError(f"{name} is a {kind} where a {base} belongs")
    return Obj(kind, **_fields(kind, types.data_type(kind).by_name, item))


def _any(item: object, name: str) -> Typed:
    if not isinstance(item, dict) or not isinstance(kind := item.get(TYPE), str):
        raise FormatError(f"{name} has no {TYPE}")
    if kind == _REFERENCE:
        return Typed("ManagedObject", _reference("ManagedObject", item, name))
    array = kind.startswith("ArrayOf")
    word = kind.removeprefix("ArrayOf")
    lowered = word[:1].lower() + word[1:]
    plain = {**{v: k for k, v in _WORDS.items()}, "string": "string"}.get(lowered, lowered)
    if plain in types.XSD_TYPES:
        ref = TypeRef(Kind.PRIMITIVE, plain, array)
    else:
        found = types.kind_of(word)
        if found is not Kind.DATA and found is not Kind.ENUM:
            raise FormatError(f"{name} has the unknown type {kind:.80}")
        ref = TypeRef(found, word, array)
    boxed = array or ref.kind is not Kind.DATA
    return Typed(ref.name, _value(ref, item.get(VALUE) if boxed else item, name), array)


def plain(value: Value, ref: TypeRef, version: str) -> object:
    """Return a value of this type as what ``json`` can write. Raises FormatError."""
    if value is None:
        return None
    if isinstance(value, Raw):
        value = decode.fragment(value.whole, ref)
    if ref.kind is Kind.ANY and not ref.array:
        return _boxed(value, version)
    if isinstance(value, Typed):
        value = value.value
    if ref.array:
        if isinstance(value, bytes):
            return [one - 256 if one > 127 else one for one in value]  # noqa: PLR2004  (bytes are signed)
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise FormatError(f"expected many, found {type(value).__name__}")
        return [plain(one, ref.item, version) for one in value]
    return _single(value, version)


def _single(value: Value, version: str) -> object:
    match value:
        case MoRef():
            return {TYPE: _REFERENCE, "type": value.type, "value": value.value}
        case Obj():
            return _object(value, version)
        case datetime():
            return format_time(value)
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case _:
            return value


def _object(value: Obj, version: str) -> dict[str, object]:
    name = versions.compatible(value.type, version)
    shown: dict[str, object] = {TYPE: name}
    for declared in types.data_type(name).fields:
        item = value.get(declared.name)
        if item is not None and versions.visible(version, declared.version):
            shown[declared.name] = plain(item, declared.type, version)
    return shown


def _boxed(value: Value, version: str) -> object:
    if isinstance(value, Obj | MoRef):
        return _single(value, version)
    if not isinstance(value, Typed):
        kind = {bool: "boolean", int: "int", float: "double", str: "string"}.get(type(value))
        kind = kind or ("dateTime" if isinstance(value, datetime) else "base64Binary")
        value = Typed(kind, value)
    ref = named_ref(value.type)
    if not value.array and ref.kind in {Kind.DATA, Kind.MOREF}:
        return _single(value.value, version)
    word = _WORDS.get(ref.wire_name, ref.wire_name)
    inner = plain(value.value, TypeRef(ref.kind, ref.name, value.array), version)
    return {TYPE: types.array_name(word) if value.array else word, VALUE: inner}


def fault(value: Obj, sentence: str, version: str) -> dict[str, object]:
    """Return a fault with its sentence."""
    return {**_object(value, version), "faultstring": sentence}
