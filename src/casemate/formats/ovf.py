"""OVF descriptors: one virtual machine, what it is made of, and the files of its disks.

Source: DSP0243 1.1 (DMTF) and what VMware's tools write. Elements are known by their local names;
prefixes are whatever the writer chose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from casemate.errors import FormatError, LimitError, NotSupportedError
from casemate.formats.vmdk import is_plain_name
from casemate.formats.xmltree import Element, parse_xml, write_xml

SIZE_LIMIT: Final = 1 << 20
"""Bytes: descriptors of real appliances stay under 100 KiB."""
DISK_LIMIT: Final = 60
NIC_LIMIT: Final = 10
_CAPACITY_LIMIT: Final = 62 << 40
_NUMBER: Final = 18
_STREAM: Final = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_CPU, _MEMORY, _IDE, _SCSI, _NIC, _DISK, _SATA = "3", "4", "5", "6", "10", "17", "20"
_ITEMS: Final = ("Item", "StorageItem", "EthernetPortItem")
_BUSES: Final = {_IDE: "ide", _SCSI: "scsi", _SATA: "sata"}
_POWER: Final = re.compile(r"byte(?: ?\* ?2\^([0-9]{1,2}))?")
_OLD_UNITS: Final = {"KiloBytes": 10, "MegaBytes": 20, "GigaBytes": 30, "": 0}
_MODELS: Final = {"e1000": "e1000", "e1000e": "e1000e", "vmxnet3": "vmxnet3"}


@dataclass(frozen=True, slots=True)
class OvfDisk:
    """A disk: its file (plain name and size), bytes of the plain disk, and where it is attached."""

    file_name: str
    file_size: int
    capacity: int
    bus: str
    bus_number: int
    unit: int


@dataclass(frozen=True, slots=True)
class OvfMachine:
    """A virtual machine; ``nics`` are pairs of network and model."""

    name: str
    guest_id: str
    cpus: int
    memory_mib: int
    firmware: str
    disks: tuple[OvfDisk, ...]
    nics: tuple[tuple[str, str], ...]
    annotation: str = ""


def parse(data: bytes) -> OvfMachine:
    """Parse a descriptor.

    Raises:
        FormatError: Not OVF, or it names a file elsewhere.
        LimitError: Too long, or too many disks or cards.
        NotSupportedError: Several machines, compressed or split files, disks with a parent.
    """
    if len(data) > SIZE_LIMIT:
        raise LimitError(f"an OVF descriptor of {len(data)} bytes is too long", component="ovf")
    root = parse_xml(data, component="ovf")
    if _local(root.tag) != "Envelope":
        raise _wrong("it is no Envelope")
    if _child(root, "VirtualSystemCollection") is not None:
        raise NotSupportedError("a collection of machines is not imported", component="ovf")
    system = _required(root, "VirtualSystem")
    hardware = _required(system, "VirtualHardwareSection")
    items = [
        _values(item) for item in _children(hardware, "Item", "StorageItem", "EthernetPortItem")
    ]
    name = _text(_child(system, "Name")) or _attribute(system, "id")
    memory = _first(items, _MEMORY)
    units = memory.get("AllocationUnits", "MegaBytes")
    annotation = _child(system, "AnnotationSection")
    return OvfMachine(
        name=name,
        guest_id=_guest(system),
        cpus=_int(_first(items, _CPU).get("VirtualQuantity", "1")),
        memory_mib=_int(memory.get("VirtualQuantity", "0")) * _scale(units) >> 20,
        firmware=_firmware(hardware),
        disks=tuple(_disks(root, items)),
        nics=tuple(_nics(items)),
        annotation="" if annotation is None else _text(_child(annotation, "Annotation")),
    )


def write(machine: OvfMachine) -> bytes:
    """Write a descriptor; ``parse`` gives the same machine back."""
    namespaces = {
        "xmlns": "http://schemas.dmtf.org/ovf/envelope/1",
        "xmlns:ovf": "http://schemas.dmtf.org/ovf/envelope/1",
        "xmlns:rasd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"
        "CIM_ResourceAllocationSettingData",
        "xmlns:vmw": "http://www.vmware.com/schema/ovf",
    }
    disks = list(enumerate(machine.disks, 1))
    files = [
        Element(
            "File",
            {"ovf:href": d.file_name, "ovf:id": f"file{n}", "ovf:size": str(d.file_size)},
        )
        for n, d in disks
    ]
    kinds = [
        Element(
            "Disk",
            {
                "ovf:capacity": str(d.capacity),
                "ovf:capacityAllocationUnits": "byte",
                "ovf:diskId": f"vmdisk{n}",
                "ovf:fileRef": f"file{n}",
                "ovf:format": _STREAM,
            },
        )
        for n, d in disks
    ]
    networks = sorted({network for network, _ in machine.nics})
    system = Element("VirtualSystem", {"ovf:id": "vm"})
    system.children += [
        _info("A virtual machine"),
        Element("Name", {}, text=machine.name),
        Element(
            "OperatingSystemSection",
            {"ovf:id": "1", "vmw:osType": machine.guest_id},
            [_info("The kind of guest")],
        ),
    ]
    if machine.annotation:
        note = Element("Annotation", {}, text=machine.annotation)
        system.children.append(Element("AnnotationSection", {}, [_info("A note"), note]))
    config = Element(
        "vmw:Config",
        {"ovf:required": "false", "vmw:key": "firmware", "vmw:value": machine.firmware},
    )
    hardware = [_info("Virtual hardware"), *_items(machine), config]
    system.children.append(Element("VirtualHardwareSection", {}, hardware))
    named = [Element("Network", {"ovf:name": name}) for name in networks]
    envelope = Element("Envelope", namespaces)
    envelope.children += [
        Element("References", {}, files),
        Element("DiskSection", {}, [_info("Virtual disks"), *kinds]),
        Element("NetworkSection", {}, [_info("Networks"), *named]),
        system,
    ]
    return write_xml(envelope)


def _items(machine: OvfMachine) -> Iterator[Element]:
    """Yield the hardware items, in the order of instance ids."""
    number = 1
    yield _item(number, _CPU, VirtualQuantity=str(machine.cpus))
    number += 1
    memory = {"AllocationUnits": "byte * 2^20", "VirtualQuantity": str(machine.memory_mib)}
    yield _item(number, _MEMORY, **memory)
    parents: dict[tuple[str, int], str] = {}
    kinds = {bus: kind for kind, bus in _BUSES.items()}
    for bus, at in sorted({(disk.bus, disk.bus_number) for disk in machine.disks}):
        number += 1
        parents[bus, at] = str(number)
        yield _item(number, kinds[bus], Address=str(at))
    for at, disk in enumerate(machine.disks, 1):
        number += 1
        yield _item(
            number,
            _DISK,
            AddressOnParent=str(disk.unit),
            HostResource=f"ovf:/disk/vmdisk{at}",
            Parent=parents[disk.bus, disk.bus_number],
        )
    for network, model in machine.nics:
        number += 1
        kind = {value: key for key, value in _MODELS.items()}.get(model, "vmxnet3")
        yield _item(number, _NIC, Connection=network, ResourceSubType=kind)


def _item(number: int, kind: str, **values: str) -> Element:
    whole = {
        **values,
        "ElementName": f"item {number}",
        "InstanceID": str(number),
        "ResourceType": kind,
    }
    children = [Element(f"rasd:{name}", {}, text=text) for name, text in sorted(whole.items())]
    return Element("Item", {}, children)


def _info(text: str) -> Element:
    return Element("Info", {}, text=text)


def _disks(root: Element, items: list[dict[str, str]]) -> Iterator[OvfDisk]:
    """Follow each disk item to its disk and its file."""
    files = {_attribute(e, "id"): e for e in _within(root, "References", "File")}
    disks = {_attribute(e, "diskId"): e for e in _within(root, "DiskSection", "Disk")}
    controllers = {item.get("InstanceID", ""): item for item in items}
    wanted = [item for item in items if item.get("ResourceType") == _DISK]
    if len(wanted) > DISK_LIMIT:
        raise LimitError(f"a machine of {len(wanted)} disks is not imported", component="ovf")
    for item in wanted:
        disk = disks.get(item.get("HostResource", "").rpartition("/")[2])
        file = None if disk is None else files.get(_attribute(disk, "fileRef"))
        parent = controllers.get(item.get("Parent", ""), {})
        bus = _BUSES.get(parent.get("ResourceType", ""))
        if disk is None or file is None or bus is None:
            raise _wrong("a disk has no file or no controller")
        if _attribute(disk, "parentRef") or _attribute(file, "compression") not in ("", "identity"):
            raise NotSupportedError("a disk with a parent or compressed", component="ovf")
        if _attribute(file, "chunkSize"):
            raise NotSupportedError("a disk in several files is not imported", component="ovf")
        name = _attribute(file, "href")
        if not is_plain_name(name):
            raise FormatError(
                f"the OVF descriptor names {name[:80]!r}, which is not a file beside it",
                component="ovf",
                code="ovf-path",
            )
        capacity = _int(_attribute(disk, "capacity"))
        capacity *= _scale(_attribute(disk, "capacityAllocationUnits"))
        if not 0 < capacity <= _CAPACITY_LIMIT:
            raise LimitError(f"a disk of {capacity} bytes is out of range", component="ovf")
        yield OvfDisk(
            file_name=name,
            file_size=_int(_attribute(file, "size") or "0"),
            capacity=capacity,
            bus=bus,
            bus_number=_int(parent.get("Address") or "0"),
            unit=_int(item.get("AddressOnParent") or "0"),
        )


def _nics(items: list[dict[str, str]]) -> Iterator[tuple[str, str]]:
    found = [item for item in items if item.get("ResourceType") == _NIC]
    if len(found) > NIC_LIMIT:
        raise LimitError(f"a machine of {len(found)} cards is not imported", component="ovf")
    for item in found:
        kind = item.get("ResourceSubType", "").lower()
        yield item.get("Connection") or "VM Network", _MODELS.get(kind, "e1000")


def _guest(system: Element) -> str:
    section = _child(system, "OperatingSystemSection")
    return ("" if section is None else _attribute(section, "osType")) or "otherguest"


def _firmware(hardware: Element) -> str:
    for config in _children(hardware, "Config"):
        if _attribute(config, "key") == "firmware":
            return _attribute(config, "value").lower()
    return "bios"


def _first(items: list[dict[str, str]], kind: str) -> dict[str, str]:
    for item in items:
        if item.get("ResourceType") == kind:
            return item
    raise _wrong("it lacks CPU or memory")


def _values(item: Element) -> dict[str, str]:
    return {_local(child.tag): child.text for child in item.children}


def _scale(units: str) -> int:
    match = _POWER.fullmatch(units)
    power = _OLD_UNITS.get(units) if match is None else int(match[1] or "0")
    if power is None or power > 50:  # noqa: PLR2004  (pebibytes: more than any disk)
        raise _wrong(f"the unit {units[:40]!r} is not known")
    return 1 << power


def _int(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _NUMBER):
        raise _wrong(f"{text[:40]!r} is not a number")
    return int(text)


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def _children(element: Element, *names: str) -> list[Element]:
    return [child for child in element.children if _local(child.tag) in names]


def _child(element: Element, name: str) -> Element | None:
    return next(iter(_children(element, name)), None)


def _required(element: Element, name: str) -> Element:
    found = _child(element, name)
    if found is None:
        raise _wrong(f"it lacks {name}")
    return found


def _within(root: Element, section: str, name: str) -> list[Element]:
    found = _child(root, section)
    return [] if found is None else _children(found, name)


def _text(element: Element | None) -> str:
    return "" if element is None else element.text


def _attribute(element: Element, name: str) -> str:
    for key, value in element.attributes.items():
        if _local(key) == name:
            return value
    return ""


def _wrong(why: str) -> FormatError:
    return FormatError(f"not an OVF descriptor: {why}", component="ovf", code="ovf-malformed")
