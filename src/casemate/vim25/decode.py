"""Requests from the wire: SOAP envelopes to calls, strictly.

Two steps, because names must be resolved before anything is decided and arguments after everything
else was: ``parse_envelope`` reads the XML under its limits and resolves method and ``_this``;
``arguments`` checks the rest against the method's declaration. Elements may come in any order and
under any prefix; unknown attributes and SOAP headers are ignored; everything else that is not
declared is refused. Document type declarations are refused, so there are no entities to expand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from casemate.errors import FormatError
from casemate.vim25 import hidden, types
from casemate.vim25.lexical import primitive
from casemate.vim25.shapes import Field, Kind, Method, TypeRef
from casemate.vim25.types import NAMESPACE
from casemate.vim25.values import MoRef, Obj, Typed, Value
from casemate.vim25.xmlnodes import SOAP, XSD, XSI, Node, parse_xml

ID_LIMIT = 256
"""Characters of an object id: those with a session and a UUID have about 100."""


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed request: which method of which object, arguments not yet looked at."""

    method: Method
    this: MoRef
    node: Node


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
        node.name in hidden.METHODS or node.name in types.method_owners()
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
            return primitive(ref.name, _leaf_text(node))
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
        return Typed(name, primitive(name, _leaf_text(node)))
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
