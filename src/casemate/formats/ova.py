"""OVA: a tar archive of an OVF descriptor, its manifest, and disks, read member by member.

The members are plain files of one directory; everything else that tar can say is refused.
Manifest lines are ``SHA256(name)= hex`` as VMware's tools write them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from casemate.errors import FormatError, LimitError
from casemate.formats.tarball import BLOCK, header_sum
from casemate.formats.vmdk import is_plain_name

MEMBER_LIMIT: Final = 64
"""Files of one archive: descriptor, manifest, certificate, and more disks than a VM has."""
MANIFEST_LIMIT: Final = 65536
END: Final = bytes(2 * BLOCK)
_NAME_SIZE: Final = 100
_SIZE: Final = slice(124, 136)
_SUM: Final = slice(148, 156)
_KIND: Final = 156
_OCTAL_LIMIT: Final = 8**11
_MODE: Final = 0o644
_LINE: Final = re.compile(r"(SHA1|SHA256|SHA512) ?\(([^()]{1,255})\) ?= ?([0-9a-fA-F]{40,128})")


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the archive; ``offset`` is where its content begins."""

    name: str
    size: int
    offset: int


def member(block: bytes, offset: int) -> Member | None:
    """Read the header at ``offset``; None at the end of the archive.

    Raises:
        FormatError: Damaged, or no plain file with a plain name.
    """
    if len(block) < BLOCK:
        raise _wrong("it is cut off", "ova-cut")
    if block == bytes(BLOCK):
        return None
    stored = _octal(block[_SUM])
    if stored != header_sum(block):
        raise _wrong("the header of a member is damaged", "ova-malformed")
    raw = block[:_NAME_SIZE].partition(b"\0")[0]
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise _wrong("the name of a member is not UTF-8", "ova-malformed") from error
    if block[_KIND : _KIND + 1] not in {b"0", b"\0"} or block[345:346] != b"\0":
        raise _wrong(f"{name[:80]!r} is no plain file", "ova-kind")
    if not is_plain_name(name):
        raise _wrong(f"{name[:80]!r} is not a plain name", "ova-path")
    return Member(name, _number(block[_SIZE]), offset + BLOCK)


def following(found: Member) -> int:
    """Return where the next header is."""
    return found.offset + found.size + -found.size % BLOCK


def header(name: str, size: int) -> bytes:
    """Return the header of a member. Raises FormatError."""
    encoded = name.encode()
    if len(encoded) > _NAME_SIZE or not is_plain_name(name):
        raise _wrong(f"{name[:80]!r} does not fit", "ova-path")
    block = bytearray(BLOCK)
    block[: len(encoded)] = encoded
    block[100:107] = b"%07o" % _MODE
    block[108:115] = block[116:123] = b"0000000"
    if size < _OCTAL_LIMIT:
        block[124:135] = b"%011o" % size
    else:
        block[124:136] = b"\x80" + size.to_bytes(11, "big")
    block[136:147] = b"0" * 11
    block[_KIND] = ord("0")
    block[257:265] = b"ustar\x0000"
    block[_SUM] = b"%06o\x00 " % header_sum(bytes(block))
    return bytes(block)


def parse_manifest(data: bytes) -> dict[str, tuple[str, bytes]]:
    """Return algorithm (``sha256``) and digest by name.

    Raises:
        FormatError: A line is no digest, or a name occurs twice.
        LimitError: Too long.
    """
    if len(data) > MANIFEST_LIMIT:
        raise LimitError(f"a manifest of {len(data)} bytes is too long", component="mf")
    found: dict[str, tuple[str, bytes]] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or len(match[3]) % 2 or match[2] in found:
            raise FormatError(
                f"a line of the manifest is no digest, or doubled: {line[:80]!r}",
                component="mf",
                code="ova-manifest",
            )
        found[match[2]] = (match[1].lower(), bytes.fromhex(match[3]))
    return found


def write_manifest(digests: dict[str, bytes]) -> bytes:
    """Return a manifest of SHA-256 digests by name."""
    return "".join(f"SHA256({name})= {value.hex()}\n" for name, value in digests.items()).encode()


def _number(field: bytes) -> int:
    """Read a size: octal digits, or a number of eleven bytes after a mark."""
    if field[0] == 0x80:  # noqa: PLR2004  (the mark)
        return int.from_bytes(field[1:], "big")
    return _octal(field)


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        raise _wrong("a number is not octal", "ova-malformed")
    return int(digits, 8)


def _wrong(why: str, code: str) -> FormatError:
    return FormatError(f"not an OVA to be used here: {why}", component="ova", code=code)
