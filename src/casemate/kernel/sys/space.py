"""Room on file systems: who writes much to a datastore leaves some of it."""

from __future__ import annotations

import os
from typing import Final

from casemate.errors import SpaceError

SPARE: Final = 256 << 20
"""Bytes that no file may take: the host's own state may lie on the same file system."""


def demand_space(descriptor: int, size: int, *, file: str, datastore: str) -> None:
    """Raise SpaceError unless so many bytes more may be written.

    Args:
        descriptor: Of a file or folder on the file system.
        size: Bytes; 0 asks whether anything may be written at all.
        file: The datastore path of what needs them.
        datastore: Its datastore.
    """
    space = os.fstatvfs(descriptor)
    free = space.f_bavail * space.f_frsize - SPARE
    if size > free:
        wants = f"needs {size} bytes more" if size else "cannot grow"
        raise SpaceError(
            f"{file} {wants}; {max(0, free)} are free for files, and {SPARE} are for none",
            file=file,
            datastore=datastore,
        )
