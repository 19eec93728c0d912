"""What stands for ``ctypes.util`` on a host: finds a library by its name alone.

The standard one runs ldconfig, gcc or ld to find out, none of which a host has or should run.
Installed in its place; imports nothing but the standard library.
"""

from __future__ import annotations

import os
from typing import Final

PLACES: Final = ("/usr/lib/x86_64-linux-gnu", "/usr/lib")
"""Where the dynamic linker looks."""


def find_library(name: str) -> str | None:
    """Return the file name under which the linker finds ``lib<name>``, None without one."""
    beginning = f"lib{name}.so."
    for place in PLACES:
        with os.scandir(place) as entries:
            found = [entry.name for entry in entries if entry.name.startswith(beginning)]
        if found:
            # The shortest is the one that programs name, libc.so.6 rather than libc.so.6.1.
            return min(found, key=len)
    return None
