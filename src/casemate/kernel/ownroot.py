"""A mount namespace in which there is the visor root, and of the home next to nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from casemate.kernel.home import INSIDE
from casemate.kernel.roots import VISOR
from casemate.kernel.sys import mounts
from casemate.kernel.sys.namespaces import Namespace, unshare

_PLACES: Final = 1 << 16  # bytes: a tmpfs that only holds mount points


def hide_all_but(*kept: Path, root: Path) -> None:
    """Leave the calling process a visor root and nothing of the home but this.

    Args:
        kept: directories of the home.
        root: the visor root, or it with the VIBs that were installed live.

    Raises:
        HostError: Linux refuses a step.
    """
    unshare(Namespace.MOUNT | Namespace.IPC | Namespace.UTS)
    mounts.make_private()
    handles = [os.open(place, os.O_PATH | os.O_DIRECTORY) for place in kept]
    if root != VISOR:
        mounts.bind("/dev", root / "dev", mounts.Access.NO_SUID | mounts.Access.NO_EXEC)
        for name in ("dev/shm", "tmp"):
            mounts.bind(Path("/", name), root / name, mounts.DATA)
    inside = root / INSIDE.relative_to("/")
    for hidden in (inside, root / "sys", root / "run"):
        mounts.tmpfs(hidden, size=_PLACES, mode=0o755)
    for place, handle in zip(kept, handles, strict=True):
        target = root / place.relative_to("/")
        target.mkdir(parents=True)
        mounts.bind(f"/proc/self/fd/{handle}", target, mounts.DATA)
    mounts.restrict(inside, mounts.READ_ONLY_DATA)
    mounts.tmpfs(root / "proc", size=_PLACES, mode=0o755)
    if root != VISOR:
        mounts.pivot_root(root)
