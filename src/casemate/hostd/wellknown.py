"""The objects that every host has: their references, names and parents, as ESXi has them."""

from __future__ import annotations

from casemate.vim25.values import MoRef

SERVICE = MoRef("ServiceInstance", "ServiceInstance")
ROOT_FOLDER = MoRef("Folder", "ha-folder-root")
DATACENTER = MoRef("Datacenter", "ha-datacenter")
VM_FOLDER = MoRef("Folder", "ha-folder-vm")
HOST_FOLDER = MoRef("Folder", "ha-folder-host")
DATASTORE_FOLDER = MoRef("Folder", "ha-folder-datastore")
NETWORK_FOLDER = MoRef("Folder", "ha-folder-network")
COMPUTE = MoRef("ComputeResource", "ha-compute-res")
HOST = MoRef("HostSystem", "ha-host")
ROOT_POOL = MoRef("ResourcePool", "ha-root-pool")
SESSION_MANAGER = MoRef("SessionManager", "ha-sessionmgr")
PROPERTY_COLLECTOR = MoRef("PropertyCollector", "ha-property-collector")
TASK_MANAGER = MoRef("TaskManager", "ha-taskmgr")
VIEW_MANAGER = MoRef("ViewManager", "ViewManager")
SEARCH_INDEX = MoRef("SearchIndex", "ha-searchindex")
AUTHORIZATION = MoRef("AuthorizationManager", "ha-authmgr")
AGENT_OPTIONS = MoRef("OptionManager", "HostAgentSettings")
ADVANCED_OPTIONS = MoRef("OptionManager", "ha-adv-options")
AUTO_START = MoRef("HostAutoStartManager", "ha-autostart-mgr")
ACCESS_MANAGER = MoRef("HostAccessManager", "ha-host-access-manager")
EVENT_MANAGER = MoRef("EventManager", "ha-eventmgr")
STORAGE_SYSTEM = MoRef("HostStorageSystem", "storageSystem")
PASSTHROUGH_SYSTEM = MoRef("HostPciPassthruSystem", "ha-pcipassthrusystem")
ENVIRONMENT = MoRef("EnvironmentBrowser", "envbrowser-1")
NETWORK_SYSTEM = MoRef("HostNetworkSystem", "networkSystem")
HOST_BROWSER = MoRef("HostDatastoreBrowser", "ha-host-datastorebrowser")

FIXED_NAMES = {
    ROOT_FOLDER: "ha-folder-root",
    DATACENTER: "ha-datacenter",
    VM_FOLDER: "vm",
    HOST_FOLDER: "host",
    DATASTORE_FOLDER: "datastore",
    NETWORK_FOLDER: "network",
    ROOT_POOL: "Resources",
}

PARENTS = {
    ROOT_FOLDER: None,
    DATACENTER: ROOT_FOLDER,
    VM_FOLDER: DATACENTER,
    HOST_FOLDER: DATACENTER,
    DATASTORE_FOLDER: DATACENTER,
    NETWORK_FOLDER: DATACENTER,
    COMPUTE: HOST_FOLDER,
    HOST: COMPUTE,
    ROOT_POOL: COMPUTE,
}


def network_ref(name: str) -> MoRef:
    """Return the reference of a network."""
    return MoRef("Network", f"HaNetwork-{name}")
