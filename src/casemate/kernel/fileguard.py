"""Which files of a datastore belong to VMs, and so are not changed behind their backs."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from casemate.errors import CasemateError, FileLockedError
from casemate.formats.datastorepath import in_volume
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.vmfiles import disks_of_snapshots, owned_files
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

    def guarded(self, refuse: Refuse) -> AbstractContextManager[None]:
        """Let no VM be registered that ``refuse`` refuses; it is asked about those there are."""


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
            self._refuse(place, shown, fact, directory)

    def held(self, wanted: Sequence[tuple[Path, str]]) -> AbstractContextManager[None]:
        """Keep files from becoming a VM's while they are changed: (place, datastore path) each.

        Raises:
            FileLockedError: One is a VM's already.
        """

        def refuse(fact: VmFact, directory: Path) -> None:
            for place, shown in wanted:
                self._refuse(place, shown, fact, directory)

        return self._places.guarded(refuse)

    def _refuse(self, place: Path, shown: str, fact: VmFact, directory: Path) -> None:
        if directory == place or place in directory.parents:
            raise _locked(shown, fact)
        if directory == place.parent and place.name in self._files(directory, fact):
            raise _locked(shown, fact)
        if self._uses(directory, fact, place):
            raise _locked(shown, fact)

    def _uses(self, directory: Path, fact: VmFact, place: Path) -> bool:
        """Tell whether a VM has a file outside of its directory there, or in the folder there."""
        names = set(_discs_elsewhere(fact))
        if any("/" in name for name in _disks(fact)):
            names |= self._files(directory, fact)
        if not names:
            return False
        known = _identity(place)
        roots = {one.name: one.path for one in self._places.datastores()}
        for name in names:
            found = in_volume(name)
            if found is None or found[0] not in roots:
                continue
            file = Path(roots[found[0]], found[1])
            if place == file or place in file.parents or (known and known == _identity(file)):
                return True
        return False

    def _files(self, directory: Path, fact: VmFact) -> set[str]:
        volumes = next((Path(one.path).parent for one in self._places.datastores()), None)
        try:
            with VmDirectory(directory, volumes=volumes) as opened:
                return owned_files(opened, fact, media=fact.power is not PowerState.POWERED_OFF)
        except CasemateError:
            return set()

    def _homes(self) -> Iterator[tuple[VmFact, Path]]:
        for fact in self._places.vms():
            try:
                yield fact, self._places.directory(fact)
            except CasemateError:
                continue


def _discs_elsewhere(fact: VmFact) -> Iterator[str]:
    """Yield the images outside of its directory that a VM which is not off has in its drives."""
    if fact.power is not PowerState.POWERED_OFF:
        discs = (disk.file_name for disk in fact.config.disks if disk.kind == "cdrom")
        yield from (name for name in discs if "/" in name)


def _disks(fact: VmFact) -> Iterator[str]:
    """Yield the disks that a VM and its snapshots name."""
    yield from (disk.file_name for disk in fact.config.disks if disk.kind != "cdrom")
    yield from disks_of_snapshots(fact)


def _identity(place: Path) -> tuple[int, int] | None:
    """Return what tells a file from all others, whatever it is called; None: there is none."""
    try:
        found = place.lstat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _locked(shown: str, fact: VmFact) -> FileLockedError:
    return FileLockedError(f"{shown} belongs to the VM {fact.config.name}", file=shown)
