"""Finds where the sectors of a VM's disks are, in the VM's own directory and nowhere else."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from typing import Final

from casemate.errors import FormatError, HostError
from casemate.formats import vmdk
from casemate.kernel.sys.files import open_beneath
from casemate.kernel.sys.libc import from_os_error
from casemate.machine.facts import DiskSpec
from casemate.machine.plan import DiskSource

_SECTOR: Final = 512


def resolve(directory: int, disks: tuple[DiskSpec, ...]) -> tuple[DiskSource, ...]:
    """Read the descriptors and sizes of disks.

    Args:
        directory: Descriptor of the VM's directory.
        disks: As configured.

    Returns:
        One source for each disk, its ``disk.capacity`` filled in.

    Raises:
        FormatError: A descriptor that is none or names something elsewhere, or an odd size.
        NotSupportedError: A kind of disk that this host does not read.
        HostError: A file is missing or cannot be opened.
    """
    return tuple(_source(directory, disk) for disk in disks)


def _source(directory: int, disk: DiskSpec) -> DiskSource:
    if disk.format == "vmdk":
        described = vmdk.parse(_read(directory, disk.file_name, vmdk.SIZE_LIMIT))
        return DiskSource(
            disk=replace(disk, capacity=described.capacity),
            file_name=described.extent,
            size=described.capacity,
            offset=described.offset * vmdk.SECTOR,
            read_only=described.read_only,
        )
    size = _size(directory, disk.file_name)
    if size == 0 or size % _SECTOR:
        raise FormatError(
            f"the disk {disk.file_name} has {size} bytes, which are no whole sectors",
            component=disk.file_name,
            code="disk-size",
        )
    return DiskSource(replace(disk, capacity=size), disk.file_name, size, format=disk.format)


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
