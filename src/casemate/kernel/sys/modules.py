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
    """Load a module; return False where it is loaded already.

    Raises:
        HostError: Linux refuses it: no signature, wrong version, no such device.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(f"cannot read {path.name}", error, component=path.name) from error
    try:
        syscall(
            _SYS_FINIT_MODULE[os.uname().machine],
            ctypes.c_int(descriptor),
            ctypes.c_char_p(options.encode()),
            ctypes.c_int(0),
            what=f"cannot load {path.name}",
            component=path.name,
        )
    except HostError as error:
        if is_errno(error, errno.EEXIST):
            return False
        raise
    finally:
        os.close(descriptor)
    return True
