"""Keeps what a stopped guest wrote to a disk that forgets, for a VM that is suspended."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from casemate.errors import HostError
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.sys.files import copy_data
from casemate.kernel.sys.libc import from_os_error


def keep(
    directory: VmDirectory, pid: int, descriptor: int, name: str, proc: Path = Path("/proc")
) -> None:
    """Copy a file without a name, which a cell holds open, to a new one of the VM's directory.

    The cell may be its guest's by now, so what it names is looked at before: it can only be a file
    that has no name and lies where the VM's files do.

    Args:
        directory: Of the VM.
        pid: The cell's process.
        descriptor: In it.
        name: Of the copy.
        proc: Linux's directory of processes.

    Raises:
        HostError: It is none, or there is no space; then nothing of the copy stays.
    """
    try:
        source = os.open(proc / f"{pid}/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise from_os_error(f"cannot keep {name}", error, component=name) from error
    try:
        found, own = os.fstat(source), os.fstat(directory.fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink or found.st_dev != own.st_dev:
            raise HostError(
                f"{name}: what the cell holds is not the file that its disk is written to",
                code="scratch-foreign",
                component=name,
                remedy="Power the VM off: its cell is not to be trusted.",
            )
        target = directory.open_new(name)
        try:
            copy_data(source, target)
            os.fsync(target)
        except OSError as error:
            directory.remove(name)
            raise from_os_error(f"cannot keep {name}", error, component=name) from error
        finally:
            os.close(target)
    finally:
        os.close(source)
