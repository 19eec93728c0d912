"""Which files of its directory a VM owns, and their removal when it is destroyed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from casemate.errors import CasemateError, FormatError, HostError
from casemate.formats import vmx
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
    """Return the names of a VM's files, whether they are there or not.

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
    tops = {disk.file_name for disk in fact.config.disks if media or disk.kind != "cdrom"}
    if media:
        found |= {value for name, value in fact.config.extra if name.lower() in _BOOT_FILES}
    for snapshot in fact.snapshots:
        found |= {state_name(fact.config, snapshot.number), memory_name(fact.config, snapshot)}
        tops |= {name for _, name in snapshot.disks}
    for top in tops:
        for layer in directory.chain(top):
            found |= set(directory.files_of(layer))
    return {name for name in found if is_plain_name(name)}


def strangers(directory: VmDirectory, known: Iterable[VmFact]) -> set[str]:
    """Return what VMs in a directory that are not registered name, with the disks below.

    Raises:
        FormatError: A file of such a VM cannot be read: nobody knows which disks it needs.
    """
    return {layer for name in named_files(directory, known) for layer in directory.chain(name)}


def named_files(directory: VmDirectory, known: Iterable[VmFact]) -> set[str]:
    """Return the files in a directory that those of VMs there name, but for the ``known`` VMs.

    Raises:
        FormatError: The file of a VM cannot be read.
    """
    own = {stem(fact.config) + suffix for fact in known for suffix in _NAMING}
    found: set[str] = set()
    for name in directory.names():
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
        found |= {value.rpartition("/")[2] for _, value in entries}
    return {name for name in found if is_plain_name(name) and directory.exists(name)}


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


def destroy_files(place: Path, fact: VmFact, shared: set[str]) -> None:
    """Remove what a VM owns and nobody else uses, and its directory if nothing else is in it."""
    with VmDirectory(place) as directory:
        for name in owned_files(directory, fact) - shared:
            with contextlib.suppress(IsADirectoryError, HostError):
                directory.remove(name)
    with contextlib.suppress(OSError):
        place.rmdir()
