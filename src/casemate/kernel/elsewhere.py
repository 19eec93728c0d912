"""Files of VMs outside of their directories: who may name them, and who uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from casemate.calls.files import DeleteFile
from casemate.errors import StateError
from casemate.formats.datastorepath import full, in_volume, local, show
from casemate.formats.datastorepath import parse as parse_path
from casemate.kernel.accounts import Session
from casemate.kernel.fileguard import FileGuard
from casemate.kernel.inventory import ALLOCATE, BROWSE, Inventory
from casemate.kernel.snapshotfiles import check_needs
from casemate.kernel.vmcontext import VmContext
from casemate.kernel.vmfiles import disks_of_snapshots, owned_files, strangers
from casemate.kernel.vmmaking import Hold, grown_disks
from casemate.machine.facts import DiskSpec, VmConfig, VmFact

Check = Callable[[Session, str, object], None]
"""Raises where a session lacks a privilege on what it is told."""
_LOOKS: Final = (BROWSE,)
_WRITES: Final = (BROWSE, DeleteFile.privilege)
_MAKES: Final = (ALLOCATE, DeleteFile.privilege)


def files_elsewhere(config: VmConfig) -> dict[str, tuple[str, ...]]:
    """Return what is named in full, or shall be made so, each with the privileges that it takes.

    A guest reads a CD, and what it writes to a disk changes a file of the datastore.
    """
    found: dict[str, tuple[str, ...]] = {}
    for disk in config.disks:
        name = disk.file_name or disk.wanted
        if "/" in name or name.startswith("["):
            uses = _LOOKS if disk.kind == "cdrom" else _WRITES
            found[name] = uses if disk.file_name else _MAKES
    return found


def demand_elsewhere(
    check: Check,
    inventory: Inventory,
    session: Session,
    config: VmConfig,
    before: VmConfig | None = None,
    more: tuple[str, ...] = (),
) -> None:
    """Raise unless a session may have a VM use the files elsewhere that it did not before.

    Args:
        check: Raises where a session lacks a privilege on a datastore.
        inventory: Knows the datastores.
        session: Who wants it.
        config: What the VM is to be made of.
        before: What it was made of.
        more: Names of other files that are written or removed.

    Raises:
        DatastorePathError: There is no such datastore.
        PermissionDeniedError: The session lacks a privilege.
    """
    known = files_elsewhere(before) if before else {}
    wanted = files_elsewhere(config)
    wanted |= {name: _WRITES for name in more if in_volume(name)}
    larger = grown_disks(before, config) if before else ()
    wanted |= {disk.file_name: _MAKES for disk, _ in larger if "/" in disk.file_name}
    for name, privileges in sorted(wanted.items()):
        if known.get(name) == privileges and name not in more:
            continue
        found = in_volume(name)
        datastore = found[0] if found else parse_path(name)[0]
        inventory.demand_datastore(datastore)
        for privilege in privileges:
            check(session, privilege, inventory.place_of(f"[{datastore}]"))


def demand_as_made(made: VmConfig, fact: VmFact) -> None:
    """Raise StateError unless a VM that is being registered is what was made just now.

    Nobody owned its files till then: who may write to its folder may have named disks of others.
    """
    written = replace(fact.config, disks=tuple(map(_as_named, fact.config.disks)))
    if disks_of_snapshots(fact) or written != replace(
        made, disks=tuple(map(_as_named, made.disks))
    ):
        raise StateError(
            f"{made.vmx_path} was written by somebody else while its VM was made",
            code="changed",
            component=made.vmx_path,
            remedy="Look at who may write to its folder, then make it again.",
        )


def _as_named(disk: DiskSpec) -> DiskSpec:
    """Return a disk as the file of a VM tells, which its own files say more of."""
    return replace(disk, capacity=0, uuid="", thin=True)


def used_by_others(context: VmContext, fact: VmFact) -> set[str]:
    """Return the files that other VMs use in the folders of this one's, as this one names them.

    Reads files: not for the event loop.

    Raises:
        FormatError: What another VM there needs cannot be told.
    """
    return set(_used(context, fact))


def _used(context: VmContext, fact: VmFact) -> Iterator[str]:
    others = context.neighbours(fact)
    for other in others:
        with context.open(other) as directory:
            check_needs(directory, other)
            for name in owned_files(directory, other, media=True):
                yield local(full(name, other.config.vmx_path), fact.config.vmx_path)
    with context.open(fact) as directory:
        for name in strangers(directory, (fact, *others)):
            yield from directory.files_of(name)


@contextmanager
def going(context: VmContext, fact: VmFact, names: Iterable[str]) -> Iterator[set[str]]:
    """Let no other VM come to have files that a VM has and that are removed or changed.

    Gives the names that the VM has for them: those that stay after all are taken out. Reads files:
    not for the event loop.

    Raises:
        FileLockedError: Another VM is about to have one, or a task of no VM changes it.
    """
    held = set(names)
    with _held(context.inventory, fact.config.vmx_path, held, shared=True):
        yield held


def coming(inventory: Inventory, path: str, names: Iterable[str]) -> AbstractContextManager[None]:
    """Let files that are made for a VM be nobody else's while they may have to go again.

    ``path`` is its .vmx, ``names`` are as it calls them. Reads files: not for the event loop.

    Raises:
        FileLockedError: Another VM is about to have one, or a task changes it.
    """
    return _held(inventory, path, set(names), shared=False)


def holder(inventory: Inventory, path: str, held: ExitStack) -> Hold:
    """Return what keeps files for the VM of a .vmx till ``held`` ends: longer than an undo."""

    def hold(names: tuple[str, ...]) -> None:
        held.enter_context(coming(inventory, path, names))

    return hold


@contextmanager
def _held(inventory: Inventory, path: str, held: set[str], *, shared: bool) -> Iterator[None]:
    guard = FileGuard(inventory)

    def wanted() -> list[tuple[Path, str]]:
        places = (in_volume(full(name, path)) for name in tuple(held))
        return [(Path(inventory.volumes, *one), show(*one)) for one in places if one is not None]

    def refuse(other: VmFact, directory: Path) -> None:
        if other.config.vmx_path != path:
            guard.refuse(wanted(), other, directory)

    with inventory.guarded(refuse, wanted(), present=False, shared=shared):
        yield
