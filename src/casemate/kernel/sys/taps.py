"""TAP interfaces and the network namespace that they are in.

A TAP exists for as long as somebody holds its descriptor, and so does nothing that a dead cell
left behind. Everything here acts on the network namespace of the calling thread.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.kernel.sys.libc import LIBC, check, from_os_error
from casemate.kernel.sys.mounts import DATA, bind
from casemate.kernel.sys.namespaces import Namespace, unshare

_TUN: Final = Path("/dev/net/tun")
_TUNSETIFF: Final = 0x400454CA
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_TUNATTACHFILTER: Final = 0x401054D5
_LARGEST: Final = 1514
"""Bytes of a frame of the usual size."""
# struct sock_filter: operation, jumps if true and false, a number.
_LOAD_LENGTH, _LOAD_HALF, _LOAD_OCTET = 0x80, 0x28, 0x30
_IS, _MORE, _ANY_BIT, _TAKE = 0x15, 0x25, 0x45, 0x06
_QUESTIONS: Final = (
    (_LOAD_LENGTH, 0, 0, 0),
    (_MORE, 10, 0, _LARGEST),
    (_LOAD_HALF, 0, 0, 12),
    (_IS, 0, 8, 0x0800),
    (_LOAD_OCTET, 0, 0, 14),
    (_IS, 0, 6, 0x45),
    (_LOAD_OCTET, 0, 0, 23),
    (_IS, 0, 4, 17),
    (_LOAD_HALF, 0, 0, 20),
    (_ANY_BIT, 2, 0, 0x3FFF),
    (_LOAD_HALF, 0, 0, 36),
    (_IS, 1, 0, 67),
    (_TAKE, 0, 0, 0),
    (_TAKE, 0, 0, _LARGEST),
)
"""Whole IPv4 packets without options that hold UDP for port 67, in frames of the usual size."""
_OWN: Final = Path("/proc/thread-self/ns/net")
_SETTINGS: Final = {
    # The host itself speaks with nobody here.
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
    # Bridges are no routers: guests' packets are not Linux's to look into, or to drop.
    "bridge/bridge-nf-call-iptables": "0",
    "bridge/bridge-nf-call-ip6tables": "0",
    "bridge/bridge-nf-call-arptables": "0",
}
"""Below /proc/sys/net; those that this Linux lacks are not needed."""


def open_tap(name: str, *, header: bool = True) -> int:
    """Make a TAP interface and return its descriptor, which is close-on-exec.

    With ``header`` each frame has one that says what its receiver must still do (virtio's).

    Raises:
        HostError: This Linux has no TAP interfaces, or one of this name exists.
    """
    try:
        descriptor = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise from_os_error("no network card can be connected", error, component=name) from error
    flags = _IFF_TAP | _IFF_NO_PI | (_IFF_VNET_HDR if header else 0)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except OSError as error:
        os.close(descriptor)
        raise from_os_error(
            f"the interface {name} cannot be made", error, component=name
        ) from error
    return descriptor


def open_dhcp(name: str) -> int:
    """Make a TAP interface whose descriptor gets questions to DHCP servers, and nothing else.

    Raises:
        HostError: This Linux has no TAP interfaces, or one of this name exists.
    """
    descriptor = open_tap(name, header=False)
    program = b"".join(struct.pack("=HBBI", *step) for step in _QUESTIONS)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(_QUESTIONS), ctypes.addressof(buffer))
    try:
        fcntl.ioctl(descriptor, _TUNATTACHFILTER, head)
    except OSError as error:
        os.close(descriptor)
        raise from_os_error(f"{name} cannot be filtered", error, component=name) from error
    return descriptor


def open_namespace() -> int:
    """Return a descriptor of the thread's network namespace."""
    return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def join_namespace(descriptor: int) -> None:
    """Move the calling thread into a network namespace. Raises HostError."""
    check(LIBC.setns(descriptor, Namespace.NET), "cannot enter the network namespace")


def enter_namespace(holder: Path | None) -> None:
    """Move the calling thread into the namespace that ``holder`` keeps, or into a new one.

    A new one is mounted on ``holder``, so that it lasts as long as the mount namespace; without a
    holder it lasts as long as the thread. Linux itself takes no part in what goes through it.

    Raises:
        HostError: Linux refuses.
    """
    if holder is not None and _join(holder):
        return
    unshare(Namespace.NET)
    for name, value in _SETTINGS.items():
        place = Path("/proc/sys/net", name)
        if place.exists():
            place.write_text(value)
    if holder is not None:
        holder.touch(mode=0o600)
        bind(_OWN, holder, DATA)


def _join(holder: Path) -> bool:
    """Enter the namespace that is mounted on a file; False where there is none."""
    try:
        descriptor = os.open(holder, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise from_os_error(f"cannot open {holder}", error, component=str(holder)) from error
    try:
        join_namespace(descriptor)
    except HostError as error:
        if error.code == "host-einval":
            return False
        raise
    finally:
        os.close(descriptor)
    return True
