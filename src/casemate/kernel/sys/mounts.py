"""Mounts: bind, tmpfs, EROFS, overlay, pivot_root.

Everything here acts on the mount namespace of the calling process; callers unshare first.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from enum import IntFlag
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.kernel.sys.libc import LIBC, SYS_MOUNT_SETATTR, check, syscall

MS_BIND: Final = 0x1000
MS_MOVE: Final = 0x2000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_SYS_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
# mount(2) copies at most one page of options.
_OPTIONS_LIMIT: Final = 4095


class Access(IntFlag):
    """What a mount forbids; the values are those of mount(2)."""

    READ_ONLY = 1
    NO_SUID = 2
    NO_DEV = 4
    NO_EXEC = 8


READ_ONLY_CODE: Final = Access.READ_ONLY | Access.NO_SUID | Access.NO_DEV
DATA: Final = Access.NO_SUID | Access.NO_DEV | Access.NO_EXEC
READ_ONLY_DATA: Final = DATA | Access.READ_ONLY


class _MountAttr(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount(source: str, target: Path | str, kind: str, flags: int, options: str = "") -> None:
    """Mount a file system, or change how one is mounted.

    Raises:
        HostError: The kernel refused, or ``options`` is longer than a page.
    """
    encoded = os.fsencode(options)
    if len(encoded) > _OPTIONS_LIMIT:
        raise HostError(
            f"the options of the mount {target} take {len(encoded)} bytes, over {_OPTIONS_LIMIT}",
            code="mount-options",
            component=str(target),
            remedy="Use a home with a shorter path.",
        )
    check(
        LIBC.mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, encoded or None),
        f"cannot mount {kind or source} on {target}",
        component=str(target),
    )


def umount(target: Path | str, *, lazy: bool = False) -> None:
    """Unmount ``target``, never following a symbolic link; ``lazy`` detaches a busy one."""
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0)
    check(
        LIBC.umount2(os.fsencode(target), flags),
        f"cannot unmount {target}",
        component=str(target),
    )


def move(source: Path | str, target: Path | str) -> None:
    """Move a mount to another place of this namespace."""
    mount(str(source), target, "", MS_MOVE)


def make_private(target: Path | str = "/") -> None:
    """Stop mounts below ``target`` from spreading to other namespaces, and from arriving here."""
    mount("none", target, "", MS_REC | MS_PRIVATE)


def restrict(target: Path | str, access: Access, *, recursive: bool = False) -> None:
    """Add restrictions to a mount, leaving the ones that it has (mount_setattr(2))."""
    attributes = _MountAttr(attr_set=int(access))
    syscall(
        SYS_MOUNT_SETATTR,
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(target)),
        ctypes.c_uint(_AT_RECURSIVE if recursive else 0),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
        what=f"cannot restrict the mount {target}",
        component=str(target),
    )


def bind(
    source: Path | str, target: Path | str, access: Access, *, recursive: bool = False
) -> None:
    """Show ``source`` (a directory, a file, or ``/proc/self/fd/N``) at ``target``, restricted.

    Where the restriction fails the bind is undone: no mount stays that allows more than asked.
    """
    mount(str(source), target, "", MS_BIND | (MS_REC if recursive else 0))
    try:
        restrict(target, access, recursive=recursive)
    except HostError:
        umount(target, lazy=True)
        raise


def tmpfs(
    target: Path | str, *, size: int, mode: int, access: Access = DATA, inodes: int = 0
) -> None:
    """Mount an empty RAM file system of at most ``size`` bytes; ``mode`` is its root's.

    ``inodes`` limits its files; 0 leaves that to Linux (half the pages of memory).
    """
    limit = f",nr_inodes={inodes}" if inodes else ""
    mount("tmpfs", target, "tmpfs", int(access), f"size={size},mode={mode:o}{limit}")


def proc(target: Path | str) -> None:
    """Mount procfs for the pid namespace of the caller."""
    mount("proc", target, "proc", int(DATA))


def devices(target: Path | str) -> None:
    """Mount the kernel's own directory of device nodes."""
    mount("devtmpfs", target, "devtmpfs", int(Access.NO_SUID | Access.NO_EXEC), "mode=0755")


def machine_views(sys: Path | str) -> None:
    """Mount sysfs, and in it the file systems of security modules and of control groups."""
    mount("sysfs", sys, "sysfs", int(DATA))
    mount("securityfs", f"{sys}/kernel/security", "securityfs", int(DATA))
    mount("cgroup2", f"{sys}/fs/cgroup", "cgroup2", int(DATA))


def firmware_variables(sys: Path | str) -> None:
    """Mount the firmware's variables where they belong in ``sys``."""
    mount("efivarfs", f"{sys}/firmware/efi/efivars", "efivarfs", int(DATA))


def disk(device: Path | str, target: Path | str, kind: str, *, options: str = "") -> None:
    """Mount a disk's file system for data: nothing on it can be executed."""
    mount(str(device), target, kind, int(DATA), options)


def leave_first_root(place: Path) -> None:
    """Make the first root (which cannot be pivoted away from) a mount on top of itself.

    Afterwards ``pivot_root`` works as it does anywhere. ``place`` is an empty directory.
    """
    mount("/", place, "", MS_BIND | MS_REC)
    os.chdir(place)
    mount(".", "/", "", MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def erofs(device: Path | str, target: Path | str, access: Access = READ_ONLY_CODE) -> None:
    """Mount the EROFS image on a block device, read-only."""
    mount(str(device), target, "erofs", int(access | Access.READ_ONLY))


def overlay(
    target: Path | str, layers: Sequence[Path | str], access: Access = READ_ONLY_CODE
) -> None:
    """Mount ``layers`` (top first) as one read-only tree.

    One layer alone is bound, since overlayfs asks for two.

    Raises:
        HostError: No layer, options too long, or the kernel refused.
    """
    if not layers:
        raise HostError("an overlay needs at least one layer", code="overlay-empty")
    if len(layers) == 1:
        bind(layers[0], target, access | Access.READ_ONLY)
        return
    lower = ":".join(_escaped(str(layer)) for layer in layers)
    # Whatever Linux was built with: a layer's attributes redirect nothing, and name no data.
    options = f"redirect_dir=nofollow,metacopy=off,lowerdir={lower}"
    mount("overlay", target, "overlay", int(access | Access.READ_ONLY), options)


def _escaped(path: str) -> str:
    """Escape what overlayfs takes for separators."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def pivot_root(root: Path | str) -> None:
    """Make the mount at ``root`` the root of this namespace and forget the old one."""
    os.chdir(root)
    syscall(
        _SYS_PIVOT_ROOT[os.uname().machine],
        ctypes.c_char_p(b"."),
        ctypes.c_char_p(b"."),
        what=f"cannot make {root} the root",
        component=str(root),
    )
    check(LIBC.umount2(b".", MNT_DETACH), "cannot detach the old root", component="/")
    os.chdir("/")
