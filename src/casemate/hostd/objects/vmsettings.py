"""Settings of a VM that one vmx entry each keeps: read from a spec, shown as they are.

What a setting would switch on and this host does not have is refused by name; the others are kept
and shown, so that a client reads back what it wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final

from casemate.machine import peripherals
from casemate.machine.facts import VmConfig
from casemate.machine.vmconfig import INSTANCE_UUID, TEMPLATE, entry
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import Obj, Value

NEWEST_HARDWARE: Final = 21
"""The version of VMware's virtual hardware that a new VM has: vSphere 8's."""
PINNED: Final = "sched.mem.pin"
"""The vmx entry of a VM whose reservation of memory is all of its memory; VMware's own."""
MANAGER: Final = "managedBy.extensionKey"
"""What manages a VM; without a name of it, nothing does."""
MOST_CONSOLES: Final = 40
_OLDEST_HARDWARE: Final = 3
_TEXT_LIMIT: Final = 256
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DIGITS: Final = re.compile(r"[0-9a-f]{32}")


def word(value: Value) -> str:
    """Return a text; empty for what is none."""
    return value if isinstance(value, str) else ""


def _truth(entry: str) -> Value:
    return entry.lower() in {"true", "yes", "1"}


@dataclass(frozen=True, slots=True)
class _Form:
    """How a value is checked and written to its entry, and how it is read from there."""

    write: Callable[[Value], str | None]
    read: Callable[[str], Value]


_BOOLEAN: Final = _Form(
    lambda value: str(value).upper() if isinstance(value, bool) else None,
    _truth,
)
_TEXT: Final = _Form(
    lambda value: value if isinstance(value, str) and len(value) <= _TEXT_LIMIT else None,
    lambda entry: entry,
)


def _choice(**entries: str) -> _Form:
    """A few words of the API and what stands for each in the file."""
    back = {entry.lower(): word for word, entry in entries.items()}
    first = next(iter(entries))
    return _Form(
        lambda value: entries.get(word(value)), lambda entry: back.get(entry.lower(), first)
    )


def _same(*words: str) -> _Form:
    return _choice(**{word: word for word in words})


def _consoles(value: Value) -> str | None:
    good = isinstance(value, int) and 0 <= value <= MOST_CONSOLES
    return str(value) if good else None


def _spaced(value: Value) -> str | None:
    """Write a UUID as VMware does: ``52 aa ... -...``."""
    if not _UUID.fullmatch(word(value).lower()):
        return None
    octets = bytes.fromhex(word(value).replace("-", "")).hex(" ")
    return f"{octets[:23]}-{octets[24:]}"


def _joined(entry: str) -> Value:
    digits = re.sub(r"[ \-]", "", entry.lower())
    if not _DIGITS.fullmatch(digits):
        return None
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _hardware(value: Value) -> str | None:
    number = word(value).removeprefix("vmx-")
    known = number.isascii() and number.isdecimal() and len(number) <= 2  # noqa: PLR2004
    return str(int(number)) if known and int(number) <= NEWEST_HARDWARE else None


def _version(entry: str) -> Value:
    number = int(entry) if re.fullmatch(r"[0-9]{1,2}", entry, re.ASCII) else NEWEST_HARDWARE
    return f"vmx-{max(number, _OLDEST_HARDWARE):02}"


_POWER: Final = _choice(soft="soft", hard="hard", preset="default")
_UUIDS: Final = _Form(_spaced, _joined)


@dataclass(frozen=True, slots=True)
class _Setting:
    """One setting: its entry, its form, what is shown without an entry, the right it takes."""

    entry: str
    form: _Form
    default: Value
    right: str = "Settings"


