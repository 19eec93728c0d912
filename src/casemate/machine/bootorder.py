"""What a VM boots from and when: VMware's vmx entries, the order they make, QEMU's words for them.

Entries by lower-case name: ``bios.bootdelay`` (ms), ``bios.bootorder`` (kinds, first one first),
``bios.hddorder`` (slots of disks, ``scsi0:1``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from casemate.errors import ArgumentError
from casemate.machine.facts import DiskSpec

DELAY: Final = "bios.bootDelay"
ORDER: Final = "bios.bootOrder"
DISKS: Final = "bios.hddOrder"
DELAY_MOST: Final = 0xFFFF
"""Milliseconds: the firmware reads 16 bits."""
CDROM: Final = "cdrom"
HDD: Final = "hdd"
# Kinds that VMware names too, and of which no VM here has one that its firmware could start.
_ABSENT: Final = ("floppy", "fd", "ethernet")


def _words(entries: Mapping[str, str], name: str) -> tuple[str, ...]:
    value = entries.get(name.lower(), "").lower()
    return tuple(word for part in value.split(",") if (word := part.strip()))


def slot(disk: DiskSpec) -> str:
    """Return the slot of a disk as VMware writes it: ``scsi0:1``."""
    return f"{disk.controller}:{disk.unit}"


def kinds(entries: Mapping[str, str]) -> tuple[str, ...]:
    """Return the kinds of drives to boot from, first one first; empty: as they are attached.

    Raises:
        ArgumentError: A word that names no kind.
    """
    found = []
    for word in _words(entries, ORDER):
        if word in {CDROM, HDD}:
            found.append(word)
        elif not word.startswith(_ABSENT):
            raise ArgumentError(f"{word[:40]!r} is no kind of device to boot from", argument=ORDER)
    return tuple(found)


def disk_slots(entries: Mapping[str, str]) -> tuple[str, ...]:
    """Return the slots of disks to boot from, first one first."""
    return _words(entries, DISKS)


def boot_indices(disks: Sequence[DiskSpec], entries: Mapping[str, str]) -> tuple[int, ...]:
    """Return the place of each disk and CD in the order to boot from, from 1 on.

    Index 0 is kept by QEMU for the loader of a kernel that is given directly.

    Raises:
        ArgumentError: As ``kinds``.
    """
    order, slots = kinds(entries), disk_slots(entries)

    def rank(place: int) -> tuple[int, int, int]:
        disk = disks[place]
        kind = CDROM if disk.kind == CDROM else HDD
        at = slots.index(slot(disk)) if kind == HDD and slot(disk) in slots else len(slots)
        # What is not named comes last. Without an order of kinds that of attachment counts.
        return (order.index(kind) if kind in order else len(order), at, place)

    ranked = sorted(range(len(disks)), key=rank)
    return tuple(ranked.index(place) + 1 for place in range(len(disks)))


def boot_delay(entries: Mapping[str, str]) -> int:
    """Return how long the firmware waits before it boots, in ms.

    Raises:
        ArgumentError: Not 0 to 65535.
    """
    value = entries.get(DELAY.lower(), "") or "0"
    if not (value.isascii() and value.isdigit() and len(value) <= len(str(DELAY_MOST))):
        raise ArgumentError(f"{value[:40]!r} is no number of ms", argument=DELAY)
    if int(value) > DELAY_MOST:
        raise ArgumentError(f"more than {DELAY_MOST} ms", argument=DELAY)
    return int(value)


def boot_words(entries: Mapping[str, str]) -> Iterator[str]:
    """Yield the arguments for the delay: the firmware offers its menu while it waits.

    Raises:
        ArgumentError: As ``boot_delay``.
    """
    if delay := boot_delay(entries):
        yield from ("-boot", f"menu=on,splash-time={delay}")
