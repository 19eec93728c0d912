"""UEFI variables in a flash image of OVMF: one is set, all else stays as it is.

Sources: UEFI Platform Initialization 1.7, volume 3 (firmware volume header); EDK II,
MdeModulePkg/Include/Guid/VariableFormat.h (authenticated variable store); UEFI 2.10, 8.5.4
(OsIndications).
"""

from __future__ import annotations

import struct
from typing import Final
from uuid import UUID

from casemate.errors import FormatError

GLOBAL: Final = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
"""Owner of the variables that the specification defines."""
OS_INDICATIONS: Final = "OsIndications"
BOOT_TO_SETUP: Final = 1
"""EFI_OS_INDICATIONS_BOOT_TO_FW_UI: the next start leads into the firmware's setup, once."""
SIZE_LIMIT: Final = 8 << 20
"""Bytes of an image: OVMF's are 540,672."""

_VOLUME: Final = UUID("fff12b8d-7696-4c8b-a985-2747075b4f50")
_STORE: Final = UUID("aaf32c78-947b-439a-a180-2e144ec37792")
_SIGNATURE: Final = b"_FVH"
# Of the volume's header: its kind, signature and length; of the store's: kind, size, two states.
_KIND_AT, _SIGNATURE_AT, _LENGTH_AT = 16, 40, 48
_STORE_HEADER: Final = struct.Struct("<16sIBBHI")
_FORMATTED, _HEALTHY = 0x5A, 0xFE
# Start, state, attributes, count, time, key, sizes of name and data, owner.
_VARIABLE: Final = struct.Struct("<HBBIQ16sIII16s")
_START: Final = 0x55AA
_ADDED: Final = 0x3F
_DELETED: Final = 0x3D
_ALIGNMENT: Final = 4
# Non-volatile, for boot services and at run time.
_ATTRIBUTES: Final = 7


def with_variable(image: bytes, name: str, owner: UUID, data: bytes) -> bytes:
    """Return the image with a variable set, without authentication.

    Raises:
        FormatError: It is no such image, or has no room left.
    """
    begin, end = _store(image)
    made = bytearray(image)
    wanted = name.encode("utf-16-le") + b"\0\0"
    at = begin
    while at + _VARIABLE.size <= end:
        start, state, _, _, _, _, _, name_size, data_size, found = _VARIABLE.unpack_from(image, at)
        if start != _START:
            break
        body = at + _VARIABLE.size
        after = _aligned(body + name_size + data_size)
        if name_size > end or data_size > end or after > end:
            raise _wrong("a variable is larger than the store")
        same = image[body : body + name_size] == wanted and found == owner.bytes_le
        if same and state == _ADDED:
            # Flash forgets nothing by itself: the old one stays, marked.
            made[at + 2] = _DELETED
        at = after
    new = _VARIABLE.pack(
        *(_START, _ADDED, 0, _ATTRIBUTES, 0, bytes(16), 0),
        *(len(wanted), len(data), owner.bytes_le),
    )
    new += wanted + data
    if at + len(new) > end or set(image[at : at + len(new)]) != {0xFF}:
        raise _wrong("no room is left for a variable", code="uefi-variables-full")
    made[at : at + len(new)] = new
    return bytes(made)


def _store(image: bytes) -> tuple[int, int]:
    """Return where the variables begin and end."""
    if len(image) > SIZE_LIMIT or len(image) < _LENGTH_AT + 2:
        raise _wrong("its size is out of range")
    kind = image[_KIND_AT : _KIND_AT + 16]
    signature = image[_SIGNATURE_AT : _SIGNATURE_AT + 4]
    if kind != _VOLUME.bytes_le or signature != _SIGNATURE:
        raise _wrong("it is no volume of variables")
    header = int.from_bytes(image[_LENGTH_AT : _LENGTH_AT + 2], "little")
    if header + _STORE_HEADER.size > len(image):
        raise _wrong("its header is longer than it")
    store, size, formatted, state, _, _ = _STORE_HEADER.unpack_from(image, header)
    if store != _STORE.bytes_le or (formatted, state) != (_FORMATTED, _HEALTHY):
        raise _wrong("its store of variables is of another kind")
    if header + size > len(image) or size < _STORE_HEADER.size:
        raise _wrong("its store of variables is larger than it")
    return header + _STORE_HEADER.size, header + size


def _aligned(place: int) -> int:
    return -(-place // _ALIGNMENT) * _ALIGNMENT


def _wrong(why: str, *, code: str = "uefi-variables") -> FormatError:
    return FormatError(
        f"not UEFI variables: {why}",
        component="nvram",
        code=code,
        remedy="Remove the VM's .nvram file: a new one is made when it starts.",
    )
