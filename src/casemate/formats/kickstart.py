"""The file of an unattended installation, in the words of ESXi's kickstart files.

What cannot be had is refused with its reason, so that nobody installs a host that lacks what its
file asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from casemate.errors import ArgumentError, FormatError, LimitError, NotSupportedError
from casemate.formats.hostsettings import HostNetwork, check_hash, host_network

MAX_SIZE: Final = 16 << 10
"""Bytes; a file of every command that is understood has 200."""

_ACCEPTED: Final = "accepted"
_DISK: Final = re.compile(r"(?:/dev/)?([0-9A-Za-z][0-9A-Za-z_.-]{0,63})", re.ASCII)
_COMMENT: Final = re.compile(r"(?:^|\s)#")
"""Inside of a word it is none: passwords may have it."""
_REFUSED: Final = {
    "upgrade": "a host is updated by its own transactions on the other bank",
    "installorupgrade": "a host is updated by its own transactions on the other bank",
    "clearpart": "a disk is cleared by install --overwritevmfs",
    "partition": "the image says which partitions there are",
    "part": "the image says which partitions there are",
    "include": "everything stands in the one file",
}


_WORDS: Final = ("ip", "netmask", "gateway", "hostname")
_NETWORK: Final = frozenset({"--bootproto", "--nameserver", *(f"--{one}" for one in _WORDS)})


@dataclass(frozen=True, slots=True)
class Kickstart:
    """An unattended installation.

    ``disk`` is a name as in /dev, empty for the first disk; ``password`` or ``password_hash`` is
    root's, both are empty where the host makes one. ``notes`` tell what was ignored.
    """

    disk: str
    overwrite: bool
    reboot: bool = False
    network: HostNetwork = field(default_factory=HostNetwork)
    password: str = field(default="", repr=False)
    password_hash: str = field(default="", repr=False)
    notes: tuple[str, ...] = ()


_Change = dict[str, Any]
"""Fields of a ``Kickstart`` that a line gives."""


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
    known, notes = _Change(), list[str]()
    for number, line in enumerate(text.split("\n"), 1):
        command, *options = _COMMENT.split(line, maxsplit=1)[0].split() or ("",)
        where = f"line {number}: "
        change = _line(where, command, options, notes) if command else {}
        if known.keys() & change.keys() - {_ACCEPTED}:
            raise _malformed(f"{where}there is a second {command}")
        known |= change
    if not known.pop(_ACCEPTED, False):
        raise _malformed("the license is not accepted: accepteula is missing")
    if "disk" not in known:
        raise _malformed("exactly one install must say where to install")
    return Kickstart(**known, notes=tuple(notes))


def disk_name(text: str) -> str:
    """Return a disk's name without ``/dev/``. Raises FormatError where it is none."""
    match = _DISK.fullmatch(text)
    if match is None:
        raise _malformed("that is no name of a disk")
    return match[1]


def _install(where: str, options: list[str]) -> _Change:
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
    return {"disk": disk, "overwrite": overwrite}


def _line(where: str, command: str, options: list[str], notes: list[str]) -> _Change:
    """Return what a line gives. Raises where the host would lack what is asked for."""
    match command:
        case "accepteula" | "vmaccepteula":
            _no_options(where, command, options)
            return {_ACCEPTED: True}
        case "install":
            return _install(where, options)
        case "keyboard":
            notes.append("keyboard: ignored, the host sets no layout")
            return {}
        case "reboot":
            _no_options(where, command, options)
            return {"reboot": True}
        case "rootpw":
            return _password(where, options)
        case "network":
            return {"network": _network(where, options)}
        case _:
            raise _refusal(where, command)


def _password(where: str, options: list[str]) -> _Change:
    """Return root's password or its hash; an error never repeats either."""
    match options:
        case ["--iscrypted", hashed]:
            try:
                return {"password": "", "password_hash": check_hash(hashed)}
            except ArgumentError as error:
                raise _unsupported(f"{where}rootpw: {error.reason}") from error
        case [word] if not word.startswith("--"):
            return {"password": word, "password_hash": ""}
        case _:
            raise _malformed(f"{where}rootpw needs a password, or --iscrypted and its hash")


def _network(where: str, options: list[str]) -> HostNetwork:
    given = dict[str, str]()
    for option in options:
        name, equals, value = option.partition("=")
        if name not in _NETWORK:
            raise _unsupported(f"{where}network: {name}: the host has one network, without a VLAN")
        if not equals or not value or name in given:
            raise _malformed(f"{where}network: {name} is not understood like this")
        given[name] = value
    kind = given.get("--bootproto", "")
    if kind not in {"dhcp", "static"}:
        raise _malformed(f"{where}network needs --bootproto=dhcp or --bootproto=static")
    address, netmask, gateway, name = (given.get(f"--{one}", "") for one in _WORDS)
    if (kind == "static") is not bool(address and netmask) or (gateway and kind == "dhcp"):
        raise _malformed(f"{where}network: --ip and --netmask are needed for static, and only then")
    if "--nameserver" in given:
        raise _unsupported(f"{where}network: --nameserver: the host resolves no names")
    try:
        return host_network(name, address, netmask, gateway)
    except ArgumentError as error:
        raise _malformed(f"{where}network: {error.argument}: {error.reason}") from error


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
