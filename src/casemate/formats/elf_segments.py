"""The program headers of an ELF file, and reading at the addresses they give."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from casemate.errors import FormatError, LimitError

PT_LOAD: Final = 1
PT_DYNAMIC: Final = 2
PT_INTERP: Final = 3
PT_NOTE: Final = 4
PT_GNU_STACK: Final = 0x6474E551
PT_GNU_RELRO: Final = 0x6474E552
PT_GNU_PROPERTY: Final = 0x6474E553

PF_X: Final = 1
PF_W: Final = 2

MAX_SEGMENTS: Final = 512
"""Program headers. Linux reads at most 64 KiB of them (1170); real files have fewer than 50."""

_ENTRIES: Final = {
    (bits, order): struct.Struct(order + fields)
    for bits, fields in ((32, "8I"), (64, "IIQQQQQQ"))
    for order in "<>"
}
_SINGLE: Final = frozenset({PT_DYNAMIC, PT_INTERP, PT_GNU_STACK, PT_GNU_RELRO, PT_GNU_PROPERTY})


class Segment(NamedTuple):
    """A program header: what lies where in the file, and where it goes in memory (bytes)."""

    kind: int
    flags: int
    offset: int
    vaddr: int
    file_size: int
    memory_size: int
    align: int


class Image:
    """A file seen through its segments: the addresses that the dynamic loader would read."""

    __slots__ = ("_loads", "_single", "bits", "order", "segments", "view")

    def __init__(
        self, view: memoryview, bits: int, order: str, segments: tuple[Segment, ...]
    ) -> None:
        self.view = view
        self.bits = bits
        self.order = order
        self.segments = segments
        self._loads = [s for s in segments if s.kind == PT_LOAD]
        self._single: dict[int, Segment] = {}
        for segment in segments:
            if segment.kind in _SINGLE:
                if segment.kind in self._single:
                    raise FormatError(
                        f"Two program headers of type {segment.kind:#x}: "
                        "readers would differ on which one counts.",
                        code="elf-duplicate",
                    )
                self._single[segment.kind] = segment

    def only(self, kind: int) -> Segment | None:
        """Return the one segment of a kind that may occur once, or None."""
        return self._single.get(kind)

    def content(self, segment: Segment) -> memoryview:
        """Return what the file holds for a segment.

        Raises:
            FormatError: it reaches beyond the end of the file.
        """
        end = segment.offset + segment.file_size
        if end > len(self.view):
            raise FormatError(
                f"A segment of type {segment.kind:#x} ends at {end}, the file at {len(self.view)}.",
                code="elf-truncated",
            )
        return self.view[segment.offset : end]

    def offset(self, address: int, size: int) -> int:
        """Return where in the file the bytes of a loaded address range are.

        Raises:
            FormatError: no segment loads the whole range from the file.
        """
        for load in self._loads:
            if load.vaddr <= address and address + size <= load.vaddr + load.file_size:
                return load.offset + address - load.vaddr
        raise FormatError(
            f"Address {address:#x} with {size} bytes is not loaded from the file.",
            code="elf-address",
        )

    def loaded_until(self, address: int) -> int:
        """Return the address at which the file content of the segment around one ends."""
        for load in self._loads:
            if load.vaddr <= address < load.vaddr + load.file_size:
                return load.vaddr + load.file_size
        raise FormatError(f"Address {address:#x} is not loaded from the file.", code="elf-address")


def read_segments(
    view: memoryview, bits: int, order: str, offset: int, entry_size: int, count: int
) -> tuple[Segment, ...]:
    """Read the program header table and check that its segments can be loaded side by side.

    Raises:
        FormatError: truncated, of a foreign entry size, unordered or overlapping segments.
        LimitError: more than ``MAX_SEGMENTS``.
    """
    layout = _ENTRIES[bits, order]
    if entry_size != layout.size:
        raise FormatError(
            f"Program headers of {entry_size} bytes; {bits}-bit files have {layout.size}.",
            code="elf-headers",
        )
    if count > MAX_SEGMENTS:
        raise LimitError(f"{count} program headers; at most {MAX_SEGMENTS} are read.")
    end = offset + count * entry_size
    if end > len(view):
        raise FormatError("The program headers reach beyond the file.", code="elf-truncated")
    rows = layout.iter_unpack(view[offset:end])
    if bits == 64:  # noqa: PLR2004 -- the ELF class itself
        segments = tuple(Segment(k, f, o, v, fs, ms, a) for k, f, o, v, _, fs, ms, a in rows)
    else:
        segments = tuple(Segment(k, f, o, v, fs, ms, a) for k, o, v, _, fs, ms, f, a in rows)
    _check_loads(segments, len(view), 1 << bits)
    return segments


def _check_loads(segments: tuple[Segment, ...], file_size: int, space: int) -> None:
    reached = 0
    for segment in segments:
        if segment.kind != PT_LOAD:
            continue
        if segment.file_size > segment.memory_size:
            raise FormatError("A segment is larger in the file than in memory.", code="elf-load")
        if segment.offset + segment.file_size > file_size:
            raise FormatError("A loaded segment reaches beyond the file.", code="elf-truncated")
        if segment.vaddr + segment.memory_size > space:
            raise FormatError("A segment wraps around the address space.", code="elf-load")
        if segment.vaddr < reached:
            raise FormatError(
                f"The segment at {segment.vaddr:#x} overlaps or precedes the one before it.",
                code="elf-overlap",
            )
        reached = segment.vaddr + segment.memory_size


def printable(raw: bytes) -> str:
    """Decode a path or name that ends up in reports and on terminals.

    Raises:
        FormatError: it holds bytes or characters that no file name here should have.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError("A name in the ELF file is not UTF-8.", code="elf-string") from None
    if not text.isprintable():
        raise FormatError("A name in the ELF file holds control characters.", code="elf-string")
    return text
