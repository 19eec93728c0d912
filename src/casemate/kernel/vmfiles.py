"""Which files a VM owns, and their removal when it is destroyed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

from casemate.errors import CasemateError, FormatError, HostError
from casemate.formats import vmx
from casemate.formats.datastorepath import beside, full, in_volume, local
from casemate.formats.vmdk import is_plain_name
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.inventory import VMX_LIMIT
from casemate.kernel.vmcontext import file_name, stem
from casemate.machine import serialports
from casemate.machine.facts import SnapshotSpec, VmConfig, VmFact
from casemate.machine.vmconfig import saved_memory, saved_scratch

_BOOT_FILES = frozenset({"casemate.kernel", "casemate.initrd"})
_NAMING = (".vmx", ".vmsd")
"""Suffixes of the files that name others: disks, discs, variables."""
OWN_SUFFIXES = (".vmx", ".nvram", ".vmsd", ".vmxf", ".vtpm")


def owned_files(directory: VmDirectory, fact: VmFact, *, media: bool = False) -> set[str]:
    """Return the names of a VM's files, whether they are there or not; disks may lie elsewhere.

    Args:
        directory: Of the VM.
        fact: The VM.
        media: What it uses but does not own too: CD images, a kernel that it boots directly.
    """
    begin = stem(fact.config)
    picture = re.compile(re.escape(begin) + r"-[0-9]{1,3}\.png")
    found = {file_name(fact.config), *(begin + suffix for suffix in OWN_SUFFIXES)}
    found |= {name for name in directory.names() if picture.fullmatch(name)}
    found |= set(serial_files(fact.config))
    if memory := saved_memory(fact.config):
        found |= {memory, *saved_scratch(fact.config).values()}
    tops = set(_tops(fact, media=media))
    if media:
        booted = {value for name, value in fact.config.extra if name.lower() in _BOOT_FILES}
        found |= {name for name in booted if is_plain_name(name)}
    for snapshot in fact.snapshots:
        found |= {state_name(fact.config, snapshot.number), memory_name(fact.config, snapshot)}
    for top in tops:
        for layer in directory.chain(top):
            found |= set(directory.files_of(layer))
    return {name for name in found if is_plain_name(name) or in_volume(name)}


def _tops(fact: VmFact, *, media: bool = False) -> Iterator[str]:
    """Yield the disks that a VM and its snapshots name; ``media``: its discs too."""
    yield from (disk.file_name for disk in fact.config.disks if media or disk.kind != "cdrom")
    yield from disks_of_snapshots(fact)


def disks_of_snapshots(fact: VmFact) -> tuple[str, ...]:
    """Return the disks that a VM's snapshots name."""
    return tuple(name for one in fact.snapshots for _, name in one.disks)


def strangers(directory: VmDirectory, known: Sequence[VmFact]) -> set[str]:
    """Return what VMs that are not registered name where a VM has files, with the disks below.

    Args:
        directory: Of the VM.
        known: The VM, and others that are registered.

    Raises:
        FormatError: A file of such a VM cannot be read: nobody knows which disks it needs.
    """
    away = {name for name in _tops(known[0]) if in_volume(name)}
    found = named_files(directory, known)
    for near in {beside(name, ""): name for name in away}.values():
        found |= named_files(directory, known, near)
    return {layer for name in found for layer in directory.chain(name)}


def named_files(directory: VmDirectory, known: Sequence[VmFact], near: str = "") -> set[str]:
    """Return the files in a folder that those of VMs there name, but for the ``known`` VMs.

    ``near`` is a file in the folder; empty: it is the directory, which the first VM is in.

    Raises:
        FormatError: The file of a VM cannot be read.
    """
    own = {
        local(full(stem(fact.config) + suffix, fact.config.vmx_path), known[0].config.vmx_path)
        for fact in known
        for suffix in _NAMING
    }
    found: set[str] = set()
    for name in directory.names_beside(near) if near else directory.names():
        if not name.lower().endswith(_NAMING) or name in own:
            continue
        try:
            entries = vmx.parse(directory.read(name, VMX_LIMIT)).entries
        except CasemateError as error:
            raise FormatError(
                f"{name} cannot be read, and its VM may need files in this directory: "
                f"{error.reason}",
                code="stranger",
                component=name,
                remedy=f"Repair {name}, or remove it if no VM needs it; nothing is lost till then.",
            ) from error
        plain = {value.rpartition("/")[2] for _, value in entries}
        found |= {beside(name, one) for one in plain if is_plain_name(one)}
    return {name for name in found if directory.exists(name)}


def serial_files(config: VmConfig) -> Iterator[str]:
    """Yield the files that a VM's serial ports write to."""
    for _, name in serialports.files(config):
        if name:
            yield from (name, name + serialports.OLDER)


def state_name(config: VmConfig, number: int) -> str:
    """Return the file with a snapshot's configuration."""
    return f"{stem(config)}-Snapshot{number}.vmsn"


def memory_name(config: VmConfig, snapshot: SnapshotSpec) -> str:
    """Return the file with a snapshot's memory, or nothing."""
    return f"{stem(config)}-Snapshot{snapshot.number}.vmem" if snapshot.memory else ""


def destroy_files(directory: VmDirectory, fact: VmFact, shared: set[str]) -> None:
    """Remove what a VM owns and nobody else uses, and its directory if nothing else is in it.

    As on ESXi its disks go with it wherever they are; images of CDs are no part of it.
    """
    for name in owned_files(directory, fact) - shared:
        with contextlib.suppress(IsADirectoryError, HostError):
            directory.remove(name)
    with contextlib.suppress(OSError):
        directory.path.rmdir()
