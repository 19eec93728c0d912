"""From the entries of a vmx file to what a VM is made of."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from casemate.errors import ArgumentError, LimitError
from casemate.formats.datastorepath import in_volume, local
from casemate.formats.vmdk import is_plain_name
from casemate.formats.vmx import Vmx
from casemate.machine import serialports
from casemate.machine.diskmodes import PERSISTENT, forgets, known_mode, mode_refusal, scratch_name
from casemate.machine.facts import Allocation, DiskSpec, DriveSpec, NicSpec, PowerState, VmConfig
from casemate.machine.guestcpu import check_masks
from casemate.machine.networks import DEFAULT_GROUP

CPU_LIMIT: Final = 255
"""vCPUs: what QEMU's q35 machine takes without an interrupt remapping unit."""
MEMORY_LIMIT: Final = 6128 << 10
"""MiB: the largest VM of vSphere 8."""
_MEMORY_STEP: Final = 4
# Characters: what vSphere allows for the name of a VM.
_NAME_LIMIT: Final = 80
# Sockets of each kind of controller: controllers, units on each.
_BUSES: Final = {
    "ide": (2, 2),
    "sata": (4, 30),
    "scsi": (4, 16),
    "nvme": (4, 15),
    "virtio": (1, 16),
}
_NICS: Final = 10
_SHARES: Final = {"low": 500, "normal": 1000, "high": 2000}
_MEMORY_SHARES: Final = {"low": 5, "normal": 10, "high": 20}
SHARES_LIMIT: Final = 1_000_000
DISK_SHARES: Final = {"low": 500, "normal": 1000, "high": 2000}
"""Shares of a disk by their names in vSphere."""
NORMAL_SHARES: Final = DISK_SHARES["normal"]
_UUID: Final = re.compile(r"[0-9a-f]{32}")
_MAC: Final = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_GUEST: Final = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_SCSI_MODELS: Final = frozenset({"lsilogic", "lsisas1068", "pvscsi"})
_NIC_MODELS: Final = frozenset({"e1000", "e1000e", "vmxnet3", "virtio"})
_CAP: Final = re.compile(r"([0-9]{1,9})(iops|[kmg]bps)")
IOPS: Final = (16, 1 << 30)
"""Least and greatest limit of a disk's requests a second: vSphere's least is 16."""
BYTES: Final = (("gbps", 1 << 30), ("mbps", 1 << 20), ("kbps", 1 << 10))
"""Units of a limit in bytes a second, largest first."""
BPS: Final = (64 << 10, 1 << 40)
"""Least and greatest of those: below 64 KiB/s a guest gives its disk up."""
REDO: Final = ".REDO"
"""How the names of files end that hold what was written to disks that forget."""
CHECKPOINT: Final = "checkpoint.vmState"
INSTANCE_UUID: Final = "vc.uuid"
"""VMware's vmx entry of the UUID that tells VMs apart where others are copies of one."""
TEMPLATE: Final = "templateVM"
"""The vmx entry of a VM that is a template; VMware's own."""
DISK_FORMATS: Final = {"vmdk": "vmdk", "img": "raw", "qcow2": "qcow2"}
"""Formats of disks by the suffix of their file: a disk is never probed by its content."""
_IMAGE_FORMATS: Final = {"iso": "raw", "img": "raw"}
_DISK_KINDS: Final = {
    "": "disk",
    "disk": "disk",
    "scsi-harddisk": "disk",
    "ata-harddisk": "disk",
    "rawdisk": "raw",
    "cdrom-image": "cdrom",
    "cdrom-raw": "host-cdrom",
    "atapi-cdrom": "host-cdrom",
}


