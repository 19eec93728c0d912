"""PE images as UEFI loads them: read the sections, add sections, compute the Authenticode digest.

Only what a boot loader needs: PE32+ for one machine, no linker features. Sources: Microsoft's "PE
Format", and "Windows Authenticode Portable Executable Signature Format" (2008), whose digest
firmware checks against db and measures into PCR 4.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from casemate.errors import ArgumentError
from casemate.formats.reader import Reader

MAX_SECTIONS: Final = 96
"""What Windows' loader takes; boot images have about a dozen."""
PE32_PLUS: Final = 0x20B
DOS_PE_OFFSET: Final = 0x3C
COFF_SIZE: Final = 20
SECTION_SIZE: Final = 40
SECURITY_DIRECTORY: Final = 4
CERTIFICATE_PKCS: Final = (0x0200, 0x0002)
"""WIN_CERT_REVISION_2_0, WIN_CERT_TYPE_PKCS_SIGNED_DATA."""
CERTIFICATE_ALIGNMENT: Final = 8
READ_ONLY_DATA: Final = 0x40000040
"""Section flags: initialised data, readable."""
PAGE: Final = 4096

# Offsets inside the optional header of PE32+.
_FILE_ALIGNMENT: Final = 36
_SIZE_OF_IMAGE: Final = 56
_SIZE_OF_HEADERS: Final = 60
_CHECKSUM: Final = 64
_DIRECTORY_COUNT: Final = 108
_DIRECTORIES: Final = 112


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its name, where it is loaded, its size there, and its bytes in the file."""

    name: str
    address: int
    virtual_size: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Pe:
    """What was read of an image; offsets are into the file."""

    optional: int
    section_table: int
    sections: tuple[Section, ...]
    file_alignment: int
    size_of_image: int
    size_of_headers: int
    security: tuple[int, int]
    """Offset and size of the attribute certificate table; (0, 0) where unsigned."""

    def section(self, data: bytes | memoryview, name: str) -> bytes | None:
        """Return the bytes that the image has in memory for a section, None where it has none."""
        for one in self.sections:
            if one.name == name:
                return bytes(data[one.offset : one.offset + min(one.size, one.virtual_size)])
        return None


def parse_pe(data: bytes | memoryview) -> Pe:
    """Read the headers of a PE32+ image. Raises FormatError (``pe-malformed``)."""
    reader = Reader(data, "PE image", code="pe-malformed")
    if reader.take(2) != b"MZ":
        raise reader.error("it does not begin with MZ")
    reader.skip(DOS_PE_OFFSET - 2)
    start = reader.u32le()
    reader = Reader(data, "PE image", code="pe-malformed")
    reader.skip(start)
    if reader.take(4) != b"PE\0\0":
        raise reader.error("there is no PE header")
    reader.skip(2)
    count = reader.u16le()
    reader.skip(12)
    optional_size = reader.u16le()
    reader.skip(2)
    optional = reader.position
    head = bytes(reader.view(optional_size))
    if optional_size < _DIRECTORIES or head[:2] != struct.pack("<H", PE32_PLUS):
        raise reader.error("it is not PE32+")
    if not 0 < count <= MAX_SECTIONS:
        raise reader.error(f"{count} sections")
    table = reader.position
    sections = tuple(_section(reader) for _ in range(count))
    size = len(memoryview(data))
    if any(one.offset + one.size > size for one in sections):
        raise reader.error("a section lies outside of the file")
    (directories,) = struct.unpack_from("<I", head, _DIRECTORY_COUNT)
    security = (0, 0)
    place = _DIRECTORIES + 8 * SECURITY_DIRECTORY
    if directories > SECURITY_DIRECTORY and optional_size >= place + 8:
        security = struct.unpack_from("<II", head, place)
    if sum(security) > size:
        raise reader.error("the signature lies outside of the file")
    alignment, image, headers = (
        struct.unpack_from("<I", head, at)[0]
        for at in (_FILE_ALIGNMENT, _SIZE_OF_IMAGE, _SIZE_OF_HEADERS)
    )
    if alignment == 0 or alignment & (alignment - 1) or headers > size:
        raise reader.error("its alignment or header size cannot be")
    return Pe(optional, table, sections, alignment, image, headers, (security[0], security[1]))


def add_sections(data: bytes, added: Mapping[str, bytes]) -> bytes:
    """Return an unsigned image with sections appended, in the order given.

    They are loaded behind everything else, each on its own page. A symbol table is dropped.

    Raises:
        ArgumentError: the headers have no room, the image is signed, or a name is too long.
        FormatError: ``data`` is no PE32+ image.
    """
    image = parse_pe(data)
    first_free = image.section_table + SECTION_SIZE * len(image.sections)
    if image.security != (0, 0):
        raise ArgumentError("the image is signed already", argument="image")
    if first_free + SECTION_SIZE * len(added) > image.size_of_headers:
        raise ArgumentError("the image's headers have no room for more sections", argument="image")
    # A symbol table behind the sections would leave a gap, over whose digest tools disagree.
    result = bytearray(data[: max(one.offset + one.size for one in image.sections)])
    struct.pack_into("<II", result, image.optional - COFF_SIZE + 8, 0, 0)
    _pad(result, image.file_alignment)
    address = max(one.address + one.virtual_size for one in image.sections)
    for number, (name, content) in enumerate(added.items()):
        encoded = name.encode("ascii")
        if len(encoded) > 8:  # noqa: PLR2004  (a section's name field)
            raise ArgumentError(f"{name} is too long for a section", argument="sections")
        address = _aligned(address, PAGE)
        raw = _aligned(len(content), image.file_alignment)
        struct.pack_into(
            "<8s6I2HI",
            result,
            first_free + SECTION_SIZE * number,
            encoded,
            len(content),
            address,
            raw,
            len(result),
            *(0, 0, 0, 0),
            READ_ONLY_DATA,
        )
        result += content
        _pad(result, image.file_alignment)
        address += len(content)
    struct.pack_into("<H", result, image.optional - COFF_SIZE + 2, len(image.sections) + len(added))
    struct.pack_into("<I", result, image.optional + _SIZE_OF_IMAGE, _aligned(address, PAGE))
    struct.pack_into("<I", result, image.optional + _CHECKSUM, 0)
    return bytes(result)


def authenticode_digest(data: bytes | memoryview, algorithm: str) -> bytes:
    """Return the digest that signatures cover and that firmware measures.

    Raises:
        FormatError: it is no PE32+ image, or its sections overlap.
    """
    hashed = hashlib.new(algorithm)
    for part in _covered(memoryview(data)):
        hashed.update(part)
    return hashed.digest()


def attach_signature(data: bytes, signature: bytes) -> bytes:
    """Return the image with one PKCS #7 signature (DER) in its certificate table.

    Raises:
        ArgumentError: it is signed already.
        FormatError: it is no PE32+ image.
    """
    image = parse_pe(data)
    if image.security != (0, 0):
        raise ArgumentError("the image is signed already", argument="image")
    result = bytearray(data)
    _pad(result, CERTIFICATE_ALIGNMENT)
    start = len(result)
    result += struct.pack("<IHH", 8 + len(signature), *CERTIFICATE_PKCS) + signature
    _pad(result, CERTIFICATE_ALIGNMENT)
    place = image.optional + _DIRECTORIES + 8 * SECURITY_DIRECTORY
    struct.pack_into("<II", result, place, start, len(result) - start)
    return bytes(result)


def attached_signature(data: bytes | memoryview) -> bytes | None:
    """Return the first signature (DER) of an image, None where it has none.

    Raises:
        FormatError: it is no PE32+ image, or the table is damaged.
    """
    offset, size = parse_pe(data).security
    if (offset, size) == (0, 0):
        return None
    reader = Reader(memoryview(data)[offset : offset + size], "PE signature", code="pe-malformed")
    length = reader.u32le()
    if (reader.u16le(), reader.u16le()) != CERTIFICATE_PKCS:
        raise reader.error("it is of an unknown kind")
    return bytes(reader.view(length - 8))


def _section(reader: Reader) -> Section:
    name = reader.take(8).rstrip(b"\0").decode("ascii", "replace")
    virtual_size, address, size, offset = (reader.u32le() for _ in range(4))
    reader.skip(16)
    return Section(name, address, virtual_size, offset, size)


def _covered(data: memoryview) -> Iterator[memoryview]:
    """Yield what the digest covers: all but the checksum and the signature and where it lies.

    What lies behind the sections counts too, padded to eight bytes as the signature will find it.
    """
    image = parse_pe(data)
    checksum = image.optional + _CHECKSUM
    directory = image.optional + _DIRECTORIES + 8 * SECURITY_DIRECTORY
    yield data[:checksum]
    yield data[checksum + 4 : directory]
    yield data[directory + 8 : image.size_of_headers]
    position = image.size_of_headers
    for one in sorted(image.sections, key=lambda section: section.offset):
        if one.size:
            yield data[one.offset : one.offset + one.size]
            position += one.size
    end = image.security[0] or len(data)
    yield data[position:end]
    yield memoryview(bytes(-end % CERTIFICATE_ALIGNMENT))


def _pad(data: bytearray, alignment: int) -> None:
    data += bytes(-len(data) % alignment)


def _aligned(value: int, alignment: int) -> int:
    return value + -value % alignment
