"""VirtualMachineBootOptions: what a VM says of its start."""

from __future__ import annotations

from collections.abc import Iterator

from casemate.errors import ArgumentError
from casemate.hostd.objects.devices import disk_key, nic_key
from casemate.machine import bootorder
from casemate.machine.facts import VmConfig
from casemate.vim25.values import Obj

SECURE_BOOT = "uefi.secureBoot.enabled"
DISK = "VirtualMachineBootOptionsBootableDiskDevice"
CARD = "VirtualMachineBootOptionsBootableEthernetDevice"
CDROM = "VirtualMachineBootOptionsBootableCdromDevice"


def boot_options(config: VmConfig) -> Obj:
    """Return VirtualMachineBootOptions: entries that cannot be read count as unset."""
    entries = {name.lower(): value for name, value in config.extra}
    try:
        delay, order = bootorder.boot_delay(entries), tuple(_devices(config, entries))
        retry = bootorder.retry_delay(entries)
    except ArgumentError:
        delay, order, retry = 0, (), bootorder.RETRY_MS
    return Obj(
        "VirtualMachineBootOptions",
        bootDelay=delay,
        enterBIOSSetup=bootorder.forces_setup(entries),
        efiSecureBootEnabled=entries.get(SECURE_BOOT.lower(), "").lower() == "true",
        bootRetryEnabled=bootorder.retries(entries),
        bootRetryDelay=retry,
        bootOrder=order,
        networkBootProtocol="ipv4",
    )


def _devices(config: VmConfig, entries: dict[str, str]) -> Iterator[Obj]:
    slots = {bootorder.slot(d): disk_key(d) for d in config.disks if d.kind != bootorder.CDROM}
    for kind in bootorder.kinds(entries):
        if kind == bootorder.CDROM:
            yield Obj(CDROM)
        elif kind != bootorder.HDD:
            number = int(kind.removeprefix(bootorder.CARD) or 0)
            if number < len(config.nics):
                yield Obj(CARD, deviceKey=nic_key(number))
        else:
            for name in bootorder.disk_slots(entries):
                if name in slots:
                    yield Obj(DISK, deviceKey=slots[name])
