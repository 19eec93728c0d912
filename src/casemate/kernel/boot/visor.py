"""Moving into the visor root: what a booted host sees, and nothing else.

The joined layers become ``/``; the rest is mounted so that nothing else can be executed:

    /                   the layers: read-only, nosuid, nodev
    /proc /sys          of the host's own pid namespace; noexec
    /dev                null zero full random urandom net/tun, kvm where there is one
    /tmp /run /dev/shm  RAM, noexec
    /run/layers         the layers, each by its name, read-only
    /var/lib/casemate   the home, noexec
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from casemate.kernel.home import CONSOLE_UID, INSIDE, Home
from casemate.kernel.sys import mounts
from casemate.kernel.sys.namespaces import restrict_memfd_execution
from casemate.machine.processplan import TERMINALS

_RAM = 64 << 20  # bytes: /tmp, /run and /dev/shm of the host's own processes hold next to nothing
DEVICES = ("null", "zero", "full", "random", "urandom", "kvm")
_NODE_SPACE = 1 << 20
LAYERS = Path("/run/layers")
"""Where the kernel finds the layers themselves, to join VIBs that are installed live to them."""
_TUN = os.makedev(10, 200)


def enter_visor(
    root: Path, home: Home, devices: Sequence[str] = DEVICES, *, mounts_inside: bool = False
) -> None:
    """Make ``root`` the root of this mount namespace, dressed as above.

    Args:
        root: the joined layers.
        home: the home as this namespace sees it.
        devices: what /dev shall have of the machine's devices.
        mounts_inside: whether what is mounted inside the home comes along.

    Raises:
        HostError: the kernel refuses a mount.
    """
    mounts.proc(root / "proc")
    mounts.bind("/sys", root / "sys", mounts.DATA, recursive=True)
    _devices(root / "dev", devices)
    for name, mode in (("tmp", 0o1777), ("run", 0o755), ("dev/shm", 0o1777)):
        mounts.tmpfs(root / name, size=_RAM, mode=mode)
    layers = root / LAYERS.relative_to("/")
    layers.mkdir()
    mounts.bind(root.parent / "layers", layers, mounts.READ_ONLY_CODE, recursive=True)
    mounts.bind(home.path, root / INSIDE.relative_to("/"), mounts.DATA, recursive=mounts_inside)
    mounts.pivot_root(root)
    restrict_memfd_execution()


def _devices(target: Path, devices: Sequence[str]) -> None:
    mounts.tmpfs(
        target, size=_NODE_SPACE, mode=0o755, access=mounts.Access.NO_SUID | mounts.Access.NO_EXEC
    )
    for name in devices:
        source = Path("/dev") / name
        if name in TERMINALS and source.is_char_device():
            os.mknod(target / name, stat.S_IFCHR | 0o600, source.stat().st_rdev)
            os.chown(target / name, CONSOLE_UID, CONSOLE_UID)
        elif source.is_char_device():
            facts = source.stat()
            os.mknod(target / name, stat.S_IFCHR | 0o666, facts.st_rdev)
            (target / name).chmod(0o660 if name == "kvm" else 0o666)
    # The kernel's alone; its driver may be loaded later, so the node is made by its number.
    (target / "net").mkdir(mode=0o700)
    os.mknod(target / "net" / "tun", stat.S_IFCHR | 0o600, _TUN)
    (target / "shm").mkdir()
    (target / "fd").symlink_to("/proc/self/fd")
