"""Which objects exist, and the view of each property."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from casemate.hostd.objects.base import Getters
from casemate.hostd.objects.counters import COUNTER_GETTERS
from casemate.hostd.objects.fixed import (
    EXECUTER,
    FIXED_GETTERS,
    GUEST_MANAGERS,
    LOCAL_ACCOUNTS,
    TYPE_MANAGER,
)
from casemate.hostd.objects.governance import GOVERNANCE_GETTERS
from casemate.hostd.objects.hardware import HARDWARE_GETTERS
from casemate.hostd.objects.host import CONFIG_MANAGERS, HOST_GETTERS
from casemate.hostd.objects.inventory import INVENTORY_GETTERS, browser
from casemate.hostd.objects.service import MANAGERS, SERVICE_GETTERS
from casemate.hostd.objects.snapshots import (
    TREE_GETTERS,
    root_snapshots,
    snapshot_info,
    snapshot_ref,
)
from casemate.hostd.objects.snapshots import exists as snapshot_exists
from casemate.hostd.objects.systems import SYSTEM_GETTERS
from casemate.hostd.objects.task import TASK_GETTERS
from casemate.hostd.objects.vm import VM_GETTERS, vm_config
from casemate.hostd.wellknown import ENVIRONMENT, HOST_BROWSER, ROOT_POOL, SERVICE
from casemate.hostd.world import World
from casemate.vim25.values import MoRef

GETTERS: Mapping[str, Getters] = {
    **SERVICE_GETTERS,
    **INVENTORY_GETTERS,
    **HOST_GETTERS,
    **COUNTER_GETTERS,
    **GOVERNANCE_GETTERS,
    **SYSTEM_GETTERS,
    **HARDWARE_GETTERS,
    **FIXED_GETTERS,
    "Task": TASK_GETTERS,
    "VirtualMachine": {
        **VM_GETTERS,
        "snapshot": snapshot_info,
        "rootSnapshot": root_snapshots,
    },
    "VirtualMachineSnapshot": {
        **TREE_GETTERS,
        "config": lambda scope, key: vm_config(scope, key.partition("-")[0]),
    },
}

SINGLETONS = frozenset(
    {
        *(SERVICE, ENVIRONMENT, HOST_BROWSER, LOCAL_ACCOUNTS),
        *(EXECUTER, TYPE_MANAGER),
        *MANAGERS,
        *CONFIG_MANAGERS,
        *GUEST_MANAGERS.values(),
    }
)

_ENTITIES = (
    *("Folder", "Datacenter", "ComputeResource", "HostSystem", "ResourcePool"),
    *("VirtualMachine", "Datastore", "Network"),
)

LIVE = frozenset(
    {
        *((kind, name) for kind in _ENTITIES for name in ("effectiveRole", "permission")),
        ("ServiceInstance", "serverClock"),
        ("SessionManager", "currentSession"),
        ("SessionManager", "sessionList"),
        ("HostCertificateManager", "certificateInfo"),
        ("PropertyCollector", "filter"),
        ("ViewManager", "viewList"),
    }
)
"""Properties that depend on the asker or the time: never kept."""

NAMING = frozenset(
    {
        *((kind, "recentTask") for kind in (*_ENTITIES, "TaskManager")),
        *((kind, "vm") for kind in ("ResourcePool", "HostSystem", "Datastore", "Network")),
        ("EventManager", "latestEvent"),
        ("Folder", "childEntity"),
        ("HostSystem", "config"),
        ("HostAutoStartManager", "config"),
    }
)
"""Properties that name VMs, or what belongs to one: of each VM only to those whom it appears to."""


def exists(world: World, ref: MoRef) -> bool:
    """Tell whether the object exists."""
    if ref.type == "VirtualMachine":
        return ref.value in world.vms
    if ref in SINGLETONS or ref == ROOT_POOL:
        return True
    match ref.type:
        case "Task":
            return ref.value in world.tasks
        case "VirtualMachineSnapshot":
            return snapshot_exists(world, ref)
        case "HostDatastoreBrowser":
            return any(ref == browser(key) for key in world.datastores)
        case _:
            return world.ready and world.entity_name(ref) is not None


def objects(world: World) -> Iterator[MoRef]:
    """Yield every object that does not belong to a session."""
    yield from SINGLETONS
    yield from world.inventory()
    yield from (MoRef("Task", key) for key in world.tasks)
    yield from map(browser, world.datastores)
    for vm in world.vms.values():
        yield from (snapshot_ref(vm.vm, one.number) for one in vm.snapshots)
