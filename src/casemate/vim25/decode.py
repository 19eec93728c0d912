"""Requests from the wire: SOAP envelopes to calls, strictly.

Two steps, because names must be resolved before anything is decided and arguments after everything
else was: ``parse_envelope`` reads the XML under its limits and resolves method and ``_this``;
``arguments`` checks the rest against the method's declaration. Elements may come in any order and
under any prefix; unknown attributes and SOAP headers are ignored; everything else that is not
declared is refused. Document type declarations are refused, so there are no entities to expand.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from xml.parsers import expat

from casemate.errors import FormatError, LimitError
from casemate.vim25 import hidden, types
from casemate.vim25.types import NAMESPACE, Field, Kind, Method, TypeRef
from casemate.vim25.values import MoRef, Obj, Typed, Value

SIZE_LIMIT = 1 << 20
"""Bytes of one request: the largest legitimate ones (filters over 1,000 objects) have 200 kB."""

DEPTH_LIMIT = 64
"""Nesting of elements: a device backing chain in a reconfiguration needs about 20."""

ELEMENT_LIMIT = 50_000
"""Elements of one request: reading 10,000 objects by reference needs about 20,000."""

ID_LIMIT = 256
"""Characters of an object id: those with a session and a UUID have about 100."""

SOAP = "http://schemas.xmlsoap.org/soap/envelope/"
XSD = "http://www.w3.org/2001/XMLSchema"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
_SEPARATOR = " "


@dataclass(slots=True)
class Node:
    """An element: name, the two attributes that matter, text, children."""

    space: str
    name: str
    xsi_type: tuple[str, str] | None
    reference: str | None
    nil: bool
    children: list[Node] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The character data."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed request: which method of which object, arguments not yet looked at."""

    method: Method
    this: MoRef
    node: Node


_XSD_PREFIXES = frozenset({"xsd", "xs"})


class _Builder:
    """Builds the tree of nodes from expat's events, counting."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[Node] = []
        self._count = 0
        self._prefixes: dict[str, list[str]] = {}

    def declare(self, prefix: str | None, uri: str | None) -> None:
        self._prefixes.setdefault(prefix or "", []).append(uri or "")

    def undeclare(self, prefix: str | None) -> None:
        self._prefixes[prefix or ""].pop()

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._count += 1
        if self._count > ELEMENT_LIMIT:
            raise LimitError(f"more than {ELEMENT_LIMIT} elements")
        if len(self._open) >= DEPTH_LIMIT:
            raise LimitError(f"elements nested deeper than {DEPTH_LIMIT}")
        space, _, name = tag.rpartition(_SEPARATOR)
        node = Node(
            space,
            name,
            self._qname(attributes.get(f"{XSI}{_SEPARATOR}type")),
            attributes.get("type"),
            attributes.get(f"{XSI}{_SEPARATOR}nil", "").strip() in {"true", "1"},
        )
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node
        self._open.append(node)

    def end(self, _tag: str) -> None:
        self._open.pop()

    def text(self, data: str) -> None:
        self._open[-1].pieces.append(data)

    def _qname(self, text: str | None) -> tuple[str, str] | None:
        if text is None:
            return None
        prefix, _, name = text.strip().rpartition(":")
        stack = self._prefixes.get(prefix)
        if not stack:
            if prefix in _XSD_PREFIXES:
                # govmomi writes xsd:string and declares the prefix nowhere.
                return XSD, name
            if prefix:
                raise FormatError(f"the prefix {prefix:.60} of an xsi:type is not declared")
            return "", name
        return stack[-1], name


def _refuse_doctype(*_arguments: object) -> None:
    raise FormatError("a document type declaration is not allowed", code="doctype")


def parse_xml(data: bytes) -> Node:
    """Return the root element. Raises FormatError, LimitError."""
    if len(data) > SIZE_LIMIT:
        raise LimitError(f"request of {len(data)} bytes: the limit is {SIZE_LIMIT}")
    builder = _Builder()
    parser = expat.ParserCreate("UTF-8", _SEPARATOR)
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartNamespaceDeclHandler = builder.declare
    parser.EndNamespaceDeclHandler = builder.undeclare
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code) or "not well-formed"
        raise FormatError(
            f"{reason}\n\nwhile parsing SOAP body\nat line {error.lineno}, "
            f"column {error.offset}\n\nwhile parsing HTTP request before method was determined\n"
            "at line 1, column 0"
        ) from error
    except (ValueError, LookupError) as error:
        raise FormatError(f"not XML in UTF-8: {type(error).__name__}") from error
    if builder.root is None:
        raise FormatError("the request holds no element")
    return builder.root


def parse_envelope(data: bytes) -> Call:
    """Return the call in a SOAP request. Raises FormatError, LimitError."""
    root = parse_xml(data)
    if (root.space, root.name) != (SOAP, "Envelope"):
        raise FormatError("the request is not a SOAP envelope")
    bodies = [child for child in root.children if (child.space, child.name) == (SOAP, "Body")]
    if len(bodies) != 1 or len(bodies[0].children) != 1:
        raise FormatError("a SOAP envelope has one Body with one call")
    node = bodies[0].children[0]
    if node.space == hidden.INTERNAL and node.name in hidden.INTERNAL_METHODS:
        _rename(node)
    if node.space != NAMESPACE or not (
        node.name in types.HIDDEN or node.name in types.method_owners()
    ):
        raise FormatError(
            f"Unable to resolve WSDL method name {node.name:.80} for namespace name "
            f"{node.space:.80}",
            code="unknown-method",
        )
    receivers = [child for child in node.children if child.name == "_this"]
    if len(receivers) != 1:
        raise FormatError(f"{node.name} names one object with _this")
    return Call(types.method(node.name), _moref(receivers[0], "ManagedObject"), node)


def _rename(node: Node) -> None:
    """Read a method that real hosts serve under their internal namespace."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one.space == hidden.INTERNAL:
            one.space = NAMESPACE
        waiting += one.children


