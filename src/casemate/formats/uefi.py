"""UEFI structures as event logs carry them: variables, signature lists, device paths, GPT.

UEFI 2.10, sections 5.3, 8.2, 10.3 and 32.4; all integers are little-endian. Every parser takes
exactly one structure and raises FormatError with code ``event-data`` for anything else. Lengths
and counts have 64 bits, as TCG wants them; firmware of 32 bits writes those that are UINTN with 32,
so what does not fit with 64 is read so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar
from uuid import UUID

from casemate.errors import FormatError
from casemate.formats.reader import Reader

T = TypeVar("T")

CODE: Final = "event-data"
SIGNATURE_LIST_HEAD: Final = 28
"""Bytes before the header of an EFI_SIGNATURE_LIST."""
OWNER_SIZE: Final = 16
GPT_HEADER_SIZE: Final = 92
MIN_GPT_ENTRY: Final = 128
MAX_GPT_ENTRY: Final = 4096
"""Bytes of a partition entry; the specification says 128 times a power of two."""
MAX_SLACK: Final = 16
"""Stray bytes behind a variable or image load: shim and EDK2 count their structures too large."""
DEVICE_PATH_END: Final = (0x7F, 0xFF)
FILE_PATH_NODE: Final = (0x04, 0x04)

SIGNATURE_TYPES: Final = {
    UUID("c1c41626-504c-4092-aca9-41f936934328"): "sha256",
    UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072"): "x509",
    UUID("826ca512-cf10-4ac9-b187-be01496631bd"): "sha1",
    UUID("ff3e5307-9fd0-48c9-85f1-8ad56c701e01"): "sha384",
    UUID("3bd2a492-96c0-4079-b420-fcf98ef103ed"): "x509-sha256",
}


@dataclass(frozen=True, slots=True)
class UefiVariable:
    """UEFI_VARIABLE_DATA."""

    guid: UUID
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class SignatureData:
    """EFI_SIGNATURE_DATA: who added it, and a certificate or hash."""

    owner: UUID
    data: bytes


@dataclass(frozen=True, slots=True)
class SignatureList:
    """EFI_SIGNATURE_LIST; ``kind`` is a value of ``SIGNATURE_TYPES`` or the GUID's text."""

    kind: str
    entries: tuple[SignatureData, ...]


@dataclass(frozen=True, slots=True)
class DevicePathNode:
    """One node of a device path."""

    type: int
    subtype: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ImageLoad:
    """UEFI_IMAGE_LOAD_EVENT; location and size are where the image lay in memory."""

    location: int
    length: int
    link_time_address: int
    device_path: tuple[DevicePathNode, ...]

    @property
    def file_path(self) -> str:
        """The file's path on its device, empty where the device path names none."""
        return "".join(
            utf16(node.data)
            for node in self.device_path
            if (node.type, node.subtype) == FILE_PATH_NODE
        )


@dataclass(frozen=True, slots=True)
class Partition:
    """A GPT entry; blocks inclusive."""

    type: UUID
    guid: UUID
    first_block: int
    last_block: int
    attributes: int
    name: str


@dataclass(frozen=True, slots=True)
class Gpt:
    """UEFI_GPT_DATA: the disk's GUID and its used partitions."""

    disk: UUID
    partitions: tuple[Partition, ...]


@dataclass(frozen=True, slots=True)
class FirmwareBlob:
    """UEFI_PLATFORM_FIRMWARE_BLOB, or BLOB2 with a description."""

    base: int
    length: int
    description: str = ""


@dataclass(frozen=True, slots=True)
class HandoffTables:
    """UEFI_HANDOFF_TABLE_POINTERS, or POINTERS2 with a description: (GUID, address) pairs."""

    tables: tuple[tuple[UUID, int], ...]
    description: str = ""


def utf16(data: bytes) -> str:
    """Decode UTF-16LE up to its NUL; what does not decode becomes U+FFFD."""
    return data.decode("utf-16-le", "replace").split("\0", 1)[0]


def _guid(reader: Reader) -> UUID:
    return UUID(bytes_le=reader.take(16))


def _end_with_slack(reader: Reader) -> None:
    if reader.left > MAX_SLACK:
        reader.end()


Number = Callable[[Reader], int]
"""Reads a UINTN."""


def _either(parse: Callable[[Reader, Number], T], data: bytes, what: str) -> T:
    """Parse with numbers of 64 bits, or else of 32, to the last byte; the error is of the first."""
    try:
        return parse(Reader(data, what, code=CODE), Reader.u64le)
    except FormatError:
        reader = Reader(data, what, code=CODE)
        try:
            found = parse(reader, Reader.u32le)
            reader.end()
        except FormatError:
            pass
        else:
            return found
        raise


def parse_variable(data: bytes) -> UefiVariable:
    """Read UEFI_VARIABLE_DATA; the name's length counts 16-bit units."""
    return _either(_variable, data, "UEFI variable")


def _variable(reader: Reader, number: Number) -> UefiVariable:
    guid = _guid(reader)
    name_length, data_length = number(reader), number(reader)
    name = reader.take(name_length * 2)
    variable = UefiVariable(guid, name.decode("utf-16-le", "replace"), reader.take(data_length))
    _end_with_slack(reader)
    return variable


