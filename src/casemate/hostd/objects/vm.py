"""Virtual machines."""

from __future__ import annotations

from casemate.formats.datastorepath import in_volume
from casemate.hostd.objects import guest
from casemate.hostd.objects.base import Getters, Scope, entity, flags, moment
from casemate.hostd.objects.bootoptions import boot_options
from casemate.hostd.objects.devices import devices, path_of
from casemate.hostd.objects.guestos import full_name, guest_id
from casemate.hostd.objects.inventory import MIB, allocation
from casemate.hostd.objects.vmdefaults import (
    FLAGS,
    TOOLS_CONFIG,
    disabled_methods,
    disk_layouts,
    file_infos,
    snapshot_layouts,
)
from casemate.hostd.objects.vmsettings import (
    NEWEST_HARDWARE,
    change_version,
    extra_options,
    instance_uuid,
    managed_by,
    shown,
    value_of,
    word,
)
from casemate.hostd.wellknown import ENVIRONMENT, HOST, network_ref
from casemate.machine.facts import PowerState, VmConfig, VmFact
from casemate.machine.hotnotes import STEP_MIB
from casemate.machine.hotplug import cores_per_socket, takes_cpus, takes_memory
from casemate.machine.vmconfig import is_template
from casemate.vim25.values import MoRef, Obj, Value

HARDWARE_VERSION = f"vmx-{NEWEST_HARDWARE}"


def _vm(scope: Scope, key: str) -> VmFact:
    return scope.world.vms[key]


def _on(vm: VmFact) -> bool:
    return vm.power is PowerState.POWERED_ON


def _datastore(scope: Scope, vm: VmFact) -> MoRef | None:
    found = scope.world.datastore_of(vm)
    return None if found is None else MoRef("Datastore", found.datastore)


def vmx_path(scope: Scope, vm: VmFact) -> str:
    """Return the .vmx file as a datastore path: ``[datastore1] demo/demo.vmx``."""
    path = vm.config.vmx_path
    if path.startswith("["):
        return path
    found = scope.world.datastore_of(vm)
    return f"[{found.name if found else vm.datastore}] {path}"


def _directory(scope: Scope, vm: VmFact) -> str:
    path = vmx_path(scope, vm)
    head, slash, _ = path.rpartition("/")
    return head + slash if slash else path.partition("] ")[0] + "] "


def _guest_name(vm: VmFact) -> str:
    return word(value_of(vm.config, "alternateGuestName")) or full_name(vm.config.guest_id)


def _question(vm: VmFact) -> Obj | None:
    if not vm.question:
        return None
    choice = Obj(
        "ChoiceOption",
        choiceInfo=(Obj("ElementDescription", label="OK", summary="OK", key="0"),),
        defaultIndex=0,
    )
    return Obj("VirtualMachineQuestionInfo", id="0", text=vm.question, choice=choice)


def runtime(scope: Scope, key: str) -> Obj:
    """Return VirtualMachineRuntimeInfo."""
    vm = _vm(scope, key)
    return flags(
        "VirtualMachineRuntimeInfo",
        host=HOST,
        connectionState="connected",
        powerState=vm.power.value,
        faultToleranceState="notConfigured",
        bootTime=moment(vm.boot_time) if _on(vm) and vm.boot_time is not None else None,
        question=_question(vm),
        maxCpuUsage=scope.world.host.cpu_mhz * vm.config.cpus if _on(vm) else None,
        maxMemoryUsage=vm.config.memory_mib if _on(vm) else None,
        memoryOverhead=vm.usage.overhead_mib * MIB if _on(vm) else None,
        numMksConnections=0,
        recordReplayState="inactive",
        paused=False,
    )


def _config_summary(scope: Scope, vm: VmFact) -> Obj:
    config = vm.config
    return Obj(
        "VirtualMachineConfigSummary",
        name=config.name,
        template=is_template(config),
        vmPathName=vmx_path(scope, vm),
        memorySizeMB=config.memory_mib,
        cpuReservation=config.cpu_allocation.reservation,
        memoryReservation=config.memory_allocation.reservation,
        numCpu=config.cpus,
        numEthernetCards=len(config.nics),
        numVirtualDisks=sum(disk.kind != "cdrom" for disk in config.disks),
        uuid=config.uuid,
        instanceUuid=instance_uuid(config),
        guestId=guest_id(config.guest_id),
        guestFullName=_guest_name(vm),
        annotation=config.annotation,
        managedBy=managed_by(config),
        installBootRequired=False,
        tpmPresent=False,
        hwVersion=value_of(config, "version"),
    )


