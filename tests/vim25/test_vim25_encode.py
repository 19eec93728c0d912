"""Our serializers write what pyVmomi's own serializer writes, and what they write we can read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyVmomi import SoapAdapter, VmomiSupport

from casemate.errors import FormatError
from casemate.vim25 import decode, encode, types, versions, xmlnodes
from casemate.vim25.shapes import Kind, TypeRef
from casemate.vim25.values import MoRef, Obj, Raw, Typed

NAMESPACES = {
    "urn:vim25": "",
    "http://www.w3.org/2001/XMLSchema-instance": "xsi",
    "http://www.w3.org/2001/XMLSchema": "xsd",
}
WRAP = (
    '<x xmlns="urn:vim25" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    ' xmlns:xsd="http://www.w3.org/2001/XMLSchema">{}</x>'
)

TEXT = st.text(
    st.characters(min_codepoint=32, max_codepoint=0xFFFD, exclude_categories=["Cs"]), max_size=12
)
MOMENTS = st.integers(0, 4 * 10**15).map(
    lambda n: datetime.fromtimestamp(0, UTC) + timedelta(microseconds=n)
)
PRIMITIVES = {
    "boolean": st.booleans(),
    "byte": st.integers(-128, 127),
    "short": st.integers(-(2**15), 2**15 - 1),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.integers(-1000, 1000).map(lambda n: n / 8),
    "double": st.integers(-1000, 1000).map(lambda n: n / 8),
    "string": TEXT,
    "anyURI": st.just("https://host.example/x?a=1&b=2"),
    "base64Binary": st.binary(max_size=20),
    "dateTime": MOMENTS,
}
INTERESTING = (
    "AboutInfo",
    "ServiceContent",
    "HostListSummary",
    "HostHardwareInfo",
    "HostCapability",
    "HostTpmAttestationReport",
    "HostTpmSoftwareComponentEventDetails",
    "HostTpmVersionEventDetails",
    "VirtualMachineSummary",
    "VirtualMachineConfigInfo",
    "VirtualMachineConfigSpec",
    "VirtualDisk",
    "VirtualVmxnet3",
    "ResourceConfigSpec",
    "DatastoreSummary",
    "TaskInfo",
    "UserSession",
    "PropertyFilterSpec",
    "TraversalSpec",
    "UpdateSet",
    "PropertyChange",
    "MissingProperty",
    "OptionValue",
    "NoPermission",
    "InvalidPowerState",
)


def scalar(ref: TypeRef, depth: int) -> st.SearchStrategy:
    match ref.kind:
        case Kind.PRIMITIVE:
            return PRIMITIVES[ref.name]
        case Kind.ENUM:
            return st.sampled_from(types.enum_type(ref.name).values)
        case Kind.MOREF:
            name = "Folder" if ref.name in {"ManagedObject", "ManagedEntity"} else ref.name
            return st.just(MoRef(name, "id-1"))
        case Kind.ANY:
            return st.sampled_from([True, 5, "a<b", Typed("double", 1.5), Typed("long", 2**40)])
        case _:
            name = {"LocalizedMethodFault": "LocalizedMethodFault", "MethodFault": "NotSupported"}
            return objects(name.get(ref.name, ref.name), depth - 1)


def field_values(ref: TypeRef, depth: int) -> st.SearchStrategy:
    if not ref.array:
        return scalar(ref, depth)
    if ref.name == "byte":
        return st.binary(min_size=1, max_size=4)
    return st.lists(scalar(ref, depth), min_size=1, max_size=2).map(tuple)


@st.composite
def objects(draw, name: str, depth: int = 3) -> Obj:
    values = {}
    for declared in types.data_type(name).fields:
        if declared.name in {"dynamicType", "dynamicProperty", "faultCause", "faultMessage"}:
            continue
        wanted = not declared.optional or (depth > 0 and draw(st.integers(0, 3)) == 0)
        if wanted:
            values[declared.name] = draw(field_values(declared.type, depth))
    return Obj(name, **values)


def their_object(value: Obj) -> object:
    if value.type == "LocalizedMethodFault":
        fault = theirs(value.get("fault"))
        fault.msg = value.get("localizedMessage")
        return fault
    made = VmomiSupport.GetWsdlType("urn:vim25", value.type)()
    for declared in types.data_type(value.type).fields:
        item = value.get(declared.name)
        info = made._GetPropertyInfo(declared.name)
        if declared.type.array:
            items = [theirs(x, declared.type) for x in item or ()]
            made.__dict__[declared.name] = info.type(items)
        else:
            made.__dict__[declared.name] = theirs(item, declared.type)
    return made


def theirs(value: object, ref: TypeRef | None = None) -> object:
    """Turn one of our values into pyVmomi's."""
    if isinstance(value, Obj):
        value = their_object(value)
    elif isinstance(value, MoRef):
        value = VmomiSupport.GetWsdlType("urn:vim25", value.type)(value.value)
    elif isinstance(value, Typed):
        value = VmomiSupport.GetVmodlType(value.type)(value.value)
    elif isinstance(value, bytes):
        value = VmomiSupport.binary(value)
    elif ref is not None and ref.name == "byte" and isinstance(value, int) and value > 127:
        value -= 256
    return value


