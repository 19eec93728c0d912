"""VMDK descriptors: which files make up a virtual disk.

Disks in one extent are used: createType ``monolithicFlat`` (extent type FLAT) and ``vmfs`` (VMFS)
as plain sectors; ``monolithicSparse`` and ``streamOptimized`` (SPARSE), where the descriptor lies
inside of the disk's one file; and ``custom`` with an extent of type QCOW2: this project's deltas,
whose parent the descriptor names and the QCOW2 file never does. A descriptor comes from strangers
and names files that a privileged process will open, so it may name nothing but plain files in its
own directory: no path, no device (raw device mappings), and no parent but a delta's.
``twoGbMaxExtentSparse`` and ``twoGbMaxExtentFlat``, in many extents, are read to be copied.

Source: "Virtual Disk Format 5.0" (VMware, 2011).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from casemate.errors import FormatError, LimitError, NotSupportedError

# Bytes: a descriptor is a page of text; a sparse disk has it within its first bytes.
SIZE_LIMIT: Final = 65536
LINE_LIMIT: Final = 1024
SECTOR: Final = 512
# Sectors: 62 TiB, the largest disk of vSphere.
CAPACITY_LIMIT: Final = (62 << 40) // SECTOR
_SIGNATURE: Final = "# Disk DescriptorFile"
_NO_PARENT: Final = "ffffffff"
_EXTENT: Final = re.compile(
    r"(RW|RDONLY|NOACCESS)[ \t]+([0-9]{1,18})[ \t]+([A-Z0-9]+)"
    r"(?:[ \t]+\"([^\"]*)\"(?:[ \t]+([0-9]{1,18}))?)?",
    re.ASCII,
)
_ENTRY: Final = re.compile(r"([A-Za-z0-9_.]+)[ \t]*=[ \t]*(?:\"([^\"]*)\"|([^\"]*))")
_PLAIN_NAME: Final = re.compile(r"[^/\\\x00-\x1f\x7f]{1,255}")
# magicNumber, version, flags, capacity, grainSize, descriptorOffset and descriptorSize (sectors).
_SPARSE: Final = struct.Struct("<4sIIQQQQ")
_SPARSE_MAGIC: Final = b"KDMV"
_ADAPTERS: Final = frozenset({"ide", "buslogic", "lsilogic", "legacyESX", "pvscsi", "nvme"})


class CreateType(StrEnum):
    """The kinds of disks that are read."""

    MONOLITHIC_FLAT = "monolithicFlat"
    VMFS = "vmfs"
    MONOLITHIC_SPARSE = "monolithicSparse"
    STREAM_OPTIMIZED = "streamOptimized"
    DELTA = "custom"
    SPLIT_SPARSE = "twoGbMaxExtentSparse"
    SPLIT_FLAT = "twoGbMaxExtentFlat"


_EXTENT_TYPES: Final = {
    CreateType.MONOLITHIC_FLAT: "FLAT",
    CreateType.VMFS: "VMFS",
    CreateType.MONOLITHIC_SPARSE: "SPARSE",
    CreateType.STREAM_OPTIMIZED: "SPARSE",
    CreateType.DELTA: "QCOW2",
    CreateType.SPLIT_SPARSE: "SPARSE",
    CreateType.SPLIT_FLAT: "FLAT",
}
_INSIDE: Final = frozenset({CreateType.MONOLITHIC_SPARSE, CreateType.STREAM_OPTIMIZED})
_SPLIT: Final = frozenset({CreateType.SPLIT_SPARSE, CreateType.SPLIT_FLAT})


@dataclass(frozen=True, slots=True)
class Part:
    """One of the extents of a disk in many: ``sectors`` of it, from ``offset`` on in its file."""

    name: str
    sectors: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Vmdk:
    """A disk of ``sectors`` of 512 bytes; a flat one's from sector ``offset`` on in ``extent``.

    ``extent`` is the plain name of a file in the descriptor's directory; a sparse disk's is empty,
    for it is the file that the descriptor lies in, and that of a disk in many extents, which are
    ``parts``. ``parent`` is the plain name of the disk below
    a delta, and ``parent_cid`` its content id.
    """

    create_type: CreateType
    extent: str
    sectors: int
    offset: int = 0
    read_only: bool = False
    cid: str = "fffffffe"
    adapter: str = "lsilogic"
    ddb: tuple[tuple[str, str], ...] = ()
    parent: str = ""
    parent_cid: str = _NO_PARENT
    parts: tuple[Part, ...] = ()

    @property
    def format(self) -> str:
        """How the extent is read: ``raw``, ``vmdk`` (sparse), ``qcow2``, or ``split``: in many."""
        if self.create_type in _SPLIT:
            return "split"
        if self.create_type in _INSIDE:
            return "vmdk"
        return "qcow2" if self.create_type is CreateType.DELTA else "raw"

    @property
    def extents(self) -> tuple[str, ...]:
        """The other files of the disk."""
        return (self.extent,) if self.extent else tuple(part.name for part in self.parts)

    @property
    def capacity(self) -> int:
        """Size of the disk in bytes."""
        return self.sectors * SECTOR


def is_plain_name(name: str) -> bool:
    """Tell whether ``name`` can only be a file of the directory that it is looked up in."""
    return bool(_PLAIN_NAME.fullmatch(name)) and name not in {".", ".."}


def parse(data: bytes) -> Vmdk:
    """Parse a descriptor, or the first SIZE_LIMIT bytes (or all) of a sparse disk.

    Raises:
        FormatError: Not a descriptor, or it names something outside its directory.
        LimitError: Too long, or a disk over 62 TiB.
        NotSupportedError: A kind of disk that is not read: VMware's deltas, mapped devices.
    """
    if data.startswith(_SPARSE_MAGIC):
        return _sparse(data)
    # qemu-img fills its descriptors up with zeros.
    disk = _text(data.rstrip(b"\0"))
    if disk.create_type in _INSIDE:
        raise _malformed(f"a {disk.create_type} disk has its descriptor inside")
    return disk


def _sparse(data: bytes) -> Vmdk:
    """Read the header of a sparse disk, and the descriptor that it points to."""
    try:
        _, version, _, capacity, grain, offset, size = _SPARSE.unpack_from(data)
    except struct.error as error:
        raise _malformed("the header of the sparse disk is cut off") from error
    if version not in {1, 2, 3} or not capacity or not grain:
        raise _malformed("the header of the sparse disk is senseless")
    begin, end = offset * SECTOR, (offset + size) * SECTOR
    if not begin or not size or end > min(len(data), SIZE_LIMIT):
        raise _malformed("the sparse disk does not begin with its descriptor")
    disk = _text(data[begin:end].rstrip(b"\0"))
    if disk.create_type not in _INSIDE or disk.sectors != capacity:
        raise _malformed("the descriptor inside of the sparse disk is of another disk")
    return disk


def _text(data: bytes) -> Vmdk:
    """Parse the text of a descriptor."""
    if len(data) > SIZE_LIMIT:
        raise LimitError(f"a vmdk descriptor of {len(data)} bytes is too large", component="vmdk")
    try:
        lines = [line.strip() for line in data.decode().splitlines()]
    except UnicodeDecodeError as error:
        raise _malformed("it is not text") from error
    if not lines or lines[0] != _SIGNATURE:
        raise _malformed(f"it does not start with {_SIGNATURE!r}")
    if len(lines) > LINE_LIMIT:
        raise LimitError(f"a vmdk descriptor of {len(lines)} lines is too long", component="vmdk")
    extents: list[re.Match[str]] = []
    entries: dict[str, str] = {}
    for line in lines:
        if not line or line.startswith("#"):
            continue
        if extent := _EXTENT.fullmatch(line):
            extents.append(extent)
        elif entry := _ENTRY.fullmatch(line):
            if entry[1] in entries:
                raise _malformed(f"{entry[1]} occurs twice")
            entries[entry[1]] = entry[2] if entry[2] is not None else entry[3].strip()
        else:
            raise _malformed(f"{line[:60]!r} is neither an entry nor an extent")
    return _disk(entries, extents)


def _disk(entries: dict[str, str], extents: list[re.Match[str]]) -> Vmdk:
    """Check what the lines say together."""
    if entries.get("version") not in {"1", "2", "3", "4"}:
        raise _malformed(f"its version is {entries.get('version')!r}")
    try:
        create_type = CreateType(entries.get("createType", ""))
    except ValueError:
        raise NotSupportedError(
            f"a disk of type {entries.get('createType', '')!r} cannot be used",
            component="vmdk",
            code="vmdk-type",
            remedy="Convert it to a flat disk: vmkfstools -i, or qemu-img convert -f vmdk -O raw.",
        ) from None
    parent = _parent(entries, create_type)
    if create_type in _SPLIT:
        return _described(entries, create_type, parts=_parts(create_type, extents))
    if len(extents) != 1:
        raise NotSupportedError(
            f"a disk of {len(extents)} extents cannot be used",
            component="vmdk",
            code="vmdk-extents",
            remedy="Convert it to a disk in one file.",
        )
    part, read_only = _part(create_type, extents[0])
    return _described(
        entries,
        create_type,
        parts=(part,),
        read_only=read_only,
        parent=parent,
    )


def _parts(create_type: CreateType, extents: list[re.Match[str]]) -> tuple[Part, ...]:
    """Read the extents of a disk in many."""
    found = tuple(_part(create_type, extent)[0] for extent in extents)
    if not found or len({part.name for part in found}) != len(found):
        raise _malformed("it has no extents, or one twice")
    if sum(part.sectors for part in found) > CAPACITY_LIMIT:
        raise LimitError("a disk of over 62 TiB is out of range", component="vmdk")
    return found


def _part(create_type: CreateType, extent: re.Match[str]) -> tuple[Part, bool]:
    """Check one extent; tells whether it may only be read."""
    access, sectors, kind, name, offset = extent.groups()
    if kind != _EXTENT_TYPES[create_type]:
        raise _malformed(f"a {create_type} disk cannot have an extent of type {kind}")
    if access == "NOACCESS":
        raise _malformed("its extent may not be accessed")
    if name is None or not is_plain_name(name):
        raise _outside(name)
    if not 0 < int(sectors) <= CAPACITY_LIMIT or int(offset or 0) > CAPACITY_LIMIT:
        raise LimitError(f"a disk of {sectors} sectors is out of range", component="vmdk")
    return Part(name, int(sectors), int(offset or 0)), access == "RDONLY"


def _described(
    entries: dict[str, str],
    create_type: CreateType,
    *,
    parts: tuple[Part, ...],
    read_only: bool = False,
    parent: str = "",
) -> Vmdk:
    """Put together what was read."""
    adapter = entries.get("ddb.adapterType", "lsilogic")
    if adapter not in _ADAPTERS:
        raise _malformed(f"its adapter is {adapter[:40]!r}")
    return Vmdk(
        create_type=create_type,
        extent="" if create_type in _INSIDE | _SPLIT else parts[0].name,
        sectors=sum(part.sectors for part in parts),
        offset=0 if create_type in _SPLIT else parts[0].offset,
        read_only=read_only,
        cid=entries.get("CID", "fffffffe"),
        adapter=adapter,
        ddb=tuple(
            (key, value)
            for key, value in entries.items()
            if key.startswith("ddb.") and key != "ddb.adapterType"
        ),
        parent=parent,
        parent_cid=entries.get("parentCID", _NO_PARENT),
        parts=parts if create_type in _SPLIT else (),
    )


def _parent(entries: dict[str, str], create_type: CreateType) -> str:
    """Return the name of the disk below; only this project's deltas have one."""
    parent = entries.get("parentFileNameHint", "")
    has_one = entries.get("parentCID", _NO_PARENT) != _NO_PARENT or "parentFileNameHint" in entries
    if has_one and create_type is not CreateType.DELTA:
        raise NotSupportedError(
            "a disk with a parent (a snapshot's delta) cannot be used",
            component="vmdk",
            code="vmdk-parent",
            remedy="Consolidate the snapshots first.",
        )
    if create_type is CreateType.DELTA and not is_plain_name(parent):
        raise _outside(parent)
    return parent