SETTINGS: Final[Mapping[str, _Setting]] = {
    "alternateGuestName": _Setting("guestOSAltName", _TEXT, ""),
    "instanceUuid": _Setting(INSTANCE_UUID, _UUIDS, None),
    "locationId": _Setting("uuid.location", _UUIDS, None),
    "version": _Setting(
        "virtualHW.version",
        _Form(_hardware, _version),
        f"vmx-{NEWEST_HARDWARE}",
        "UpgradeVirtualHardware",
    ),
    "maxMksConnections": _Setting(
        "RemoteDisplay.maxConnections",
        _Form(_consoles, lambda entry: int(entry) if entry.isdecimal() else MOST_CONSOLES),
        MOST_CONSOLES,
    ),
    "memoryReservationLockedToMax": _Setting(PINNED, _BOOLEAN, default=False, right="Resource"),
    "flags.diskUuidEnabled": _Setting("disk.EnableUUID", _BOOLEAN, default=False),
    "flags.enableLogging": _Setting("logging", _BOOLEAN, default=True),
    "flags.htSharing": _Setting("sched.cpu.htsharing", _same("any", "none", "internal"), "any"),
    "flags.virtualExecUsage": _Setting(
        "monitor.virtual_exec", _choice(hvAuto="automatic", hvOn="hardware"), "hvAuto"
    ),
    "flags.virtualMmuUsage": _Setting(
        "monitor.virtual_mmu", _choice(automatic="automatic", on="hardware"), "automatic"
    ),
    "latencySensitivity.level": _Setting(
        "sched.cpu.latencySensitivity", _same("normal", "low", "medium", "high"), "normal"
    ),
    "tools.toolsUpgradePolicy": _Setting(
        "tools.upgrade.policy", _same("manual", "upgradeAtPowerCycle"), "manual"
    ),
    "tools.syncTimeWithHost": _Setting("tools.syncTime", _BOOLEAN, default=False),
    "tools.syncTimeWithHostAllowed": _Setting("time.synchronize.allow", _BOOLEAN, default=False),
    "tools.afterPowerOn": _Setting("toolScripts.afterPowerOn", _BOOLEAN, default=False),
    "tools.afterResume": _Setting("toolScripts.afterResume", _BOOLEAN, default=False),
    "tools.beforeGuestStandby": _Setting("toolScripts.beforeSuspend", _BOOLEAN, default=False),
    "tools.beforeGuestShutdown": _Setting("toolScripts.beforePowerOff", _BOOLEAN, default=False),
    "tools.beforeGuestReboot": _Setting("toolScripts.beforeReboot", _BOOLEAN, default=False),
    "powerOpInfo.powerOffType": _Setting("powerType.powerOff", _POWER, "soft"),
    "powerOpInfo.suspendType": _Setting("powerType.suspend", _POWER, "hard"),
    "powerOpInfo.resetType": _Setting("powerType.reset", _POWER, "soft"),
    "powerOpInfo.standbyAction": _Setting(
        "chipset.onlineStandby", _choice(checkpoint="FALSE", powerOnSuspend="TRUE"), "checkpoint"
    ),
    "consolePreferences.powerOnWhenOpened": _Setting("gui.powerOnAtStartup", _BOOLEAN, None),
    "consolePreferences.enterFullScreenOnPowerOn": _Setting(
        "gui.fullScreenAtPowerOn", _BOOLEAN, None
    ),
    "consolePreferences.closeOnPowerOffOrSuspend": _Setting("gui.exitAtPowerOff", _BOOLEAN, None),
    MANAGER: _Setting("managedBy.extensionKey", _TEXT, "", right="ManagedBy"),
    "managedBy.type": _Setting("managedBy.type", _TEXT, "", right="ManagedBy"),
}
"""By the field of VirtualMachineConfigSpec. Entries and their values are VMware's."""

GROUPS: Final = frozenset(path.partition(".")[0] for path in SETTINGS)
"""The fields of a spec that are read here."""

SPEC_FIELDS: Final[Mapping[str, str]] = {
    "displayname": "configSpec.name",
    "firmware": "configSpec.firmware",
    "memsize": "configSpec.memoryMB",
    "numvcpus": "configSpec.numCPUs",
}
"""The field of a spec for the vmx entry that the kernel finds wrong."""

_FIXED: Final[Mapping[str, tuple[Value, ...]]] = {
    "flags.monitorType": ("release",),
    "flags.snapshotPowerOffBehavior": ("powerOff",),
    "flags.faultToleranceType": ("unset",),
    "tools.toolsInstallType": (),
    "powerOpInfo.defaultPowerOffType": (),
    "powerOpInfo.defaultSuspendType": (),
    "powerOpInfo.defaultResetType": (),
}
"""Fields with one value that means what this host does anyway; none: they are only shown."""

_NOT_ALL: Final = frozenset({"version", "flags.virtualExecUsage", "flags.virtualMmuUsage"})
"""Settings of which the API knows more values than this host offers."""

