"""What a mounted layer holds, beside programs: nothing that changes what lies below it.

Overlayfs takes more than files from a layer: a device numbered 0:0 removes a file of the layers
below, extended attributes of its own make a directory hide or redirect another, and the uppermost
directory of a name gives the joined one its mode. A VIB whose level keeps it to certain places
could reach past them that way, so none of it may come from a payload.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from casemate.errors import AcceptanceError, HostError
from casemate.formats.descriptor import Descriptor
from casemate.policy.levels import Level
from casemate.policy.vibpaths import check_listed, check_places

_OVERLAY: Final = ("trusted.overlay.", "user.overlay.")
_OPEN_DIRECTORY: Final = 0o555
_SHARED_WRITE: Final = 0o022
_NOT_PLAIN: Final = "is a device, a pipe, a socket, or runs with another's rights"


def check_layer(top: Path, descriptor: Descriptor, level: Level) -> None:
    """Raise unless a layer holds only files that are listed and that its level may bring.

    Raises:
        AcceptanceError: ``path-not-allowed``, ``file-not-listed``, or as ``walk``.
        HostError: It cannot be read.
    """
    found = tuple(walk(top, descriptor.vib_id))
    check_places(found, level, descriptor.vib_id)
    check_listed(descriptor.files, found, descriptor.vib_id)


def walk(top: Path, vib_id: str) -> Iterator[str]:
    """Yield files and links of a layer, as paths relative to its top.

    What a directory says about the type of its entries is not believed: an image may lie there.

    Raises:
        AcceptanceError: ``payload-file``: a device, a pipe, a socket, a set-user-id bit, a
            directory that is not everybody's to read and root's to write, or an attribute of
            overlayfs.
        HostError: It cannot be read.
    """
    waiting = [str(top)]
    while waiting:
        folder = waiting.pop()
        _check_directory(folder, top, vib_id)
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 (ten times faster here)
            modes = [(name, os.lstat(f"{folder}/{name}").st_mode) for name in names]
        except OSError as error:
            raise _unreadable(error) from error
        for name, mode in modes:
            path = f"{folder}/{name}"
            plain = stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)
            if not plain or mode & (stat.S_ISUID | stat.S_ISGID):
                raise _refused(path, top, vib_id, _NOT_PLAIN)
            if stat.S_ISDIR(mode):
                waiting.append(path)
            else:
                yield os.path.relpath(path, top)


def _check_directory(path: str, top: Path, vib_id: str) -> None:
    facts = os.lstat(path)
    mode = facts.st_mode
    open_to_all = mode & _OPEN_DIRECTORY == _OPEN_DIRECTORY
    if facts.st_uid or not open_to_all or mode & _SHARED_WRITE:
        raise _refused(
            path, top, vib_id, f"is a directory of uid {facts.st_uid} and mode {mode & 0o7777:o}"
        )
    try:
        attributes = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        raise _unreadable(error) from error
    if any(one.startswith(_OVERLAY) for one in attributes):
        raise _refused(path, top, vib_id, "has an attribute by which it would hide other files")


def _refused(path: str, top: Path, vib_id: str, why: str) -> AcceptanceError:
    return AcceptanceError(
        f"The payload holds {os.path.relpath(path, top)}, which {why}.",
        code="payload-file",
        component=vib_id,
        remedy="Ask the provider for a VIB that brings plain files, links and directories only.",
    )


def _unreadable(error: OSError) -> HostError:
    return HostError(f"A payload cannot be read: {error.strerror}.", component=str(error.filename))