def write(disk: Vmdk) -> bytes:
    """Write a descriptor of a disk whose extent is another file; ``parse`` gives it back."""
    access = "RDONLY" if disk.read_only else "RW"
    flat = disk.create_type is CreateType.MONOLITHIC_FLAT
    place = f" {disk.offset}" if disk.offset or flat else ""
    lines = (
        _SIGNATURE,
        "version=1",
        f"CID={disk.cid}",
        f"parentCID={disk.parent_cid}",
        f'createType="{disk.create_type}"',
        *([f'parentFileNameHint="{disk.parent}"'] if disk.parent else []),
        "",
        "# Extent description",
        f'{access} {disk.sectors} {_EXTENT_TYPES[disk.create_type]} "{disk.extent}"{place}',
        "",
        "# The Disk Data Base",
        f'ddb.adapterType = "{disk.adapter}"',
        *(f'{key} = "{value}"' for key, value in disk.ddb),
    )
    return ("\n".join(lines) + "\n").encode()


def _outside(name: str | None) -> FormatError:
    return FormatError(
        f"a vmdk descriptor names {name!r}, which is not a file of its own directory",
        component="vmdk",
        code="vmdk-path",
        remedy="Put the file beside the descriptor and name it without a path.",
    )


def _malformed(why: str) -> FormatError:
    return FormatError(f"not a vmdk descriptor: {why}", component="vmdk", code="vmdk-malformed")
