"""Unix sockets of a cell, whatever the length of the path of its run directory.

A socket address holds some hundred bytes only; going through the directory's descriptor makes
every path short.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from casemate.kernel.sys.libc import from_os_error


def listen(path: Path) -> socket.socket:
    """Return a new listening socket at ``path``, for root only.

    Raises:
        HostError: The socket cannot be made.
    """
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            channel.bind(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        path.chmod(0o600)
        channel.listen(1)
    except OSError as error:
        channel.close()
        raise from_os_error(f"cannot listen on {path}", error, component=str(path)) from error
    return channel


def connect(path: Path) -> socket.socket:
    """Return a connection to the socket at ``path``, ready for asyncio.

    Raises:
        HostError: Nobody listens.
    """
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            channel.connect(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
    except OSError as error:
        channel.close()
        raise from_os_error(f"cannot connect to {path}", error, component=str(path)) from error
    return channel