_NEVER_EXTRA: Final = frozenset(
    {
        *(s.entry.lower() for s in SETTINGS.values() if s.entry != "disk.EnableUUID"),
        *("config.version", "mem.hotadd", "vcpu.hotadd", "cpuid.corespersocket"),
        *("bios.bootdelay", "bios.bootorder", "bios.hddorder", "uefi.secureboot.enabled"),
        TEMPLATE.lower(),
        *(peripherals.VIDEO_BYTES.lower(), peripherals.VIDEO_AUTO.lower()),
        *(peripherals.UHCI, peripherals.EHCI, peripherals.XHCI, peripherals.AUTO_CONNECT),
    }
)


def with_entry(config: VmConfig, name: str, value: str) -> VmConfig:
    """Return the configuration with a vmx entry; empty: without it."""
    others = tuple(one for one in config.extra if one[0].lower() != name.lower())
    return replace(config, extra=(*others, *(((name, value),) if value else ())))


def value_of(config: VmConfig, path: str) -> Value:
    """Return what a VM's setting is."""
    setting = SETTINGS[path]
    found = entry(config, setting.entry)
    return setting.form.read(found) if found else setting.default


def shown(config: VmConfig, group: str, base: Obj) -> Obj:
    """Return ``base`` with the settings of a group as this VM has them."""
    fields = dict(base.fields)
    for path in SETTINGS:
        above, dot, name = path.partition(".")
        if dot and above == group:
            fields[name] = value_of(config, path)
    return Obj(base.type, **fields)


def instance_uuid(config: VmConfig) -> str:
    """Return a VM's instance UUID; one that has none of its own has the BIOS's."""
    return word(value_of(config, "instanceUuid")) or config.uuid


def extra_options(config: VmConfig) -> tuple[tuple[str, str], ...]:
    """Return the entries that a client sees as extraConfig: those that no field shows."""
    return tuple(one for one in config.extra if one[0].lower() not in _NEVER_EXTRA)


def change_version(config: VmConfig) -> str:
    """Return what changes with every change of a VM, to be sent back with the next one."""
    return blake2b(repr(config).encode(), digest_size=8).hexdigest()


def managed_by(config: VmConfig) -> Obj | None:
    """Return ManagedByInfo, or None."""
    return shown(config, "managedBy", Obj("ManagedByInfo")) if value_of(config, MANAGER) else None


def taken(spec: Obj, config: VmConfig) -> tuple[VmConfig, frozenset[str]]:
    """Return the configuration as a spec's settings change it, and the rights that takes.

    Raises:
        FaultError: A value that is none (InvalidArgument), or is not offered (NotSupported).
    """
    rights = set()
    manager = spec.get("managedBy")
    released = isinstance(manager, Obj) and manager.get("extensionKey") == ""
    if released and value_of(config, MANAGER):
        for path in (MANAGER, "managedBy.type"):
            config = with_entry(config, SETTINGS[path].entry, "")
        rights.add(SETTINGS[MANAGER].right)
    for path, value in _given(spec):
        if released and path.startswith("managedBy."):
            continue
        if path in SETTINGS:
            setting = SETTINGS[path]
            wanted = _written(path, setting, value)
            if setting.form.read(wanted) == value_of(config, path):
                continue
            config = with_entry(config, setting.entry, wanted)
            rights.add(setting.right)
        elif value is not False and path not in _FIXED and path.startswith("flags."):
            raise _unsupported(f"This host does not offer {path} for a VM.")
        elif _FIXED.get(path) and value not in _FIXED[path]:
            raise _unsupported(f"This host does not offer this {path} for a VM.")
    return config, frozenset(rights)


def _written(path: str, setting: _Setting, value: Value) -> str:
    wanted = setting.form.write(value)
    if wanted is not None:
        return wanted
    if path in _NOT_ALL:
        raise _unsupported(f"This host does not offer this {path} for a VM.")
    reason = f"{path} does not take this value."
    raise faults.invalid_argument(f"configSpec.{path}", reason)


def _unsupported(reason: str) -> FaultError:
    return FaultError(Obj("NotSupported"), reason)


def _given(spec: Obj) -> Iterator[tuple[str, Value]]:
    """Yield what a spec says of settings; empty texts say nothing."""
    for group in GROUPS:
        value = spec.get(group)
        if isinstance(value, Obj):
            for name, inner in value.fields.items():
                if inner is not None and inner != "":
                    yield f"{group}.{name}", inner
        elif value is not None and value != "":
            yield group, value