def _quick_stats(vm: VmFact) -> Obj:
    usage = vm.usage
    return Obj(
        "VirtualMachineQuickStats",
        overallCpuUsage=vm.cpu_usage_mhz,
        overallCpuDemand=usage.cpu_demand_mhz or vm.cpu_usage_mhz,
        overallCpuReadiness=usage.cpu_ready,
        guestMemoryUsage=usage.memory_active_mib or vm.guest_memory_mib,
        hostMemoryUsage=vm.host_memory_mib,
        guestHeartbeatStatus=guest.heartbeat(vm),
        distributedCpuEntitlement=usage.cpu_entitlement_mhz,
        distributedMemoryEntitlement=usage.memory_entitlement_mib,
        staticCpuEntitlement=usage.cpu_static_mhz,
        staticMemoryEntitlement=usage.memory_static_mib,
        # No page of a VM is another's, or kept in fewer bytes.
        privateMemory=vm.host_memory_mib,
        sharedMemory=0,
        compressedMemory=0,
        balloonedMemory=usage.ballooned_mib,
        consumedOverheadMemory=usage.overhead_mib,
        uptimeSeconds=vm.uptime_seconds,
    )


def _usage(vm: VmFact, stamp: Value) -> Obj:
    size = sum(disk.capacity for disk in vm.config.disks)
    return Obj(
        "VirtualMachineStorageSummary",
        committed=size,
        uncommitted=0,
        unshared=size,
        timestamp=stamp,
    )


def summary(scope: Scope, key: str) -> Obj:
    """Return VirtualMachineSummary."""
    vm = _vm(scope, key)
    return Obj(
        "VirtualMachineSummary",
        vm=MoRef("VirtualMachine", key),
        runtime=runtime(scope, key),
        guest=Obj(
            "VirtualMachineGuestSummary",
            guestId=guest_id(vm.config.guest_id),
            guestFullName=_guest_name(vm),
            **guest.names(vm),
            **guest.tools(vm),
        ),
        config=_config_summary(scope, vm),
        storage=_usage(vm, _stamp(scope)),
        quickStats=_quick_stats(vm),
        overallStatus="green",
    )


def _stamp(scope: Scope) -> Value:
    return moment(scope.world.host.boot_time)


def vm_config(scope: Scope, key: str) -> Obj:
    """Return VirtualMachineConfigInfo."""
    vm = _vm(scope, key)
    config = vm.config
    directory = _directory(scope, vm)
    return Obj(
        "VirtualMachineConfigInfo",
        changeVersion=change_version(config),
        modified=_stamp(scope),
        name=config.name,
        guestFullName=_guest_name(vm),
        version=value_of(config, "version"),
        locationId=value_of(config, "locationId"),
        uuid=config.uuid,
        instanceUuid=instance_uuid(config),
        template=is_template(config),
        guestId=guest_id(config.guest_id),
        alternateGuestName=value_of(config, "alternateGuestName"),
        annotation=config.annotation,
        managedBy=managed_by(config),
        files=Obj(
            "VirtualMachineFileInfo",
            vmPathName=vmx_path(scope, vm),
            snapshotDirectory=directory,
            suspendDirectory=directory,
            logDirectory=directory,
        ),
        tools=shown(config, "tools", TOOLS_CONFIG),
        flags=shown(config, "flags", FLAGS),
        consolePreferences=_console(config),
        defaultPowerOps=_power_ops(config),
        hardware=Obj(
            "VirtualHardware",
            numCPU=config.cpus,
            numCoresPerSocket=cores_per_socket(config),
            memoryMB=config.memory_mib,
            device=devices(
                config,
                directory,
                _datastore(scope, vm),
                running=_on(vm),
                vm=key,
                datastores={
                    one.name: MoRef("Datastore", one.datastore)
                    for one in scope.world.datastores_of(vm)
                },
            ),
        ),
        cpuAllocation=allocation(config.cpu_allocation),
        memoryAllocation=allocation(config.memory_allocation),
        cpuHotAddEnabled=takes_cpus(config),
        memoryHotAddEnabled=takes_memory(config),
        hotPlugMemoryIncrementSize=STEP_MIB if takes_memory(config) else None,
        extraConfig=tuple(
            Obj("OptionValue", key=name, value=value) for name, value in extra_options(config)
        ),
        datastoreUrl=_datastore_urls(scope, vm),
        bootOptions=boot_options(config),
        latencySensitivity=shown(config, "latencySensitivity", Obj("LatencySensitivity")),
        cpuHotRemoveEnabled=False,
        swapPlacement="inherit",
        changeTrackingEnabled=False,
        nestedHVEnabled=False,
        vPMCEnabled=False,
        maxMksConnections=value_of(config, "maxMksConnections"),
        guestAutoLockEnabled=False,
        memoryReservationLockedToMax=value_of(config, "memoryReservationLockedToMax"),
        firmware="efi" if config.firmware == "efi" else "bios",
    )