def returned(data: bytes, name: str) -> Obj:
    """Return what a saved SOAP answer holds: its one ``returnval``, a data object of type ``name``.

    Raises:
        FormatError: no such answer, or not what the type promises.
        LimitError: larger than any.
    """
    found: list[Node] = []
    waiting = [parse_xml(data)]
    while waiting:
        node = waiting.pop()
        if node.name == "returnval":
            found.append(node)
        else:
            waiting += node.children
    if len(found) != 1:
        raise FormatError(f"the answer holds {len(found)} values instead of one {name}")
    return _data(name, found[0])


def fragment(text: str, ref: TypeRef) -> Value:
    """Return the value of elements that ``encode`` wrote in a place of this type."""
    root = parse_xml(
        f'<all xmlns="{NAMESPACE}" xmlns:xsd="{XSD}" xmlns:xsi="{XSI}">{text}</all>'.encode()
    )
    values = [_value(ref.item, child) for child in root.children]
    return _joined(ref, values) if ref.array else (values[0] if values else None)


def arguments(call: Call) -> dict[str, Value]:
    """Return the checked arguments of the call. Raises FormatError."""
    given = [child for child in call.node.children if child.name != "_this"]
    fields = {parameter.name: parameter for parameter in call.method.parameters}
    return _fields(call.method.name, fields, given)


def _fields(owner: str, fields: Mapping[str, Field], nodes: list[Node]) -> dict[str, Value]:
    single: dict[str, Value] = {}
    many: dict[str, list[Value]] = {}
    for node in nodes:
        declared = fields.get(node.name)
        if declared is None or node.space not in {NAMESPACE, ""}:
            raise FormatError(f"{owner} has no property {node.name:.80}")
        if node.nil:
            continue
        value = _value(declared.type.item, node)
        if declared.type.array:
            many.setdefault(node.name, []).append(value)
        elif node.name in single:
            raise FormatError(f"{owner}.{node.name} is given twice")
        else:
            single[node.name] = value
    for name, declared in fields.items():
        # An empty list and an absent one look alike on the wire.
        if not (declared.optional or declared.type.array or name in single):
            raise FormatError(f"Required property {name} is missing from {owner}")
    for name, values in many.items():
        single[name] = _joined(fields[name].type, values)
    return single


def _joined(ref: TypeRef, values: list[Value]) -> Value:
    if ref.kind is Kind.PRIMITIVE and ref.name == "byte":
        return bytes(value & 255 for value in values if isinstance(value, int))
    return tuple(values)


def _value(ref: TypeRef, node: Node) -> Value:
    match ref.kind:
        case Kind.PRIMITIVE:
            return _primitive(ref.name, _leaf_text(node))
        case Kind.ENUM:
            return _enum(ref.name, _leaf_text(node))
        case Kind.MOREF:
            return _moref(node, ref.name)
        case Kind.ANY:
            return _any(node)
        case Kind.DATA:
            return _data(ref.name, node)


def _leaf_text(node: Node) -> str:
    if node.children:
        raise FormatError(f"{node.name} holds elements where a plain value belongs")
    return node.text


def _enum(name: str, text: str) -> str:
    value = text.strip()
    if value not in types.enum_type(name).values:
        raise FormatError(f"{value:.80} is not a value of {name}")
    return value


def _moref(node: Node, base: str) -> MoRef:
    value = _leaf_text(node).strip()
    kind = node.reference
    if kind is None or types.kind_of(kind) is not Kind.MOREF:
        raise FormatError(f"{node.name} is a reference without a known type")
    if not types.is_subtype(kind, base):
        raise FormatError(f"{node.name} refers to a {kind} where a {base} belongs")
    if not value or len(value) > ID_LIMIT or not value.isprintable():
        raise FormatError(f"{node.name} refers to no valid id")
    return MoRef(kind, value)


