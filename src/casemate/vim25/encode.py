"""Serializers generated per type and version, and the SOAP envelopes around them.

An ``Encoder`` belongs to one API version. For every type that it meets it builds one closure per
field, once; what a version does not know (newer properties, newer types) is left out or written as
the nearest ancestor. The bytes are those of pyVmomi's own serializer, with the differences that
real servers have: items inside ``ArrayOf`` carry their type, a reference in a place of type Any is
a ``ManagedObjectReference``, and characters that XML cannot carry are replaced.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial

from casemate.errors import FormatError
from casemate.vim25 import types, versions
from casemate.vim25.shapes import Kind, Method, TypeRef
from casemate.vim25.values import MoRef, Obj, Raw, Typed, Value

Write = Callable[[list[str], Value], None]

ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML cannot carry, and so no text of the API has: control characters, halves of pairs."""
_SPECIAL = re.compile("[&<>]")

ENVELOPE_START = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<soapenv:Envelope xmlns:soapenc="http://schemas.xmlsoap.org/soap/encoding/"'
    ' xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"'
    ' xmlns:xsd="http://www.w3.org/2001/XMLSchema"'
    ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n<soapenv:Body>\n'
)
ENVELOPE_END = "\n</soapenv:Body>\n</soapenv:Envelope>"


def escape(text: str) -> str:
    """Return the text as XML character data; what XML cannot carry becomes U+FFFD."""
    if ILLEGAL.search(text):
        text = ILLEGAL.sub("\ufffd", text)
    if _SPECIAL.search(text):
        text = text.replace("&", "&amp;").replace(">", "&gt;").replace("<", "&lt;")
    return text


def format_time(moment: datetime) -> str:
    """Return an XML Schema dateTime in UTC, trailing zeros of the fraction trimmed."""
    if moment.tzinfo is None:
        raise FormatError("a time without a zone cannot be sent")
    moment = moment.astimezone(UTC)
    text = f"{moment.year:04d}-{moment:%m-%dT%H:%M:%S}"
    if moment.microsecond:
        text += f".{moment.microsecond:06d}".rstrip("0")
    return text + "Z"


def _string(value: Value) -> str:
    if not isinstance(value, str):
        raise FormatError(f"expected text, found {type(value).__name__}")
    return escape(value)


def _boolean(value: Value) -> str:
    if not isinstance(value, bool):
        raise FormatError(f"expected a boolean, found {type(value).__name__}")
    return "true" if value else "false"


def _integer(bits: int, value: Value) -> str:
    if not isinstance(value, int) or isinstance(value, bool):
        raise FormatError(f"expected a number, found {type(value).__name__}")
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise FormatError(f"{value} does not fit into {bits} bits")
    return str(value)


def _real(value: Value) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise FormatError(f"expected a number, found {type(value).__name__}")
    if math.isinf(value):
        return "INF" if value > 0 else "-INF"
    return "NaN" if math.isnan(value) else str(value)


def _binary(value: Value) -> str:
    if not isinstance(value, bytes):
        raise FormatError(f"expected bytes, found {type(value).__name__}")
    return base64.b64encode(value).decode("ascii")


def _time(value: Value) -> str:
    if not isinstance(value, datetime):
        raise FormatError(f"expected a time, found {type(value).__name__}")
    return format_time(value)


_TEXT: Mapping[str, Callable[[Value], str]] = {
    "boolean": _boolean,
    "byte": partial(_integer, 8),
    "short": partial(_integer, 16),
    "int": partial(_integer, 32),
    "long": partial(_integer, 64),
    "float": _real,
    "double": _real,
    "string": _string,
    "anyURI": _string,
    "base64Binary": _binary,
    "dateTime": _time,
}


def _enum_text(name: str) -> Callable[[Value], str]:
    known = frozenset(types.enum_type(name).values)

    def text(value: Value) -> str:
        if value not in known:
            raise FormatError(f"{value!r} is no value of {name}")
        return str(value)

    return text


def _signed(value: int) -> int:
    return value - 256 if value > 127 else value  # noqa: PLR2004  (xsd:byte is signed)


_IMPLIED: Mapping[type, str] = {
    bool: "boolean",
    int: "int",
    float: "double",
    str: "string",
    bytes: "base64Binary",
    datetime: "dateTime",
}


