"""TCG_PCClientTaggedEvent, the data of EV_EVENT_TAG, with the tags of ESXi's measured boot.

Tags 2, 3, 4, 6, 7 and 8 are those of VMware's boot loader. ESXi's kernel measures security
options, boot complete and the system version under tags that are not public; 5, 9 and 10 are ours.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from casemate.errors import FormatError
from casemate.formats.reader import Reader

TAG_MOD: Final = 2
TAG_BOOT_OPT: Final = 3
TAG_CMD_OPT: Final = 4
TAG_SECURITY_OPTION: Final = 5
TAG_TAG: Final = 6
TAG_SIGNER: Final = 7
TAG_VERSION: Final = 8
TAG_BOOT_COMPLETE: Final = 9
TAG_SYSTEM_VERSION: Final = 10
TAG_TRUST_ANCHOR: Final = 11
"""Our own tag: the data is ``level[,level] NUL certificate DER``."""

TAG_NAMES: Final = {
    TAG_MOD: "MOD",
    TAG_BOOT_OPT: "BOOT_OPT",
    TAG_CMD_OPT: "CMD_OPT",
    TAG_SECURITY_OPTION: "SECURITY_OPTION",
    TAG_TAG: "TAG",
    TAG_SIGNER: "SIGNER",
    TAG_VERSION: "VERSION",
    TAG_BOOT_COMPLETE: "BOOT_COMPLETE",
    TAG_SYSTEM_VERSION: "SYSTEM_VERSION",
    TAG_TRUST_ANCHOR: "TRUST_ANCHOR",
}

_HEAD: Final = struct.Struct("<II")
_VERSION_HEAD: Final = struct.Struct("<IIQ8H")
_VERSION_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class TaggedEvent:
    """A tag (u32) and its data."""

    tag: int
    data: bytes


def parse_tagged(data: bytes | memoryview) -> TaggedEvent:
    """Read the data of an EV_EVENT_TAG event that holds exactly one tagged event.

    Raises:
        FormatError: ``event-data``: too short, or the stated size is not what follows.
    """
    left = len(data) - _HEAD.size
    if left < 0:
        raise FormatError(f"tagged event: {len(data)} bytes are no head", code="event-data")
    tag, size = _HEAD.unpack_from(data)
    if size != left:
        raise FormatError(f"tagged event: of {size} bytes, {left} are there", code="event-data")
    return TaggedEvent(tag, bytes(data[_HEAD.size :]))


def write_tagged(event: TaggedEvent) -> bytes:
    """Return the event's bytes: u32 tag, u32 size, data."""
    return _HEAD.pack(event.tag, len(event.data)) + event.data


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """The version record of a boot module, as esx-boot lays it out; ``flags`` is a u64."""

    component: str
    product: str
    version: str
    file_name: str
    flags: int = 0


def write_version(record: VersionRecord) -> bytes:
    """Return the packed record.

    u32 total size, u32 format version, u64 flags, then offset and length (u16 each, length with
    the NUL) of component, product, product version and file name, then the strings.

    Raises:
        FormatError: a string with a NUL inside, or strings longer than 64 KiB in all.
    """
    strings = [
        text.encode() + b"\0"
        for text in (record.component, record.product, record.version, record.file_name)
    ]
    if any(b"\0" in text[:-1] for text in strings):
        raise FormatError("version record: a NUL inside a string")
    places: list[int] = []
    total = _VERSION_HEAD.size
    for text in strings:
        places += (total, len(text))
        total += len(text)
    if total > 0xFFFF:  # noqa: PLR2004  # the offsets are 16 bits wide
        raise FormatError("version record: strings too long")
    head = _VERSION_HEAD.pack(total, _VERSION_FORMAT, record.flags, *places)
    return head + b"".join(strings)


def parse_version(data: bytes | memoryview) -> VersionRecord:
    """Read a packed version record.

    Raises:
        FormatError: ``event-data``: sizes or offsets that do not fit, or strings that are no UTF-8.
    """
    reader = Reader(data, "version record", code="event-data")
    total, version, flags, *places = _VERSION_HEAD.unpack(reader.take(_VERSION_HEAD.size))
    if total != _VERSION_HEAD.size + reader.left or version != _VERSION_FORMAT:
        raise reader.error(f"total size {total}, format {version}")
    raw = bytes(data)
    strings: list[str] = []
    for offset, length in zip(places[::2], places[1::2], strict=True):
        text = raw[offset : offset + length]
        if offset < _VERSION_HEAD.size or len(text) != length or not text.endswith(b"\0"):
            raise reader.error("a string lies outside, or lacks its NUL")
        if b"\0" in text[:-1]:
            raise reader.error("a NUL inside a string")
        try:
            strings.append(text[:-1].decode())
        except UnicodeDecodeError:
            raise reader.error("a string that is not UTF-8") from None
    component, product, product_version, file_name = strings
    return VersionRecord(component, product, product_version, file_name, flags)
