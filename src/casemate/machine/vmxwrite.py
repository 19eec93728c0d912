"""From what a VM is made of back to the entries of its vmx file: the inverse of ``vmconfig``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from casemate.errors import ArgumentError
from casemate.formats.vmx import Vmx
from casemate.machine import serialports
from casemate.machine.diskmodes import PERSISTENT
from casemate.machine.facts import Allocation, DiskSpec, DriveSpec, NicSpec, VmConfig
from casemate.machine.vmconfig import BYTES, DISK_SHARES, NORMAL_SHARES, vm_config

BASE_ENTRIES: Final = (("config.version", "8"), ("virtualHW.version", "21"))
"""What a new file has besides: VMware's version of the format, vSphere 8's of the hardware."""
_FIXED: Final = frozenset(
    {"displayname", "guestos", "numvcpus", "memsize", "firmware", "uuid.bios", "annotation"}
    | {f"sched.{kind}.{what}" for kind in ("cpu", "mem") for what in ("min", "max", "shares")}
)
_SLOT: Final = ("present", "filename", "devicetype", "startconnected")
_NIC: Final = (
    *("present", "virtualdev", "networkname", "connectiontype"),
    *("address", "addresstype", "generatedaddress", "generatedaddressoffset", "startconnected"),
)
_NICS: Final = 10
_ATTACHED: Final = ("scsi", "sata", "nvme")
_MAC_STEP: Final = 10
_MAC: Final = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_VMWARE: Final = bytes.fromhex("005056")
_CHOSEN: Final = 0x3F
"""The greatest fourth octet of an address of VMware's that a person may choose."""


def vmx_of(config: VmConfig, old: Vmx) -> Vmx:
    """Return the file that says ``config``.

    Args:
        config: What the VM shall be made of.
        old: Its present file: what no field of a configuration shows (what an empty CD drive would
            hold) stays.

    Raises:
        CasemateError: ``config`` cannot be said, by the rules for reading.
    """
    before = vm_config(old, config.vmx_path)
    known = {name.lower() for name, _ in before.extra} | _FIXED
    changed = set(before.drives) ^ set(config.drives)
    slots: tuple[DiskSpec | DriveSpec, ...] = (*before.disks, *config.disks, *changed)
    for disk in slots:
        known |= {f"{_slot(disk)}.{what}" for what in _SLOT}
        known.add(f"{_slot(disk)}.mode")
        if isinstance(disk, DiskSpec):
            known |= {f"sched.{_slot(disk)}.{what}" for what in ("throughputcap", "shares")}
        known.add(f"{disk.controller}.present")
    known |= {f"{drive.controller}.present" for drive in config.drives}
    known |= {f"ethernet{number}.{what}" for number in range(_NICS) for what in _NIC}
    known |= {*serialports.names(before), *serialports.names(config)}
    kept = [(name, value) for name, value in old.entries if name.lower() not in known]
    made = Vmx((*_heading(config), *kept, *_devices(config, before), *config.extra))
    _check_names(made)
    vm_config(made, config.vmx_path)
    return made


def _check_names(made: Vmx) -> None:
    """Refuse what says something twice: such a file is not read again."""
    names: set[str] = set()
    for name, _ in made.entries:
        if name.lower() in names:
            raise ArgumentError(
                f"the vmx entry {name[:80]} is said by the VM's hardware or settings already",
                argument="extraConfig",
            )
        names.add(name.lower())


def generated_mac(uuid: str, number: int) -> str:
    """Return the address of network card ``number``, made of the VM's UUID as VMware does."""
    low = (int(uuid.replace("-", "")[-6:], 16) + _MAC_STEP * number) & 0xFFFFFF
    return ":".join(("00", "0c", "29", *(f"{low:06x}"[at : at + 2] for at in (0, 2, 4))))


