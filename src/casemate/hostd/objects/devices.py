"""A VM's virtual hardware: the devices with the keys that ESXi gives them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from casemate.formats.datastorepath import in_volume, show
from casemate.machine import peripherals, serialports
from casemate.machine.facts import DiskSpec, DriveSpec, NicSpec, SerialSpec, VmConfig
from casemate.machine.hotnotes import added
from casemate.machine.vmconfig import DISK_SHARES
from casemate.vim25.values import MoRef, Obj, Value

KIB = 1024
PCI_KEY = 100
PS2_KEY = 300
VIDEO_KEY = 500
USB_KEY = 7000
XHCI_KEY = 14000
SIO_KEY = 400
FIRST_SERIAL_KEY = 9000
FIRST_NIC_KEY = 4000
FIRST_NIC_UNIT = 7
_UUID_DIGITS = 32

_NAME = re.compile(r"([a-z]+)([0-9]{0,2})")


@dataclass(frozen=True, slots=True)
class _Bus:
    """A kind of controller: type, key of the first one, first disk key, slots on one."""

    type: str
    label: str
    key: int
    disk_key: int
    slots: int


_BUSES: Mapping[str, _Bus] = {
    "ide": _Bus("VirtualIDEController", "IDE", 200, 3000, 2),
    "scsi": _Bus("ParaVirtualSCSIController", "SCSI controller", 1000, 2000, 16),
    "sata": _Bus("VirtualAHCIController", "SATA controller", 15000, 16000, 30),
    "nvme": _Bus("VirtualNVMEController", "NVME controller", 31000, 32000, 15),
}

_MOST = 4
"""Controllers of one bus."""

_NICS = {
    "e1000": "VirtualE1000",
    "e1000e": "VirtualE1000e",
    "vmxnet3": "VirtualVmxnet3",
    # vSphere has no virtio card: it is shown as what it is, a card of no kind of VMware's.
    "virtio": "VirtualEthernetCard",
}


_CONTROLLER_TYPES: Mapping[str, str] = {
    "VirtualIDEController": "ide",
    "VirtualAHCIController": "sata",
    "VirtualNVMEController": "nvme",
    "VirtualLsiLogicController": "scsi",
    "VirtualLsiLogicSASController": "scsi",
    "VirtualBusLogicController": "scsi",
    "ParaVirtualSCSIController": "scsi",
}


def controller_types() -> Mapping[str, str]:
    """Return the bus that each type of controller stands for."""
    return _CONTROLLER_TYPES


def controller_of(key: int) -> str | None:
    """Return the controller with this device key: ``scsi0``; None: no controller has it."""
    for name, bus in _BUSES.items():
        if 0 <= key - bus.key < _MOST:
            return f"{name}{key - bus.key}"
    return None


def nic_models() -> Mapping[str, str]:
    """Return the model that each type of network card stands for."""
    return {kind: model for model, kind in _NICS.items()}


def _bus(controller: str) -> tuple[_Bus, int]:
    match = _NAME.fullmatch(controller)
    name, number = (match[1], int(match[2] or 0)) if match else ("scsi", 0)
    return _BUSES.get(name, _BUSES["scsi"]), number


def _pci(devices: Iterable[Obj]) -> Obj:
    """Return the PCI controller, which nearly everything is attached to."""
    attached = (one.get("key") for one in devices if one.get("controllerKey") == PCI_KEY)
    return Obj(
        "VirtualPCIController",
        key=PCI_KEY,
        deviceInfo=_info("PCI controller 0"),
        busNumber=0,
        device=tuple(attached),
    )


def _fixed(config: VmConfig) -> Iterator[Obj]:
    yield Obj(
        "VirtualPS2Controller",
        key=PS2_KEY,
        deviceInfo=_info("PS2 controller 0"),
        busNumber=0,
        device=(600, 700),
    )
    yield Obj(
        "VirtualSIOController",
        key=SIO_KEY,
        deviceInfo=_info("SIO controller 0"),
        busNumber=0,
        device=tuple(FIRST_SERIAL_KEY + port.number for port in config.serials),
    )
    yield Obj(
        "VirtualKeyboard",
        key=600,
        deviceInfo=_info("Keyboard"),
        controllerKey=PS2_KEY,
        unitNumber=0,
    )
    yield Obj(
        "VirtualPointingDevice",
        key=700,
        deviceInfo=_info("Pointing device"),
        backing=Obj(
            "VirtualPointingDeviceDeviceBackingInfo", deviceName="", hostPointingDevice="autodetect"
        ),
        controllerKey=PS2_KEY,
        unitNumber=1,
    )
    entries = peripherals.entries_of(config)
    yield Obj(
        "VirtualMachineVideoCard",
        key=VIDEO_KEY,
        deviceInfo=_info("Video card"),
        controllerKey=PCI_KEY,
        unitNumber=0,
        videoRamSizeInKB=peripherals.video_kib(entries),
        numDisplays=1,
        useAutoDetect=peripherals.is_on(entries, peripherals.VIDEO_AUTO),
        enable3DSupport=False,
        use3dRenderer="automatic",
    )


def _usb(config: VmConfig) -> Iterator[Obj]:
    entries = peripherals.entries_of(config)
    auto = peripherals.is_on(entries, peripherals.AUTO_CONNECT)
    common: dict[str, Value] = {"controllerKey": PCI_KEY, "busNumber": 0}
    ehci = peripherals.is_on(entries, peripherals.EHCI)
    if ehci or peripherals.is_on(entries, peripherals.UHCI):
        yield Obj(
            "VirtualUSBController",
            key=USB_KEY,
            deviceInfo=_info("USB controller"),
            **common,
            unitNumber=22,
            autoConnectDevices=auto,
            ehciEnabled=ehci,
        )
    if peripherals.is_on(entries, peripherals.XHCI):
        yield Obj(
            "VirtualUSBXHCIController",
            key=XHCI_KEY,
            deviceInfo=_info("USB xHCI controller"),
            **common,
            unitNumber=23,
            autoConnectDevices=auto,
        )


def _info(label: str, summary: str | None = None) -> Obj:
    return Obj("Description", label=label, summary=summary or label)


def _controllers(config: VmConfig, *, running: bool) -> Iterator[Obj]:
    # The first SCSI controller is there before the first disk: clients look for a place to put it.
    # So are the IDE controllers, which every VM has: clients put CD drives there.
    found = {
        _bus("ide0"),
        _bus("ide1"),
        _bus("scsi0"),
        *(_bus(one.controller) for one in config.slots),
        # What a running VM has in a port stays there when its last disk goes.
        *(_bus(name) for name in (added(config).controllers if running else ())),
    }
    used = sorted(found, key=lambda b: b[0].key + b[1])
    for bus, number in used:
        label = f"{bus.label} {number}"
        attached = tuple(
            disk_key(one) for one in config.slots if _bus(one.controller) == (bus, number)
        )
        common: dict[str, Value] = {
            "key": bus.key + number,
            "deviceInfo": _info(label),
            "controllerKey": PCI_KEY,
            "busNumber": number,
            "device": attached,
        }
        if bus.type == "ParaVirtualSCSIController":
            scsi: dict[str, Value] = {"sharedBus": "noSharing", "scsiCtlrUnitNumber": 7}
            yield Obj(bus.type, **common, hotAddRemove=True, **scsi)
        else:
            yield Obj(bus.type, **common)


def disk_key(disk: DiskSpec | DriveSpec) -> int:
    """Return the device key of a disk or CD drive."""
    bus, number = _bus(disk.controller)
    return bus.disk_key + bus.slots * number + disk.unit


def path_of(file_name: str, directory: str) -> str:
    """Return the datastore path of a VM's file; ``directory`` is its own, with a slash."""
    elsewhere = in_volume(file_name)
    return show(*elsewhere) if elsewhere else f"{directory}{file_name}"