def vm_config(vmx: Vmx, vmx_path: str) -> VmConfig:
    """Read a VM's configuration.

    Args:
        vmx: The parsed file.
        vmx_path: Its datastore path, ``[datastore1] demo/demo.vmx``.

    Returns:
        The configuration; ``extra`` holds every entry that no other field shows. Capacities of
        disks are 0 until their descriptors are read.

    Raises:
        ArgumentError: A value is out of range, names a file that is on no datastore, or takes
            protection from the guest; ``argument`` is the entry's name.
        LimitError: A number of more than 18 digits.
    """
    entries = _Entries(vmx.lowered())
    _check_readable(entries)
    check_masks(entries.values)
    name = entries.take("displayname") or vmx_path.rpartition("/")[2].removesuffix(".vmx")
    if not name or len(name) > _NAME_LIMIT or not name.isprintable():
        raise entries.wrong("displayname", f"not 1 to {_NAME_LIMIT} printable characters")
    cpus = entries.number("numvcpus", 1, 1, CPU_LIMIT)
    memory = entries.number("memsize", 32, _MEMORY_STEP, MEMORY_LIMIT)
    if memory % _MEMORY_STEP:
        raise entries.wrong("memsize", f"{memory} MiB is not a multiple of {_MEMORY_STEP}")
    firmware = entries.choice("firmware", "bios", frozenset({"bios", "efi"}))
    guest = entries.take("guestos") or "otherguest"
    if not _GUEST.fullmatch(guest):
        raise entries.wrong("guestos", f"{guest!r} is not a guest id")
    slots = _slots(entries, vmx_path)
    return VmConfig(
        name=name,
        uuid=_uuid(entries),
        vmx_path=vmx_path,
        guest_id=guest,
        cpus=cpus,
        memory_mib=memory,
        firmware=firmware,
        disks=tuple(one for one in slots if isinstance(one, DiskSpec)),
        nics=tuple(_nics(entries)),
        cpu_allocation=_allocation(entries, "sched.cpu", _SHARES, cpus),
        memory_allocation=_allocation(entries, "sched.mem", _MEMORY_SHARES, memory),
        annotation=entries.take("annotation"),
        serials=tuple(serialports.read(entries)),
        extra=tuple(entries.rest(vmx)),
        drives=tuple(one for one in slots if isinstance(one, DriveSpec)),
    )


def entry(config: VmConfig, name: str) -> str:
    """Return a vmx entry that no field of a configuration shows; empty: there is none."""
    return next((value for key, value in config.extra if key.lower() == name.lower()), "")


def disk_shares(config: VmConfig) -> int:
    """Return the shares of a VM's disks together, which its cell has."""
    return sum(disk.shares for disk in config.disks if disk.kind == "disk") or NORMAL_SHARES


def is_template(config: VmConfig) -> bool:
    """Tell whether a VM is a template: it is not powered on until it is none any more."""
    return entry(config, TEMPLATE).lower() == "true"


def saved_memory(config: VmConfig) -> str:
    """Return the file that a suspended VM's memory is in, or nothing; VMware's own entry."""
    for name, value in config.extra:
        if name.lower() == CHECKPOINT.lower() and is_plain_name(value):
            return value
    return ""


def saved_scratch(config: VmConfig) -> dict[str, str]:
    """Return the files with what a suspended VM wrote to disks that forget, by their layers."""
    begin = saved_memory(config).rpartition(".")[0]
    found = {scratch_name(disk): disk for disk in config.disks if forgets(disk) and begin}
    return {layer: f"{begin}-{disk.controller}-{disk.unit}{REDO}" for layer, disk in found.items()}


def with_saved_memory(config: VmConfig, file_name: str) -> VmConfig:
    """Return the configuration of a VM that is suspended to this file; "": not suspended."""
    extra = [(name, value) for name, value in config.extra if name.lower() != CHECKPOINT.lower()]
    if file_name:
        extra.append((CHECKPOINT, file_name))
    return replace(config, extra=tuple(extra))


def resting_state(config: VmConfig) -> PowerState:
    """Return the power state of a VM that has no cell."""
    return PowerState.SUSPENDED if saved_memory(config) else PowerState.POWERED_OFF


