"""One encrypted view of a block device, through Linux's device mapper.

No program and no daemon: three ioctls on ``/dev/mapper/control``. Linux wipes the table with the
key from its buffers (DM_SECURE_DATA_FLAG). Source: linux/dm-ioctl.h; admin-guide, dm-crypt.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.kernel.sys.libc import from_os_error

CONTROL: Final = Path("/dev/mapper/control")
CIPHER: Final = "aes-xts-plain64"
SECTOR: Final = 512
DATA_SECTOR: Final = 4096
"""Bytes encrypted as one unit: that of the file system's blocks."""

_HEADER: Final = struct.Struct("<6Ii3IQ128s129s7s")
_TARGET: Final = struct.Struct("<QQiI16s")
_VERSION: Final = (4, 0, 0)
_SECURE_DATA: Final = 1 << 15
_BUFFER: Final = 4096
_DM_MAGIC: Final = 0xFD
_DEV_CREATE, _DEV_REMOVE, _DEV_SUSPEND, _TABLE_LOAD = 3, 4, 6, 9


def crypt(name: str, device: Path, key: bytes, control: Path = CONTROL) -> Path:
    """Return the device that shows ``device`` decrypted by ``key``.

    Raises:
        HostError: Linux refuses: no dm-crypt, no cipher, or the device is in use.
    """
    try:
        size = _size(device)
        handle = os.open(control, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error("cannot set up encryption", error, component=str(device)) from error
    try:
        number = _command(handle, _DEV_CREATE, name)
        try:
            words = f"{CIPHER} {key.hex()} 0 {device} 0 1 sector_size:{DATA_SECTOR}"
            _command(handle, _TABLE_LOAD, name, _target(size // SECTOR, words))
            _command(handle, _DEV_SUSPEND, name)
        except OSError:
            _command(handle, _DEV_REMOVE, name)
            raise
    except OSError as error:
        raise from_os_error(f"cannot decrypt {device}", error, component=name) from error
    finally:
        os.close(handle)
    return Path(f"/dev/dm-{os.minor(number)}")


def _command(handle: int, number: int, name: str, target: bytes = b"") -> int:
    """Issue a command; return the device number that Linux tells."""
    header = _HEADER.pack(
        *_VERSION,
        _BUFFER,
        _HEADER.size,
        1 if target else 0,
        *(0, _SECURE_DATA, 0, 0, 0),
        name.encode(),
        b"",
        b"",
    )
    buffer = bytearray((header + target).ljust(_BUFFER, b"\0"))
    request = 3 << 30 | _HEADER.size << 16 | _DM_MAGIC << 8 | number
    fcntl.ioctl(handle, request, buffer)
    device = int(_HEADER.unpack_from(buffer)[10])
    return os.makedev(device >> 8 & 0xFFF, device & 0xFF | device >> 12 & 0xFFF00)


def _target(sectors: int, words: str) -> bytes:
    parameters = words.encode() + b"\0"
    parameters += bytes(-len(parameters) % 8)
    head = _TARGET.pack(0, sectors, 0, _TARGET.size + len(parameters), b"crypt")
    if _HEADER.size + len(head) + len(parameters) > _BUFFER:
        raise HostError("the device's name is too long", component="device mapper")
    return head + parameters


def _size(device: Path) -> int:
    handle = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(handle, 0, os.SEEK_END)
    finally:
        os.close(handle)
