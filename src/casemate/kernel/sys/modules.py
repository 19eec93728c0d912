"""Linux modules: handed to Linux as an open file, whose signature Linux itself checks again."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.kernel.sys.libc import from_os_error, is_errno, syscall

_SYS_FINIT_MODULE: Final = {"x86_64": 313, "aarch64": 273, "riscv64": 273}


def load_module(path: Path, options: str = "") -> bool:
    """Load a module from a file; return False where it is loaded already.

    Raises:
        HostError: Linux refuses it: no signature, wrong version, no such device.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(f"cannot read {path.name}", error, component=path.name) from error
    try:
        return _load(descriptor, path.name, options)
    finally:
        os.close(descriptor)


def load_sealed(sealed: int, name: str, options: str = "") -> bool:
    """Load a module from sealed memory, as ``load_module`` does.

    The descriptor is closed in any case: Linux takes no file that anybody holds open for writing,
    and a memory file's first descriptor counts as that, sealed or not.
    """
    try:
        readable = os.open(f"/proc/self/fd/{sealed}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(f"cannot read {name}", error, component=name) from error
    finally:
        os.close(sealed)
    try:
        return _load(readable, name, options)
    finally:
        os.close(readable)


def _load(descriptor: int, name: str, options: str) -> bool:
    try:
        syscall(
            _SYS_FINIT_MODULE[os.uname().machine],
            ctypes.c_int(descriptor),
            ctypes.c_char_p(options.encode()),
            ctypes.c_int(0),
            what=f"cannot load {name}",
            component=name,
        )
    except HostError as error:
        if is_errno(error, errno.EEXIST):
            return False
        raise
    return True