class _Entries:
    """The entries by lower-case name, remembering which were used."""

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values
        self._taken: set[str] = set()

    def take(self, name: str, default: str = "") -> str:
        self._taken.add(name)
        return self.values.get(name, default)

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self.take(name, "TRUE" if default else "FALSE").lower()
        if value not in {"true", "false", "yes", "no", "1", "0"}:
            raise self.wrong(name, f"{value[:40]!r} is neither TRUE nor FALSE")
        return value in {"true", "yes", "1"}

    def number(self, name: str, default: int, low: int, high: int) -> int:
        value = self.take(name, str(default))
        if not re.fullmatch(r"-?[0-9]{1,18}", value, re.ASCII):
            if re.fullmatch(r"-?[0-9]+", value, re.ASCII):
                raise LimitError(f"{name} has too many digits", component=name)
            raise self.wrong(name, f"{value[:40]!r} is not a number")
        if not low <= int(value) <= high:
            raise self.wrong(name, f"{value} is not between {low} and {high}")
        return int(value)

    def choice(self, name: str, default: str, allowed: frozenset[str]) -> str:
        value = (self.take(name) or default).lower()
        if value not in allowed:
            raise self.wrong(name, f"{value[:40]!r} is none of {', '.join(sorted(allowed))}")
        return value

    def wrong(self, name: str, why: str) -> ArgumentError:
        return ArgumentError(f"the vmx entry {name}: {why}", argument=name)

    def rest(self, vmx: Vmx) -> list[tuple[str, str]]:
        return [(name, value) for name, value in vmx.entries if name.lower() not in self._taken]


def _check_readable(entries: _Entries) -> None:
    """Refuse a file whose hardware is said in encrypted entries: the rest would be another VM."""
    if "encryption.data" in entries.values:
        error = entries.wrong("encryption.data", "the configuration of the VM is encrypted")
        error.remedy = "Decrypt the VM where it was encrypted, then register it again."
        raise error


def _uuid(entries: _Entries) -> str:
    """Return uuid.bios in the usual form; ``56 4d ... -...`` is how VMware writes it."""
    given = entries.take("uuid.bios").lower()
    digits = re.sub(r"[ \-]", "", given)
    if not given:
        return ""
    if not _UUID.fullmatch(digits):
        raise entries.wrong("uuid.bios", f"{given[:60]!r} is not a UUID")
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return "-".join(parts)


def _slots(entries: _Entries, vmx_path: str) -> list[DiskSpec | DriveSpec]:
    """Collect disks, CD images and empty drives in order of bus, controller and unit."""
    found: list[DiskSpec | DriveSpec] = []
    for bus, (controllers, units) in _BUSES.items():
        for controller in (f"{bus}{number}" for number in range(controllers)):
            if bus in {"scsi", "sata", "nvme"} and not entries.flag(f"{controller}.present"):
                continue
            if bus == "scsi":
                model = entries.values.get(f"{controller}.virtualdev", "lsilogic").lower()
                if model not in _SCSI_MODELS:
                    raise entries.wrong(f"{controller}.virtualdev", f"no controller {model[:40]!r}")
            for unit in range(units):
                one = _slot(entries, controller, unit, vmx_path)
                if one is not None:
                    found.append(one)
    return found


def _slot(
    entries: _Entries, controller: str, unit: int, vmx_path: str
) -> DiskSpec | DriveSpec | None:
    """Read one slot; None where it is empty."""
    slot = f"{controller}:{unit}"
    if not entries.flag(f"{slot}.present"):
        return None
    file_name = local(entries.take(f"{slot}.filename"), vmx_path)
    device_type = entries.take(f"{slot}.devicetype").lower()
    kind = _DISK_KINDS.get(device_type)
    if kind is None or kind == "raw":
        raise entries.wrong(f"{slot}.devicetype", f"no device of type {device_type[:40]!r}")
    connected = entries.flag(f"{slot}.startconnected", default=True)
    if kind == "host-cdrom" or (kind == "cdrom" and not connected):
        return DriveSpec(controller, unit)
    if not in_volume(file_name) and not is_plain_name(file_name):
        why = f"{file_name[:80]!r} is neither a file of the VM's own directory nor on a datastore"
        raise entries.wrong(f"{slot}.filename", why)
    iops, bps = _limits(entries, slot) if kind == "disk" else (-1, -1)
    return DiskSpec(
        file_name=file_name,
        kind=kind,
        format=_disk_format(entries, slot, file_name, kind),
        capacity=0,
        controller=controller,
        unit=unit,
        iops=iops,
        bps=bps,
        mode=_mode(entries, slot),
        shares=_disk_shares(entries, slot) if kind == "disk" else NORMAL_SHARES,
    )