def parse_signature_lists(data: bytes) -> tuple[SignatureList, ...]:
    """Read the EFI_SIGNATURE_LISTs that fill a variable such as db or dbx."""
    lists: list[SignatureList] = []
    for guid, entry_size, body in _signature_lists(data):
        entries = Reader(body, "signature list", code=CODE)
        lists.append(
            SignatureList(
                SIGNATURE_TYPES.get(guid, str(guid)),
                tuple(
                    SignatureData(_guid(entries), entries.take(entry_size - OWNER_SIZE))
                    for _ in range(len(body) // entry_size)
                ),
            )
        )
    return tuple(lists)


def check_signature_lists(data: bytes) -> None:
    """Check the sizes in EFI_SIGNATURE_LISTs without reading their entries: dbx has hundreds."""
    for _ in _signature_lists(data):
        pass


def _signature_lists(data: bytes) -> Iterator[tuple[UUID, int, memoryview]]:
    """Yield type, size of an entry, and all entries of each list."""
    reader = Reader(data, "signature list", code=CODE)
    while reader.left:
        guid = _guid(reader)
        size, header_size, entry_size = reader.u32le(), reader.u32le(), reader.u32le()
        body = size - SIGNATURE_LIST_HEAD - header_size
        if entry_size < OWNER_SIZE or body < 0 or body % entry_size:
            raise reader.error(f"{body} bytes of entries of {entry_size} bytes")
        reader.skip(header_size)
        yield guid, entry_size, reader.view(body)


def parse_signature_data(data: bytes) -> SignatureData:
    """Read the one EFI_SIGNATURE_DATA that an EV_EFI_VARIABLE_AUTHORITY event carries."""
    reader = Reader(data, "signature", code=CODE)
    return SignatureData(_guid(reader), reader.rest())


def parse_device_path(data: bytes | memoryview) -> tuple[DevicePathNode, ...]:
    """Read a device path; its end node is checked and left out. No bytes: no path."""
    reader = Reader(data, "device path", code=CODE)
    nodes: list[DevicePathNode] = []
    while reader.left:
        kind, subtype, length = reader.u8(), reader.u8(), reader.u16le()
        node = DevicePathNode(kind, subtype, reader.take(length - 4))
        if (kind, subtype) == DEVICE_PATH_END:
            reader.end()
            break
        nodes.append(node)
    return tuple(nodes)


def parse_image_load(data: bytes) -> ImageLoad:
    """Read UEFI_IMAGE_LOAD_EVENT."""
    return _either(_image_load, data, "image load")


def _image_load(reader: Reader, number: Number) -> ImageLoad:
    location, length, link_time = reader.u64le(), number(reader), number(reader)
    path = parse_device_path(reader.view(number(reader)))
    _end_with_slack(reader)
    return ImageLoad(location, length, link_time, path)


def parse_gpt(data: bytes) -> Gpt:
    """Read UEFI_GPT_DATA: the GPT header, then the partitions in use."""
    return _either(_gpt, data, "GPT")


def _gpt(reader: Reader, number: Number) -> Gpt:
    header = Reader(reader.view(GPT_HEADER_SIZE), "GPT header", code=CODE)
    header.skip(56)
    disk = _guid(header)
    header.skip(12)
    entry_size = header.u32le()
    count = number(reader)
    if not MIN_GPT_ENTRY <= entry_size <= MAX_GPT_ENTRY or count * entry_size != reader.left:
        raise reader.error(f"{count} entries of {entry_size} bytes in {reader.left} bytes")
    entries = (Reader(reader.view(entry_size), reader.what, code=CODE) for _ in range(count))
    return Gpt(disk, tuple(map(_partition, entries)))


def _partition(reader: Reader) -> Partition:
    return Partition(
        _guid(reader),
        _guid(reader),
        reader.u64le(),
        reader.u64le(),
        reader.u64le(),
        utf16(reader.take(72)),
    )


def parse_firmware_blob(data: bytes) -> FirmwareBlob:
    """Read UEFI_PLATFORM_FIRMWARE_BLOB."""
    reader = Reader(data, "firmware blob", code=CODE)
    blob = FirmwareBlob(reader.u64le(), reader.u64le())
    reader.end()
    return blob


def parse_firmware_blob2(data: bytes) -> FirmwareBlob:
    """Read UEFI_PLATFORM_FIRMWARE_BLOB2, which begins with a description."""
    reader = Reader(data, "firmware blob", code=CODE)
    description = _description(reader)
    blob = FirmwareBlob(reader.u64le(), reader.u64le(), description)
    reader.end()
    return blob


def parse_handoff_tables(data: bytes) -> HandoffTables:
    """Read UEFI_HANDOFF_TABLE_POINTERS."""
    return _either(lambda reader, number: _handoff(reader, number, ""), data, "handoff tables")


def parse_handoff_tables2(data: bytes) -> HandoffTables:
    """Read UEFI_HANDOFF_TABLE_POINTERS2, which begins with a description."""
    return _either(
        lambda reader, number: _handoff(reader, number, _description(reader)),
        data,
        "handoff tables",
    )


def _handoff(reader: Reader, number: Number, description: str) -> HandoffTables:
    count = number(reader)
    pointer = 8 if number is Reader.u64le else 4
    if count * (16 + pointer) != reader.left:
        raise reader.error(f"{count} tables in {reader.left} bytes")
    tables = tuple((_guid(reader), number(reader)) for _ in range(count))
    return HandoffTables(tables, description)


def _description(reader: Reader) -> str:
    return reader.take(reader.u8()).decode("ascii", "replace").rstrip("\0")
