"""Block devices: ranges of zeros, which a device makes faster than anybody writes them."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from typing import Final

from casemate.kernel.sys.libc import from_os_error

_BLKZEROOUT: Final = 0x127F


def zero_out(descriptor: int, start: int, length: int) -> None:
    """Make a range of a disk zeros; Linux writes them where the device has no command for it.

    Args:
        descriptor: open for writing: a block device, or a file that is taken for one.
        start: in bytes, at a sector.
        length: in bytes, whole sectors.

    Raises:
        HostError: the device refuses.
    """
    try:
        if stat.S_ISBLK(os.fstat(descriptor).st_mode):
            fcntl.ioctl(descriptor, _BLKZEROOUT, struct.pack("QQ", start, length))
        else:
            _write_zeros(descriptor, start, length)
    except OSError as error:
        raise from_os_error("the disk cannot be cleared", error, component="disk") from error


def _write_zeros(descriptor: int, start: int, length: int) -> None:
    view = memoryview(bytes(length))
    while view:
        written = os.pwrite(descriptor, view, start)
        view, start = view[written:], start + written
