"""Finds where the sectors of a VM's disks are, in the VM's own directory and nowhere else."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import replace
from typing import Final

from casemate.errors import FormatError, HostError
from casemate.formats import qcow2, vmdk
from casemate.formats.datastorepath import in_volume
from casemate.kernel.sys.files import open_beneath
from casemate.kernel.sys.libc import from_os_error
from casemate.machine.facts import DiskSpec
from casemate.machine.planstorage import DiskSource
from casemate.machine.vmconfig import DISK_FORMATS

CHAIN_LIMIT: Final = 32
"""Deltas above a disk: as many snapshots as ESXi lets a VM have."""
_SECTOR: Final = 512
_NO_DIGIT: Final = re.compile(r"[^0-9A-Fa-f]")
_UUID_DIGITS: Final = 32


def resolve(directory: int, disks: tuple[DiskSpec, ...]) -> tuple[DiskSource, ...]:
    """Read the descriptors and sizes of disks.

    Args:
        directory: Descriptor of the VM's directory.
        disks: As configured.

    Returns:
        One source for each disk with what lies below it, its ``disk.capacity`` filled in.

    Raises:
        FormatError: A descriptor that is none or names something elsewhere, or an odd size.
        NotSupportedError: A kind of disk that this host does not read.
        HostError: A file is missing or cannot be opened.
    """
    return tuple(_source(directory, disk) for disk in disks)


def describe(directory: int, name: str) -> vmdk.Vmdk:
    """Read the descriptor of a .vmdk file, which a sparse disk has inside.

    Raises:
        CasemateError: As for ``resolve``.
    """
    return vmdk.parse(_read(directory, name, vmdk.SIZE_LIMIT))


def taken(directory: int, name: str) -> int:
    """Return the bytes that a file takes on its file system. Raises HostError."""
    descriptor = _open_regular(directory, name)
    try:
        return os.fstat(descriptor).st_blocks * _SECTOR
    finally:
        os.close(descriptor)


def _source(directory: int, disk: DiskSpec, above: frozenset[str] = frozenset()) -> DiskSource:
    """Find one disk; ``above`` are the deltas that led to it."""
    if disk.file_name in above or len(above) > CHAIN_LIMIT:
        raise FormatError(
            f"the disks below {disk.file_name} go in a circle, or are over {CHAIN_LIMIT}",
            component=disk.file_name,
            code="disk-chain",
            remedy="Restore the descriptors from a backup.",
        )
    if disk.format == "vmdk":
        return _described(directory, disk, above)
    return _plain(directory, disk, disk.file_name, disk.format)


def _described(directory: int, disk: DiskSpec, above: frozenset[str]) -> DiskSource:
    """Follow a descriptor."""
    described = describe(directory, disk.file_name)
    entries = dict(described.ddb)
    disk = replace(
        disk,
        capacity=described.capacity,
        uuid=_NO_DIGIT.sub("", entries.get("ddb.uuid", ""))[:_UUID_DIGITS],
        thin=entries.get("ddb.thinProvisioned") == "1",
    )
    if described.format == "qcow2":
        below = replace(disk, file_name=described.parent, format=format_of(described.parent))
        backing = _source(directory, below, above | {disk.file_name})
        return replace(
            _plain(directory, disk, described.extent, "qcow2"), disk=disk, backing=backing
        )
    if described.format == "vmdk":
        frozen = described.create_type is vmdk.CreateType.STREAM_OPTIMIZED
        return DiskSource(disk, disk.file_name, described.capacity, read_only=frozen, format="vmdk")
    begin = described.offset * vmdk.SECTOR
    return DiskSource(
        disk=disk,
        file_name=described.extent,
        size=described.capacity,
        offset=begin,
        read_only=described.read_only,
        whole=not begin and _size(directory, described.extent) == described.capacity,
    )


def _plain(directory: int, disk: DiskSpec, name: str, kind: str) -> DiskSource:
    """Take a file that has no descriptor: plain sectors or QCOW2."""
    if in_volume(name):
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


def _read(directory: int, name: str, limit: int) -> bytes:
    """Read a small regular file, at most one byte over ``limit``."""
    descriptor = _open_regular(directory, name)
    with os.fdopen(descriptor, "rb") as stream:
        try:
            return stream.read(limit + 1)
        except OSError as error:
            raise from_os_error(f"cannot read {name}", error, component=name) from error


def _size(directory: int, name: str) -> int:
    descriptor = _open_regular(directory, name)
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _open_regular(directory: int, name: str) -> int:
    """Open a regular file for reading, without waiting for the other end of a pipe."""
    descriptor = open_beneath(directory, name, os.O_RDONLY | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise HostError(f"{name} is not a regular file", code="disk-kind", component=name)
