"""Everything that can be asked of the kernel: the lists of all topics, together."""

from __future__ import annotations

from casemate.calls import (
    admin,
    autostart,
    certificates,
    console,
    encryption,
    files,
    hardening,
    hardware,
    leases,
    maintenance,
    messages,
    modules,
    networks,
    pools,
    software,
    statistics,
    vmconsole,
    vms,
)

REQUESTS: tuple[type, ...] = (
    *messages.REQUESTS,
    *admin.REQUESTS,
    *vms.REQUESTS,
    *vmconsole.REQUESTS,
    *autostart.REQUESTS,
    *pools.REQUESTS,
    *software.REQUESTS,
    *modules.REQUESTS,
    *statistics.REQUESTS,
    *hardening.REQUESTS,
    *hardware.REQUESTS,
    *maintenance.REQUESTS,
    *files.REQUESTS,
    *console.REQUESTS,
    *networks.REQUESTS,
    *leases.REQUESTS,
    *certificates.REQUESTS,
    *encryption.REQUESTS,
)
"""The closed list: a request that is not here does not exist."""