def _disk(
    disk: DiskSpec,
    number: int,
    directory: str,
    datastores: Mapping[str, MoRef],
    vm: str,
) -> Obj:
    bus, controller = _bus(disk.controller)
    path = path_of(disk.file_name, directory)
    datastore = datastores.get(path.partition("]")[0].removeprefix("["))
    if disk.kind == "cdrom":
        return Obj(
            "VirtualCdrom",
            key=disk_key(disk),
            deviceInfo=_info(f"CD/DVD drive {number}", f"ISO {path}"),
            backing=Obj("VirtualCdromIsoBackingInfo", fileName=path, datastore=datastore),
            connectable=_connectable(),
            controllerKey=bus.key + controller,
            unitNumber=disk.unit,
        )
    kib = disk.capacity // KIB
    return Obj(
        "VirtualDisk",
        key=disk_key(disk),
        deviceInfo=_info(f"Hard disk {number}", f"{kib:,} KB"),
        backing=Obj(
            "VirtualDiskFlatVer2BackingInfo",
            fileName=path,
            datastore=datastore,
            diskMode=disk.mode,
            split=False,
            writeThrough=False,
            thinProvisioned=disk.thin,
            eagerlyScrub=not disk.thin,
            uuid=_disk_uuid(disk.uuid),
            sharing="sharingNone",
        ),
        controllerKey=bus.key + controller,
        unitNumber=disk.unit,
        capacityInKB=kib,
        capacityInBytes=disk.capacity,
        shares=_shares(disk),
        diskObjectId=f"{vm}-{disk_key(disk)}" if vm else None,
        storageIOAllocation=Obj(
            "StorageIOAllocationInfo",
            limit=disk.iops,
            shares=_shares(disk),
            reservation=0,
        ),
    )


