"""Which files a VM owns, and their removal when it is destroyed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

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

    Raises:
        FormatError: What lies below a disk cannot be told: it may be any disk beside it.
    """
    return _files(directory, fact, partial(whole_chain, directory, fact), media=media)


def known_files(directory: VmDirectory, fact: VmFact, *, media: bool = False) -> set[str]:
    """Return what ``owned_files`` does as far as the disks are in order: there may be more."""
    return _files(directory, fact, directory.known_chain, media=media)


def _files(
    directory: VmDirectory,
    fact: VmFact,
    chain: Callable[[str], Iterable[str]],
    *,
    media: bool,
) -> set[str]:
    begin = stem(fact.config)
    picture = re.compile(re.escape(begin) + r"-[0-9]{1,3}\.png")
    found = {file_name(fact.config), *(begin + suffix for suffix in OWN_SUFFIXES)}
    found |= {name for name in directory.names() if picture.fullmatch(name)}
    found |= set(serial_files(fact.config))
    if memory := saved_memory(fact.config):
        found |= {memory, *saved_scratch(fact.config).values()}
    if media:
        booted = {value for name, value in fact.config.extra if name.lower() in _BOOT_FILES}
        found |= {name for name in booted if is_plain_name(name)}
    for snapshot in fact.snapshots:
        found |= {state_name(fact.config, snapshot.number), memory_name(fact.config, snapshot)}
    for top in disks_named(fact, media=media):
        for layer in chain(top):
            found |= set(directory.files_of(layer))
    return {name for name in found if is_plain_name(name) or in_volume(name)}


def whole_chain(directory: VmDirectory, fact: VmFact, top: str) -> Iterator[str]:
    """Yield a disk of a VM and all that lies below it. Raises FormatError: nobody can tell."""
    try:
        yield from directory.chain(top)
    except CasemateError as error:
        raise FormatError(
            f"it cannot be told which files {fact.config.name} needs below {top}: {error.reason}",
            code="disk-chain",
            component=top,
            remedy=f"Repair {top}, or take the disk from {fact.config.name}.",
        ) from error


def disks_named(fact: VmFact, *, media: bool = False) -> frozenset[str]:
    """Return the disks that a VM and its snapshots name; ``media``: its discs too."""
    named = {disk.file_name for disk in fact.config.disks if media or disk.kind != "cdrom"}
    return frozenset(named | {*disks_of_snapshots(fact)})


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
    away = {name for name in disks_named(known[0]) if in_volume(name)}
    found = named_files(directory, known)
    for near in {beside(name, ""): name for name in away}.values():
        found |= named_files(directory, known, near)
    layers: set[str] = set()
    for name in found:
        try:
            layers |= set(directory.chain(name))
        except CasemateError as error:
            raise _stranger(name, error) from error
    return layers


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
            raise _stranger(name, error) from error
        plain = {value.rpartition("/")[2] for _, value in entries}
        found |= {beside(name, one) for one in plain if is_plain_name(one)}
    return {name for name in found if directory.exists(name)}


def _stranger(name: str, error: CasemateError) -> FormatError:
    return FormatError(
        f"{name} cannot be read, and its VM may need files in this directory: {error.reason}",
        code="stranger",
        component=name,
        remedy=f"Repair {name}, or remove it if no VM needs it; nothing is lost till then.",
    )


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


def from_below(directory: VmDirectory, tops: Iterable[str]) -> tuple[str, ...]:
    """Return the files of disks and of what is known to lie below, in the order they may go.

    Each comes before what names it: when their removal is cut off, the rest is found again.
    """
    return tuple(
        part
        for top in tops
        for layer in reversed(tuple(directory.known_chain(top)))
        for part in reversed(directory.files_of(layer))
    )


def destroy_files(directory: VmDirectory, fact: VmFact, going: set[str]) -> None:
    """Remove files of a VM, and its directory if nothing else is in it.

    As on ESXi its disks go with it wherever they are; images of CDs are no part of it. What names
    other files goes last: when this is cut off, it can be done again.
    """
    last = (f"{stem(fact.config)}.vmsd", file_name(fact.config))
    disks = from_below(directory, sorted(disks_named(fact)))
    for name in (*disks, *sorted(going - {*disks, *last}), *last):
        if name in going:
            with contextlib.suppress(IsADirectoryError, HostError):
                directory.remove(name)
    with contextlib.suppress(OSError):
        directory.path.rmdir()
