"""Links of network cards: which are there, when that changes, and frames straight to a card.

Everything here acts on the network namespace of the calling thread; a socket stays in the one that
it was made in.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from casemate.kernel.sys.libc import from_os_error

_SIOCGIFFLAGS: Final = 0x8913
_IFF_RUNNING: Final = 0x40
_LINK_GROUP: Final = 1
"""RTMGRP_LINK: what becomes of interfaces."""
_MESSAGE: Final = 1 << 16
_GONE: Final = frozenset({errno.ENODEV, errno.ENXIO})


def without_link(names: Iterable[str]) -> frozenset[str]:
    """Return those interfaces that carry nothing: no link, switched off, or not there.

    Raises HostError.
    """
    found = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        for name in names:
            try:
                answer = fcntl.ioctl(handle, _SIOCGIFFLAGS, struct.pack("16s16x", name.encode()))
            except OSError as error:
                if error.errno not in _GONE:
                    raise from_os_error(
                        f"the link of {name} cannot be looked at", error, component=name
                    ) from error
                found.add(name)
                continue
            (flags,) = struct.unpack_from("=H", answer, 16)
            if not flags & _IFF_RUNNING:
                found.add(name)
    return frozenset(found)


def open_watch() -> socket.socket:
    """Return a socket that can be read from when something became of an interface.

    Raises HostError.
    """
    try:
        watch = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
    except OSError as error:
        raise from_os_error("links cannot be watched", error) from error
    try:
        watch.bind((0, _LINK_GROUP))
    except OSError as error:
        watch.close()
        raise from_os_error("links cannot be watched", error) from error
    return watch


def drain(watch: socket.socket) -> None:
    """Forget what a watch has told; where it told more than there was room for, that too."""
    while True:
        try:
            if not watch.recv(_MESSAGE):
                return
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                return


def send_frames(frames: Iterable[tuple[str, bytes]]) -> None:
    """Send (interface, frame) pairs, past any bridge; those that have no link lose theirs."""
    for name, frame in frames:
        with (
            suppress(OSError),
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link,
        ):
            link.bind((name, 0))
            link.send(frame)
