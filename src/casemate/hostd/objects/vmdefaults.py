"""What is the same for every VM of this host, and the layout of a VM's files."""

from __future__ import annotations

from casemate.hostd.objects.devices import disk_key, path_of
from casemate.hostd.objects.snapshots import snapshot_ref
from casemate.machine.facts import DiskSpec, PowerState, VmFact
from casemate.machine.planfirmware import nvram_name
from casemate.machine.vmconfig import saved_memory
from casemate.vim25.values import Obj

FLAGS = Obj(
    "VirtualMachineFlagInfo",
    disableAcceleration=False,
    enableLogging=True,
    useToe=False,
    runWithDebugInfo=False,
    monitorType="release",
    htSharing="any",
    snapshotDisabled=False,
    snapshotLocked=False,
    diskUuidEnabled=False,
    virtualMmuUsage="automatic",
    virtualExecUsage="hvAuto",
    snapshotPowerOffBehavior="powerOff",
    recordReplayEnabled=False,
    faultToleranceType="unset",
    cbrcCacheEnabled=False,
    vvtdEnabled=False,
    vbsEnabled=False,
)

TOOLS_CONFIG = Obj(
    "ToolsConfigInfo",
    toolsVersion=0,
    afterPowerOn=False,
    afterResume=False,
    beforeGuestStandby=False,
    beforeGuestShutdown=False,
    beforeGuestReboot=False,
    toolsUpgradePolicy="manual",
    syncTimeWithHostAllowed=False,
    syncTimeWithHost=False,
    lastInstallInfo=Obj("ToolsConfigInfoToolsLastInstallInfo", counter=0),
)

_RUNNING = (
    "PowerOffVM_Task",
    "ResetVM_Task",
    "SuspendVM_Task",
    "ShutdownGuest",
    "RebootGuest",
    "StandbyGuest",
)
_AT_REST = ("PowerOnVM_Task", "UnregisterVM", "Destroy_Task")
_NEVER = (
    *("CloneVM_Task", "RelocateVM_Task", "MigrateVM_Task", "InstantClone_Task"),
    *("AnswerVM", "MountToolsInstaller", "UpgradeTools_Task"),
)


def disabled_methods(power: PowerState) -> tuple[str, ...]:
    """Return the methods that would fail in this state."""
    match power:
        case PowerState.POWERED_ON:
            return (*_AT_REST, *_NEVER)
        case PowerState.POWERED_OFF:
            return (*_RUNNING, *_NEVER)
        case _:
            return (*_RUNNING[1:], *_NEVER)


def _drives(vm: VmFact) -> tuple[DiskSpec, ...]:
    return tuple(disk for disk in vm.config.disks if disk.kind != "cdrom")


def _files(vm: VmFact) -> tuple[str, ...]:
    """Return the file of every disk and of every frozen state, each once."""
    names = [disk.file_name for disk in _drives(vm)]
    for snapshot in vm.snapshots:
        names += [name for _, name in snapshot.disks]
    return tuple(dict.fromkeys(names))


def file_infos(vm: VmFact, vmx_path: str, directory: str) -> tuple[Obj, ...]:
    """Return VirtualMachineFileLayoutExFileInfo of the .vmx file (key 0), the disks and the rest.

    A VM has no swap file: what is not in memory is nowhere else.
    """
    sizes = {disk.file_name: disk.capacity for disk in _drives(vm)}
    named = [(vmx_path, "config", 0)]
    named += [
        (path_of(name, directory), "diskDescriptor", sizes.get(name, 0)) for name in _files(vm)
    ]
    if vm.config.firmware == "efi":
        named.append((directory + nvram_name(vm.config), "nvram", 0))
    if vm.snapshots:
        named.append((vmx_path.removesuffix(".vmx") + ".vmsd", "snapshotList", 0))
    if saved := saved_memory(vm.config):
        named.append((directory + saved, "suspend", 0))
    return tuple(
        Obj(
            "VirtualMachineFileLayoutExFileInfo",
            key=number,
            name=name,
            type=kind,
            size=size,
            uniqueSize=size,
            backingObjectId="",
            accessible=True,
        )
        for number, (name, kind, size) in enumerate(named)
    )


def _layout(key: int, *files: int) -> Obj:
    return Obj(
        "VirtualMachineFileLayoutExDiskLayout",
        key=key,
        chain=tuple(Obj("VirtualMachineFileLayoutExDiskUnit", fileKey=(one,)) for one in files),
    )


def disk_layouts(vm: VmFact) -> tuple[Obj, ...]:
    """Return which files each disk is made of."""
    keys = {name: number for number, name in enumerate(_files(vm), 1)}
    return tuple(_layout(disk_key(disk), keys[disk.file_name]) for disk in _drives(vm))


def snapshot_layouts(vm: VmFact) -> tuple[Obj, ...]:
    """Return which files hold the state of each snapshot."""
    keys = {name: number for number, name in enumerate(_files(vm), 1)}
    slots = {f"{disk.controller}:{disk.unit}": disk_key(disk) for disk in _drives(vm)}
    return tuple(
        Obj(
            "VirtualMachineFileLayoutExSnapshotLayout",
            key=snapshot_ref(vm.vm, one.number),
            dataKey=0,
            memoryKey=-1,
            disk=tuple(
                _layout(slots[slot], keys[name]) for slot, name in one.disks if slot in slots
            ),
        )
        for one in vm.snapshots
    )
