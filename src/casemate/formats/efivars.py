"""UEFI variables at rest: signature lists, and the variable store of EDK2's firmware (OVMF).

Sources: UEFI 2.10, section 32.4.1 (EFI_SIGNATURE_LIST); EDK2, ``VariableFormat.h``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from casemate.errors import ArgumentError
from casemate.formats.reader import Reader

GLOBAL: Final = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY: Final = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
SECURE_BOOT_ENABLE: Final = UUID("f0a30bc7-af08-4556-99c4-001009c93a44")
LOADER: Final = UUID("4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")
"""Vendor of what a boot loader tells the system (systemd, "Boot Loader Interface")."""
X509: Final = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")

NON_VOLATILE, BOOT_SERVICE, RUNTIME, TIME_AUTHENTICATED = 0x01, 0x02, 0x04, 0x20
KEY_ATTRIBUTES: Final = NON_VOLATILE | BOOT_SERVICE | RUNTIME | TIME_AUTHENTICATED

_VOLUME_MAGIC: Final = b"_FVH"
_STORE: Final = UUID("aaf32c78-947b-439a-a180-2e144ec37792")
_STORE_HEADER: Final = 28
_FORMATTED_HEALTHY: Final = (0x5A, 0xFE)
_START: Final = 0x55AA
_ADDED: Final = 0x3F
_VARIABLE: Final = struct.Struct("<HBBIQ16sIII16s")
_FREE: Final = 0xFF


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable; ``written`` is the time that a later authenticated write must exceed."""

    name: str
    vendor: UUID
    attributes: int
    data: bytes
    written: datetime | None = None


def certificate_list(owner: UUID, certificates: Sequence[bytes]) -> bytes:
    """Return signature lists with one X.509 certificate (DER) each, as db, KEK and PK hold them."""
    return b"".join(
        struct.pack("<16sIII", X509.bytes_le, 28 + 16 + len(one), 0, 16 + len(one))
        + owner.bytes_le
        + one
        for one in certificates
    )


def variable_data(variable: Variable) -> bytes:
    """Return UEFI_VARIABLE_DATA: what firmware measures of a variable."""
    name = variable.name.encode("utf-16-le")
    head = struct.pack("<16sQQ", variable.vendor.bytes_le, len(name) // 2, len(variable.data))
    return head + name + variable.data


def write_store(template: bytes, variables: Sequence[Variable]) -> bytes:
    """Return an empty firmware volume of variables (OVMF_VARS) with these variables in it.

    Raises:
        FormatError: ``template`` is no such volume (``efivars-malformed``).
        ArgumentError: it is not empty, or has no room.
    """
    reader = Reader(template, "firmware variables", code="efivars-malformed")
    reader.skip(40)
    if reader.take(4) != _VOLUME_MAGIC:
        raise reader.error("there is no firmware volume")
    reader.skip(4)
    start = reader.u16le()
    reader = Reader(template, "firmware variables", code="efivars-malformed")
    reader.skip(start)
    if UUID(bytes_le=reader.take(16)) != _STORE:
        raise reader.error("there is no store of authenticated variables")
    size = reader.u32le()
    if (reader.u8(), reader.u8()) != _FORMATTED_HEALTHY:
        raise reader.error("the store is not healthy")
    reader.skip(6)
    room = reader.view(size - _STORE_HEADER)
    content = b"".join(map(_encode, variables))
    if any(byte != _FREE for byte in room[: len(content) + _VARIABLE.size]):
        raise ArgumentError("the firmware variables are not empty", argument="template")
    if len(content) > len(room):
        raise ArgumentError("the firmware variables do not fit", argument="variables")
    place = start + _STORE_HEADER
    return template[:place] + content + template[place + len(content) :]


def _encode(variable: Variable) -> bytes:
    name = variable.name.encode("utf-16-le") + b"\0\0"
    head = _VARIABLE.pack(
        _START,
        _ADDED,
        0,
        variable.attributes,
        0,
        efi_time(variable.written) if variable.written else bytes(16),
        0,
        len(name),
        len(variable.data),
        variable.vendor.bytes_le,
    )
    body = head + name + variable.data
    return body + b"\xff" * (-len(body) % 4)


def efi_time(moment: datetime) -> bytes:
    """Return EFI_TIME of an aware moment, in UTC, to the second."""
    utc = moment.astimezone(UTC)
    return struct.pack(
        "<H6BIhBB",
        utc.year,
        utc.month,
        utc.day,
        utc.hour,
        utc.minute,
        utc.second,
        *(0, 0, 0, 0, 0),
    )
