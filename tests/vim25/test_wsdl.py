"""The API's description: well-formed, whole, and every name in it leads somewhere."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

import pytest

from casemate.hostd.methods.table import REGISTRY
from casemate.vim25 import hidden, types, wsdl

XS = "{http://www.w3.org/2001/XMLSchema}"
WSDL = "{http://schemas.xmlsoap.org/wsdl/}"
OWN = "vim25:"
METHODS = sorted(one.name for one in REGISTRY if one.name not in hidden.METHODS)


def parsed(pieces: Iterator[str]) -> ET.Element:
    return ET.fromstring("".join(pieces))


@pytest.fixture(scope="module")
def schema() -> ET.Element:
    return parsed(wsdl.schema())


@pytest.fixture(scope="module")
def messages() -> ET.Element:
    return parsed(wsdl.messages(METHODS))


@pytest.fixture(scope="module")
def interface() -> ET.Element:
    return parsed(wsdl.interface(METHODS, "9.1.0.0"))


def named(root: ET.Element, *tags: str) -> dict[str, ET.Element]:
    found = [one for tag in tags for one in root.findall(f"{XS}{tag}")]
    names = [one.attrib["name"] for one in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def test_every_type_is_there_with_its_fields_in_order(schema: ET.Element) -> None:
    known = named(schema, "complexType", "simpleType")
    assert {*types.data_names(), *types.enum_names()} <= set(known)
    for name in types.data_names():
        own = [one.attrib["name"] for one in known[name].iter(f"{XS}element")]
        whole = [field.name for field in types.data_type(name).fields]
        assert own == whole[len(whole) - len(own) :], name
        assert types.array_name(name) in known
    items = known["VirtualMachinePowerState"].iter(f"{XS}enumeration")
    values = [one.attrib["value"] for one in items]
    assert values == ["poweredOff", "poweredOn", "suspended"]


def test_no_name_leads_nowhere(schema: ET.Element, messages: ET.Element) -> None:
    known = {OWN + name for name in named(schema, "complexType", "simpleType")}
    known |= {OWN + name for name in named(messages, "complexType")}
    for root in (schema, messages):
        for one in root.iter():
            for attribute in ("type", "base"):
                value = one.attrib.get(attribute, "xsd:")
                assert value in known or value.removeprefix("xsd:") in {"", "anyType"} | set(
                    types.XSD_TYPES
                ), value


def test_every_served_method_is_an_operation_with_its_messages(
    messages: ET.Element, interface: ET.Element
) -> None:
    elements = {OWN + name for name in named(messages, "element")}
    parts = {
        OWN + one.attrib["name"]: one[0].attrib["element"]
        for one in interface.findall(f"{WSDL}message")
    }
    assert set(parts.values()) <= elements
    for place in ("portType", "binding"):
        port = interface.find(f"{WSDL}{place}")
        assert port is not None
        assert [one.attrib["name"] for one in port.findall(f"{WSDL}operation")] == METHODS
        for one in port.iter():
            assert one.attrib.get("message", next(iter(parts))) in parts
    assert "VimBinding" in "".join(wsdl.service("https://a/sdk"))


def test_an_address_is_text_whatever_it_says() -> None:
    root = parsed(wsdl.service('https://"><x/>&/sdk'))
    addresses = [one.attrib["location"] for one in root.iter() if one.tag.endswith("address")]
    assert addresses == ['https://"><x/>&/sdk']
