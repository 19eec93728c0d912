"""Disks of formats that the kernel itself does not read: a storage plug-in reads them for it.

The plug-in gets the file, open for reading, and says what lies where on the disk; it never sees
where that goes. What it says is bounded, and nothing else is believed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from casemate.errors import ArgumentError, FormatError
from casemate.formats.vmdk import SECTOR
from casemate.kernel.plugins.runner import Session

PIECE: Final = 1 << 20
"""Bytes that a plug-in is asked for at a time."""
MAX_CAPACITY: Final = 62 << 40
"""Bytes of the largest disk, as in vSphere."""


@dataclass(frozen=True, slots=True)
class ForeignDisk:
    """An open disk; ``capacity`` in bytes."""

    name: str
    capacity: int
    session: Session

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """Yield offset and content of what is not only zeros, from front to back.

        Raises:
            HostError: The plug-in failed.
            FormatError: It says something else than it was asked for.
        """
        for offset in range(0, self.capacity, PIECE):
            length = min(PIECE, self.capacity - offset)
            _, data = self.session.ask({"call": "read", "offset": offset, "length": length})
            if len(data) != length:
                raise _nonsense(self.name, f"{len(data)} bytes where {length} were asked for")
            if data.strip(b"\0"):
                yield offset, data


class Lender(Protocol):
    """What lends plug-ins: ``kernel.plugins.registry``."""

    def storage(self, suffix: str) -> str | None:
        """Return the loaded plug-in that reads files with this suffix."""

    def use(
        self, name: str, told: Mapping[str, Any], files: Mapping[str, int]
    ) -> AbstractContextManager[Session]:
        """Run it until the block ends."""


class ForeignDisks:
    """Opens disks by plug-ins."""

    def __init__(self, plugins: Lender) -> None:
        self._plugins = plugins

    def reads(self, path: str) -> bool:
        """Tell whether a loaded plug-in reads a file of this name."""
        return self._plugins.storage(_suffix(path)) is not None

    @contextlib.contextmanager
    def open(self, path: str, source: int) -> Iterator[ForeignDisk]:
        """Give a disk.

        Args:
            path: Its path, by whose end the plug-in is found.
            source: The file, open for reading.

        Raises:
            ArgumentError: No loaded plug-in reads such a file.
            CasemateError: The plug-in may not run any more, or failed.
        """
        name = self._plugins.storage(_suffix(path))
        if name is None:
            raise ArgumentError(f"no plug-in reads {path}", argument="name")
        with self._plugins.use(name, {}, {"source": source}) as session:
            words, _ = session.ask({"call": "open"})
            capacity = words.get("capacity")
            if not isinstance(capacity, int) or not 0 < capacity <= MAX_CAPACITY:
                raise _nonsense(name, "a disk without a size that one can have")
            if capacity % SECTOR:
                raise _nonsense(name, f"a disk of {capacity} bytes, which are no whole sectors")
            yield ForeignDisk(name, capacity, session)


def _suffix(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[2].lower() if "." in path else ""


def _nonsense(name: str, what: str) -> FormatError:
    return FormatError(
        f"The plug-in {name} tells of {what}.", code="plugin-message", component=name
    )