def _implied(value: Value) -> Typed:
    """Return the wire type that a bare Python value has in a place of type Any."""
    if isinstance(value, Typed):
        return value
    if isinstance(value, MoRef | Obj):
        return Typed(value.type, value)
    name = _IMPLIED.get(type(value))
    if name is None:
        raise FormatError(f"a {type(value).__name__} has no type of its own on the wire")
    return Typed(name, value)


@cache
def named_ref(name: str) -> TypeRef:
    """Return the reference for a WSDL name. Raises FormatError for an unknown one."""
    if name in types.XSD_TYPES:
        return TypeRef(Kind.PRIMITIVE, name)
    if name in {"ManagedObjectReference", "ManagedObject"}:
        return TypeRef(Kind.MOREF, "ManagedObject")
    if name == "anyType":
        return TypeRef(Kind.ANY, name)
    kind = types.kind_of(name)
    if kind is None:
        raise FormatError(f"there is no type {name}")
    return TypeRef(kind, name)


class Encoder:
    """Writes values as XML for one API version."""

    def __init__(self, version: str) -> None:
        self.version = version
        self._bodies: dict[str, tuple[tuple[str, bool, Write], ...]] = {}
        self._writers: dict[tuple[str, TypeRef], Write] = {}

    def element(self, tag: str, value: Value, ref: TypeRef) -> str:
        """Return the value as elements ``tag`` in a place of type ``ref``. Raises FormatError."""
        return "".join(self.pieces(tag, value, ref))

    def pieces(self, tag: str, value: Value, ref: TypeRef) -> list[str]:
        """Return what ``element`` joins."""
        out: list[str] = []
        self.writer(tag, ref)(out, value)
        return out

    def any_element(self, tag: str, value: Value, ref: TypeRef | None = None) -> str:
        """Return ``value`` as element ``tag`` of type Any; ``ref`` is its declared type, if any."""
        if ref is not None and ref.kind is not Kind.ANY and not isinstance(value, Typed):
            value = Typed(ref.name, value, ref.array)
        return self.element(tag, value, TypeRef(Kind.ANY, "anyType"))

    def writer(self, tag: str, ref: TypeRef) -> Write:
        """Return the closure that writes elements ``tag`` of this type."""
        found = self._writers.get((tag, ref))
        if found is None:
            found = self._writers[tag, ref] = self._make(tag, ref)
        return found

    def _make(self, tag: str, ref: TypeRef) -> Write:
        if ref.array:
            return self._array(tag, ref)
        match ref.kind:
            case Kind.PRIMITIVE:
                return _leaf(tag, _TEXT[ref.name])
            case Kind.ENUM:
                return _leaf(tag, _enum_text(ref.name))
            case Kind.MOREF:
                return _reference(tag, ref.name)
            case Kind.ANY:
                return partial(self._any, tag)
            case Kind.DATA:
                return self._data(tag, ref.name)

    def _array(self, tag: str, ref: TypeRef) -> Write:
        item = self.writer(tag, ref.item)
        octets = ref.name == "byte" and ref.kind is Kind.PRIMITIVE

        def write(out: list[str], values: Value) -> None:
            if isinstance(values, Raw):
                out.append(values.text)
                out.extend(values.more)
            elif octets and isinstance(values, bytes):
                out.extend(f"<{tag}>{_signed(value)}</{tag}>" for value in values)
            elif isinstance(values, Sequence) and not isinstance(values, str | bytes):
                for value in values:
                    item(out, value)
            else:
                raise FormatError(f"{tag}: expected many, found {type(values).__name__}")

        return write

    def _data(self, tag: str, declared: str) -> Write:
        start, end = f"<{tag}>", f"</{tag}>"
        version = self.version

        def write(out: list[str], value: Value) -> None:
            if value.__class__ is Raw and isinstance(value, Raw):
                out.append(value.whole)
                return
            if not isinstance(value, Obj):
                raise FormatError(f"{tag}: expected a {declared}, found {type(value).__name__}")
            name = versions.compatible(value.type, version)
            if name == declared:
                out.append(start)
            elif types.is_subtype(name, declared):
                out.append(f'<{tag} xsi:type="{name}">')
            else:
                raise FormatError(f"{tag}: a {value.type} is not a {declared}")
            self._fields(out, name, value)
            out.append(end)

        return write

    def _fields(self, out: list[str], name: str, value: Obj) -> None:
        fields = value.fields
        body = self._bodies.get(name)
        if body is None:
            body = self._bodies[name] = self._body(name)
        for key, optional, write in body:
            item = fields.get(key)
            if item is not None:
                write(out, item)
            elif not optional:
                raise FormatError(f"{value.type}.{key} is required")

    def _body(self, name: str) -> tuple[tuple[str, bool, Write], ...]:
        return tuple(
            (f.name, f.optional or f.type.array, self.writer(f.name, f.type))
            for f in types.data_type(name).fields
            if versions.visible(self.version, f.version)
        )

    def _any(self, tag: str, out: list[str], value: Value) -> None:
        if isinstance(value, Raw):
            out.append(value.whole)
            return
        typed = _implied(value)
        ref = named_ref(typed.type)
        if not typed.array:
            self._typed(tag, ref, out, typed.value)
            return
        items = typed.value
        if isinstance(items, bytes):
            items = [_signed(item) for item in items]
        if not isinstance(items, Sequence) or isinstance(items, str):
            raise FormatError(f"{tag}: expected many, found {type(items).__name__}")
        out.append(f'<{tag} xsi:type="{types.array_name(ref.wire_name)}">')
        for item in items:
            self._typed(ref.wire_name, ref, out, item)
        out.append(f"</{tag}>")

    def _typed(self, tag: str, ref: TypeRef, out: list[str], value: Value) -> None:
        match ref.kind:
            case Kind.PRIMITIVE:
                out.append(f'<{tag} xsi:type="xsd:{ref.name}">{_TEXT[ref.name](value)}</{tag}>')
            case Kind.ENUM:
                text = _enum_text(ref.name)(value)
                out.append(f'<{tag} xsi:type="{ref.name}">{text}</{tag}>')
            case Kind.MOREF:
                kind, key = _moref(tag, ref.name, value)
                out.append(f'<{tag} type="{kind}" xsi:type="ManagedObjectReference">{key}</{tag}>')
            case Kind.ANY:
                self._any(tag, out, value)
            case Kind.DATA:
                if not isinstance(value, Obj) or not types.is_subtype(value.type, ref.name):
                    raise FormatError(f"{tag}: expected a {ref.name}")
                name = versions.compatible(value.type, self.version)
                out.append(f'<{tag} xsi:type="{name}">')
                self._fields(out, name, value)
                out.append(f"</{tag}>")

    def fault_detail(self, fault: Obj) -> str:
        """Return the fault as the content of a SOAP ``detail`` element."""
        name = versions.compatible(fault.type, self.version)
        out = [f'<{name}Fault xmlns="urn:vim25" xsi:type="{name}">']
        self._fields(out, name, fault)
        out.append(f"</{name}Fault>")
        return "".join(out)


