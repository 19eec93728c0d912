"""An empty file system of any size: made in memory, of which only what is in use takes room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from casemate.errors import HostError
from casemate.kernel.sys import memfd
from casemate.kernel.sys.spawn import Program, spawn

MAKER: Final = "/usr/sbin/mke2fs"
BLOCK: Final = 4096
_INSIDE: Final = 3
"""The maker's descriptor of the file; it opens it by this number."""


@contextmanager
def empty_ext4(size: int, identifier: UUID, name: str) -> Iterator[int]:
    """Yield a memory file of ``size`` bytes with a file system in it; what is a hole is free.

    Raises:
        HostError: mke2fs is missing, or failed (``file-system``).
    """
    file = memfd.create(name)
    try:
        os.ftruncate(file, size // BLOCK * BLOCK)
        child = spawn(
            Program(
                (
                    *(MAKER, "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-m", "0"),
                    *("-U", str(identifier), "-L", name, "-E"),
                    "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1,nodiscard",
                    f"/proc/self/fd/{_INSIDE}",
                ),
                fds={_INSIDE: file},
            )
        )
        _, status = os.waitpid(child.pid, 0)
        os.close(child.pidfd)
        if status:
            raise HostError(
                f"the file system {name} cannot be made: mke2fs ended with status {status}",
                code="file-system",
                component=name,
                remedy="Check the machine's memory and the size of the disk.",
            )
        yield file
    finally:
        os.close(file)


def pieces(file: int, step: int) -> Iterator[tuple[int, bytes]]:
    """Yield place and content of what is no hole, at most ``step`` bytes at once."""
    end, place = os.fstat(file).st_size, 0
    while True:
        try:
            start = os.lseek(file, place, os.SEEK_DATA)
        except OSError:  # there is no more
            return
        place = min(os.lseek(file, start, os.SEEK_HOLE), start + step, end)
        yield start, os.pread(file, place - start, start)
