"""Folders, the datacenter, the compute resource, resource pools, datastores, networks."""

from __future__ import annotations

from collections.abc import Mapping

from casemate.hostd.objects.base import Getters, Scope, entity, flags, moment
from casemate.hostd.wellknown import (
    COMPUTE,
    DATACENTER,
    DATASTORE_FOLDER,
    ENVIRONMENT,
    HOST,
    HOST_BROWSER,
    HOST_FOLDER,
    NETWORK_FOLDER,
    ROOT_FOLDER,
    ROOT_POOL,
    VM_FOLDER,
    network_ref,
)
from casemate.machine.facts import Allocation, DatastoreFact, PoolFact, PoolUsage
from casemate.vim25.values import MoRef, Obj, Value

MIB = 1 << 20
LARGEST_FILE = 1 << 46
"""Bytes of the largest file on a datastore: 64 TiB, vSphere's own limit."""

_CHILD_TYPES: Mapping[str, tuple[str, ...]] = {
    ROOT_FOLDER.value: ("Datacenter",),
    VM_FOLDER.value: ("VirtualMachine",),
    HOST_FOLDER.value: ("ComputeResource",),
    DATASTORE_FOLDER.value: ("Datastore",),
    NETWORK_FOLDER.value: ("Network",),
}


def vm_refs(scope: Scope) -> tuple[MoRef, ...]:
    """Return all VMs."""
    return tuple(MoRef("VirtualMachine", key) for key in scope.world.vms)


def datastore_refs(scope: Scope, _key: str = "") -> tuple[MoRef, ...]:
    """Return all datastores."""
    return tuple(MoRef("Datastore", key) for key in scope.world.datastores)


def network_refs(scope: Scope, _key: str = "") -> tuple[MoRef, ...]:
    """Return all networks."""
    return tuple(map(network_ref, scope.world.networks()))


def children(scope: Scope, key: str) -> tuple[MoRef, ...]:
    """Return what a folder holds."""
    match key:
        case ROOT_FOLDER.value:
            return (DATACENTER,)
        case VM_FOLDER.value:
            return vm_refs(scope)
        case HOST_FOLDER.value:
            return (COMPUTE,)
        case DATASTORE_FOLDER.value:
            return datastore_refs(scope)
        case _:
            return network_refs(scope)


def allocation(value: Allocation) -> Obj:
    """Return a ResourceAllocationInfo."""
    return Obj(
        "ResourceAllocationInfo",
        reservation=value.reservation,
        expandableReservation=value.expandable,
        limit=value.limit,
        shares=Obj("SharesInfo", shares=value.shares, level=value.shares_level),
    )


def cpu_capacity(scope: Scope) -> int:
    """Return the host's CPU capacity in MHz."""
    host = scope.world.host
    return host.cpu_mhz * host.cpu_cores


def _pool(scope: Scope, key: str) -> PoolFact:
    whole = scope.world.host.memory_size // MIB
    default = PoolFact(
        ROOT_POOL.value,
        "Resources",
        "",
        Allocation(cpu_capacity(scope), cpu_capacity(scope), expandable=True),
        Allocation(whole, whole, expandable=True),
        cpu_usage=PoolUsage(max_usage=cpu_capacity(scope)),
        memory_usage=PoolUsage(max_usage=scope.world.host.memory_size),
    )
    return scope.world.pools.get(key, default)


def _pool_config(scope: Scope, key: str) -> Obj:
    pool = _pool(scope, key)
    return Obj(
        "ResourceConfigSpec",
        entity=MoRef("ResourcePool", key),
        cpuAllocation=allocation(pool.cpu),
        memoryAllocation=allocation(pool.memory),
    )


def _usage(usage: PoolUsage) -> Obj:
    return Obj(
        "ResourcePoolResourceUsage",
        reservationUsed=usage.reservation_used,
        reservationUsedForVm=usage.reservation_used_for_vm,
        unreservedForPool=usage.unreserved,
        unreservedForVm=usage.unreserved,
        overallUsage=usage.usage,
        maxUsage=usage.max_usage,
    )


def _pool_runtime(scope: Scope, key: str) -> Obj:
    pool = _pool(scope, key)
    return Obj(
        "ResourcePoolRuntimeInfo",
        memory=_usage(pool.memory_usage),
        cpu=_usage(pool.cpu_usage),
        overallStatus=pool.colour,
    )


def _pool_stats(scope: Scope, key: str) -> Obj:
    pool = _pool(scope, key)
    inside = [vm for vm in scope.world.vms.values() if vm.pool == key]
    return Obj(
        "ResourcePoolQuickStats",
        overallCpuUsage=pool.cpu_usage.usage,
        overallCpuDemand=pool.cpu_usage.demand,
        guestMemoryUsage=sum(vm.usage.memory_active_mib for vm in inside),
        hostMemoryUsage=pool.memory_usage.usage // MIB,
        distributedCpuEntitlement=pool.cpu_usage.entitlement,
        distributedMemoryEntitlement=pool.memory_usage.entitlement // MIB,
        balloonedMemory=sum(vm.usage.ballooned_mib for vm in inside),
    )


def _pool_summary(scope: Scope, key: str) -> Obj:
    return Obj(
        "ResourcePoolSummary",
        name=_pool(scope, key).name,
        config=_pool_config(scope, key),
        runtime=_pool_runtime(scope, key),
        quickStats=_pool_stats(scope, key),
        configuredMemoryMB=sum(
            vm.config.memory_mib for vm in scope.world.vms.values() if vm.pool == key
        ),
    )


