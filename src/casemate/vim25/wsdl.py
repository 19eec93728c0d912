"""The API's own description: WSDL 1.1 and XML Schema, written from the types the decoder reads by.

In the layout that toolkits know from hosts: ``vimService.wsdl`` (the service) imports ``vim.wsdl``
(messages, operations, binding), which includes the schemas of types and of messages. Everything is
yielded in pieces: whole, it is some megabytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from casemate.vim25 import types
from casemate.vim25.shapes import Field, Kind, Method, TypeRef

SERVICE, INTERFACE = "vimService.wsdl", "vim.wsdl"
TYPES, MESSAGES = "vim-types.xsd", "vim-messagetypes.xsd"

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_SCHEMA = (
    f'{_HEAD}<schema targetNamespace="urn:vim25" xmlns="http://www.w3.org/2001/XMLSchema" '
    'xmlns:vim25="urn:vim25" xmlns:xsd="http://www.w3.org/2001/XMLSchema" '
    'elementFormDefault="qualified">\n'
)
_WSDL = (
    'xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/" '
    'xmlns:vim25="urn:vim25"'
)
_ROOTS = frozenset({"DataObject"})
_FAULT_OF_ALL = "RuntimeFault"
"""What any method may answer."""


def service(address: str, place: str = "") -> Iterator[str]:
    """Yield ``vimService.wsdl`` of a host whose calls go to the URL ``address``.

    ``place`` leads from where it is read to the other documents.
    """
    yield (
        f'{_HEAD}<definitions targetNamespace="urn:vim25Service" {_WSDL}>\n'
        f'<import location="{place}{INTERFACE}" namespace="urn:vim25"/>\n'
        '<service name="VimService"><port binding="vim25:VimBinding" name="VimPort">'
        f'<soap:address location="{escape(address)}"/></port></service>\n</definitions>\n'
    )


def interface(names: Iterable[str], release: str) -> Iterator[str]:
    """Yield ``vim.wsdl`` of the methods, in their order, for callers that name this release."""
    methods = [types.method(name) for name in names]
    yield f'{_HEAD}<definitions targetNamespace="urn:vim25" {_WSDL}>\n'
    yield (
        '<types><schema xmlns="http://www.w3.org/2001/XMLSchema" targetNamespace="urn:vim25" '
        'elementFormDefault="qualified">'
        f'<include schemaLocation="{MESSAGES}"/></schema></types>\n'
    )
    for fault in _faults_of(methods):
        yield _message(f"{fault}FaultMsg", "fault", f"{fault}Fault")
    for one in methods:
        yield _message(f"{one.name}RequestMsg", "parameters", one.name)
        yield _message(f"{one.name}ResponseMsg", "parameters", f"{one.name}Response")
    yield '<portType name="VimPortType">\n'
    for one in methods:
        faults = "".join(
            f'<fault name="{fault}" message="vim25:{fault}FaultMsg"/>' for fault in _faults(one)
        )
        yield (
            f'<operation name="{one.name}"><input message="vim25:{one.name}RequestMsg"/>'
            f'<output message="vim25:{one.name}ResponseMsg"/>{faults}</operation>\n'
        )
    yield (
        '</portType>\n<binding name="VimBinding" type="vim25:VimPortType">'
        '<soap:binding style="document" transport="http://schemas.xmlsoap.org/soap/http"/>\n'
    )
    for one in methods:
        faults = "".join(
            f'<fault name="{fault}"><soap:fault name="{fault}" use="literal"/></fault>'
            for fault in _faults(one)
        )
        yield (
            f'<operation name="{one.name}">'
            f'<soap:operation soapAction="urn:vim25/{release}" style="document"/>'
            '<input><soap:body use="literal"/></input>'
            f'<output><soap:body use="literal"/></output>{faults}</operation>\n'
        )
    yield "</binding>\n</definitions>\n"


def messages(names: Iterable[str]) -> Iterator[str]:
    """Yield the schema of what the methods take and give, and of their faults."""
    methods = [types.method(name) for name in names]
    yield f'{_SCHEMA}<include schemaLocation="{TYPES}"/>\n'
    for fault in _faults_of(methods):
        yield f'<element name="{fault}Fault" type="vim25:{fault}"/>\n'
    this = Field("_this", TypeRef(Kind.MOREF, "ManagedObject"), "", optional=False)
    for one in methods:
        taken = "".join(map(_element, (this, *one.parameters)))
        given = ""
        if one.result is not None:
            given = _element(Field("returnval", one.result, "", optional=one.result_optional))
        yield (
            f'<complexType name="{one.name}RequestType"><sequence>{taken}</sequence></complexType>'
            f'<element name="{one.name}" type="vim25:{one.name}RequestType"/>'
            f'<element name="{one.name}Response"><complexType><sequence>{given}</sequence>'
            "</complexType></element>\n"
        )
    yield "</schema>\n"


def schema() -> Iterator[str]:
    """Yield the schema of all types of the API."""
    yield (
        f'{_SCHEMA}<complexType name="ManagedObjectReference"><simpleContent>'
        '<extension base="xsd:string"><attribute name="type" type="xsd:string"/></extension>'
        "</simpleContent></complexType>\n"
    )
    for name in types.enum_names():
        values = "".join(
            f'<enumeration value="{escape(one)}"/>' for one in types.enum_type(name).values
        )
        yield (
            f'<simpleType name="{name}"><restriction base="xsd:string">{values}</restriction>'
            "</simpleType>\n"
        )
        yield _array(name, f"vim25:{name}")
    for name in sorted({*types.data_names(), "LocalizedMethodFault"}):
        yield from _data(name)
    for name in sorted(types.XSD_TYPES):
        yield _array(name, f"xsd:{name}")
    yield _array("anyType", "xsd:anyType")
    yield _array("ManagedObjectReference", "vim25:ManagedObjectReference")
    yield "</schema>\n"


def _data(name: str) -> Iterator[str]:
    fields = "".join(map(_element, types.own_fields(name)))
    parent = types.parent_of(name)
    content = f"<sequence>{fields}</sequence>"
    if parent is not None and parent not in _ROOTS:
        content = (
            f'<complexContent><extension base="vim25:{parent}">{content}</extension>'
            "</complexContent>"
        )
    yield f'<complexType name="{name}">{content}</complexType>\n'
    yield _array(name, f"vim25:{name}")


def _array(name: str, item: str) -> str:
    return (
        f'<complexType name="{types.array_name(name)}"><sequence><element name="{name}" '
        f'type="{item}" minOccurs="0" maxOccurs="unbounded"/></sequence></complexType>\n'
    )


def _element(field: Field) -> str:
    least = ' minOccurs="0"' if field.optional or field.type.array else ""
    most = ' maxOccurs="unbounded"' if field.type.array else ""
    return f'<element name="{field.name}" type="{_typed(field.type)}"{least}{most}/>'


def _typed(ref: TypeRef) -> str:
    if ref.kind in {Kind.PRIMITIVE, Kind.ANY}:
        return f"xsd:{ref.wire_name}"
    return f"vim25:{ref.wire_name}"


def _message(name: str, part: str, element: str) -> str:
    return f'<message name="{name}"><part name="{part}" element="vim25:{element}"/></message>\n'


def _faults(method: Method) -> tuple[str, ...]:
    return (_FAULT_OF_ALL, *types.faults_of(method.name))


def _faults_of(methods: Iterable[Method]) -> list[str]:
    return sorted({fault for one in methods for fault in _faults(one)})
