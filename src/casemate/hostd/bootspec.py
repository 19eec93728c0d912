"""VirtualMachineBootOptions: what a spec says of a VM's start."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from casemate.hostd.objects.bootoptions import CDROM, DISK, SECURE_BOOT
from casemate.hostd.objects.devices import disk_key
from casemate.hostd.selection import objs
from casemate.machine import bootorder
from casemate.machine.facts import VmConfig
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import Obj, Value

_PLACE = "config.bootOptions."
_NO_ORDER = "VirtualMachineBootOptionsBootableDevice"
_LACKING = {
    "enterBIOSSetup": "The firmware of VMs has no setup that it could be sent to.",
    "bootRetryEnabled": "The firmware of VMs does not try again by itself.",
}


def _refuse(reason: str) -> FaultError:
    return FaultError(Obj("NotSupported"), reason)


def taken(options: Value, config: VmConfig) -> VmConfig:
    """Return the configuration as boot options change it. Raises FaultError."""
    if not isinstance(options, Obj):
        return config
    for name, reason in _LACKING.items():
        if options.get(name) is True:
            raise _refuse(reason)
    delay, secure = options.get("bootDelay"), options.get("efiSecureBootEnabled")
    if isinstance(delay, int):
        if not 0 <= delay <= bootorder.DELAY_MOST:
            raise faults.invalid_argument(
                _PLACE + "bootDelay", f"A delay is 0 to {bootorder.DELAY_MOST} ms."
            )
        config = _put(config, bootorder.DELAY, str(delay) if delay else "")
    if secure is True and config.firmware != "efi":
        raise faults.invalid_argument(
            _PLACE + "efiSecureBootEnabled", "Secure Boot needs the firmware efi."
        )
    if isinstance(secure, bool):
        config = _put(config, SECURE_BOOT, "TRUE" if secure else "")
    order = objs(options.get("bootOrder"))
    return _ordered(order, config) if order else config


def _ordered(order: tuple[Obj, ...], config: VmConfig) -> VmConfig:
    slots = {disk_key(d): bootorder.slot(d) for d in config.disks if d.kind != bootorder.CDROM}
    kinds: list[str] = []
    disks: list[str] = []
    for device in order:
        if device.type == DISK:
            key = device.get("deviceKey")
            if not isinstance(key, int) or key not in slots:
                raise faults.invalid_argument(_PLACE + "bootOrder", f"No disk has key {key}.")
            disks.append(slots[key])
            kinds.append(bootorder.HDD)
        elif device.type == CDROM:
            kinds.append(bootorder.CDROM)
        elif device.type != _NO_ORDER:
            raise _refuse("VMs of this host boot from disks and CDs.")
    runs = [kind for kind, _ in groupby(kinds)]
    if len(runs) != len(set(runs)):
        raise _refuse("A CD comes before or after all disks, not between them.")
    config = _put(config, bootorder.ORDER, ",".join(runs))
    return _put(config, bootorder.DISKS, ",".join(dict.fromkeys(disks)))


def _put(config: VmConfig, name: str, value: str) -> VmConfig:
    """Return the configuration with a vmx entry; empty: without it."""
    before = next((v for key, v in config.extra if key.lower() == name.lower()), "")
    if value.lower() == before.lower() or (not value and before.lower() == "false"):
        return config
    others = tuple(entry for entry in config.extra if entry[0].lower() != name.lower())
    return replace(config, extra=(*others, *(((name, value),) if value else ())))
