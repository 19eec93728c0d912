"""ELF executables and libraries: the facts that loading, linking and hardening depend on.

Read from segments, as the kernel and the dynamic loader do; section headers are never looked at,
so a stripped or lying section table changes nothing. Structures: System V gABI (chapters 4 and 5),
GNU extensions as in ``elf.h`` of glibc. Where the kernel or the loader would see something else
than a reader that trusts the header (duplicate tables, overlapping segments, a class that the
machine does not have), the file is refused instead of guessed at.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from casemate.errors import FormatError
from casemate.formats.elf_dynamic import Dynamic, read_dynamic
from casemate.formats.elf_notes import Notes, read_notes
from casemate.formats.elf_segments import (
    PF_W,
    PF_X,
    PT_GNU_PROPERTY,
    PT_GNU_RELRO,
    PT_GNU_STACK,
    PT_INTERP,
    PT_LOAD,
    PT_NOTE,
    Image,
    Segment,
    printable,
    read_segments,
)

ET_REL: Final = 1
ET_EXEC: Final = 2
ET_DYN: Final = 3
ET_CORE: Final = 4

EM_386: Final = 3
EM_486: Final = 6
EM_ARM: Final = 40
EM_X86_64: Final = 62
EM_AARCH64: Final = 183

MAX_PATH: Final = 4096
"""Bytes of an interpreter path: PATH_MAX of Linux, which refuses longer ones."""

_MAGIC: Final = b"\x7fELF"
_IDENT_SIZE: Final = 16
_BITS: Final = {1: 32, 2: 64}
_ORDER: Final = {1: "<", 2: ">"}
_HEADERS: Final = {
    (bits, order): struct.Struct(f"{order}HHI{word * 3}IHHHHHH")
    for bits, word in ((32, "I"), (64, "Q"))
    for order in "<>"
}
# Linux looks at e_machine in its own byte order and ignores EI_CLASS and EI_DATA. A header that
# says otherwise would be read here as one file and executed there as another.
_CLASS_OF_MACHINE: Final = {EM_386: 32, EM_486: 32, EM_ARM: 32, EM_X86_64: 64, EM_AARCH64: 64}


class ElfKind(StrEnum):
    """What an ELF file is, as the kernel and the dynamic loader will treat it."""

    EXECUTABLE = "executable"
    """Linked to a fixed address (ET_EXEC)."""
    PIE = "pie"
    STATIC_PIE = "static-pie"
    LIBRARY = "library"
    RELOCATABLE = "relocatable"
    """An object file or a kernel module: not loaded by the kernel's exec nor by the loader."""
    CORE = "core"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class ElfFacts:
    """What an ELF file says about itself.

    Attributes:
        bits: 32 or 64.
        little_endian: byte order of the file.
        machine: ``e_machine``.
        e_type: ``e_type`` as stored.
        kind: what it is.
        interpreter: path in PT_INTERP, or None.
        needed: DT_NEEDED in order.
        audit: libraries of DT_AUDIT, DT_DEPAUDIT, DT_AUXILIARY and DT_FILTER: the loader pulls
            them in although they are not in ``needed``.
        soname: DT_SONAME, or None.
        rpath: DT_RPATH as stored (colons separate directories), or None.
        runpath: DT_RUNPATH likewise.
        dynamic: there is a dynamic section.
        exec_stack: PT_GNU_STACK's PF_X; None when the header is absent.
        writable_executable: addresses of segments that are both writable and executable.
        relro: there is a PT_GNU_RELRO that covers something.
        bind_now: DT_BIND_NOW, DF_BIND_NOW or DF_1_NOW.
        textrel: DT_TEXTREL or DF_TEXTREL.
        pie_flag: DF_1_PIE.
        canary: its symbol table knows ``__stack_chk_fail``.
        fortified: number of imported ``__*_chk`` functions.
        ibt: x86 indirect branch tracking is announced.
        shstk: x86 shadow stack is announced.
        build_id: the GNU build id, empty when absent.
    """

    bits: int
    little_endian: bool
    machine: int
    e_type: int
    kind: ElfKind
    interpreter: str | None
    needed: tuple[str, ...]
    audit: tuple[str, ...]
    soname: str | None
    rpath: str | None
    runpath: str | None
    dynamic: bool
    exec_stack: bool | None
    writable_executable: tuple[int, ...]
    relro: bool
    bind_now: bool
    textrel: bool
    pie_flag: bool
    canary: bool
    fortified: int
    ibt: bool
    shstk: bool
    build_id: bytes

    @property
    def is_executable(self) -> bool:
        """Whether this is a program rather than a library."""
        return self.kind in {ElfKind.EXECUTABLE, ElfKind.PIE, ElfKind.STATIC_PIE}

    @property
    def is_loaded(self) -> bool:
        """Whether the kernel or the dynamic loader maps it (object files and cores are not)."""
        return self.is_executable or self.kind is ElfKind.LIBRARY


class _Header(NamedTuple):
    bits: int
    order: str
    machine: int
    e_type: int
    table_offset: int
    entry_size: int
    entries: int


