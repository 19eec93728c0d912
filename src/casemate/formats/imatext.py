"""IMA lists as text (``ascii_runtime_measurements``), turned into what was hashed.

One line a record: PCR, template hash, template name, then the fields, a space between. The kernel
replaces spaces in names, but not line ends: a name with one makes the text ambiguous, and such a
list is refused. Appraise the binary list where it can be had.
"""

from __future__ import annotations

import struct
from typing import Final, Literal

from casemate.errors import FormatError, LimitError
from casemate.formats.algorithms import ALGORITHMS
from casemate.formats.ima import (
    MAX_ENTRIES,
    MAX_NAME,
    MAX_PCR,
    MAX_SIZE,
    OLD_NAME_SIZE,
    OLD_TEMPLATE,
    ByteOrder,
    ImaEntry,
    ImaList,
    parse_ima,
)
from casemate.formats.imafields import fields_of
from casemate.formats.imareplay import wrong_template

_ALGORITHM_BY_SIZE: Final = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}
_NUMBERS: Final = {"iuid": 4, "igid": 4, "imode": 2}
"""Fields shown as decimal numbers, and their sizes in bytes."""
_TEXTS: Final = frozenset({"n-ng", "xattrnames"})


def parse_ima_any(data: bytes) -> ImaList:
    """Read a list in either form: a text list begins with a decimal PCR and a space.

    Kernels from 6.10 on write a list for each bank; where the name of the first record stands
    tells whose template hashes these are.
    """
    head = data[:3].lstrip()
    if head[:1].isdigit() and b" " in data[:4]:
        return parse_ima_text(data)
    return parse_ima(data, algorithm=_algorithm_of(data) or "sha1")


def parse_ima_text(data: bytes) -> ImaList:
    """Read a text list; the size of the first template hash tells its algorithm.

    Raises:
        FormatError: ``malformed``: a line that is no record, or of a template unknown to us.
        LimitError: larger than a binary list may be.
    """
    if len(data) > MAX_SIZE:
        raise LimitError(f"IMA list of {len(data)} bytes, at most {MAX_SIZE} are allowed")
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if len(lines) > MAX_ENTRIES:
        raise LimitError(f"IMA list: more than {MAX_ENTRIES} records")
    entries = tuple(_entry(line, number, "<") for number, line in enumerate(lines, 1))
    sizes = {len(entry.template_hash) for entry in entries} or {20}
    if len(sizes) != 1:
        raise FormatError("IMA list: template hashes of several sizes")
    algorithm = _ALGORITHM_BY_SIZE[sizes.pop()]
    # The text does not tell in which byte order the kernel hashed the lengths; the first hash does.
    if entries and wrong_template(entries[:1], algorithm) is not None:
        other = _entry(lines[0], 1, ">")
        if wrong_template((other,), algorithm) is None:
            entries = tuple(_entry(line, number, ">") for number, line in enumerate(lines, 1))
    return ImaList(algorithm, entries)


def _entry(line: bytes, number: int, order: ByteOrder) -> ImaEntry:
    parts = line.lstrip(b" ").split(b" ", 3)
    try:
        pcr, template_hash, template = int(parts[0]), _hex(parts[1]), parts[2].decode("ascii")
        data = _data(template, parts[3], order)
    except (ValueError, IndexError, OverflowError):
        raise FormatError(
            f"IMA list: line {number} is no record",
            remedy="Use the binary list (binary_runtime_measurements).",
        ) from None
    if not 0 <= pcr <= 0xFFFF or len(template_hash) not in _ALGORITHM_BY_SIZE:  # noqa: PLR2004
        raise FormatError(f"IMA list: line {number} is no record")
    return ImaEntry(pcr, template_hash, template, data)


def _hex(text: bytes) -> bytes:
    return bytes.fromhex(text.decode("ascii"))


def _data(template: str, text: bytes, order: ByteOrder) -> bytes:
    """Build the template data; ValueError where the text does not have it."""
    if template == OLD_TEMPLATE:
        digest, name = text.split(b" ", 1)
        if len(name) >= OLD_NAME_SIZE:
            raise ValueError(name)
        return _hex(digest).ljust(ALGORITHMS["sha1"].size, b"\0") + name.ljust(OLD_NAME_SIZE, b"\0")
    names = fields_of(template)
    if names is None:
        raise ValueError(template)
    digest, name = text.split(b" ", 1)
    after = len(names) - 2
    values = name.rsplit(b" ", after) if after else [name]
    values += [b""] * (after + 1 - len(values))  # empty last fields, without their spaces
    fields = zip(names, (digest, *values), strict=True)
    parts = (_field(*one) for one in fields)
    return b"".join(struct.pack(f"{order}I", len(part)) + part for part in parts)


def _field(name: str, text: bytes) -> bytes:
    if name in {"d-ng", "d-ngv2", "d-modsig"}:
        if not text and name == "d-modsig":
            return b""
        label, mark, digits = text.rpartition(b":")
        if not mark:
            raise ValueError(text)
        return label + b":\0" + _hex(digits)
    if name in _TEXTS:
        return text + b"\0" if text or name == "n-ng" else b""
    if name in _NUMBERS:
        return int(text).to_bytes(_NUMBERS[name], "little") if text else b""
    return _hex(text)


def looks_like_ima(data: bytes) -> bool:
    """Tell an IMA list, binary or text, from a TCG event log.

    In a TCG log the bytes where IMA has the size of a name belong to a digest.
    """
    first = data[:200].split(b"\n", 1)[0].lstrip().split(b" ")
    if len(first) > 3 and first[0].isdigit() and len(first[1]) in {40, 64, 96, 128}:  # noqa: PLR2004
        return True
    return _algorithm_of(data) is not None


def _algorithm_of(data: bytes) -> str | None:
    """Return whose template hash makes the first record of a binary list begin as one does."""
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:
        if int.from_bytes(data[:4], order) > MAX_PCR:
            continue
        for hash_size, algorithm in _ALGORITHM_BY_SIZE.items():
            start = 4 + hash_size + 4
            size = int.from_bytes(data[start - 4 : start], order)
            name = data[start : start + size] if size <= MAX_NAME else b""
            printable = name.isascii() and name.decode("ascii").isprintable()
            if len(name) == size > 0 and printable and name[:1].isalpha():
                return algorithm
    return None
