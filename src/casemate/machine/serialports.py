"""Serial ports of a VM: VMware's vmx entries, and what each port is connected to.

A port writes to a file of the VM's directory (``file``), or waits for whoever has a ticket for it
(``pipe``). One that a file of somebody else's connects to a device of the host or to the network
is there for the guest, and connected to nothing (``none``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from casemate.errors import ArgumentError
from casemate.formats.vmdk import is_plain_name
from casemate.machine.facts import SerialSpec, VmConfig

PORTS: Final = 4
"""Serial ports of a PC; VMware allows as many."""
FILE: Final = "file"
PIPE: Final = "pipe"
NONE: Final = "none"
FILE_SUFFIXES: Final = ("txt", "log", "out", "serial")
"""What the file of a port ends in: never like a file that a VM is made of. Guests write it."""
OLDER: Final = ".1"
"""The name of what a full file becomes is its own and this."""
_NAME_LIMIT: Final = 255
_FIRST_FD: Final = 6
_ENTRIES: Final = ("filetype", "filename", "startconnected", "pipe.endpoint")


class Entries(Protocol):
    """The entries of a vmx file by lower-case name."""

    values: dict[str, str]

    def take(self, name: str, default: str = "") -> str:
        """Return an entry that a field of the configuration shows."""

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a truth value."""


def read(entries: Entries) -> Iterator[SerialSpec]:
    """Yield the ports.

    Raises:
        ArgumentError: The file of one cannot be such.
    """
    for number in range(PORTS):
        slot = f"serial{number}"
        if not entries.flag(f"{slot}.present"):
            continue
        kind = entries.values.get(f"{slot}.filetype", "").lower()
        if kind not in {FILE, PIPE}:
            yield SerialSpec(number, NONE)
            continue
        for name in _ENTRIES:
            entries.take(f"{slot}.{name}")
        target = entries.values.get(f"{slot}.filename", "")
        check(kind, target, f"{slot}.fileName")
        connected = entries.flag(f"{slot}.startconnected", default=True)
        yield SerialSpec(number, kind, target, connected)


def check(kind: str, target: str, argument: str) -> None:
    """Raise ArgumentError unless a port of this kind can be connected to ``target``."""
    if kind == PIPE:
        if not target or len(target) > _NAME_LIMIT or not target.isprintable():
            raise ArgumentError(f"{target[:80]!r} is not the name of a pipe", argument=argument)
    elif not is_plain_name(target) or target.rpartition(".")[2].lower() not in FILE_SUFFIXES:
        raise ArgumentError(
            f"{target[:80]!r} is not a file of the VM's own directory that ends in "
            f"{', '.join('.' + suffix for suffix in FILE_SUFFIXES)}",
            argument=argument,
        )


def written(config: VmConfig) -> Iterator[tuple[str, str]]:
    """Yield the entries that say a configuration's ports; those of ``none`` are extra ones."""
    for port in config.serials:
        slot = f"serial{port.number}"
        yield f"{slot}.present", "TRUE"
        if port.kind == NONE:
            continue
        yield f"{slot}.fileType", port.kind
        yield f"{slot}.fileName", port.target
        if port.kind == PIPE:
            yield f"{slot}.pipe.endPoint", "server"
        if not port.connected:
            yield f"{slot}.startConnected", "FALSE"


def names(config: VmConfig) -> Iterator[str]:
    """Yield the names, in lower case, of the entries that ``written`` says."""
    for port in config.serials:
        yield f"serial{port.number}.present"
        if port.kind != NONE:
            yield from (f"serial{port.number}.{name}" for name in _ENTRIES)


def without(extra: tuple[tuple[str, str], ...], number: int) -> tuple[tuple[str, str], ...]:
    """Return the extra entries but those of a port."""
    return tuple(one for one in extra if not one[0].lower().startswith(f"serial{number}."))


def socket_name(number: int) -> str:
    """Return the socket that a port beyond the first ends in."""
    return f"serial{number}.sock"


def listeners(config: VmConfig) -> Iterator[tuple[int, str]]:
    """Yield descriptor and name of the sockets of the ports beyond the first."""
    for port in config.serials:
        if port.number and _is_live(port):
            yield _FIRST_FD + port.number, socket_name(port.number)


def words(config: VmConfig) -> Iterator[str]:
    """Yield QEMU's arguments for the ports beyond the first, which is every VM's console."""
    ports: Mapping[int, SerialSpec] = {port.number: port for port in config.serials}
    for number in range(1, max(ports, default=0) + 1):
        if number not in ports:
            yield from ("-serial", "none")
            continue
        end = f"socket,id=serial{number},fd={_FIRST_FD + number},server=on,wait=off"
        yield from ("-chardev", end if _is_live(ports[number]) else f"null,id=serial{number}")
        yield from ("-serial", f"chardev:serial{number}")


def files(config: VmConfig) -> Iterator[tuple[int, str]]:
    """Yield number and file (empty: none) of every port that the kernel listens to."""
    for port in config.serials:
        if _is_live(port):
            yield port.number, port.target if port.kind == FILE else ""


def _is_live(port: SerialSpec) -> bool:
    return port.kind != NONE and port.connected
