"""Which files of a datastore belong to VMs, and so are not changed behind their backs."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Protocol

from casemate.errors import CasemateError, FileLockedError
from casemate.formats.datastorepath import in_volume
from casemate.formats.vmdk import is_plain_name
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.cells.disks import EXTENTS
from casemate.kernel.vmfiles import disks_named, known_files, owned_files
from casemate.machine.facts import DatastoreFact, PowerState, VmFact

Refuse = Callable[[VmFact, Path], None]
"""Raises FileLockedError where a VM, whose directory is given, owns what is being changed."""


class Places(Protocol):
    """What is known of datastores and VMs."""

    def datastore(self, datastore: str) -> DatastoreFact:
        """Return a datastore. Raises NotFoundError."""

    def make_datastore(self, name: str) -> str:
        """Make an empty datastore and return its id."""

    def remove_datastore(self, datastore: str) -> None:
        """Remove an empty datastore."""

    def datastores(self) -> tuple[DatastoreFact, ...]:
        """Return all datastores."""

    def refresh_datastores(self) -> None:
        """Look at size and free space again."""

    def vms(self) -> tuple[VmFact, ...]:
        """Return all VMs."""

    def directory(self, fact: VmFact) -> Path:
        """Return the directory of a VM's files."""

    def guarded(
        self, refuse: Refuse, changed: Sequence[tuple[Path, str]]
    ) -> AbstractContextManager[None]:
        """Let no VM be registered that ``refuse`` refuses; it is asked about those there are.

        What is ``changed`` is so by nobody else meanwhile.
        """


class FileGuard:
    """Refuses changes of files that registered VMs own, and of what running ones use."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def demand_free(self, place: Path, shown: str) -> None:
        """Raise FileLockedError if a VM owns the file, or lives in the folder or below.

        Args:
            place: The file or folder, whether it is there or not.
            shown: Its datastore path.
        """
        for fact, directory in self._homes():
            self.refuse(((place, shown),), fact, directory)

    def held(self, wanted: Sequence[tuple[Path, str]]) -> AbstractContextManager[None]:
        """Keep files from becoming a VM's while they are changed: (place, datastore path) each.

        Raises:
            FileLockedError: One is a VM's already, or another task changes it.
        """
        return self._places.guarded(partial(self.refuse, wanted), wanted)

    def refuse(self, wanted: Sequence[tuple[Path, str]], fact: VmFact, directory: Path) -> None:
        """Raise FileLockedError if a VM owns one of the files, or lives in one that is a folder.

        Where it cannot be told what a VM owns, all disks beside its own count as that; where its
        own files could not be read, all that is in its directory, and every disk that there is.
        """
        if not wanted:
            return
        owned, doubtful = self._files(directory, fact)
        folders = {directory, *directory.parents, *(up for one in owned for up in one.parents)}
        known: set[tuple[int, int] | None] | None = None
        for place, shown in wanted:
            if place in owned or place in folders:
                raise _locked(shown, fact)
            if fact.unread and (place.parent == directory or _may_be_needed(place)):
                raise _locked(shown, fact)
            if place.parent in doubtful and place.suffix.lower().removeprefix(".") in EXTENTS:
                raise _locked(shown, fact)
            if identity := _identity(place):
                known = {_identity(one) for one in owned} if known is None else known
                if identity in known:
                    raise _locked(shown, fact)

    def _files(self, directory: Path, fact: VmFact) -> tuple[set[Path], set[Path]]:
        """Return the files of a VM, and the folders where others may be its own for all we know."""
        media = fact.power is not PowerState.POWERED_OFF
        roots = {one.name: Path(one.path) for one in self._places.datastores()}
        tops = disks_named(fact, media=media)
        names, unsure = {*tops}, True
        with contextlib.suppress(CasemateError), _opened(directory, roots) as opened:
            try:
                names, unsure = owned_files(opened, fact, media=media), False
            except CasemateError:
                names |= known_files(opened, fact, media=media)
        places = {name: _place(directory, roots, name) for name in names | tops}
        doubtful = {one.parent for top in tops if unsure and (one := places[top])}
        return {one for one in places.values() if one}, doubtful

    def _homes(self) -> Iterator[tuple[VmFact, Path]]:
        for fact in self._places.vms():
            try:
                yield fact, self._places.directory(fact)
            except CasemateError:
                continue


def _opened(directory: Path, roots: Mapping[str, Path]) -> VmDirectory:
    volumes = next((root.parent for root in roots.values()), None)
    return VmDirectory(directory, volumes=volumes)


def _place(directory: Path, roots: Mapping[str, Path], name: str) -> Path | None:
    """Return where a VM's file is; None: it is on no datastore."""
    found = in_volume(name)
    if found is None:
        return directory / name if is_plain_name(name) else None
    return Path(roots[found[0]], found[1]) if found[0] in roots else None


def _identity(place: Path) -> tuple[int, int] | None:
    """Return what tells a file from all others, whatever it is called; None: there is none."""
    try:
        found = place.lstat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _may_be_needed(place: Path) -> bool:
    """Tell whether there is a file that any VM may have as a disk, or a folder of some."""
    if place.suffix.lower().removeprefix(".") in EXTENTS and _identity(place):
        return True
    return place.is_dir() and not place.is_symlink()


def _locked(shown: str, fact: VmFact) -> FileLockedError:
    if fact.unread:
        reason = f"{shown} may belong to the VM {fact.config.name}, whose files could not be read"
        remedy = "Unregister that VM, and register it again once its files are repaired."
        return FileLockedError(reason, file=shown, remedy=remedy)
    return FileLockedError(f"{shown} belongs to the VM {fact.config.name}", file=shown)
