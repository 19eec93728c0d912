"""The disks of this machine that an image can be installed on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.formats.gpt import SECTOR

BLOCK_DEVICES: Final = Path("/sys/class/block")


@dataclass(frozen=True, slots=True)
class Target:
    """A disk of this machine; ``size`` in bytes."""

    name: str
    size: int
    model: str
    removable: bool

    @property
    def path(self) -> Path:
        """Return its device file."""
        return Path("/dev", self.name)

    def __str__(self) -> str:
        kind = ", removable" if self.removable else ""
        return f"{self.name} ({self.model[:31] or 'disk'}, {self.size >> 20} MiB{kind})"


def targets(place: Path = BLOCK_DEVICES) -> tuple[Target, ...]:
    """Return this machine's disks that can be written and have sectors of 512 bytes.

    The first one that is not removable is the first disk of an unattended installation.
    """
    found = []
    for one in sorted(place.iterdir(), key=lambda path: (len(path.name), path.name)):
        size = int(_read(one / "size") or 0) * SECTOR
        usable = (one / "device").exists() and not (one / "partition").exists() and size
        sector = _read(one / "queue/logical_block_size")
        if usable and _read(one / "ro") == "0" and sector == str(SECTOR):
            removable = _read(one / "removable") != "0"
            found.append(Target(one.name, size, _read(one / "device/model"), removable))
    return tuple(found)


def choose(found: tuple[Target, ...], name: str) -> Target:
    """Return the named disk; without a name the first that is not removable.

    Raises:
        HostError: there is none (``no-disk``).
    """
    for one in found:
        if one.name == name or not (name or one.removable):
            return one
    raise HostError(
        f"this machine has no disk {name} to install on".replace("  ", " "),
        code="no-disk",
        component=name or "disk",
        remedy="Name another one: " + (", ".join(one.name for one in found) or "there is none."),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""
