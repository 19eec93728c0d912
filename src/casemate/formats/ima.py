"""Measurement lists of Linux IMA: what the kernel measured while it ran.

A list has one record for every file (or buffer) measured: the PCR, the hash of the template data,
the template's name, the template data. ``ima`` is the oldest template; ``ima-ng``, ``ima-sig``,
``ima-buf``, ``ima-modsig``, ``evm-sig`` and their ``v2`` forms hold length-prefixed fields. A
template unknown to us is carried as it is: its record says how long it is, and its hash is checked
like any other.

Sources: Linux ``security/integrity/ima/ima_fs.c``, ``ima_template.c``, ``ima_template_lib.c``.
Integers are little-endian, also on big-endian machines with ``ima_canonical_fmt``; without it those
write (and hash) all lengths big-endian, and so they are read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from casemate.errors import FormatError, LimitError
from casemate.formats.algorithms import ALGORITHMS

MAX_SIZE: Final = 64 << 20
"""Bytes of a list: about 500,000 records."""
MAX_ENTRIES: Final = 500_000
"""Records of a list; a busy host has some thousands."""
MAX_NAME: Final = 255
"""Bytes of a template's name, or of its format string where it has no name."""
MAX_DATA: Final = 4 << 20
"""Bytes of one record's template data; the largest are kernel images' appended signatures."""
MAX_PCR: Final = 23
IMA_PCR: Final = 10
"""The PCR that IMA extends unless it was built or told otherwise."""
OLD_NAME_SIZE: Final = 256
"""Bytes to which the template ``ima`` pads a name before hashing it."""
OLD_TEMPLATE: Final = "ima"
_OLD_DIGEST: Final = 20
_U32: Final = struct.Struct("<I")
ByteOrder = Literal["<", ">"]


class ImaEntry(NamedTuple):
    """One record.

    Attributes:
        pcr: the PCR that was extended.
        template_hash: hash of ``data``; all zero marks a violation.
        template: the template's name.
        data: the bytes that were hashed: the template's fields with their lengths, or, for the
            template ``ima``, the digest and the name padded to 256 bytes.
    """

    pcr: int
    template_hash: bytes
    template: str
    data: bytes

    @property
    def is_violation(self) -> bool:
        """Whether the kernel gave up on this file: it was written to while it was measured."""
        return not any(self.template_hash)


@dataclass(frozen=True, slots=True)
class ImaList:
    """A parsed list; ``algorithm`` made the template hashes."""

    algorithm: str
    entries: tuple[ImaEntry, ...]


def parse_ima(data: bytes | bytearray | memoryview, *, algorithm: str = "sha1") -> ImaList:
    """Read a binary list (``binary_runtime_measurements``).

    Args:
        data: the list; it may be empty, for a host that measured nothing yet.
        algorithm: of the template hashes: newer kernels write one list for each bank.

    Raises:
        FormatError: ``malformed``: lengths that do not fit.
        LimitError: larger than this module's limits.
    """
    size = memoryview(data).nbytes
    if size > MAX_SIZE:
        raise LimitError(f"IMA list of {size} bytes, at most {MAX_SIZE} are allowed")
    raw = bytes(data)
    order: ByteOrder = ">" if int.from_bytes(raw[:4], "big") <= MAX_PCR and any(raw[:4]) else "<"
    return ImaList(algorithm, tuple(_entries(raw, ALGORITHMS[algorithm].size, order)))


def _entries(raw: bytes, hash_size: int, order: ByteOrder) -> list[ImaEntry]:
    # Nearly all records of a list have one template: its head is read by one unpack.
    head = struct.Struct(f"{order}I{hash_size}sI")
    usual, usual_name, template = head, b"", ""
    entries: list[ImaEntry] = []
    append, new, total, position = entries.append, tuple.__new__, len(raw), 0
    last_usual = -1
    for index in range(MAX_ENTRIES + 1):
        if position <= last_usual:
            pcr, digest, size, name, length = usual.unpack_from(raw, position)
            if name == usual_name and size == len(name) and length <= MAX_DATA:
                start = position + usual.size
                position = start + length
                if position > total:
                    raise _ends_inside(index)
                append(new(ImaEntry, (pcr, digest, template, raw[start:position])))
                continue
        if position == total:
            return entries
        entry, position = _unusual(raw, position, head, index, order)
        append(entry)
        if entry.template != OLD_TEMPLATE:
            template, usual_name = entry.template, entry.template.encode("latin-1")
            usual = struct.Struct(f"{order}I{hash_size}sI{len(usual_name)}sI")
            last_usual = total - usual.size
    raise LimitError(f"IMA list: more than {MAX_ENTRIES} records")


def _unusual(
    raw: bytes, position: int, head: struct.Struct, index: int, order: ByteOrder
) -> tuple[ImaEntry, int]:
    """Read the record at ``position`` step by step; return it and where the next begins."""
    if position + head.size > len(raw):
        raise _ends_inside(index)
    pcr, digest, size = head.unpack_from(raw, position)
    if not 1 <= size <= MAX_NAME:
        raise FormatError(f"IMA list: record {index} has a template name of {size} bytes")
    start = position + head.size
    name = raw[start : start + size]
    start += size
    is_old = name == OLD_TEMPLATE.encode()
    prefix = _OLD_DIGEST if is_old else 0
    if start + prefix + _U32.size > len(raw):
        raise _ends_inside(index)
    (length,) = struct.unpack_from(f"{order}I", raw, start + prefix)
    if length > (OLD_NAME_SIZE - 1 if is_old else MAX_DATA):
        raise FormatError(f"IMA list: record {index} has a field of {length} bytes")
    body = start + prefix + _U32.size
    end = body + length
    if end > len(raw):
        raise _ends_inside(index)
    data = raw[body:end]
    if is_old:
        data = raw[start : start + prefix] + data.ljust(OLD_NAME_SIZE, b"\0")
    return ImaEntry(pcr, digest, name.decode("latin-1"), data), end


def _ends_inside(index: int) -> FormatError:
    return FormatError(f"IMA list: it ends inside record {index}")


def write_ima(entries: tuple[ImaEntry, ...]) -> bytes:
    """Return the binary list; ``write_ima(parse_ima(x).entries) == x``."""
    parts: list[bytes] = []
    for pcr, digest, template, data in entries:
        name = template.encode("latin-1")
        parts += (_U32.pack(pcr), digest, _U32.pack(len(name)), name)
        if template == OLD_TEMPLATE:
            text = data[_OLD_DIGEST:].rstrip(b"\0")
            parts += (data[:_OLD_DIGEST], _U32.pack(len(text)), text)
        else:
            parts += (_U32.pack(len(data)), data)
    return b"".join(parts)
