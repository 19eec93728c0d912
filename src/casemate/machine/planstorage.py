"""The disks of a cell: open descriptors in fd sets, layer upon layer, and devices above them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from casemate.errors import ArgumentError, NotSupportedError
from casemate.machine.bootorder import boot_indices
from casemate.machine.diskmodes import forgets, scratch_name
from casemate.machine.facts import DiskSpec, DriveSpec
from casemate.machine.hotnotes import Added, port_of

FIRST_FD: Final = 10
"""The descriptor of the first file; its fd set has number 0, and so on."""
# Bytes: the limit of a file's size counts for the memory file of translated code too.
_FILE_SIZE_LEAST: Final = 64 << 20
# How many times its size at power-on a disk may reach under a running guest.
_GROWTH: Final = 2
_SPLIT: Final = "split"
_LAYERED: Final = frozenset({"qcow2", "vmdk"})
_AHCI_PORTS: Final = 6
_SCSI_DEVICES: Final = {
    "lsilogic": "lsi53c895a",
    "lsisas1068": "mptsas1068",
    "pvscsi": "pvscsi",
}


@dataclass(frozen=True, slots=True)
class DiskSource:
    """Where a disk's sectors are: ``size`` bytes from ``offset`` on in ``file_name``.

    ``format`` is ``raw``, ``qcow2``, ``vmdk`` (sparse) or ``split`` (in many files), stated by
    configuration and never found by probing. ``backing`` is what lies below a delta: read, never
    written. ``whole``: the file has these sectors and nothing else, so that it can grow.
    ``scratch``: it is no file of the VM's, but a delta that ends with the cell.
    """

    disk: DiskSpec
    file_name: str
    size: int
    offset: int = 0
    read_only: bool = False
    format: str = "raw"
    backing: DiskSource | None = None
    whole: bool = False
    scratch: bool = False

    @property
    def layers(self) -> tuple[DiskSource, ...]:
        """Itself and what lies below, top first."""
        return (self, *(self.backing.layers if self.backing else ()))


def storage(
    disks: tuple[DiskSource, ...],
    drives: tuple[DriveSpec, ...],
    extra: dict[str, str],
    fds: dict[str, int],
    came: Added,
) -> Iterator[str]:
    """Disks and CD images, each file an open descriptor in an fd set of its own; empty drives."""
    ports = iter(range(_AHCI_PORTS))
    for file_name, fd in fds.items():
        yield from ("-add-fd", f"fd={fd},set={fd - FIRST_FD},opaque={node_name(file_name)}")
    # As many, in the same order, as the guest fell asleep with.
    found = {source.disk.controller for source in disks} | {one.controller for one in drives}
    for name in sorted(one for one in found | came.controllers if one.startswith("scsi")):
        port = port_of(name, came)
        place = f",bus={port}" if port else ""
        yield from ("-device", f"{controller_device(name, extra)},id={name}{place}")
    indices = boot_indices([source.disk for source in disks], extra)
    for index, source in zip(indices, disks, strict=True):
        yield from ("-blockdev", as_json(block_node(source, fds)))
        bus = source.disk.controller.rstrip("0123456789")
        tail = f"drive={node_name(source.file_name)},bootindex={index}"
        yield from ("-device", _disk_device(source.disk, tail, bus, ports))
    for drive in drives:
        bus = drive.controller.rstrip("0123456789")
        disk = DiskSpec("", "cdrom", "raw", 0, drive.controller, drive.unit)
        yield from ("-device", _disk_device(disk, "", bus, ports))


def forgetting(source: DiskSource) -> DiskSource:
    """Return a disk as the guest writes it: one that forgets has a scratch delta on top."""
    if not forgets(source.disk):
        return source
    return DiskSource(
        disk=source.disk,
        file_name=scratch_name(source.disk),
        size=source.disk.capacity,
        format="qcow2",
        backing=replace(source, read_only=True),
        scratch=True,
    )


def controller_device(name: str, extra: dict[str, str]) -> str:
    """Return QEMU's name of a SCSI controller's model.

    Args:
        name: Of the controller: ``scsi1``.
        extra: The vmx entries by lower-case name.

    Raises:
        ArgumentError: There is no such model.
    """
    model = extra.get(f"{name}.virtualdev", "lsilogic").lower()
    if model not in _SCSI_DEVICES:
        raise ArgumentError(f"no controller {model[:40]!r}", argument=f"{name}.virtualDev")
    return _SCSI_DEVICES[model]


def node_name(file_name: str) -> str:
    """Return the name of a file's node in QEMU's block layer: the same in every cell."""
    return "n" + hashlib.sha256(file_name.encode(errors="surrogatepass")).hexdigest()[:24]


def block_node(source: DiskSource, fds: dict[str, int]) -> dict[str, object]:
    """Return the block layer's description: a stated format over a passed descriptor.

    QEMU's own locks are off: the descriptors come locked.

    Args:
        source: The disk or delta, with what lies below.
        fds: Descriptor by name of file; the fd sets count from the first disk's on.

    Raises:
        NotSupportedError: A format that is not offered.
    """
    read_only = is_read_only(source)
    description: dict[str, object] = {
        "driver": source.format,
        "node-name": node_name(source.file_name),
        "read-only": read_only,
        "file": {
            "driver": "file",
            "filename": f"/dev/fdset/{fds[source.file_name] - FIRST_FD}",
            "discard": "unmap",
            "locking": "off",
        },
    }
    if source.format == "raw":
        if not source.whole:
            description |= {"offset": source.offset, "size": source.size}
    elif source.format in _LAYERED:
        description["backing"] = None
        if source.backing is not None:
            below = replace(source.backing, read_only=True)
            description["backing"] = block_node(below, fds)
    else:
        check_offered(source)
    return description


def check_offered(source: DiskSource) -> None:
    """Raise NotSupportedError for a disk that no guest can be given."""
    if source.format == _SPLIT:
        raise NotSupportedError(
            f"{source.file_name} is a disk in several files, which can only be copied",
            code="disk-split",
            component=source.file_name,
            remedy="Copy it with CopyVirtualDisk_Task, and use the copy, which is one flat file.",
        )
    if source.format not in {"raw", *_LAYERED}:
        raise NotSupportedError(
            f"disks of format {source.format[:40]!r} are not offered", component=source.file_name
        )


def _disk_device(disk: DiskSpec, tail: str, bus: str, ports: Iterator[int]) -> str:
    """Return the device that the guest sees."""
    kind = "cd" if disk.kind == "cdrom" else "hd"
    words = [f"id={device_id(disk)}", *([tail] if tail else [])]
    match bus:
        case "ide" | "sata":
            port = next(ports, None)
            if port is None:
                raise NotSupportedError(
                    f"more than {_AHCI_PORTS} IDE and SATA drives are not offered",
                    component=disk.file_name,
                    remedy="Attach some of them to a SCSI controller.",
                )
            return ",".join([f"ide-{kind}", f"bus=ide.{port}", *words])
        case "scsi":
            place = [f"bus={disk.controller}.0", f"scsi-id={disk.unit}"]
            return ",".join([f"scsi-{kind}", *place, *words])
        case "nvme" if kind == "hd":
            return ",".join(["nvme", f"serial={device_id(disk)}", *words])
        case "virtio" if kind == "hd":
            return ",".join(["virtio-blk-pci", *words])
    raise NotSupportedError(
        f"a {disk.kind} on {disk.controller} is not offered", component=disk.file_name
    )


def device_id(disk: DiskSpec | DriveSpec) -> str:
    """Return QEMU's name of a drive: its slot."""
    return f"{disk.controller}-{disk.unit}"


def hot_device(source: DiskSource) -> dict[str, object]:
    """Return the device of a disk that comes to a SCSI controller of a running VM."""
    disk = source.disk
    return {
        "driver": "scsi-hd",
        "id": device_id(disk),
        "bus": f"{disk.controller}.0",
        "scsi-id": disk.unit,
        "drive": node_name(source.file_name),
    }


def as_json(value: object) -> str:
    """Return an option's value as QEMU reads it."""
    return json.dumps(value, separators=(",", ":"))


def is_read_only(source: DiskSource) -> bool:
    """Tell whether the guest may only read the disk."""
    return source.read_only or source.disk.kind == "cdrom"


def file_size(disks: tuple[DiskSource, ...], memory_mib: int) -> int:
    """Bytes up to which any file may be written: a disk grown to twice its size, or the memory."""
    ends = [(source.offset + source.size) * _GROWTH for source in disks if not is_read_only(source)]
    return max([*ends, memory_mib << 20, _FILE_SIZE_LEAST])