def _console(config: VmConfig) -> Obj | None:
    found = shown(config, "consolePreferences", Obj("VirtualMachineConsolePreferences"))
    return found if found.fields else None


def _power_ops(config: VmConfig) -> Obj:
    usual = {"powerOff": "soft", "suspend": "hard", "reset": "soft"}
    chosen = {name: word(value_of(config, f"powerOpInfo.{name}Type")) for name in usual}
    return shown(
        config,
        "powerOpInfo",
        Obj(
            "VirtualMachineDefaultPowerOpInfo",
            **{
                f"default{name[0].upper()}{name[1:]}Type": (
                    usual[name] if choice == "preset" else choice
                )
                for name, choice in chosen.items()
            },
        ),
    )


def _datastore_urls(scope: Scope, vm: VmFact) -> Value:
    return tuple(
        Obj(
            "VirtualMachineConfigInfoDatastoreUrlPair",
            name=found.name,
            url=f"/vmfs/volumes/{found.datastore}",
        )
        for found in scope.world.datastores_of(vm)
    )


def _resource_config(scope: Scope, key: str) -> Obj:
    vm = _vm(scope, key)
    return Obj(
        "ResourceConfigSpec",
        entity=MoRef("VirtualMachine", key),
        cpuAllocation=allocation(vm.config.cpu_allocation),
        memoryAllocation=allocation(vm.config.memory_allocation),
    )


def _layout(scope: Scope, key: str) -> Obj:
    vm = _vm(scope, key)
    drives = [disk for disk in vm.config.disks if disk.kind != "cdrom"]
    return Obj(
        "VirtualMachineFileLayout",
        configFile=(vmx_path(scope, vm).rpartition("/")[2],),
        disk=tuple(
            Obj(
                "VirtualMachineFileLayoutDiskLayout",
                key=2000 + number,
                diskFile=(path_of(disk.file_name, _directory(scope, vm)),),
            )
            for number, disk in enumerate(drives)
        ),
    )


def _layout_ex(scope: Scope, key: str) -> Obj:
    vm = _vm(scope, key)
    directory = _directory(scope, vm)
    return Obj(
        "VirtualMachineFileLayoutEx",
        file=file_infos(vm, vmx_path(scope, vm), directory),
        disk=disk_layouts(vm),
        snapshot=snapshot_layouts(vm),
        timestamp=_stamp(scope),
    )


def _storage(scope: Scope, key: str) -> Obj:
    vm = _vm(scope, key)
    own = scope.world.datastore_of(vm)
    sizes = {one.name: 0 for one in scope.world.datastores_of(vm)}
    for disk in vm.config.disks:
        away = in_volume(disk.file_name)
        name = away[0] if away else own.name if own else ""
        sizes[name] = sizes.get(name, 0) + disk.capacity
    return Obj(
        "VirtualMachineStorageInfo",
        perDatastoreUsage=tuple(
            Obj(
                "VirtualMachineUsageOnDatastore",
                datastore=MoRef("Datastore", one.datastore),
                committed=sizes[one.name],
                uncommitted=0,
                unshared=sizes[one.name],
            )
            for one in scope.world.datastores_of(vm)
        ),
        timestamp=_stamp(scope),
    )


def _networks(scope: Scope, key: str) -> Value:
    names = dict.fromkeys(nic.network for nic in _vm(scope, key).config.nics)
    return tuple(map(network_ref, names))


def _datastores(scope: Scope, key: str) -> Value:
    found = scope.world.datastores_of(_vm(scope, key))
    return tuple(MoRef("Datastore", one.datastore) for one in found)


VM_GETTERS: Getters = {
    **entity("VirtualMachine"),
    "disabledMethod": lambda scope, key: disabled_methods(_vm(scope, key).power),
    "capability": lambda *_: flags(
        "VirtualMachineCapability",
        "bootOptionsSupported",
        "snapshotOperationsSupported",
        "multipleSnapshotsSupported",
        "poweredOffSnapshotsSupported",
        "memorySnapshotsSupported",
        "revertToSnapshotSupported",
        secureBootSupported=True,
    ),
    "config": vm_config,
    "layout": _layout,
    "layoutEx": _layout_ex,
    "storage": _storage,
    "environmentBrowser": lambda *_: ENVIRONMENT,
    "resourcePool": lambda scope, key: (
        None if is_template(_vm(scope, key).config) else MoRef("ResourcePool", _vm(scope, key).pool)
    ),
    "resourceConfig": _resource_config,
    "runtime": runtime,
    "guest": lambda scope, key: guest.guest_info(scope.world, _vm(scope, key)),
    "summary": summary,
    "datastore": _datastores,
    "network": _networks,
    "guestHeartbeatStatus": lambda scope, key: guest.heartbeat(_vm(scope, key)),
}
