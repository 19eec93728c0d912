"""The file of an unattended installation, in the words of ESXi's kickstart files.

What cannot be had is refused with its reason, so that nobody installs a host that lacks what its
file asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from casemate.errors import FormatError, LimitError, NotSupportedError

MAX_SIZE: Final = 16 << 10
"""Bytes; a file of every command that is understood has 200."""

_LICENSE: Final = frozenset({"accepteula", "vmaccepteula"})
_DISK: Final = re.compile(r"(?:/dev/)?([0-9A-Za-z][0-9A-Za-z_.-]{0,63})", re.ASCII)
_NOTES: Final = {
    "keyboard": "keyboard: ignored, the host sets no layout",
    "reboot": "reboot: ignored, start the machine from its new disk yourself",
}
_REFUSED: Final = {
    "rootpw": "the host makes its accounts at its first start, inside its encrypted state, and"
    " shows root's first password on its console",
    "upgrade": "a host is updated by its own transactions on the other bank",
    "installorupgrade": "a host is updated by its own transactions on the other bank",
    "clearpart": "a disk is cleared by install --overwritevmfs",
    "partition": "the image says which partitions there are",
    "part": "the image says which partitions there are",
    "include": "everything stands in the one file",
}


@dataclass(frozen=True, slots=True)
class Kickstart:
    """An unattended installation.

    ``disk`` is a name as in /dev, empty for the first disk. ``notes`` tell what was ignored.
    """

    disk: str
    overwrite: bool
    notes: tuple[str, ...] = ()


def parse_kickstart(data: bytes) -> Kickstart:
    """Return what the file asks for.

    Raises:
        LimitError: it is larger than ``MAX_SIZE``.
        FormatError: it is not text, has an unknown command or option, does not accept the license,
            or does not say once where to install (``kickstart``).
        NotSupportedError: it asks for something that cannot be had (``kickstart-unsupported``).
    """
    if len(data) > MAX_SIZE:
        raise LimitError(f"the file is larger than {MAX_SIZE} bytes", code="kickstart-limit")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise _malformed(f"byte {error.start} is not ASCII") from error
    accepted = False
    installs, notes = [], []
    for number, line in enumerate(text.split("\n"), 1):
        command, *options = line.partition("#")[0].split() or ("",)
        where = f"line {number}: "
        if command in _LICENSE:
            _no_options(where, command, options)
            accepted = True
        elif command == "install":
            installs.append(_install(where, options))
        elif command:
            notes += _other(where, command, options)
    if not accepted:
        raise _malformed("the license is not accepted: accepteula is missing")
    if len(installs) != 1:
        raise _malformed("exactly one install must say where to install")
    return replace(installs[0], notes=tuple(notes))


def disk_name(text: str) -> str:
    """Return a disk's name without ``/dev/``. Raises FormatError where it is none."""
    match = _DISK.fullmatch(text)
    if match is None:
        raise _malformed("that is no name of a disk")
    return match[1]


def _install(where: str, options: list[str]) -> Kickstart:
    disk: str | None = None
    overwrite = False
    for option in options:
        name, given, value = option.partition("=")
        if name in {"--firstdisk", "--disk", "--drive"}:
            if disk is not None:
                raise _malformed(f"{where}there is a second disk")
            if (name == "--firstdisk") is bool(given):
                raise _malformed(f"{where}{name} is not understood like this")
            disk = disk_name(value) if given else ""
        elif option == "--overwritevmfs":
            overwrite = True
        elif option in {"--preservevmfs", "--novmfsondisk"}:
            raise _unsupported(f"{where}{option}: the image brings a datastore of its own")
        else:
            raise _malformed(f"{where}install has no such option")
    if disk is None:
        raise _malformed(f"{where}install needs --firstdisk or --disk=NAME")
    return Kickstart(disk, overwrite)


def _other(where: str, command: str, options: list[str]) -> list[str]:
    """Return what there is to note. Raises where the host would lack what is asked for."""
    if command in _NOTES:
        return [_NOTES[command]]
    if command != "network":
        raise _refusal(where, command)
    if options != ["--bootproto=dhcp"]:
        raise _unsupported(
            f"{where}network: only --bootproto=dhcp, the host asks DHCP for its address"
        )
    return []


def _no_options(where: str, command: str, options: list[str]) -> None:
    if options:
        raise _malformed(f"{where}{command} takes no option")


def _refusal(where: str, command: str) -> FormatError | NotSupportedError:
    if command.startswith("%"):
        return _unsupported(f"{where}a section with a script: nothing unsigned runs on the host")
    if command in _REFUSED:
        return _unsupported(f"{where}{command}: {_REFUSED[command]}")
    return _malformed(f"{where}there is no such command")


def _malformed(reason: str) -> FormatError:
    return FormatError(
        reason,
        code="kickstart",
        component="kickstart",
        remedy="docs/boot-image.md lists what the file may say.",
    )


def _unsupported(reason: str) -> NotSupportedError:
    return NotSupportedError(
        reason,
        code="kickstart-unsupported",
        component="kickstart",
        remedy="Take it out of the file.",
    )
