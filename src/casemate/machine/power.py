"""Power states and the one table of their changes.

The rules, from which the table follows:

1. Only what is powered off or suspended is powered on (a suspended VM resumes).
2. Only what is not off is powered off; powering off a suspended VM discards its saved state.
3. Everything that needs a running guest needs the state poweredOn.
4. What forgets or copies the VM or changes its hardware needs it powered off; growing a disk,
   taking a snapshot and merging disks go on under a running guest too.
5. What would leave a saved memory without its disks is refused while suspended; destroying the
   VM or reverting it discards that memory.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from casemate.errors import PowerStateError
from casemate.machine.facts import PowerState

_OFF: Final = PowerState.POWERED_OFF
_ON: Final = PowerState.POWERED_ON
_SUSPENDED: Final = PowerState.SUSPENDED


class Operation(StrEnum):
    """What can be asked of a VM, in the words of vSphere."""

    POWER_ON = "powerOn"
    POWER_OFF = "powerOff"
    RESET = "reset"
    SUSPEND = "suspend"
    SHUTDOWN_GUEST = "shutdownGuest"
    REBOOT_GUEST = "rebootGuest"
    STANDBY_GUEST = "standbyGuest"
    UNREGISTER = "unregister"
    DESTROY = "destroy"
    RECONFIGURE = "reconfigure"
    EXTEND_DISK = "extendDisk"
    CLONE = "clone"
    EXPORT = "exportVm"
    CREATE_SNAPSHOT = "createSnapshot"
    REVERT = "revertToSnapshot"
    CONSOLIDATE = "consolidateDisks"
    CONSOLE = "acquireTicket"
    CREATE_SCREENSHOT = "createScreenshot"


TRANSITIONS: Final[dict[Operation, dict[PowerState, PowerState]]] = {
    Operation.POWER_ON: {_OFF: _ON, _SUSPENDED: _ON},
    Operation.POWER_OFF: {_ON: _OFF, _SUSPENDED: _OFF},
    Operation.RESET: {_ON: _ON},
    Operation.SUSPEND: {_ON: _SUSPENDED},
    Operation.SHUTDOWN_GUEST: {_ON: _OFF},
    Operation.REBOOT_GUEST: {_ON: _ON},
    Operation.STANDBY_GUEST: {_ON: _ON},
    Operation.UNREGISTER: {_OFF: _OFF, _SUSPENDED: _SUSPENDED},
    Operation.DESTROY: {_OFF: _OFF, _SUSPENDED: _OFF},
    Operation.RECONFIGURE: {_OFF: _OFF},
    Operation.EXTEND_DISK: {_OFF: _OFF, _ON: _ON},
    Operation.CLONE: {_OFF: _OFF},
    Operation.EXPORT: {_OFF: _OFF},
    Operation.CREATE_SNAPSHOT: {_OFF: _OFF, _ON: _ON},
    Operation.REVERT: {_OFF: _OFF, _ON: _OFF, _SUSPENDED: _OFF},
    Operation.CONSOLIDATE: {_OFF: _OFF, _ON: _ON},
    Operation.CONSOLE: {_ON: _ON},
    Operation.CREATE_SCREENSHOT: {_ON: _ON},
}


def next_state(operation: Operation, state: PowerState, *, component: str = "") -> PowerState:
    """Return the state after ``operation``, which may take a while to be reached.

    Raises:
        PowerStateError: Not possible in ``state``; carries a state in which it is, and the
            present one.
    """
    possible = TRANSITIONS[operation]
    try:
        return possible[state]
    except KeyError:
        wanted = next(iter(possible))
        raise PowerStateError(
            f"{operation} is not possible while the VM is {state}",
            requested=wanted,
            existing=state,
            component=component,
        ) from None
