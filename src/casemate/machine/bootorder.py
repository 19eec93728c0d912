"""What a VM boots from and when: VMware's vmx entries, the order they make, QEMU's words for them.

Entries by lower-case name: ``bios.bootdelay`` (ms), ``bios.bootorder`` (kinds, first one first),
``bios.hddorder`` (slots of disks, ``scsi0:1``), ``bios.bootretry.enabled`` and ``.delay`` (ms),
``bios.forcesetuponce``.
"""

from __future__ import annotations

import re
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
CARD: Final = "ethernet"
"""A network card by its number: ``ethernet0``."""
RETRY: Final = "bios.bootRetry.enabled"
RETRY_DELAY: Final = "bios.bootRetry.delay"
RETRY_MS: Final = 10_000
"""Milliseconds, where nothing else is said: vSphere's own."""
# Cards of a VM, each with a place before and one after the disks.
_CARDS: Final = 10
SETUP: Final = "bios.forceSetupOnce"
_CARD: Final = re.compile(r"ethernet([0-9]?)")
# Kinds that VMware names too, and of which no VM here has one that its firmware could start.
_ABSENT: Final = ("floppy", "fd")


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
        if word in {CDROM, HDD} or _CARD.fullmatch(word):
            found.append(word)
        elif not word.startswith(_ABSENT):
            raise ArgumentError(f"{word[:40]!r} is no kind of device to boot from", argument=ORDER)
    return tuple(found)


def disk_slots(entries: Mapping[str, str]) -> tuple[str, ...]:
    """Return the slots of disks to boot from, first one first."""
    return _words(entries, DISKS)


def boot_cards(nics: int, entries: Mapping[str, str]) -> tuple[int, ...]:
    """Return the numbers of the network cards to boot from, first one first.

    None does so unless it is named: a guest shall not run what somebody else on its network sends.

    Raises:
        ArgumentError: As ``kinds``.
    """
    named = (found for word in kinds(entries) if (found := _CARD.fullmatch(word)))
    wanted = (int(found[1] or 0) for found in named)
    return tuple(dict.fromkeys(card for card in wanted if card < nics))


def card_index(card: int, disks: int, entries: Mapping[str, str]) -> int:
    """Return the place of a network card: before all disks and CDs, or after them.

    Raises:
        ArgumentError: As ``kinds``.
    """
    order = kinds(entries)
    at = next(number for number, word in enumerate(order) if word in {f"{CARD}{card}", CARD})
    before = not any(word in {CDROM, HDD} for word in order[:at])
    return 1 + card if before else 1 + _CARDS + disks + card


def boot_indices(disks: Sequence[DiskSpec], entries: Mapping[str, str]) -> tuple[int, ...]:
    """Return the place of each disk and CD in the order to boot from, from 11 on.

    Index 0 is kept by QEMU for the loader of a kernel that is given directly, the next ten for
    network cards that come first.

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
    return tuple(ranked.index(place) + 1 + _CARDS for place in range(len(disks)))


def boot_delay(entries: Mapping[str, str]) -> int:
    """Return how long the firmware waits before it boots, in ms.

    Raises:
        ArgumentError: Not 0 to 65535.
    """
    return _milliseconds(entries, DELAY, 0)


def _milliseconds(entries: Mapping[str, str], name: str, default: int) -> int:
    value = entries.get(name.lower(), "") or str(default)
    if not (value.isascii() and value.isdigit() and len(value) <= len(str(DELAY_MOST))):
        raise ArgumentError(f"{value[:40]!r} is no number of ms", argument=name)
    if int(value) > DELAY_MOST:
        raise ArgumentError(f"more than {DELAY_MOST} ms", argument=name)
    return int(value)


def retries(entries: Mapping[str, str]) -> bool:
    """Tell whether the firmware tries again where nothing can be booted."""
    return entries.get(RETRY.lower(), "").lower() == "true"


def retry_delay(entries: Mapping[str, str]) -> int:
    """Return after how many ms it does. Raises ArgumentError: not 0 to 65535."""
    return _milliseconds(entries, RETRY_DELAY, RETRY_MS)


def forces_setup(entries: Mapping[str, str]) -> bool:
    """Tell whether the next start leads into the firmware's setup."""
    return entries.get(SETUP.lower(), "").lower() == "true"


def boot_words(entries: Mapping[str, str]) -> Iterator[str]:
    """Yield the arguments for delay and retries: the firmware offers its menu while it waits.

    Raises:
        ArgumentError: As ``boot_delay``.
    """
    words = []
    if delay := boot_delay(entries):
        words.append(f"menu=on,splash-time={delay}")
    if retries(entries):
        words.append(f"reboot-timeout={retry_delay(entries)}")
    if words:
        yield from ("-boot", ",".join(words))
