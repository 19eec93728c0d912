"""A VM's snapshots as the entries of its .vmsd file, and the tree that they form.

The file has VMware's own entries; times are microseconds since 1970 in two halves of 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from casemate.errors import ArgumentError, FormatError, NotFoundError
from casemate.formats.datastorepath import in_volume
from casemate.formats.vmdk import is_plain_name
from casemate.formats.vmx import Vmx
from casemate.machine.facts import SnapshotSpec

SNAPSHOT_LIMIT: Final = 32
"""Snapshots of a VM: as many in a row as vSphere supports."""
_DISK_LIMIT: Final = 256
_NAME_LIMIT: Final = 80
_TEXT_LIMIT: Final = 4096
_HALF: Final = 32
_MICRO: Final = 1_000_000
_DIGITS: Final = 18


def snapshots_of(vmsd: Vmx) -> tuple[tuple[SnapshotSpec, ...], int]:
    """Return the snapshots in their order, and the number of the current one (0: none).

    Raises:
        FormatError: An entry is lacking or senseless, or a parent is not there.
    """
    values = vmsd.lowered()
    count = _number(values, "snapshot.numsnapshots", SNAPSHOT_LIMIT)
    found = tuple(_snapshot(values, f"snapshot{at}") for at in range(count))
    known: set[int] = {0}
    for snapshot in found:
        if snapshot.number in known or snapshot.parent not in known:
            raise _wrong(f"snapshot {snapshot.number} is doubled, or its parent is lacking")
        known.add(snapshot.number)
    current = _number(values, "snapshot.current", 1 << 31)
    if current not in known:
        raise _wrong(f"the current snapshot {current} is lacking")
    return found, current


def vmsd_of(snapshots: tuple[SnapshotSpec, ...], current: int, last: int) -> Vmx:
    """Return the file; ``last`` is the highest number that was ever given."""
    return Vmx(tuple(_entries(snapshots, current, last)))


def last_number(vmsd: Vmx) -> int:
    """Return the highest number that was ever given to a snapshot."""
    return _number(vmsd.lowered(), "snapshot.lastuid", 1 << 31)


def below(snapshots: tuple[SnapshotSpec, ...], number: int) -> frozenset[int]:
    """Return the numbers of a snapshot and of all its descendants."""
    found = {number}
    for snapshot in snapshots:
        if snapshot.parent in found:
            found.add(snapshot.number)
    return frozenset(found)


def without(
    snapshots: tuple[SnapshotSpec, ...], current: int, gone: frozenset[int]
) -> tuple[tuple[SnapshotSpec, ...], int]:
    """Return what stays when some are removed: their children and the VM move up to the parent."""
    parents = {snapshot.number: snapshot.parent for snapshot in snapshots}

    def nearest(number: int) -> int:
        while number in gone:
            number = parents[number]
        return number

    kept = tuple(
        SnapshotSpec(
            one.number,
            nearest(one.parent),
            one.name,
            one.description,
            one.created,
            one.memory,
            one.disks,
            one.quiesced,
        )
        for one in snapshots
        if one.number not in gone
    )
    return kept, nearest(current)


def find(snapshots: tuple[SnapshotSpec, ...], number: int, component: str) -> SnapshotSpec:
    """Return the snapshot of this number. Raises NotFoundError."""
    for snapshot in snapshots:
        if snapshot.number == number:
            return snapshot
    raise NotFoundError(f"there is no snapshot {number}", component=component)


def check_text(name: str, description: str) -> None:
    """Raise ArgumentError unless these can be a snapshot's name and description."""
    if not name or len(name) > _NAME_LIMIT or not name.isprintable():
        raise ArgumentError(f"not 1 to {_NAME_LIMIT} printable characters", argument="name")
    if len(description) > _TEXT_LIMIT or "\0" in description:
        raise ArgumentError(f"over {_TEXT_LIMIT} characters", argument="description")


def _entries(
    snapshots: tuple[SnapshotSpec, ...], current: int, last: int
) -> Iterator[tuple[str, str]]:
    yield "snapshot.lastUID", str(last)
    yield "snapshot.current", str(current)
    yield "snapshot.numSnapshots", str(len(snapshots))
    for at, one in enumerate(snapshots):
        prefix = f"snapshot{at}"
        micros = round(one.created * _MICRO)
        yield f"{prefix}.uid", str(one.number)
        if one.parent:
            yield f"{prefix}.parent", str(one.parent)
        yield f"{prefix}.displayName", one.name
        if one.description:
            yield f"{prefix}.description", one.description
        yield f"{prefix}.createTimeHigh", str(micros >> _HALF)
        yield f"{prefix}.createTimeLow", str(micros & ((1 << _HALF) - 1))
        yield f"{prefix}.type", "1" if one.memory else "0"
        if one.quiesced:
            yield f"{prefix}.quiesced", "TRUE"
        yield f"{prefix}.numDisks", str(len(one.disks))
        for number, (slot, name) in enumerate(one.disks):
            yield f"{prefix}.disk{number}.node", slot
            yield f"{prefix}.disk{number}.fileName", name


def _snapshot(values: Mapping[str, str], prefix: str) -> SnapshotSpec:
    disks = []
    for at in range(_number(values, f"{prefix}.numdisks", _DISK_LIMIT)):
        slot = values.get(f"{prefix}.disk{at}.node", "")
        name = values.get(f"{prefix}.disk{at}.filename", "")
        if not slot or not (is_plain_name(name) or in_volume(name)):
            raise _wrong(f"{prefix}.disk{at} is on no datastore")
        disks.append((slot, name))
    high = _number(values, f"{prefix}.createtimehigh", 1 << _HALF)
    low = _number(values, f"{prefix}.createtimelow", 1 << _HALF)
    number = _number(values, f"{prefix}.uid", 1 << 31)
    if not number:
        raise _wrong(f"{prefix} has no number")
    return SnapshotSpec(
        number=number,
        parent=_number(values, f"{prefix}.parent", 1 << 31),
        name=values.get(f"{prefix}.displayname", "")[:_NAME_LIMIT],
        description=values.get(f"{prefix}.description", "")[:_TEXT_LIMIT],
        created=((high << _HALF) | low) / _MICRO,
        memory=values.get(f"{prefix}.type", "0") == "1",
        disks=tuple(disks),
        quiesced=values.get(f"{prefix}.quiesced", "").lower() == "true",
    )


def _number(values: Mapping[str, str], name: str, limit: int) -> int:
    text = values.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS and int(text) <= limit):
        raise _wrong(f"{name} is {text[:40]!r}")
    return int(text)


def _wrong(why: str) -> FormatError:
    return FormatError(
        f"not a list of snapshots: {why}",
        component="vmsd",
        code="vmsd-malformed",
        remedy="Restore the .vmsd file from a backup, or consolidate after removing it.",
    )
