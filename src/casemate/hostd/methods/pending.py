"""What is on the allow-list and not offered by this host, each with the reason.

The privilege is checked first, as for every other method: who may not call it is not told why it
would not work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from casemate.hostd.registry import Ring, Served, refused
from casemate.vim25 import types


@dataclass(frozen=True, slots=True)
class _Group:
    """Methods refused for one reason: names by type."""

    reason: str
    methods: Mapping[str, str]
    ring: Ring = Ring.VMS


_GROUPS = (
    _Group("No VM of this host asks questions.", {"VirtualMachine": "AnswerVM"}),
    _Group(
        "An image is verified and written whole when it is installed: nothing is staged.",
        {"HostPatchManager": "StageHostPatch_Task"},
        Ring.HOST,
    ),
    _Group(
        "The host's clock is set by the machine underneath.",
        {"HostDateTimeSystem": "UpdateDateTimeConfig"},
        Ring.HOST,
    ),
    _Group(
        "The host's own address is on an interface of the machine, not on a VMkernel adapter in a "
        "port group: change it where the machine has it.",
        {"HostNetworkSystem": "AddVirtualNic UpdateVirtualNic RemoveVirtualNic"},
        Ring.HOST,
    ),
    _Group(
        "This host has no disks apart from VMs.",
        {"VirtualMachine": "AttachDisk_Task DetachDisk_Task"},
        Ring.COMPATIBILITY,
    ),
    _Group(
        "The old console protocol is not spoken.",
        {"VirtualMachine": "AcquireMksTicket"},
        Ring.COMPATIBILITY,
    ),
)


def _declared() -> Iterator[Served]:
    for group in _GROUPS:
        for owner, names in group.methods.items():
            for name in names.split():
                privilege = types.method(name).privilege or "System.View"
                yield refused(owner, name, privilege, group.reason, ring=group.ring)


PENDING_METHODS = tuple(_declared())
