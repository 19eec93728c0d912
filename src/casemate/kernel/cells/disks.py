"""Finds where the sectors of a VM's disks are: beside their descriptors and nowhere else."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Final, Protocol

from casemate.errors import FormatError
from casemate.formats import qcow2, vmdk
from casemate.formats.datastorepath import beside, in_volume
from casemate.kernel.sys.libc import from_os_error
from casemate.machine.facts import DiskSpec
from casemate.machine.planstorage import DiskSource
from casemate.machine.vmconfig import DISK_FORMATS

CHAIN_LIMIT: Final = 32
"""Deltas above a disk: as many snapshots as ESXi lets a VM have."""
_SECTOR: Final = 512
EXTENTS: Final = frozenset({*DISK_FORMATS, "raw"})
"""Suffixes of the files of disks: what has another is never opened as one."""
_NO_DIGIT: Final = re.compile(r"[^0-9A-Fa-f]")
_UUID_DIGITS: Final = 32


class Files(Protocol):
    """Where the files of disks are looked up: a ``VmDirectory``."""

    def open_file(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Return a descriptor of a regular file. Raises HostError."""


def resolve(directory: Files, disks: tuple[DiskSpec, ...]) -> tuple[DiskSource, ...]:
    """Read the descriptors and sizes of disks.

    Args:
        directory: Of the VM.
        disks: As configured.

    Returns:
        One source for each disk with what lies below it, its ``disk.capacity`` filled in.

    Raises:
        FormatError: A descriptor that is none or names something elsewhere, or an odd size.
        NotSupportedError: A kind of disk that this host does not read.
        HostError: A file is missing or cannot be opened.
    """
    return tuple(_source(directory, disk) for disk in disks)


def describe(directory: Files, name: str) -> vmdk.Vmdk:
    """Read the descriptor of a .vmdk file, which a sparse disk has inside.

    Raises:
        CasemateError: As for ``resolve``.
    """
    return vmdk.parse(_read(directory, name, vmdk.SIZE_LIMIT))


def endless(name: str) -> FormatError:
    """Return what is wrong with disks that go in a circle, or are too many."""
    return FormatError(
        f"the disks below {name} go in a circle, or are over {CHAIN_LIMIT}",
        component=name,
        code="disk-chain",
        remedy="Restore the descriptors from a backup.",
    )


def taken(directory: Files, name: str) -> int:
    """Return the bytes that a file takes on its file system. Raises HostError."""
    descriptor = directory.open_file(name)
    try:
        return os.fstat(descriptor).st_blocks * _SECTOR
    finally:
        os.close(descriptor)


def _source(directory: Files, disk: DiskSpec, above: frozenset[str] = frozenset()) -> DiskSource:
    """Find one disk; ``above`` are the deltas that led to it."""
    if disk.file_name in above or len(above) > CHAIN_LIMIT:
        raise endless(disk.file_name)
    if disk.format == "vmdk":
        return _described(directory, disk, above)
    return _plain(directory, disk, disk.file_name, disk.format)


def _described(directory: Files, disk: DiskSpec, above: frozenset[str]) -> DiskSource:
    """Follow a descriptor."""
    described = describe(directory, disk.file_name)
    entries = dict(described.ddb)
    disk = replace(
        disk,
        capacity=described.capacity,
        uuid=_NO_DIGIT.sub("", entries.get("ddb.uuid", ""))[:_UUID_DIGITS],
        thin=entries.get("ddb.thinProvisioned") == "1",
    )
    extent = beside(disk.file_name, described.extent)
    for name in described.extents:
        if name.rpartition(".")[2].lower() in EXTENTS:
            continue
        # What a guest writes must not be a file that says what its VM, or another, is made of.
        raise FormatError(
            f"the extent {name} is not a disk's by its name",
            component=disk.file_name,
            code="vmdk-path",
            remedy="Give the extent a name that ends in .vmdk, and name that in the descriptor.",
        )
    if described.format == "qcow2":
        lower = beside(disk.file_name, described.parent)
        below = replace(disk, file_name=lower, format=format_of(lower))
        backing = _source(directory, below, above | {disk.file_name})
        return replace(_plain(directory, disk, extent, "qcow2"), disk=disk, backing=backing)
    if described.format == "vmdk":
        frozen = described.create_type is vmdk.CreateType.STREAM_OPTIMIZED
        return DiskSource(disk, disk.file_name, described.capacity, read_only=frozen, format="vmdk")
    if described.format == "split":
        return DiskSource(disk, disk.file_name, described.capacity, read_only=True, format="split")
    begin = described.offset * vmdk.SECTOR
    return DiskSource(
        disk=disk,
        file_name=extent,
        size=described.capacity,
        offset=begin,
        read_only=described.read_only,
        whole=not begin and _size(directory, extent) == described.capacity,
    )


def _plain(directory: Files, disk: DiskSpec, name: str, kind: str) -> DiskSource:
    """Take a file that has no descriptor: plain sectors or QCOW2."""
    if disk.kind == "cdrom" and in_volume(name):
        # Looked up when the cell gets it; its size is what it is then.
        return DiskSource(replace(disk, capacity=0), name, 0, whole=True)
    if kind == "qcow2":
        size = qcow2.capacity(_read(directory, name, qcow2.HEADER_SIZE)[: qcow2.HEADER_SIZE])
    else:
        size = _size(directory, name)
    if size == 0 or size % _SECTOR:
        raise FormatError(
            f"the disk {name} has {size} bytes, which are no whole sectors",
            component=name,
            code="disk-size",
        )
    return DiskSource(replace(disk, capacity=size), name, size, format=kind, whole=kind == "raw")


def format_of(name: str) -> str:
    """Tell a disk's format by its name, as a vmx file does. Raises FormatError."""
    suffix = name.rpartition(".")[2].lower()
    kind = DISK_FORMATS.get(suffix)
    if kind is None:
        raise FormatError(f"no disk is read from {name}", component=name, code="disk-kind")
    return kind


def _read(directory: Files, name: str, limit: int) -> bytes:
    """Read a small regular file, at most one byte over ``limit``."""
    descriptor = directory.open_file(name)
    with os.fdopen(descriptor, "rb") as stream:
        try:
            return stream.read(limit + 1)
        except OSError as error:
            raise from_os_error(f"cannot read {name}", error, component=name) from error


def _size(directory: Files, name: str) -> int:
    descriptor = directory.open_file(name)
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