def _compute_summary(scope: Scope, _key: str) -> Obj:
    host = scope.world.host
    return Obj(
        "ComputeResourceSummary",
        totalCpu=cpu_capacity(scope),
        totalMemory=host.memory_size,
        numCpuCores=host.cpu_cores,
        numCpuThreads=host.cpu_threads,
        effectiveCpu=cpu_capacity(scope),
        effectiveMemory=host.memory_size // MIB,
        numHosts=1,
        numEffectiveHosts=0 if host.in_maintenance_mode else 1,
        overallStatus="green",
    )


def datastore_url(fact: DatastoreFact) -> str:
    """Return the datastore's URL."""
    return f"/vmfs/volumes/{fact.datastore}"


def _datastore_summary(scope: Scope, key: str) -> Obj:
    fact = scope.world.datastores[key]
    return Obj(
        "DatastoreSummary",
        datastore=MoRef("Datastore", key),
        name=fact.name,
        url=datastore_url(fact),
        capacity=fact.capacity,
        freeSpace=fact.free,
        accessible=True,
        multipleHostAccess=False,
        type="OTHER",
        maintenanceMode="normal",
    )


def _datastore_info(scope: Scope, key: str) -> Obj:
    fact = scope.world.datastores[key]
    return Obj(
        "LocalDatastoreInfo",
        name=fact.name,
        url=datastore_url(fact),
        freeSpace=fact.free,
        maxFileSize=LARGEST_FILE,
        maxVirtualDiskCapacity=LARGEST_FILE,
        maxMemoryFileSize=LARGEST_FILE,
        timestamp=moment(scope.world.host.boot_time),
        path=datastore_url(fact),
    )


def _datastore_hosts(scope: Scope, key: str) -> Value:
    mount = Obj(
        "HostMountInfo",
        path=datastore_url(scope.world.datastores[key]),
        accessMode="readWrite",
        mounted=True,
        accessible=True,
    )
    return (Obj("DatastoreHostMount", key=HOST, mountInfo=mount),)


def _datastore_vms(scope: Scope, key: str) -> Value:
    world = scope.world
    held = world.datastores[key]
    return tuple(
        MoRef("VirtualMachine", vm.vm)
        for vm in world.vms.values()
        if held in world.datastores_of(vm)
    )


def _network_vms(scope: Scope, key: str) -> Value:
    name = key.removeprefix("HaNetwork-")
    return tuple(
        MoRef("VirtualMachine", vm.vm)
        for vm in scope.world.vms.values()
        if any(nic.network == name for nic in vm.config.nics)
    )


def browser(key: str) -> MoRef:
    """Return the datastore's browser."""
    return MoRef("HostDatastoreBrowser", f"datastoreBrowser-{key}")


INVENTORY_GETTERS: Mapping[str, Getters] = {
    "Folder": {
        **entity("Folder"),
        "childType": lambda _scope, key: _CHILD_TYPES[key],
        "childEntity": children,
    },
    "Datacenter": {
        **entity("Datacenter"),
        "vmFolder": lambda *_: VM_FOLDER,
        "hostFolder": lambda *_: HOST_FOLDER,
        "datastoreFolder": lambda *_: DATASTORE_FOLDER,
        "networkFolder": lambda *_: NETWORK_FOLDER,
        "datastore": datastore_refs,
        "network": network_refs,
        "configuration": lambda *_: Obj("DatacenterConfigInfo"),
    },
    "ComputeResource": {
        **entity("ComputeResource"),
        "resourcePool": lambda *_: ROOT_POOL,
        "host": lambda *_: (HOST,),
        "datastore": datastore_refs,
        "network": network_refs,
        "summary": _compute_summary,
        "environmentBrowser": lambda *_: ENVIRONMENT,
        "configurationEx": lambda *_: Obj(
            "ComputeResourceConfigInfo", vmSwapPlacement="vmDirectory"
        ),
    },
    "ResourcePool": {
        **entity("ResourcePool"),
        "summary": _pool_summary,
        "runtime": _pool_runtime,
        "owner": lambda *_: COMPUTE,
        "resourcePool": lambda scope, key: tuple(
            MoRef("ResourcePool", pool.pool)
            for pool in scope.world.pools.values()
            if pool.parent == key
        ),
        "vm": lambda scope, key: tuple(
            MoRef("VirtualMachine", vm.vm) for vm in scope.world.vms.values() if vm.pool == key
        ),
        "config": _pool_config,
    },
    "Datastore": {
        **entity("Datastore"),
        "info": _datastore_info,
        "summary": _datastore_summary,
        "host": _datastore_hosts,
        "vm": _datastore_vms,
        "browser": lambda _scope, key: browser(key),
        "capability": lambda *_: flags(
            "DatastoreCapability", "directoryHierarchySupported", "perFileThinProvisioningSupported"
        ),
    },
    "Network": {
        **entity("Network"),
        "summary": lambda scope, key: Obj(
            "NetworkSummary",
            network=MoRef("Network", key),
            name=key.removeprefix("HaNetwork-"),
            accessible=key.removeprefix("HaNetwork-") in scope.world.port_groups,
            ipPoolName="",
        ),
        "host": lambda *_: (HOST,),
        "vm": _network_vms,
    },
    "EnvironmentBrowser": {"datastoreBrowser": lambda *_: HOST_BROWSER},
    "HostDatastoreBrowser": {"datastore": datastore_refs},
}
