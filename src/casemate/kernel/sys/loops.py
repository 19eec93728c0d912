"""Loop devices: a sealed memory file as a read-only block device that goes away by itself."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.kernel.sys.libc import from_os_error

_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A
_LOOP_GET_STATUS64: Final = 0x4C05
_LO_FLAGS_READ_ONLY: Final = 1
_LO_FLAGS_AUTOCLEAR: Final = 4
_MAJOR_LOOP: Final = 7
# struct loop_config: fd, block size, then struct loop_info64 (five u64, four u32, names of 64 and
# 64 bytes, key of 32, two u64), then eight reserved u64.
_LOOP_CONFIG: Final = struct.Struct("=II5Q4I64s64s32s2Q8Q")
# struct loop_info64, as inside loop_config.
_LOOP_INFO: Final = struct.Struct("=5Q4I64s64s32s2Q")
_NAME_LIMIT: Final = 63
_BLOCK_SIZE: Final = 512
# Tries, and seconds between them, while others take the free device first.
_TRIES: Final = 64
_PAUSE: Final = 0.002


@contextmanager
def loop_device(backing: int, name: str) -> Iterator[Path]:
    """Give a read-only block device whose content is the file behind ``backing``.

    The device frees itself when the last user closes it: mount it inside the ``with`` block and
    it lives as long as the mount.

    Args:
        backing: Descriptor of the file, usually a sealed memory file.
        name: Shown by losetup as the device's backing file.

    Raises:
        HostError: There are no loop devices, or none became free.
    """
    path, descriptor = _attach(backing, name)
    try:
        yield path
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Backing:
    """What lies behind a loop device: the file's device and inode numbers."""

    device: int
    inode: int
    read_only: bool


def open_loop(index: int) -> int:
    """Open a loop device for reading; the caller closes it. Raises HostError."""
    try:
        return os.open(_node(index), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(f"cannot open loop device {index}", error) from error


def backing_of(descriptor: int) -> Backing:
    """Return what lies behind an open loop device. Raises HostError where nothing does."""
    status = bytearray(_LOOP_INFO.size)
    try:
        fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, status)
    except OSError as error:
        raise from_os_error("cannot ask a loop device", error) from error
    fields = _LOOP_INFO.unpack(status)
    return Backing(fields[0], fields[1], bool(fields[8] & _LO_FLAGS_READ_ONLY))


def _attach(backing: int, name: str) -> tuple[Path, int]:
    """Configure a free device; others may race for it, so try again."""
    config = bytearray(_configuration(backing, name))
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error("cannot open /dev/loop-control", error) from error
    try:
        for _ in range(_TRIES):
            index = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            path = _node(index)
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(descriptor, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(descriptor)
                if error.errno != errno.EBUSY:
                    raise
                time.sleep(_PAUSE)
            else:
                return path, descriptor
    except OSError as error:
        raise from_os_error(f"cannot attach a loop device for {name}", error) from error
    finally:
        os.close(control)
    raise HostError(
        f"no loop device became free for {name}",
        code="loop-busy",
        component=name,
        remedy="Free loop devices (losetup -a lists them) and try again.",
    )


def _configuration(backing: int, name: str) -> bytes:
    """Pack struct loop_config."""
    flags = _LO_FLAGS_READ_ONLY | _LO_FLAGS_AUTOCLEAR
    label = name.encode()[:_NAME_LIMIT]
    return _LOOP_CONFIG.pack(
        backing, _BLOCK_SIZE, *([0] * 5), 0, 0, 0, flags, label, b"", b"", *([0] * 10)
    )


def _node(index: int) -> Path:
    """Return the device node, making it where /dev is not kept by the kernel (containers)."""
    path = Path(f"/dev/loop{index}")
    if not path.exists():
        with suppress(FileExistsError):
            os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(_MAJOR_LOOP, index))
    return path
