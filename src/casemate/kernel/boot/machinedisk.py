"""The disk of a machine that boots by itself: the one that firmware started, partitions mounted."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from casemate.errors import BootError, CasemateError
from casemate.formats.bootoption import Place, write_option
from casemate.formats.gpt import HEAD, Entry, parse_gpt
from casemate.kernel.boot.drivers import Drivers, present
from casemate.kernel.boot.targets import BLOCK_DEVICES
from casemate.kernel.home import Home
from casemate.kernel.sys import mounts

DISK_SECONDS = 20.0
"""Until the disk with the boot banks must have been found."""

BANKS = ("bootbank", "altbootbank")
PARTITIONS = {
    "bootbank": ("vfat", "bootbank"),
    "altbootbank": ("vfat", "altbootbank"),
    "datastore1": ("ext4", "volumes/datastore1"),
}
"""Name of a partition, the file system on it, and where in the home it belongs."""

STATE = "state"
"""The partition of the host's state, which is encrypted; ``statedisk`` mounts it."""

BOOT_IMAGE_PATH = "\\boot.efi"
"""Where firmware finds a bank's own boot image on its partition."""

_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class MachineDisk:
    """A disk with boot banks: its own device, and its partitions' by name."""

    device: Path
    parts: dict[str, Path]

    def entries(self) -> tuple[Entry, ...]:
        """Return the partitions as the disk's table has them.

        Raises:
            FormatError: the disk has no readable partition table.
            OSError: it cannot be read.
        """
        with self.device.open("rb") as stream:
            return parse_gpt(stream.read(HEAD))

    def options(self) -> dict[str, bytes]:
        """Return, by bank, firmware's boot option of the bank's own boot image; errors as above."""
        return {
            entry.name: write_option(
                f"Casemate {entry.name}",
                Place(number, entry.start, entry.sectors, entry.guid),
                BOOT_IMAGE_PATH,
            )
            for number, entry in enumerate(self.entries(), 1)
            if entry.name in BANKS
        }


def find_disk(drivers: Drivers, started: UUID | None, place: Path = BLOCK_DEVICES) -> MachineDisk:
    """Load the drivers of disks, and return the disk that this boot came from.

    Args:
        drivers: what is known of them.
        started: the partition that firmware took the boot image from; None where it does not say.
        place: where Linux tells of its disks.

    Raises:
        BootError: there is no such disk (``no-disk``), or it cannot be told from another one
            (``disk-ambiguous``).
    """
    deadline = time.monotonic() + DISK_SECONDS
    while True:
        failed = drivers.match(present())
        disk = started_from(started, [one for one in disks(place) if BANKS[0] in one.parts])
        if disk is not None:
            return disk
        if time.monotonic() > deadline:
            which = f" on the disk that has the partition {started}" if started else ""
            raise BootError(
                f"there is no boot bank{which}. {' '.join(failed)}".rstrip(),
                code="no-disk",
                component="disk",
                remedy="Check the disk and its controller; install the image again.",
            )
        time.sleep(_POLL_SECONDS)


def started_from(started: UUID | None, found: Sequence[MachineDisk]) -> MachineDisk | None:
    """Return the disk that a boot came from; None where it is not among those found.

    Raises BootError where it may be one of several (``disk-ambiguous``).
    """
    fitting = [one for one in found if started is None or _has(one, started)]
    if len(fitting) > 1:
        names = ", ".join(str(one.device) for one in fitting)
        why = "have the same identifiers" if started else "have a boot bank, firmware names none"
        raise BootError(
            f"the disk of this boot cannot be told from another one: {names} {why}.",
            code="disk-ambiguous",
            component="disk",
            remedy="Take out the disk that is a copy, or install the image on it anew.",
        )
    return fitting[0] if fitting else None


def _has(disk: MachineDisk, partition: UUID) -> bool:
    try:
        return any(entry.guid == partition for entry in disk.entries())
    except (OSError, CasemateError):
        return False


def disks(place: Path = BLOCK_DEVICES) -> Iterator[MachineDisk]:
    """Yield the disks that have named partitions."""
    found: dict[str, dict[str, Path]] = {}
    for event in sorted(place.glob("*/uevent")):
        facts = dict(line.split("=", 1) for line in event.read_text().splitlines() if "=" in line)
        if facts.get("DEVTYPE") == "partition" and "PARTNAME" in facts:
            disk = event.parent.resolve().parent.name
            found.setdefault(disk, {})[facts["PARTNAME"]] = Path("/dev", facts["DEVNAME"])
    for name, parts in found.items():
        yield MachineDisk(Path("/dev", name), parts)


def mount_home(disk: MachineDisk, place: Path, trust: Path) -> Home:
    """Mount the partitions where they belong in a home, and bring the trust anchors along."""
    home = Home(place)
    home.create()
    shutil.copytree(trust, home.trust, dirs_exist_ok=True)
    for name, (kind, inside) in PARTITIONS.items():
        target = home.path / inside
        target.mkdir(parents=True, exist_ok=True)
        try:
            mounts.disk(disk.parts[name], target, kind)
        except (KeyError, CasemateError) as error:
            if name == BANKS[1]:
                continue  # a host can do without its second bank
            raise BootError(
                f"the partition {name} is missing or cannot be mounted: {error}",
                code="partition",
                component=name,
                remedy="Check the disk; install the image again.",
            ) from error
    home.create()
    return home
