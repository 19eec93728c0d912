"""Which files of a datastore belong to VMs, and so are not changed behind their backs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from casemate.errors import CasemateError, FileLockedError
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.vmfiles import owned_files
from casemate.machine.facts import DatastoreFact, PowerState, VmFact


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
            if directory == place or place in directory.parents:
                raise _locked(shown, fact)
            if directory == place.parent and place.name in _files(directory, fact):
                raise _locked(shown, fact)

    def _homes(self) -> Iterator[tuple[VmFact, Path]]:
        for fact in self._places.vms():
            try:
                yield fact, self._places.directory(fact)
            except CasemateError:
                continue


def _files(directory: Path, fact: VmFact) -> set[str]:
    try:
        with VmDirectory(directory) as opened:
            return owned_files(opened, fact, media=fact.power is not PowerState.POWERED_OFF)
    except CasemateError:
        return set()


def _locked(shown: str, fact: VmFact) -> FileLockedError:
    return FileLockedError(f"{shown} belongs to the VM {fact.config.name}", file=shown)
