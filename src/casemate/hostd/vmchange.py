"""What a spec makes of a VM, as it is gathered: configuration, files that go, rights it takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from casemate.machine.facts import VmConfig
from casemate.vim25.faults import FaultError
from casemate.vim25.values import Obj, Value

CONFIG = "VirtualMachine.Config."


@dataclass(slots=True)
class Change:
    """What a spec asks for: the new configuration, files to remove, the rights it takes.

    ``elsewhere`` names the datastores of files outside of the VM's directory, each with a privilege
    that it takes there. ``unplug`` names controllers that are removed.
    """

    config: VmConfig
    destroy: list[str] = field(default_factory=list)
    privileges: set[str] = field(default_factory=set)
    elsewhere: set[tuple[str, str]] = field(default_factory=set)
    unplug: list[str] = field(default_factory=list)


def unsupported(reason: str) -> FaultError:
    """Return the fault for what this host does not offer."""
    return FaultError(Obj("NotSupported"), reason)


def number(value: Value, default: int) -> int:
    """Return a number that a client gave; the default where it gave none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default
