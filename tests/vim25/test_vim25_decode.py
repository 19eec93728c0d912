"""Requests that are not what they should be are refused by name; whatever the bytes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import FormatError, LimitError
from casemate.testing.soapclient import ENVELOPE
from casemate.vim25 import decode, xmlnodes
from casemate.vim25.values import MoRef, Obj, Typed

FOLDER = '<_this type="Folder">ha-folder-vm</_this>'
MANAGER = '<_this type="SessionManager">ha-sessionmgr</_this>'
VM = '<_this type="VirtualMachine">1</_this>'
COLLECTOR = '<_this type="PropertyCollector">ha-property-collector</_this>'


def body(inner: str) -> bytes:
    return ENVELOPE.format(inner).encode()


def call(name: str, inner: str) -> bytes:
    return body(f'<{name} xmlns="urn:vim25">{inner}</{name}>')


def arguments(data: bytes) -> dict[str, object]:
    return decode.arguments(decode.parse_envelope(data))


BAD_ENVELOPES = {
    "nothing": b"",
    "not XML": b"\x00\xff",
    "cut off": body("<x>")[:80],
    "no envelope": b"<x/>",
    "envelope without namespace": b"<Envelope><Body><x/></Body></Envelope>",
    "empty body": body(""),
    "two calls": call("Logout", MANAGER)[:-36] + b"<y/></soapenv:Body></soapenv:Envelope>",
    "entity bomb": b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x>&a;</x>',
    "outside entity": b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>',
    "plain doctype": b"<!DOCTYPE x><x/>",
    "undeclared entity": body("<a>&nbsp;</a>"),
    "other encoding": '<?xml version="1.0" encoding="utf-16"?><x/>'.encode("utf-16"),
    "unknown method": call("FormatHostDisk", VM),
    "method of another namespace": body(f'<Logout xmlns="urn:internalvim25">{MANAGER}</Logout>'),
    "method in no namespace": body(f"<Logout>{MANAGER}</Logout>"),
    "no receiver": call("Logout", ""),
    "two receivers": call("Logout", MANAGER * 2),
    "receiver without type": call("Logout", "<_this>ha-sessionmgr</_this>"),
    "receiver of a data type": call("Logout", '<_this type="AboutInfo">x</_this>'),
    "receiver of an unknown type": call("Logout", '<_this type="Nope">x</_this>'),
    "empty id": call("Logout", '<_this type="SessionManager"> </_this>'),
    "long id": call("Logout", f'<_this type="SessionManager">{"x" * 300}</_this>'),
    "id with a control character": call("Logout", '<_this type="SessionManager">a\tb</_this>'),
    "elements in the id": call("Logout", '<_this type="SessionManager"><a/></_this>'),
    "undeclared prefix in xsi:type": call("Logout", f'{MANAGER}<a xsi:type="zz:string">x</a>'),
}


@pytest.mark.parametrize("name", BAD_ENVELOPES)
def test_bad_envelope_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        decode.parse_envelope(BAD_ENVELOPES[name])


LOGIN = "<userName>root</userName><password>x</password>"
SPEC = "<propSet><type>Folder</type></propSet><objectSet>{}</objectSet>"
OBJECT = '<obj type="Folder">ha-folder-root</obj>'
OPTION = '<changedValue><key>a</key><value xsi:type="{}">{}</value></changedValue>'
OPTIONS = '<_this type="OptionManager">ha-adv-options</_this>'

BAD_ARGUMENTS = {
    "missing parameter": call("Login", f"{MANAGER}<userName>root</userName>"),
    "parameter twice": call("Login", f"{MANAGER}{LOGIN}<userName>admin</userName>"),
    "unknown parameter": call("Login", f"{MANAGER}{LOGIN}<admin>true</admin>"),
    "parameter of a foreign namespace": call(
        "Login", f'{MANAGER}{LOGIN}<locale xmlns="x">e</locale>'
    ),
    "elements in text": call("Login", f"{MANAGER}<userName><b/></userName><password/>"),
    "boolean that is none": call(
        "RegisterVM_Task", f"{FOLDER}<path>x</path><asTemplate>maybe</asTemplate>"
    ),
    "reference to another type": call(
        "RegisterVM_Task",
        f"{FOLDER}<path>x</path><asTemplate>false</asTemplate>"
        '<pool type="HostSystem">ha-host</pool>',
    ),
    "required property missing": call(
        "RetrieveProperties", f"{COLLECTOR}<specSet>{SPEC.format('<skip>true</skip>')}</specSet>"
    ),
    "scalar property twice": call(
        "RetrieveProperties", f"{COLLECTOR}<specSet>{SPEC.format(OBJECT * 2)}</specSet>"
    ),
    "unknown property": call(
        "RetrieveProperties", f"{COLLECTOR}<specSet>{SPEC.format(OBJECT + '<x/>')}</specSet>"
    ),
    "array item of a foreign type": call(
        "RetrieveProperties",
        f'{COLLECTOR}<specSet xsi:type="VirtualMachineConfigSpec"></specSet>',
    ),
    "type of a foreign namespace": call(
        "RetrieveProperties", f'{COLLECTOR}<specSet xsi:type="xsd:string">x</specSet>'
    ),
    "text among properties": call("RetrieveProperties", f"{COLLECTOR}<specSet>boo</specSet>"),
    "any without a type": call(
        "UpdateOptions", f"{OPTIONS}<changedValue><key>a</key><value>1</value></changedValue>"
    ),
    "any of an unknown type": call("UpdateOptions", OPTIONS + OPTION.format("xsd:duration", "1")),
    "int too large": call("UpdateOptions", OPTIONS + OPTION.format("xsd:int", "2147483648")),
    "int with an underscore": call("UpdateOptions", OPTIONS + OPTION.format("xsd:int", "1_0")),
    "int in other digits": call("UpdateOptions", OPTIONS + OPTION.format("xsd:int", "\u0661")),
    "byte too large": call("UpdateOptions", OPTIONS + OPTION.format("xsd:byte", "128")),
    "long too large": call("UpdateOptions", OPTIONS + OPTION.format("xsd:long", "9" * 19)),
    "real that is none": call("UpdateOptions", OPTIONS + OPTION.format("xsd:double", "0x10")),
    "no base64": call("UpdateOptions", OPTIONS + OPTION.format("xsd:base64Binary", "a=b")),
    "no time": call("UpdateOptions", OPTIONS + OPTION.format("xsd:dateTime", "yesterday")),
    "impossible time": call(
        "UpdateOptions", OPTIONS + OPTION.format("xsd:dateTime", "2026-02-30T00:00:00Z")
    ),
    "time before all time": call(
        "UpdateOptions", OPTIONS + OPTION.format("xsd:dateTime", "0001-01-01T00:00:00+12:00")
    ),
    "unknown enum value": call(
        "UpdateOptions", OPTIONS + OPTION.format("VirtualMachinePowerState", "sideways")
    ),
    "array of an unknown type": call("UpdateOptions", OPTIONS + OPTION.format("ArrayOfNope", "")),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments_are_refused(name: str) -> None:
    parsed = decode.parse_envelope(BAD_ARGUMENTS[name])
    with pytest.raises(FormatError):
        decode.arguments(parsed)


def test_body_over_one_megabyte_is_refused() -> None:
    with pytest.raises(LimitError):
        decode.parse_envelope(call("Logout", MANAGER + " " * xmlnodes.SIZE_LIMIT))


def test_nesting_over_the_limit_is_refused() -> None:
    deep = "<a>" * 5000 + "</a>" * 5000
    with pytest.raises(LimitError):
        decode.parse_envelope(call("Logout", MANAGER + deep))


def test_too_many_elements_are_refused() -> None:
    with pytest.raises(LimitError):
        decode.parse_envelope(call("Logout", MANAGER + "<a/>" * (xmlnodes.ELEMENT_LIMIT + 1)))


def test_header_is_ignored_whatever_it_says() -> None:
    header = "<soapenv:Header><a><b>x</b></a></soapenv:Header><soapenv:Body>"
    data = call("Logout", MANAGER).replace(b"<soapenv:Body>", header.encode())
    assert decode.parse_envelope(data).this == MoRef("SessionManager", "ha-sessionmgr")


def test_govc_style_is_understood() -> None:
    data = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Envelope xmlns="http://schemas.xmlsoap.org/soap/'
        'envelope/"><Body><RetrievePropertiesEx xmlns="urn:vim25">'
        f"{COLLECTOR}<specSet><propSet><type>Folder</type><pathSet>name</pathSet></propSet>"
        '<objectSet><obj type="Folder">ha-folder-root</obj><selectSet '
        'xmlns:_XMLSchema-instance="http://www.w3.org/2001/XMLSchema-instance" '
        '_XMLSchema-instance:type="TraversalSpec"><type>Folder</type><path>childEntity</path>'
        "</selectSet><skip>false</skip></objectSet></specSet><options></options>"
        "</RetrievePropertiesEx></Body></Envelope>"
    )
    spec = arguments(data.encode())["specSet"][0]
    select = spec.get("objectSet")[0].get("selectSet")[0]
    assert select == Obj("TraversalSpec", type="Folder", path="childEntity")


def test_pyvmomi_style_is_understood() -> None:
    data = call(
        "Login",
        '<_this versionId="8.0.3.0" xsi:type="ManagedObjectReference" type="SessionManager">'
        'ha-sessionmgr</_this><userName versionId="8.0.3.0">root</userName>'
        '<password versionId="8.0.3.0"> p&lt;w </password>',
    )
    assert arguments(data) == {"userName": "root", "password": " p<w "}


def test_any_order_and_absent_lists_are_accepted() -> None:
    data = call(
        "RetrieveProperties",
        f"<specSet><objectSet>{OBJECT}</objectSet></specSet>{COLLECTOR}"
        f"<specSet><objectSet>{OBJECT}</objectSet><propSet><type>Folder</type></propSet></specSet>",
    )
    assert len(arguments(data)["specSet"]) == 2


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        ("xsd:int", " -5 ", Typed("int", -5)),
        ("xsd:boolean", "1", Typed("boolean", value=True)),
        ("xsd:string", " a ", Typed("string", " a ")),
        ("xsd:double", "-1.5e3", Typed("double", -1500.0)),
        ("xsd:base64Binary", "AA ==", Typed("base64Binary", b"\x00")),
        (
            "xsd:dateTime",
            "2026-01-01T02:00:00.5+02:00",
            Typed("dateTime", datetime(2026, 1, 1, 0, 0, 0, 500000, UTC)),
        ),
        ("ArrayOfInt", "<int>1</int><int>2</int>", Typed("int", (1, 2), array=True)),
        ("ArrayOfByte", "<byte>-1</byte><byte>5</byte>", Typed("byte", b"\xff\x05", array=True)),
        ("VirtualMachinePowerState", "poweredOn", Typed("VirtualMachinePowerState", "poweredOn")),
        (
            "Description",
            "<label>a</label><summary>b</summary>",
            Typed("Description", Obj("Description", label="a", summary="b")),
        ),
    ],
)
def test_values_of_type_any_keep_their_type(kind: str, content: str, expected: Typed) -> None:
    data = call("UpdateOptions", OPTIONS + OPTION.format(kind, content))
    assert arguments(data)["changedValue"][0].get("value") == expected


@given(st.binary(max_size=300))
def test_whatever_the_bytes_only_our_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode.parse_envelope(data)


@given(
    st.lists(
        st.sampled_from(
            [
                *("<a>", "</a>", "<specSet>", "</specSet>", "<objectSet>", "</objectSet>", OBJECT),
                *(
                    '<selectSet xsi:type="TraversalSpec">',
                    "</selectSet>",
                    "<skip>1</skip>",
                    "x",
                    "&lt;",
                ),
            ]
        ),
        max_size=12,
    )
)
def test_whatever_the_arguments_only_our_error(pieces: list[str]) -> None:
    data = call("RetrieveProperties", COLLECTOR + "".join(pieces))
    try:
        arguments(data)
    except FormatError:
        return


def test_the_prefix_that_govmomi_does_not_declare_is_xml_schemas() -> None:
    old = (
        '<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>'
        '<UpdateOptions xmlns="urn:vim25"><_this type="OptionManager">HostAgentSettings</_this>'
        "<changedValue><key>a</key><value "
        'xmlns:XMLSchema-instance="http://www.w3.org/2001/XMLSchema-instance" '
        'XMLSchema-instance:type="xsd:string">b</value></changedValue></UpdateOptions>'
        "</Body></Envelope>"
    )
    [option] = arguments(old.encode())["changedValue"]
    assert option.get("value") == Typed("string", "b")