def pyvmomi_bytes(value: Obj, declared: str, version: str) -> str:
    writer = StringIO()
    serializer = SoapAdapter.SoapSerializer(writer, version, NAMESPACES)
    serializer.outermostAttrs = ""
    info = VmomiSupport.Object(
        name="x",
        type=VmomiSupport.GetWsdlType("urn:vim25", declared),
        version="vim.version.version1",
        flags=0,
    )
    serializer.Serialize(theirs(value), info)
    return writer.getvalue()


@settings(max_examples=150, deadline=None)
@given(data=st.data(), version=st.sampled_from([versions.NEWEST, "vim.version.v8_0_3_0"]))
def test_bytes_equal_those_of_pyvmomi(data: st.DataObject, version: str) -> None:
    name = data.draw(st.sampled_from([n for n in INTERESTING if n != "LocalizedMethodFault"]))
    value = data.draw(objects(name))
    if types.is_subtype(name, "MethodFault"):
        value = Obj("LocalizedMethodFault", fault=value, localizedMessage="it failed")
    ref = TypeRef(Kind.DATA, value.type)
    ours = encode.encoder(version).element("x", value, ref)
    assert ours == pyvmomi_bytes(value, value.type, version)


@pytest.mark.parametrize("version", [versions.NEWEST, versions.OLDEST])
def test_every_data_type_of_the_api_has_a_serializer(version: str) -> None:
    writer = encode.encoder(version)
    for name in types.data_names():
        assert writer._body(name) is not None


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_is_written_reads_back_the_same(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(INTERESTING))
    value = data.draw(objects(name))
    text = encode.encoder(versions.NEWEST).element("y", value, TypeRef(Kind.DATA, name))
    node = xmlnodes.parse_xml(WRAP.format(text).encode()).children[0]
    again = decode._data(name, node)
    assert encode.encoder(versions.NEWEST).element("y", again, TypeRef(Kind.DATA, name)) == text


def test_newer_properties_are_left_out_for_an_older_client() -> None:
    value = Obj("HostTpmEventDetails", dataHash=b"\x01", dataHashMethod="SHA256")
    ref = TypeRef(Kind.DATA, "HostTpmEventDetails")
    assert "dataHashMethod" in encode.encoder(versions.NEWEST).element("x", value, ref)
    assert "dataHashMethod" not in encode.encoder("vim.version.version8").element("x", value, ref)


def test_newer_types_become_their_nearest_known_ancestor() -> None:
    value = Obj("HostTpmSystemVersionEventDetails", dataHash=b"\x01", systemVersion="1")
    ref = TypeRef(Kind.DATA, "HostTpmEventDetails")
    old = encode.encoder("vim.version.v8_0_3_0").element("x", value, ref)
    assert old == "<x><dataHash>1</dataHash></x>"


