"""From a VirtualMachineConfigSpec to what a VM shall be made of, and what rights that takes.

Pure: values in, values out. What the host cannot give is refused by name (NotSupported), never
passed over: only hints that change nothing a guest or its owner could notice are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from casemate.errors import LimitError
from casemate.hostd import bootspec
from casemate.hostd.devicespec import Devices
from casemate.hostd.objects import vmsettings
from casemate.hostd.objects.guestos import names
from casemate.hostd.selection import objs, text
from casemate.hostd.vmchange import CONFIG, Change, number, unsupported
from casemate.machine.facts import Allocation, VmConfig
from casemate.machine.hotplug import CORES, CPU_HOT_ADD, MEMORY_HOT_ADD, cores_per_socket
from casemate.machine.vmconfig import TEMPLATE
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import Obj, Typed, Value

CHANGES_LIMIT = 512
"""Devices of one specification: vSphere's largest VM has some 300, and each is compared."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PROFILES = frozenset({"VirtualMachineDefinedProfileSpec", "VirtualMachineProfileSpec"})
_MOOT: Mapping[str, Callable[[Value], bool]] = {
    "npivTemporaryDisabled": lambda value: value is True,
    "vAppConfigRemoved": lambda value: value is True,
    "swapPlacement": lambda value: text(value) == "inherit",
    "scheduledHardwareUpgradeInfo": lambda value: (
        isinstance(value, Obj) and text(value.get("upgradePolicy")) in {"", "never"}
    ),
    "vmProfile": lambda value: (
        isinstance(value, tuple)
        and all(isinstance(o, Obj) and o.type not in _PROFILES for o in value)
    ),
}
"""Fields that may be said where they say what is so anyway."""

_NOTHING: tuple[Value, ...] = (None, "", ())

Setter = Callable[[VmConfig, Value], VmConfig]

_PLAIN: Mapping[str, tuple[Setter, str]] = {
    "name": (lambda config, value: replace(config, name=text(value)), "Rename"),
    "annotation": (lambda config, value: replace(config, annotation=text(value)), "Annotation"),
    "guestId": (lambda config, value: replace(config, guest_id=_guest(value)), "Settings"),
    "numCPUs": (lambda config, value: replace(config, cpus=number(value, 1)), "CPUCount"),
    "memoryMB": (lambda config, value: replace(config, memory_mib=number(value, 0)), "Memory"),
    "firmware": (lambda config, value: replace(config, firmware=text(value)), "Settings"),
    "uuid": (lambda config, value: replace(config, uuid=_uuid(value)), "Settings"),
}
"""Fields that stand for one value each, and the right that a change of it takes."""


def created(spec: Obj, networks: Iterable[str]) -> Change:
    """Return what CreateVM_Task shall make. Raises FaultError."""
    name = text(spec.get("name"))
    if not name:
        raise faults.invalid_argument("config.name", "A VM needs a name.")
    files = spec.get("files")
    path = text(files.get("vmPathName")) if isinstance(files, Obj) else ""
    if not path:
        raise faults.invalid_argument("config.files.vmPathName", "A VM needs a datastore.")
    blank = VmConfig(name, "", path, "otherGuest", 1, 1024, "bios")
    return changed(spec, blank, networks)


def changed(spec: Obj, config: VmConfig, networks: Iterable[str]) -> Change:
    """Return what a spec makes of a configuration. Raises FaultError, LimitError."""
    change = Change(config)
    version = text(spec.get("changeVersion"))
    if version and version != vmsettings.change_version(config):
        raise FaultError(Obj("ConcurrentAccess"), "The VM was changed meanwhile: read it again.")
    _check_files(spec.get("files"), config)
    for name, value in spec.fields.items():
        if name in _PLAIN and value not in _NOTHING:
            put, right = _PLAIN[name]
            before, change.config = change.config, put(change.config, value)
            if change.config != before:
                change.privileges.add(CONFIG + right)
        elif name not in _PLAIN and name not in _DONE:
            _refuse(name, value)
    change.config, rights = vmsettings.taken(spec, change.config)
    change.privileges |= {CONFIG + right for right in rights}
    _take_allocations(spec, change)
    _take_extra(objs(spec.get("extraConfig")), change)
    _take_hot_add(spec.get("cpuHotAddEnabled"), CPU_HOT_ADD, change)
    _take_hot_add(spec.get("memoryHotAddEnabled"), MEMORY_HOT_ADD, change)
    _take_cores(spec.get("numCoresPerSocket"), change)
    Devices(change, frozenset(networks)).apply(_device_changes(spec))
    before, change.config = change.config, bootspec.taken(spec.get("bootOptions"), change.config)
    if change.config != before:
        change.privileges.add(CONFIG + "Settings")
    return change


_DONE = frozenset(
    {
        *vmsettings.GROUPS,
        *("cpuHotAddEnabled", "memoryHotAddEnabled", "numCoresPerSocket"),
        *("bootOptions", "changeVersion", "files"),
        *("cpuAllocation", "memoryAllocation", "extraConfig", "deviceChange"),
    }
)


def _device_changes(spec: Obj) -> tuple[Obj, ...]:
    found = objs(spec.get("deviceChange"))
    if len(found) > CHANGES_LIMIT:
        raise LimitError(f"a specification changes at most {CHANGES_LIMIT} devices")
    return found


