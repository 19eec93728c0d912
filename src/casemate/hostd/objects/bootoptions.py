"""VirtualMachineBootOptions: what a VM says of its start."""

from __future__ import annotations

from collections.abc import Iterator

from casemate.errors import ArgumentError
from casemate.hostd.objects.devices import disk_key
from casemate.machine import bootorder
from casemate.machine.facts import VmConfig
from casemate.vim25.values import Obj

SECURE_BOOT = "uefi.secureBoot.enabled"
DISK = "VirtualMachineBootOptionsBootableDiskDevice"
CDROM = "VirtualMachineBootOptionsBootableCdromDevice"


def boot_options(config: VmConfig) -> Obj:
    """Return VirtualMachineBootOptions: entries that cannot be read count as unset."""
    entries = {name.lower(): value for name, value in config.extra}
    try:
        delay, order = bootorder.boot_delay(entries), tuple(_devices(config, entries))
    except ArgumentError:
        delay, order = 0, ()
    return Obj(
        "VirtualMachineBootOptions",
        bootDelay=delay,
        enterBIOSSetup=False,
        efiSecureBootEnabled=entries.get(SECURE_BOOT.lower(), "").lower() == "true",
        bootRetryEnabled=False,
        bootRetryDelay=10000,
        bootOrder=order,
        networkBootProtocol="ipv4",
    )


def _devices(config: VmConfig, entries: dict[str, str]) -> Iterator[Obj]:
    slots = {bootorder.slot(d): disk_key(d) for d in config.disks if d.kind != bootorder.CDROM}
    for kind in bootorder.kinds(entries):
        if kind == bootorder.CDROM:
            yield Obj(CDROM)
        else:
            for name in bootorder.disk_slots(entries):
                if name in slots:
                    yield Obj(DISK, deviceKey=slots[name])
