"""VirtualMachineBootOptions: what a spec says of a VM's start."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from casemate.hostd.objects.bootoptions import CARD, CDROM, DISK, SECURE_BOOT
from casemate.hostd.objects.devices import disk_key, nic_key
from casemate.hostd.selection import objs
from casemate.machine import bootorder
from casemate.machine.facts import VmConfig
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import Obj, Value

_PLACE = "config.bootOptions."
_NO_ORDER = "VirtualMachineBootOptionsBootableDevice"


def _refuse(reason: str) -> FaultError:
    return FaultError(Obj("NotSupported"), reason)


def taken(options: Value, config: VmConfig) -> VmConfig:
    """Return the configuration as boot options change it. Raises FaultError."""
    if not isinstance(options, Obj):
        return config
    config = _retried(options, config)
    setup = options.get("enterBIOSSetup")
    if setup is True and config.firmware != "efi":
        raise _refuse("The BIOS of VMs has no setup; with a bootDelay it offers a menu.")
    if isinstance(setup, bool):
        config = _put(config, bootorder.SETUP, "TRUE" if setup else "")
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


def _retried(options: Obj, config: VmConfig) -> VmConfig:
    """Return the configuration with what is done where nothing can be booted."""
    retry, delay = options.get("bootRetryEnabled"), options.get("bootRetryDelay")
    if retry is True and config.firmware == "efi":
        raise _refuse("The UEFI firmware of VMs goes to its own menu and does not try again.")
    if isinstance(retry, bool):
        config = _put(config, bootorder.RETRY, "TRUE" if retry else "")
    if isinstance(delay, int):
        if not 0 <= delay <= bootorder.DELAY_MOST:
            raise faults.invalid_argument(
                _PLACE + "bootRetryDelay", f"A delay is 0 to {bootorder.DELAY_MOST} ms."
            )
        shown = "" if delay == bootorder.RETRY_MS else str(delay)
        config = _put(config, bootorder.RETRY_DELAY, shown)
    return config


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
        elif device.type == CARD:
            number = device.get("deviceKey")
            cards = [card for card in range(len(config.nics)) if nic_key(card) == number]
            if not cards:
                raise faults.invalid_argument(_PLACE + "bootOrder", f"No card has key {number}.")
            kinds.append(f"{bootorder.CARD}{cards[0]}")
        elif device.type != _NO_ORDER:
            raise _refuse("VMs of this host boot from disks, CDs and network cards.")
    runs = [kind for kind, _ in groupby(kinds)]
    if len(runs) != len(set(runs)):
        raise _refuse("A CD comes before or after all disks, not between them.")
    drives = [place for place, kind in enumerate(runs) if not kind.startswith(bootorder.CARD)]
    if drives and drives[-1] - drives[0] >= len(drives):
        raise _refuse("Network cards come before or after all drives, not between them.")
    config = _put(config, bootorder.ORDER, ",".join(runs))
    return _put(config, bootorder.DISKS, ",".join(dict.fromkeys(disks)))


def _put(config: VmConfig, name: str, value: str) -> VmConfig:
    """Return the configuration with a vmx entry; empty: without it."""
    before = next((v for key, v in config.extra if key.lower() == name.lower()), "")
    if value.lower() == before.lower() or (not value and before.lower() == "false"):
        return config
    others = tuple(entry for entry in config.extra if entry[0].lower() != name.lower())
    return replace(config, extra=(*others, *(((name, value),) if value else ())))