def _guest(value: Value) -> str:
    if text(value) not in names():
        raise faults.invalid_argument("configSpec.guestId", "There is no such guest system.")
    return text(value)


def _uuid(value: Value) -> str:
    given = text(value).lower()
    if not _UUID.fullmatch(given):
        raise faults.invalid_argument("configSpec.uuid", "A UUID has 32 digits in five groups.")
    return given


def _check_files(files: Value, config: VmConfig) -> None:
    """Raise FaultError where a VM's file is to be, or its other files are, elsewhere."""
    own = config.vmx_path.rpartition("/")[0]
    for name, value in files.fields.items() if isinstance(files, Obj) else ():
        given = text(value).rstrip("/")
        place = given if name == "vmPathName" else f"{given}/"
        if given and place != config.vmx_path and own and not _within(place, own):
            raise unsupported(f"The files of a VM are in one directory: {name} is elsewhere.")


def _within(place: str, own: str) -> bool:
    """Tell whether a path is a directory's; a datastore alone leaves the choice to the host."""
    squeezed = place.replace("] ", "]")
    return squeezed.rpartition("/")[0] == own.replace("] ", "]") or "]/" in f"{squeezed}/"


def _take_cores(value: Value, change: Change) -> None:
    """Take in how many vCPUs make a socket; 0 and 1 say that each is one."""
    config = change.config
    if value is None:
        return
    cores = max(number(value, 1), 1)
    if config.cpus % cores:
        raise faults.invalid_argument(
            "config.numCoresPerSocket", f"{cores} cores a socket do not divide {config.cpus} vCPUs."
        )
    if cores == cores_per_socket(config):
        return
    others = tuple(entry for entry in config.extra if entry[0].lower() != CORES.lower())
    entry = ((CORES, str(cores)),) if cores > 1 else ()
    change.config = replace(config, extra=(*others, *entry))
    change.privileges.add(CONFIG + "CPUCount")


def _refuse(name: str, value: Value) -> None:
    moot = _MOOT.get(name)
    if value is False or value in _NOTHING or (moot is not None and moot(value)):
        # What is switched off, or empty, asks for nothing: clients say it of all that they know.
        return
    raise unsupported(f"This host does not offer {name} for a VM.")


def allocation(value: Value, before: Allocation, units: int, normal: int) -> Allocation:
    """Return an allocation as a ResourceAllocationInfo changes it.

    ``units`` are those that named shares count by, ``normal`` the shares of one at that level.
    """
    if not isinstance(value, Obj):
        return before
    shares = value.get("shares")
    level, amount = before.shares_level, before.shares
    if isinstance(shares, Obj):
        level = text(shares.get("level")) or "normal"
        named = {"low": normal // 2, "normal": normal, "high": normal * 2}
        given = shares.get("shares")
        amount = named[level] * units if level in named else number(given, amount)
    expandable = value.get("expandableReservation")
    return replace(
        before,
        reservation=number(value.get("reservation"), before.reservation),
        limit=number(value.get("limit"), before.limit),
        shares_level=level,
        shares=amount,
        expandable=before.expandable if expandable is None else expandable is True,
    )


def _take_allocations(spec: Obj, change: Change) -> None:
    config = change.config
    cpu = allocation(spec.get("cpuAllocation"), config.cpu_allocation, config.cpus, 1000)
    memory = allocation(
        spec.get("memoryAllocation"), config.memory_allocation, config.memory_mib, 10
    )
    if vmsettings.value_of(config, "memoryReservationLockedToMax") is True:
        memory = replace(memory, reservation=config.memory_mib)
    if (cpu, memory) != (config.cpu_allocation, config.memory_allocation):
        change.config = replace(config, cpu_allocation=cpu, memory_allocation=memory)
        change.privileges.add(CONFIG + "Resource")


def _take_extra(options: Iterable[Obj], change: Change) -> None:
    extra = dict(change.config.extra)
    known = {name.lower(): name for name in reversed(extra)}
    for option in options:
        name, value = text(option.get("key")), option.get("value")
        plain = value.value if isinstance(value, Typed) else value
        if not name or name.lower() == TEMPLATE.lower() or not isinstance(plain, str | int | bool):
            raise faults.invalid_argument("config.extraConfig", "An entry is a name and a text.")
        shown = str(plain).upper() if isinstance(plain, bool) else str(plain)
        same = known.setdefault(name.lower(), name)
        if shown:
            extra[same] = shown
        else:
            extra.pop(same, None)
            del known[name.lower()]
    if tuple(extra.items()) != change.config.extra:
        change.config = replace(change.config, extra=tuple(extra.items()))
        change.privileges.add(CONFIG + "AdvancedConfig")


def _take_hot_add(wanted: Value, entry: str, change: Change) -> None:
    if not isinstance(wanted, bool):
        return
    config = change.config
    kept = tuple(one for one in config.extra if one[0].lower() != entry)
    extra = (*kept, (entry, "TRUE")) if wanted else kept
    if {name.lower(): value for name, value in extra} != {
        name.lower(): value for name, value in config.extra
    }:
        change.config = replace(config, extra=extra)
        change.privileges.add(CONFIG + ("CPUCount" if entry == CPU_HOT_ADD else "Memory"))
