"""Locks between processes: held as long as the file is open, so a killed holder frees it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from casemate.errors import BusyError
from casemate.kernel.sys.libc import from_os_error

WAIT: Final = "Wait until it is done, or look what it waits for: casemate status."


@contextmanager
def exclusive(path: Path, what: str, *, remedy: str = WAIT) -> Iterator[None]:
    """Hold the lock file ``path``; ``what`` and ``remedy`` are said to whom it is refused.

    Raises:
        BusyError: Somebody else holds it.
        HostError: The file cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise from_os_error(f"cannot open the lock {path}", error, component=str(path)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"{what} is at work already",
                component=str(path),
                remedy=remedy,
            ) from None
        yield
    finally:
        os.close(descriptor)