def _leaf(tag: str, text: Callable[[Value], str]) -> Write:
    def write(out: list[str], value: Value) -> None:
        out.append(f"<{tag}>{text(value)}</{tag}>")

    return write


def _moref(tag: str, declared: str, value: Value) -> tuple[str, str]:
    if not isinstance(value, MoRef) or not types.is_subtype(value.type, declared):
        raise FormatError(f"{tag}: expected a reference to a {declared}, found {value!r:.80}")
    return value.type, escape(value.value)


def _reference(tag: str, declared: str) -> Write:
    def write(out: list[str], value: Value) -> None:
        kind, key = _moref(tag, declared, value)
        out.append(f'<{tag} type="{kind}">{key}</{tag}>')

    return write


@cache
def encoder(version: str) -> Encoder:
    """Return the encoder of this version."""
    return Encoder(version)


def response(method: Method, value: Value, version: str) -> list[str]:
    """Return the envelope that answers a call, in pieces: what is long is never in one piece.

    Raises FormatError when the value does not fit.
    """
    name = f"{method.name}Response"
    out = [f'{ENVELOPE_START}<{name} xmlns="urn:vim25">']
    if method.result is not None and value is not None:
        writer = encoder(version)
        if method.result.kind is Kind.ANY and not method.result.array:
            out.append(writer.any_element("returnval", value))
        else:
            out += writer.pieces("returnval", value, method.result)
    out.append(f"</{name}>{ENVELOPE_END}")
    return out


def fault_envelope(fault: Obj, sentence: str, version: str) -> list[str]:
    """Return the envelope of a fault: its parts are in no namespace, as clients expect."""
    detail = encoder(version).fault_detail(fault)
    return [
        f"{ENVELOPE_START}<soapenv:Fault><faultcode>ServerFaultCode</faultcode>",
        f"<faultstring>{escape(sentence)}</faultstring>",
        f"<detail>{detail}</detail></soapenv:Fault>{ENVELOPE_END}",
    ]