def is_elf(prefix: bytes | memoryview) -> bool:
    """Tell whether a file that begins with these bytes (four suffice) is an ELF file."""
    return bytes(prefix[:4]) == _MAGIC


def parse_elf(data: bytes | memoryview) -> ElfFacts:
    """Read the facts of an ELF file.

    Args:
        data: the whole file; nothing is copied but its dynamic string table.

    Raises:
        FormatError: not ELF, truncated, or ambiguous (``elf-*`` codes).
        LimitError: more headers, entries or strings than any real file has.
    """
    view = memoryview(data).cast("B")
    header = _read_header(view)
    segments: tuple[Segment, ...] = ()
    if header.entries and header.e_type in {ET_EXEC, ET_DYN}:
        segments = read_segments(
            view, header.bits, header.order, header.table_offset, header.entry_size, header.entries
        )
    image = Image(view, header.bits, header.order, segments)
    interpreter = _interpreter(image)
    dynamic = read_dynamic(image)
    notes = _notes(image)
    stack = image.only(PT_GNU_STACK)
    relro = image.only(PT_GNU_RELRO)
    return ElfFacts(
        bits=header.bits,
        little_endian=header.order == "<",
        machine=header.machine,
        e_type=header.e_type,
        kind=_kind(header.e_type, interpreter, dynamic),
        interpreter=interpreter,
        needed=dynamic.needed,
        audit=dynamic.audit,
        soname=dynamic.soname,
        rpath=dynamic.rpath,
        runpath=dynamic.runpath,
        dynamic=dynamic.present,
        exec_stack=None if stack is None else bool(stack.flags & PF_X),
        writable_executable=tuple(
            s.vaddr for s in segments if s.kind == PT_LOAD and s.flags & PF_W and s.flags & PF_X
        ),
        relro=relro is not None and relro.memory_size > 0,
        bind_now=dynamic.bind_now,
        textrel=dynamic.textrel,
        pie_flag=dynamic.pie,
        canary=dynamic.canary,
        fortified=dynamic.fortified,
        ibt=notes.ibt,
        shstk=notes.shstk,
        build_id=notes.build_id,
    )


def _read_header(view: memoryview) -> _Header:
    if not is_elf(view):
        raise FormatError("This is not an ELF file: its first four bytes differ.", code="elf-magic")
    if len(view) < _IDENT_SIZE:
        raise FormatError("The ELF file ends inside its identification.", code="elf-truncated")
    bits = _BITS.get(view[4])
    order = _ORDER.get(view[5])
    if bits is None or order is None:
        raise FormatError(
            f"ELF class {view[4]} with data encoding {view[5]} does not exist.", code="elf-class"
        )
    layout = _HEADERS[bits, order]
    if len(view) < _IDENT_SIZE + layout.size:
        raise FormatError("The ELF file ends inside its header.", code="elf-truncated")
    e_type, machine, _, _, table, _, _, _, entry_size, entries, *_ = layout.unpack_from(view, 16)
    seen_by_kernel = view[18] | view[19] << 8
    expected = _CLASS_OF_MACHINE.get(seen_by_kernel)
    if expected is not None and (expected != bits or order != "<"):
        raise FormatError(
            f"The ELF header claims {bits}-bit, but machine {seen_by_kernel} is {expected}-bit "
            "little-endian and would be executed as such.",
            code="elf-ambiguous",
        )
    return _Header(bits, order, machine, e_type, table, entry_size, entries)


def _interpreter(image: Image) -> str | None:
    segment = image.only(PT_INTERP)
    if segment is None:
        return None
    if not 1 < segment.file_size <= MAX_PATH:
        raise FormatError(
            f"An interpreter path of {segment.file_size} bytes cannot be.", code="elf-interpreter"
        )
    raw = bytes(image.content(segment))
    if raw.find(b"\0") != len(raw) - 1:
        raise FormatError(
            "The interpreter path is not exactly one terminated string.", code="elf-interpreter"
        )
    return printable(raw[:-1])


def _notes(image: Image) -> Notes:
    found = Notes()
    for segment in image.segments:
        if segment.kind in {PT_NOTE, PT_GNU_PROPERTY} and segment.file_size:
            found = read_notes(image, segment, found)
    return found


def _kind(e_type: int, interpreter: str | None, dynamic: Dynamic) -> ElfKind:
    """Tell programs from libraries.

    libc.so.6 names an interpreter so that it can be run, yet is a library: a soname without
    DF_1_PIE decides. Position-independent programs older than DF_1_PIE have no soname.
    """
    if e_type == ET_EXEC:
        return ElfKind.EXECUTABLE
    if e_type == ET_REL:
        return ElfKind.RELOCATABLE
    if e_type == ET_CORE:
        return ElfKind.CORE
    if e_type != ET_DYN:
        return ElfKind.OTHER
    if dynamic.pie or (interpreter is not None and dynamic.soname is None):
        return ElfKind.STATIC_PIE if interpreter is None else ElfKind.PIE
    return ElfKind.LIBRARY
