"""Files seen as memory, for as long as somebody looks."""

from __future__ import annotations

import mmap
import os

from casemate.errors import HostError
from casemate.kernel.sys.libc import from_os_error


def view_of(descriptor: int) -> memoryview:
    """Return the content of a file as a read-only view, without copying it.

    Pages are read one by one as they are looked at: who looks at headers does not pay for the rest.
    Unlike ``memfd.mapped`` it ends by itself with the last slice of the view, so that an error
    which still holds one can travel.

    Raises:
        HostError: the file cannot be mapped.
    """
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            return memoryview(b"")
        mapping = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
        mapping.madvise(mmap.MADV_RANDOM)
        return memoryview(mapping)
    except OSError as error:
        raise from_os_error("cannot map a file", error) from error
    except ValueError as error:
        raise HostError(f"cannot map a file: {error}") from error