def _mode(entries: _Entries, slot: str) -> str:
    """Return a disk's mode; VMware writes it with a hyphen."""
    mode = entries.take(f"{slot}.mode", PERSISTENT).lower().replace("-", "_") or PERSISTENT
    if known := known_mode(mode):
        return known
    why, remedy = mode_refusal(mode)
    error = entries.wrong(f"{slot}.mode", why)
    error.remedy = remedy
    raise error


def _disk_shares(entries: _Entries, slot: str) -> int:
    """Return a disk's shares of the host's disks."""
    name = f"sched.{slot}.shares"
    level = entries.take(name, "normal").lower()
    if level in DISK_SHARES:
        return DISK_SHARES[level]
    return entries.number(name, NORMAL_SHARES, 1, SHARES_LIMIT)


def _limits(entries: _Entries, slot: str) -> tuple[int, int]:
    """Return the limits of a disk's requests and bytes a second; -1: none."""
    name = f"sched.{slot}.throughputcap"
    value = entries.take(name, "off").lower()
    if value in {"off", ""}:
        return -1, -1
    if not (found := _CAP.fullmatch(value)):
        raise entries.wrong(name, f"{value[:40]!r} is no limit, like 100IOPS or 10MBps")
    number = int(found[1])
    if found[2] == "iops":
        if not IOPS[0] <= number <= IOPS[1]:
            raise entries.wrong(name, f"not {IOPS[0]} to {IOPS[1]} requests a second")
        return number, -1
    bytes_ = number * dict(BYTES)[found[2]]
    if not BPS[0] <= bytes_ <= BPS[1]:
        raise entries.wrong(name, f"not {BPS[0]} to {BPS[1]} bytes a second")
    return -1, bytes_


def _disk_format(entries: _Entries, slot: str, file_name: str, kind: str) -> str:
    """Tell the format by the file's name; a disk is never probed by its content."""
    suffix = file_name.rpartition(".")[2].lower()
    known = _IMAGE_FORMATS if kind == "cdrom" else DISK_FORMATS
    if suffix not in known:
        raise entries.wrong(f"{slot}.filename", f"no {kind} is read from a .{suffix[:20]} file")
    return known[suffix]


def _nics(entries: _Entries) -> list[NicSpec]:
    """Collect the network cards."""
    found = []
    for slot in (f"ethernet{number}" for number in range(_NICS)):
        if not entries.flag(f"{slot}.present"):
            continue
        generated = entries.take(f"{slot}.generatedaddress")
        kind = entries.take(f"{slot}.addresstype").lower()
        mac = (entries.take(f"{slot}.address") or generated).lower()
        if mac and (not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1):
            raise entries.wrong(f"{slot}.address", f"{mac[:40]!r} is not a station address")
        network = entries.take(f"{slot}.networkname") or entries.take(f"{slot}.connectiontype")
        model = entries.choice(f"{slot}.virtualdev", "e1000", _NIC_MODELS)
        found.append(
            NicSpec(
                mac=mac,
                network=network or DEFAULT_GROUP,
                model=model,
                manual=bool(mac) and kind == "static",
                connected=entries.flag(f"{slot}.startconnected", default=True),
            )
        )
    return found


def _allocation(entries: _Entries, prefix: str, levels: dict[str, int], units: int) -> Allocation:
    """Read reservation, limit and shares; named shares count per vCPU or MiB."""
    limit = MEMORY_LIMIT if prefix == "sched.mem" else 1 << 31
    reservation = entries.number(f"{prefix}.min", 0, 0, limit)
    ceiling = -1
    if entries.values.get(f"{prefix}.max", "").lower() == "unlimited":
        entries.take(f"{prefix}.max")
    else:
        ceiling = entries.number(f"{prefix}.max", -1, -1, limit)
    level = entries.values.get(f"{prefix}.shares", "normal").lower()
    if level in levels:
        entries.take(f"{prefix}.shares")
        return Allocation(reservation, ceiling, level, levels[level] * units)
    shares = entries.number(f"{prefix}.shares", 0, 1, SHARES_LIMIT)
    return Allocation(reservation, ceiling, "custom", shares)