def test_bytes_are_signed_decimals() -> None:
    value = Obj("HostTpmEventDetails", dataHash=b"\x00\x7f\x80\xff")
    text = encode.encoder(versions.NEWEST).element(
        "x", value, TypeRef(Kind.DATA, "HostTpmEventDetails")
    )
    hashes = "".join(f"<dataHash>{n}</dataHash>" for n in (0, 127, -128, -1))
    assert text == f"<x>{hashes}</x>"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a&<b>", '<v xsi:type="xsd:string">a&amp;&lt;b&gt;</v>'),
        (True, '<v xsi:type="xsd:boolean">true</v>'),
        (7, '<v xsi:type="xsd:int">7</v>'),
        (Typed("long", 7), '<v xsi:type="xsd:long">7</v>'),
        (b"\x00", '<v xsi:type="xsd:base64Binary">AA==</v>'),
        (
            datetime(2026, 1, 2, 3, 4, 5, 120000, UTC),
            '<v xsi:type="xsd:dateTime">2026-01-02T03:04:05.12Z</v>',
        ),
        (
            MoRef("Folder", "ha-folder-root"),
            '<v type="Folder" xsi:type="ManagedObjectReference">ha-folder-root</v>',
        ),
        (
            Typed("VirtualMachinePowerState", "poweredOn"),
            '<v xsi:type="VirtualMachinePowerState">poweredOn</v>',
        ),
        (
            Typed("int", (1, 2), array=True),
            (
                '<v xsi:type="ArrayOfInt"><int xsi:type="xsd:int">1</int>'
                '<int xsi:type="xsd:int">2</int></v>'
            ),
        ),
        (
            Typed("VirtualMachine", (MoRef("VirtualMachine", "1"),), array=True),
            (
                '<v xsi:type="ArrayOfManagedObjectReference"><ManagedObjectReference '
                'type="VirtualMachine" xsi:type="ManagedObjectReference">1'
                "</ManagedObjectReference></v>"
            ),
        ),
        (
            Typed("OptionValue", (Obj("OptionValue", key="k", value=1),), array=True),
            (
                '<v xsi:type="ArrayOfOptionValue"><OptionValue xsi:type="OptionValue"><key>k</key>'
                '<value xsi:type="xsd:int">1</value></OptionValue></v>'
            ),
        ),
        (
            Typed("VirtualMachine", (), array=True),
            '<v xsi:type="ArrayOfManagedObjectReference"></v>',
        ),
    ],
)
def test_values_of_type_any_say_their_type(value: object, expected: str) -> None:
    assert encode.encoder(versions.NEWEST).any_element("v", value) == expected


def test_text_that_xml_cannot_carry_is_replaced_not_sent() -> None:
    assert encode.escape("a\x00b\ud800c") == "a\ufffdb\ufffdc"


@pytest.mark.parametrize(
    ("value", "ref"),
    [
        ("poweredSideways", TypeRef(Kind.ENUM, "VirtualMachinePowerState")),
        ("", TypeRef(Kind.ENUM, "VirtualMachinePowerState")),
        (2**31, TypeRef(Kind.PRIMITIVE, "int")),
        (True, TypeRef(Kind.PRIMITIVE, "int")),
        (datetime.fromtimestamp(0, UTC).replace(tzinfo=None), TypeRef(Kind.PRIMITIVE, "dateTime")),
        (MoRef("Folder", "x"), TypeRef(Kind.MOREF, "HostSystem")),
        (Obj("AboutInfo"), TypeRef(Kind.DATA, "Description")),
        (Obj("Description", label="x"), TypeRef(Kind.DATA, "Description")),
        (object(), TypeRef(Kind.ANY, "anyType")),
    ],
)
def test_a_value_that_does_not_fit_is_never_sent(value: object, ref: TypeRef) -> None:
    with pytest.raises(FormatError):
        encode.encoder(versions.NEWEST).element("x", value, ref)


def test_fragments_are_taken_over_as_they_are() -> None:
    ref = TypeRef(Kind.DATA, "OptionValue", array=True)
    raw = Raw("<x>1</x>")
    assert encode.encoder(versions.NEWEST).element("x", raw, ref) == raw.text


def test_fault_parts_are_in_no_namespace() -> None:
    text = "".join(encode.fault_envelope(Obj("NotSupported"), "no <way>", versions.NEWEST))
    assert "<faultcode>ServerFaultCode</faultcode><faultstring>no &lt;way&gt;</faultstring>" in text
    assert '<detail><NotSupportedFault xmlns="urn:vim25" xsi:type="NotSupported">' in text
    assert "xmlns=" not in text[: text.index("<detail>")]