def _data(base: str, node: Node) -> Obj:
    name = base
    if node.xsi_type is not None:
        space, name = node.xsi_type
        if space not in {NAMESPACE, ""} or types.kind_of(name) is not Kind.DATA:
            raise FormatError(f"{node.name} has the unknown type {name:.80}")
        if not types.is_subtype(name, base):
            raise FormatError(f"{node.name} is a {name} where a {base} belongs")
    if node.text.strip():
        raise FormatError(f"{node.name} holds text where properties belong")
    return Obj(name, **_fields(name, types.data_type(name).by_name, node.children))


def _any(node: Node) -> Typed:
    if node.xsi_type is None:
        raise FormatError(f"{node.name} has no xsi:type")
    space, name = node.xsi_type
    if space == XSD:
        if name not in types.XSD_TYPES:
            raise FormatError(f"{node.name} has the unknown type {name:.80}")
        return Typed(name, _primitive(name, _leaf_text(node)))
    if space not in {NAMESPACE, ""}:
        raise FormatError(f"{node.name} has a type of the foreign namespace {space:.80}")
    if name == "ManagedObjectReference":
        return Typed("ManagedObject", _moref(node, "ManagedObject"))
    if name.startswith("ArrayOf"):
        return _any_array(node, name.removeprefix("ArrayOf"))
    match types.kind_of(name):
        case Kind.DATA:
            return Typed(name, _data(name, node))
        case Kind.ENUM:
            return Typed(name, _enum(name, _leaf_text(node)))
        case _:
            raise FormatError(f"{node.name} has the unknown type {name:.80}")


def _any_array(node: Node, name: str) -> Typed:
    lowered = name[:1].lower() + name[1:]
    if lowered == "anyType":
        return Typed("anyType", tuple(_any(child) for child in node.children), array=True)
    if lowered in types.XSD_TYPES:
        ref = TypeRef(Kind.PRIMITIVE, lowered)
    elif name == "ManagedObjectReference":
        ref = TypeRef(Kind.MOREF, "ManagedObject")
    else:
        kind = types.kind_of(name)
        if kind is not Kind.DATA and kind is not Kind.ENUM:
            raise FormatError(f"{node.name} is an array of the unknown type {name:.80}")
        ref = TypeRef(kind, name)
    values = [_value(ref, child) for child in node.children]
    return Typed(ref.name, _joined(ref, values), array=True)


_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_REAL = re.compile(r"[+-]?([0-9]{1,64}(\.[0-9]{0,64})?|\.[0-9]{1,64})([eE][+-]?[0-9]{1,4})?")
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,12}))?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})?"
)


def _integer(bits: int, text: str) -> int:
    value = text.strip()
    if not _INTEGER.fullmatch(value):
        raise FormatError(f"{value:.40} is not a number")
    number = int(value)
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise FormatError(f"{value} does not fit into {bits} bits")
    return number


def _boolean(text: str) -> bool:
    value = text.strip()
    if value not in {"true", "false", "1", "0"}:
        raise FormatError(f"{value:.40} is not a boolean")
    return value in {"true", "1"}


def _real(text: str) -> float:
    value = text.strip()
    if value in {"INF", "-INF", "NaN"}:
        return {"INF": math.inf, "-INF": -math.inf, "NaN": math.nan}[value]
    if not _REAL.fullmatch(value):
        raise FormatError(f"{value:.40} is not a number")
    return float(value)


def _binary(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("not base64") from error


def parse_time(text: str) -> datetime:
    """Return the time that an XML Schema dateTime says. Raises FormatError."""
    value = text.strip()
    match = _TIME.fullmatch(value)
    if match is None:
        raise FormatError(f"{value:.40} is not a time")
    zone = match[8]
    offset = timedelta()
    if zone and zone != "Z":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6]))
        offset = -offset if zone[0] == "-" else offset
    year, month, day, hour, minute, second = (int(match[place]) for place in range(1, 7))
    micro = int((match[7] or "0")[:6].ljust(6, "0"))
    try:
        moment = datetime(year, month, day, hour, minute, second, micro, timezone(offset))
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise FormatError(f"{value:.40} is not a time") from error


_PRIMITIVE: Mapping[str, Callable[[str], Value]] = {
    "boolean": _boolean,
    "byte": partial(_integer, 8),
    "short": partial(_integer, 16),
    "int": partial(_integer, 32),
    "long": partial(_integer, 64),
    "float": _real,
    "double": _real,
    "string": str,
    "anyURI": str.strip,
    "base64Binary": _binary,
    "dateTime": parse_time,
}


def _primitive(name: str, text: str) -> Value:
    return _PRIMITIVE[name](text)