def check_addresses(config: VmConfig, before: VmConfig) -> None:
    """Judge the addresses that were chosen for network cards and are new.

    Of VMware's own 00:50:56 the half from 40 on is given out by its managers, never by people.

    Raises:
        ArgumentError: An address is no station's, or not a person's to choose.
    """
    known = {nic.mac for nic in before.nics}
    for nic in config.nics:
        if not nic.manual or nic.mac in known:
            continue
        octets = bytes.fromhex(nic.mac.replace(":", "")) if _MAC.fullmatch(nic.mac) else b""
        if not octets or octets[0] & 1 or not any(octets):
            raise ArgumentError(
                f"{nic.mac[:40]!r} is not the address of a station", argument="macAddress"
            )
        if octets.startswith(_VMWARE) and octets[len(_VMWARE)] > _CHOSEN:
            raise ArgumentError(
                f"{nic.mac} is not between 00:50:56:00:00:00 and 00:50:56:3f:ff:ff",
                argument="macAddress",
            )


def _slot(disk: DiskSpec | DriveSpec) -> str:
    return f"{disk.controller}:{disk.unit}"


def _heading(config: VmConfig) -> Iterator[tuple[str, str]]:
    yield "displayName", config.name
    yield "guestOS", config.guest_id
    yield "numvcpus", str(config.cpus)
    yield "memSize", str(config.memory_mib)
    yield "firmware", config.firmware
    if config.uuid:
        octets = bytes.fromhex(config.uuid.replace("-", "")).hex(" ")
        yield "uuid.bios", f"{octets[:23]}-{octets[24:]}"
    if config.annotation:
        yield "annotation", config.annotation
    yield from _allocation("sched.cpu", config.cpu_allocation)
    yield from _allocation("sched.mem", config.memory_allocation)


def _allocation(prefix: str, allocation: Allocation) -> Iterator[tuple[str, str]]:
    custom = allocation.shares_level == "custom"
    yield f"{prefix}.min", str(allocation.reservation)
    yield f"{prefix}.shares", str(allocation.shares) if custom else allocation.shares_level
    yield f"{prefix}.max", "unlimited" if allocation.limit < 0 else str(allocation.limit)


def _devices(config: VmConfig, before: VmConfig) -> Iterator[tuple[str, str]]:
    present = {one.controller for one in config.slots if one.controller.startswith(_ATTACHED)}
    for controller in sorted(present):
        yield f"{controller}.present", "TRUE"
    for disk in config.disks:
        yield f"{_slot(disk)}.present", "TRUE"
        yield f"{_slot(disk)}.fileName", disk.file_name
        yield f"{_slot(disk)}.deviceType", "cdrom-image" if disk.kind == "cdrom" else "disk"
        if disk.mode != PERSISTENT:
            yield f"{_slot(disk)}.mode", disk.mode.replace("_", "-")
        if cap := _cap(disk):
            yield f"sched.{_slot(disk)}.throughputCap", cap
        if disk.kind == "disk" and disk.shares != NORMAL_SHARES:
            levels = {shares: level for level, shares in DISK_SHARES.items()}
            yield f"sched.{_slot(disk)}.shares", levels.get(disk.shares, str(disk.shares))
    for drive in config.drives:
        if drive not in before.drives:
            yield f"{_slot(drive)}.present", "TRUE"
            yield f"{_slot(drive)}.deviceType", "cdrom-raw"
            yield f"{_slot(drive)}.startConnected", "FALSE"
    yield from serialports.written(config)
    for number, nic in enumerate(config.nics):
        yield from _nic(f"ethernet{number}", nic)


def _cap(disk: DiskSpec) -> str:
    """Return VMware's words for a disk's limit; empty: there is none."""
    if disk.iops > 0:
        return f"{disk.iops}IOPS"
    if disk.bps < 0:
        return ""
    unit, size = next(one for one in BYTES if not disk.bps % one[1])
    return f"{disk.bps // size}{unit[0].upper()}Bps"


def _nic(slot: str, nic: NicSpec) -> Iterator[tuple[str, str]]:
    yield f"{slot}.present", "TRUE"
    yield f"{slot}.virtualDev", nic.model
    yield f"{slot}.networkName", nic.network
    if not nic.connected:
        yield f"{slot}.startConnected", "FALSE"
    if nic.mac:
        yield f"{slot}.addressType", "static" if nic.manual else "generated"
        yield f"{slot}.address" if nic.manual else f"{slot}.generatedAddress", nic.mac
