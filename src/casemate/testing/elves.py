"""Small ELF files to order, honest ones and others.

``Elf`` describes a file; ``Elf().build()`` gives its bytes. Every field of the headers can be
overridden, so the same builder makes files that lie.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

PAGE: Final = 0x1000
_PHDR: Final = {64: "IIQQQQQQ", 32: "8I"}
_DYN: Final = {64: "QQ", 32: "II"}
_RX, _RW, _R = 5, 6, 4


@dataclass(frozen=True, slots=True)
class Elf:
    """What the file shall say; defaults make a well-hardened library for x86-64.

    Attributes:
        stack: flags of PT_GNU_STACK, or None to leave the header out.
        text_flags: flags of the first loaded segment.
        imports: names of imported functions.
        exports: names of exported functions (they come after the imports).
        hash_table: ``gnu``, ``sysv`` or ``none``.
        features: x86 feature mask in the GNU property note, or None for no note.
        entries: further dynamic entries (tag, value), before the end marker.
        segments: further program headers (kind, flags, offset, vaddr, file size, memory size).
        terminated: the dynamic section ends with DT_NULL.
        header: overrides of the file header by name (``entries``, ``entry_size``, ``table``, ...).
    """

    bits: int = 64
    order: str = "<"
    machine: int = 62
    e_type: int = 3
    interpreter: str | None = None
    needed: tuple[str, ...] = ("libc.so.6",)
    soname: str | None = None
    rpath: str | None = None
    runpath: str | None = None
    stack: int | None = _RW
    text_flags: int = _RX
    relro: bool = True
    flags: int = 8
    flags_1: int = 1
    imports: tuple[str, ...] = ("__stack_chk_fail", "__memcpy_chk")
    exports: tuple[str, ...] = ()
    hash_table: str = "gnu"
    features: int | None = 3
    build_id: bytes = b"\x01" * 20
    entries: tuple[tuple[int, int], ...] = ()
    segments: tuple[tuple[int, int, int, int, int, int], ...] = ()
    terminated: bool = True
    header: dict[str, int] = field(default_factory=dict)

    def build(self) -> bytes:
        """Return the file: headers and read-only content in one segment, dynamic in another."""
        strings, at = self._strings()
        head = (64 if self.bits == 64 else 52) + len(self._headers(0, 0, 0, {})) * self._width()  # noqa: PLR2004
        parts: dict[str, tuple[int, int]] = {}
        body = b""
        for name, content in (
            ("interpreter", b"" if self.interpreter is None else self._text(self.interpreter)),
            ("note", self._note(3, self.build_id) if self.build_id else b""),
            ("property", self._property()),
            ("symbols", self._symbols(at)),
            ("hash", self._hash()),
            ("strings", strings),
        ):
            body += bytes(-(head + len(body)) % 8)
            parts[name] = (head + len(body), len(content))
            body += content
        body += bytes(-(head + len(body)) % 8)
        place = head + len(body)
        dynamic = self._dynamic(at, parts)
        table = self._headers(place, place + PAGE, len(dynamic), parts)
        return self._file_header(len(table)) + b"".join(table) + body + dynamic

    def _width(self) -> int:
        return struct.calcsize(self.order + _PHDR[self.bits])

    @staticmethod
    def _text(value: str) -> bytes:
        return value.encode() + b"\0"

    def _strings(self) -> tuple[bytes, dict[str, int]]:
        table = b"\0"
        at: dict[str, int] = {}
        optional = (self.soname, self.rpath, self.runpath)
        named = [name for name in optional if name is not None]
        for name in (*self.needed, *named, *self.imports, *self.exports):
            if name not in at:
                at[name] = len(table)
                table += self._text(name)
        return table, at

    def _symbols(self, at: dict[str, int]) -> bytes:
        rows = [(0, 0, 0)]
        rows += [(at[name], 0x12, 0) for name in self.imports]
        rows += [(at[name], 0x12, 1) for name in self.exports]
        if self.bits == 64:  # noqa: PLR2004 -- the ELF class
            return b"".join(
                struct.pack(self.order + "IBBHQQ", name, info, 0, section, 0, 0)
                for name, info, section in rows
            )
        return b"".join(
            struct.pack(self.order + "IIIBBH", name, 0, 0, info, 0, section)
            for name, info, section in rows
        )

    def _hash(self) -> bytes:
        first = 1 + len(self.imports)
        total = first + len(self.exports)
        if self.hash_table == "sysv":
            return struct.pack(self.order + "IIII", 1, total, 0, 0)
        if self.hash_table == "gnu":
            head = first if self.exports else 0
            filters = bytes(self.bits // 8)
            start = struct.pack(self.order + "IIII", 1, first if self.exports else 1, 1, 0)
            return start + filters + struct.pack(self.order + "I", head)
        return b""

    def _note(self, kind: int, content: bytes) -> bytes:
        padded = content + bytes(-len(content) % (8 if kind == 5 else 4))  # noqa: PLR2004 -- NT_GNU_PROPERTY_TYPE_0
        return struct.pack(self.order + "III", 4, len(content), kind) + b"GNU\0" + padded

    def _property(self) -> bytes:
        if self.features is None:
            return b""
        row = struct.pack(self.order + "III", 0xC0000002, 4, self.features)
        return self._note(5, row + bytes(-len(row) % (self.bits // 8)))

    def _dynamic(self, at: dict[str, int], parts: dict[str, tuple[int, int]]) -> bytes:
        rows = [(1, at[name]) for name in self.needed]
        for tag, name in ((14, self.soname), (15, self.rpath), (29, self.runpath)):
            if name is not None:
                rows.append((tag, at[name]))
        rows += [(5, parts["strings"][0]), (10, parts["strings"][1]), (6, parts["symbols"][0])]
        if self.hash_table != "none":
            rows.append((4 if self.hash_table == "sysv" else 0x6FFFFEF5, parts["hash"][0]))
        if self.flags:
            rows.append((30, self.flags))
        if self.flags_1:
            rows.append((0x6FFFFFFB, self.flags_1))
        rows += self.entries
        if self.terminated:
            rows.append((0, 0))
        return b"".join(struct.pack(self.order + _DYN[self.bits], *row) for row in rows)

    def _headers(
        self, place: int, address: int, size: int, parts: dict[str, tuple[int, int]]
    ) -> list[bytes]:
        """Return the program headers; loaded at their file offset, dynamic one page further."""
        rows = [(1, self.text_flags, 0, 0, place, place), (1, _RW, place, address, size, size)]
        rows.append((2, _RW, place, address, size, size))
        for kind, name, wanted in (
            (3, "interpreter", self.interpreter is not None),
            (4, "note", bool(self.build_id)),
            (0x6474E553, "property", self.features is not None),
        ):
            if wanted:
                start, length = parts.get(name, (0, 0))
                rows.append((kind, _R, start, start, length, length))
        if self.stack is not None:
            rows.append((0x6474E551, self.stack, 0, 0, 0, 0))
        if self.relro:
            rows.append((0x6474E552, _R, place, address, size, size))
        rows += self.segments
        return [self._header_row(row) for row in rows]

    def _header_row(self, row: tuple[int, int, int, int, int, int]) -> bytes:
        kind, flags, offset, vaddr, size, memory = row
        align = 8 if kind == 0x6474E553 else 4  # noqa: PLR2004 -- PT_GNU_PROPERTY
        if self.bits == 64:  # noqa: PLR2004 -- the ELF class
            values = (kind, flags, offset, vaddr, vaddr, size, memory, align)
        else:
            values = (kind, offset, vaddr, vaddr, size, memory, flags, align)
        return struct.pack(self.order + _PHDR[self.bits], *values)

    def _file_header(self, count: int) -> bytes:
        wide = self.bits == 64  # noqa: PLR2004 -- the ELF class
        size = 64 if wide else 52
        given = {
            "class": 2 if wide else 1,
            "data": 1 if self.order == "<" else 2,
            "table": size,
            "entry_size": self._width(),
            "entries": count,
        } | self.header
        ident = bytes((0x7F, 0x45, 0x4C, 0x46, given["class"], given["data"], 1)) + bytes(9)
        return ident + struct.pack(
            f"{self.order}HHI{'QQQ' if wide else 'III'}IHHHHHH",
            self.e_type,
            self.machine,
            1,
            0,
            given["table"],
            0,
            0,
            size,
            given["entry_size"],
            given["entries"],
            64,
            0,
            0,
        )