def _shares(disk: DiskSpec) -> Obj:
    levels = {shares: level for level, shares in DISK_SHARES.items()}
    return Obj("SharesInfo", shares=disk.shares, level=levels.get(disk.shares, "custom"))


def _disk_uuid(digits: str) -> str | None:
    """Return a disk's UUID as ESXi shows it; None: its descriptor has none."""
    cuts = (0, 8, 12, 16, 20, _UUID_DIGITS)
    parts = [digits[low:high] for low, high in pairwise(cuts)]
    return "-".join(parts).upper() if len(digits) == _UUID_DIGITS else None


def _connectable(*, start: bool = True, connected: bool = True) -> Obj:
    return Obj(
        "VirtualDeviceConnectInfo",
        startConnected=start,
        allowGuestControl=False,
        connected=connected,
        status="ok",
    )


def nic_key(number: int) -> int:
    """Return the device key of a network card."""
    return FIRST_NIC_KEY + number


def _nic(nic: NicSpec, number: int, *, running: bool) -> Obj:
    return Obj(
        _NICS[nic.model],
        key=nic_key(number),
        deviceInfo=_info(f"Network adapter {number + 1}", nic.network),
        backing=Obj(
            "VirtualEthernetCardNetworkBackingInfo",
            deviceName=nic.network,
            useAutoDetect=False,
            network=MoRef("Network", f"HaNetwork-{nic.network}"),
        ),
        connectable=_connectable(start=nic.connected, connected=nic.connected and running),
        controllerKey=PCI_KEY,
        unitNumber=FIRST_NIC_UNIT + number,
        addressType="manual" if nic.manual else "generated",
        macAddress=nic.mac,
        wakeOnLanEnabled=False,
        resourceAllocation=Obj(
            "VirtualEthernetCardResourceAllocation",
            reservation=0,
            share=Obj("SharesInfo", shares=50, level="normal"),
            limit=-1,
        ),
        uptCompatibilityEnabled=False,
    )


def _serial(port: SerialSpec, directory: str, datastore: MoRef | None, *, running: bool) -> Obj:
    backing = Obj("VirtualSerialPortDeviceBackingInfo", deviceName="", useAutoDetect=True)
    summary = "Connected to nothing"
    connected = port.connected
    if port.kind == serialports.FILE:
        summary = f"{directory}{port.target}"
        backing = Obj("VirtualSerialPortFileBackingInfo", fileName=summary, datastore=datastore)
    elif port.kind == serialports.PIPE:
        summary = f"Pipe {port.target}"
        backing = Obj(
            "VirtualSerialPortPipeBackingInfo",
            pipeName=port.target,
            endpoint="server",
            noRxLoss=False,
        )
    else:
        connected = False
    return Obj(
        "VirtualSerialPort",
        key=FIRST_SERIAL_KEY + port.number,
        deviceInfo=_info(f"Serial port {port.number + 1}", summary),
        backing=backing,
        connectable=_connectable(start=connected, connected=connected and running),
        controllerKey=SIO_KEY,
        unitNumber=port.number,
        yieldOnPoll=True,
    )


def _drive(drive: DriveSpec, number: int) -> Obj:
    bus, controller = _bus(drive.controller)
    return Obj(
        "VirtualCdrom",
        key=disk_key(drive),
        deviceInfo=_info(f"CD/DVD drive {number}", "No disc"),
        backing=Obj(
            "VirtualCdromRemotePassthroughBackingInfo",
            deviceName="",
            useAutoDetect=False,
            exclusive=False,
        ),
        connectable=_connectable(start=False, connected=False),
        controllerKey=bus.key + controller,
        unitNumber=drive.unit,
    )


def devices(
    config: VmConfig,
    directory: str,
    datastore: MoRef | None,
    *,
    running: bool = False,
    vm: str = "",
    datastores: Mapping[str, MoRef] = MappingProxyType({}),
) -> tuple[Obj, ...]:
    """Return all devices; ``directory`` is the VM's as a datastore path that ends in a slash.

    ``vm`` is its id, which the names of its disks' objects begin with; ``datastores`` are those of
    its disks by name, its own is ``datastore``.
    """
    known = {**datastores}
    if datastore is not None:
        known[directory.partition("]")[0].removeprefix("[")] = datastore
    drives: list[Obj] = []
    counts: dict[str, int] = {}
    for disk in config.disks:
        counts[disk.kind] = counts.get(disk.kind, 0) + 1
        drives.append(_disk(disk, counts[disk.kind], directory, known, vm))
    first = counts.get("cdrom", 0) + 1
    drives += [_drive(drive, number) for number, drive in enumerate(config.drives, first)]
    nics = [_nic(nic, number, running=running) for number, nic in enumerate(config.nics)]
    ports = [_serial(port, directory, datastore, running=running) for port in config.serials]
    controllers = (*_usb(config), *_controllers(config, running=running))
    found = (*_fixed(config), *controllers, *drives, *nics, *ports)
    return (_pci(found), *found)
