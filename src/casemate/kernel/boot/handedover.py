"""The settings of the first start, handed over behind the state's file system, and used once.

An installation leaves them in the last MiB of the partition ``state``, which the file system of
the image does not reach. The first start moves them into the encrypted state; nothing of them is
believed before their signature was verified there (``kernel.firstsettings``).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

from casemate.errors import LimitError
from casemate.formats.hostsettings import SIZE_LIMIT

PLACE_SIZE: Final = 1 << 20
"""Bytes at the end of the partition that belong to no file system."""
LIMIT: Final = SIZE_LIMIT
FIRST: Final = "first.settings"
"""File in the state: what was handed over, until the first start has used it."""
_MAGIC: Final = b"CASEMATEFIRST\0\1\0"
_HEAD: Final = struct.Struct("<16sI")


def pack(settings: bytes) -> bytes:
    """Return what is written to the place. Raises LimitError."""
    if len(settings) > LIMIT:
        raise LimitError(
            f"the settings have more than {LIMIT} bytes", code="settings", component="settings"
        )
    return (_HEAD.pack(_MAGIC, len(settings)) + settings).ljust(PLACE_SIZE, b"\0")


def take(device: Path) -> bytes:
    """Return the (unverified) settings at the end of a partition; empty where there are none."""
    with device.open("rb") as stream:
        if stream.seek(0, os.SEEK_END) < PLACE_SIZE:
            return b""
        stream.seek(-PLACE_SIZE, os.SEEK_END)
        magic, length = _HEAD.unpack(stream.read(_HEAD.size))
        return stream.read(length) if magic == _MAGIC and length <= LIMIT else b""


def erase(device: Path) -> None:
    """Leave nothing at the place."""
    with device.open("r+b") as stream:
        stream.seek(-PLACE_SIZE, os.SEEK_END)
        stream.write(bytes(PLACE_SIZE))
        stream.flush()
        os.fsync(stream.fileno())
