"""The facts as they are now, folded from the kernel's stream, and the names of the objects.

An ESXi host's inventory is nearly fixed: one datacenter with four folders, one compute resource,
one host. Only VMs, pools, datastores, networks and tasks come and go. ``World.fold`` takes one
entry of the stream and says which managed objects it touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from casemate.calls.messages import BankValues, FactReply
from casemate.errors import NotFoundError
from casemate.formats.datastorepath import in_volume
from casemate.hostd.wellknown import (
    ACCESS_MANAGER,
    ADVANCED_OPTIONS,
    AGENT_OPTIONS,
    AUTHORIZATION,
    AUTO_START,
    COMPUTE,
    DATACENTER,
    DATASTORE_FOLDER,
    FIXED_NAMES,
    HOST,
    HOST_FOLDER,
    NETWORK_FOLDER,
    NETWORK_SYSTEM,
    PARENTS,
    PASSTHROUGH_SYSTEM,
    ROOT_FOLDER,
    ROOT_POOL,
    SERVICE,
    SESSION_MANAGER,
    STORAGE_SYSTEM,
    TASK_MANAGER,
    VM_FOLDER,
    network_ref,
)
from casemate.machine.autostart import AutoStartFact
from casemate.machine.facts import (
    ComponentFact,
    DatastoreFact,
    Fact,
    HostFact,
    PoolFact,
    TaskFact,
    VmFact,
)
from casemate.machine.governance import (
    AccountFact,
    LockdownFact,
    LockdownMode,
    OptionFact,
    PermissionFact,
    RoleFact,
    SessionFact,
)
from casemate.machine.hardware import HardwareFact, HostNic, linked
from casemate.machine.networks import AddressFact, Networks, PortGroupFact, SwitchFact
from casemate.machine.teaming import UplinksFact
from casemate.policy.options import API_COMPATIBILITY
from casemate.policy.privileges import Role
from casemate.policy.rights import Rights
from casemate.vim25.values import MoRef

_OWN_PARENTS = (DATACENTER, COMPUTE, HOST, NETWORK_SYSTEM)
_FOLDERS = (ROOT_FOLDER, VM_FOLDER, HOST_FOLDER, DATASTORE_FOLDER, NETWORK_FOLDER)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What hostd knows of itself: the port it is reached at and its certificate (PEM, SHA-1)."""

    port: int = 443
    certificate: bytes = b""
    thumbprint: str = ""


@dataclass(slots=True)
class Change:
    """What one entry of the stream touched; ``structure``: the inventory is another one.

    Tasks are no part of the inventory: one that comes or goes touches itself and what lists it.
    """

    touched: set[MoRef] = field(default_factory=set)
    structure: bool = False


class World:
    """All present facts."""

    def __init__(self, endpoint: Endpoint | None = None) -> None:
        self.endpoint = endpoint or Endpoint()
        self.hosts: dict[str, HostFact] = {}
        self.machines: dict[str, HardwareFact] = {}
        self.components: dict[str, ComponentFact] = {}
        self.vms: dict[str, VmFact] = {}
        self.pools: dict[str, PoolFact] = {}
        self.datastores: dict[str, DatastoreFact] = {}
        self.switches: dict[str, SwitchFact] = {}
        self.port_groups: dict[str, PortGroupFact] = {}
        self.addresses: dict[str, AddressFact] = {}
        self.uplinks: dict[str, UplinksFact] = {}
        self.tasks: dict[str, TaskFact] = {}
        self.accounts: dict[str, AccountFact] = {}
        self.roles: dict[str, RoleFact] = {}
        self.permissions: dict[str, PermissionFact] = {}
        self.logins: dict[str, SessionFact] = {}
        self.options: dict[str, OptionFact] = {}
        self.lockdowns: dict[str, LockdownFact] = {}
        self.autostarts: dict[str, AutoStartFact] = {}
        self.rights = Rights(self.pool_of)
        self.pcrs: tuple[BankValues, ...] = ()
        self.structure = 0
        """Counts up whenever the inventory changes."""
        self._network_uses: Counter[str] = Counter()

    @property
    def ready(self) -> bool:
        """Whether the kernel has said which host this is."""
        return bool(self.hosts)

    @property
    def host(self) -> HostFact:
        """The host. Raises NotFoundError while the kernel has not said which."""
        for host in self.hosts.values():
            return host
        raise NotFoundError("the host is starting", component="ha-host")

    @property
    def hardware(self) -> HardwareFact | None:
        """The host's devices; None while the kernel has not told them."""
        return next(iter(self.machines.values()), None)

    def keys(self) -> set[tuple[str, str]]:
        """Return kind and key of every fact."""
        return {(kind, key) for kind, table in self._tables().items() for key in table}

    def facts(self) -> tuple[Fact, ...]:
        """Return all present facts."""
        every: tuple[Mapping[str, Fact], ...] = (
            *(self.hosts, self.machines, self.components, self.vms, self.pools, self.datastores),
            *(self.tasks, self.accounts, self.roles, self.permissions, self.logins, self.options),
            *(self.lockdowns, self.switches, self.port_groups, self.addresses, self.uplinks),
        )
        return tuple(fact for table in every for fact in table.values())

    def _tables(self) -> dict[str, dict[str, object]]:
        tables: dict[str, object] = {
            "HostFact": self.hosts,
            "HardwareFact": self.machines,
            "ComponentFact": self.components,
            "VmFact": self.vms,
            "PoolFact": self.pools,
            "DatastoreFact": self.datastores,
            "SwitchFact": self.switches,
            "PortGroupFact": self.port_groups,
            "AddressFact": self.addresses,
            "UplinksFact": self.uplinks,
            "TaskFact": self.tasks,
            "AccountFact": self.accounts,
            "RoleFact": self.roles,
            "PermissionFact": self.permissions,
            "SessionFact": self.logins,
            "OptionFact": self.options,
            "LockdownFact": self.lockdowns,
            "AutoStartFact": self.autostarts,
        }
        return {kind: table for kind, table in tables.items() if isinstance(table, dict)}

    def fold(self, reply: FactReply) -> Change:
        """Take in one entry of the stream. Unknown kinds change nothing."""
        table = self._tables().get(reply.kind)
        if table is None:
            return Change()
        before = table.get(reply.key)
        if reply.gone or reply.fact is None:
            table.pop(reply.key, None)
        else:
            table[reply.key] = reply.fact
        self._regulate(before, gone=True)
        self._regulate(table.get(reply.key), gone=False)
        change = Change(set(self._affected(before)) | set(self._affected(table.get(reply.key))))
        moved = _place(before) != _place(table.get(reply.key))
        change.structure = self._recount(before, table.get(reply.key)) or moved
        if change.structure:
            self.structure += 1
            change.touched.update(_OWN_PARENTS, _FOLDERS)
        return change

    def known(self, kind: str, key: str) -> object | None:
        """Return the present fact of this kind and key."""
        return self._tables().get(kind, {}).get(key)

    def _regulate(self, fact: object, *, gone: bool) -> None:
        """Keep roles and permissions in the form that decides."""
        match fact:
            case RoleFact() if gone:
                self.rights.drop_role(fact.number)
            case RoleFact():
                given = frozenset(fact.privileges)
                self.rights.put_role(Role(fact.number, fact.name, fact.name, given))
            case PermissionFact() if gone:
                self.rights.drop(fact.permission.entity, fact.principal)
            case PermissionFact():
                self.rights.put(fact.permission)
            case _:
                return

    def pool_of(self, kind: str, key: str) -> str | None:
        """Return the pool of a VM, or the parent of a pool."""
        if kind == "VirtualMachine":
            return vm.pool if (vm := self.vms.get(key)) else None
        pool = self.pools.get(key) if kind == "ResourcePool" else None
        return (pool.parent or None) if pool else None

    @property
    def lockdown(self) -> LockdownFact:
        """The lockdown mode and its exceptions."""
        for fact in self.lockdowns.values():
            return fact
        return LockdownFact(LockdownMode.DISABLED)

    @property
    def autostart(self) -> AutoStartFact:
        """Which VMs start with the host."""
        for fact in self.autostarts.values():
            return fact
        return AutoStartFact()

    def locked_out(self, user: str) -> bool:
        """Tell whether the lockdown keeps the user out."""
        lockdown = self.lockdown
        return lockdown.mode is not LockdownMode.DISABLED and user not in lockdown.exceptions

    def option(self, name: str) -> str:
        """Return an advanced option as text; unknown: empty."""
        return fact.value if (fact := self.options.get(name)) else ""

    @property
    def compatibility(self) -> bool:
        """Whether the host was booted with the methods that are there for compatibility alone."""
        return self.option(API_COMPATIBILITY) == "TRUE"

    def place(self, ref: MoRef) -> tuple[str, str]:
        """Return the entity whose permissions decide about an object."""
        if ref.type == "Task" and (task := self.tasks.get(ref.value)):
            return task.entity_kind, task.entity
        if ref.type == "VirtualMachineSnapshot":
            return "VirtualMachine", ref.value.partition("-")[0]
        return ref.type, ref.value

    def _recount(self, before: object, after: object) -> bool:
        """Count the uses of networks; True when cards came, went or moved."""
        old, new = _used_networks(before), _used_networks(after)
        if old == new:
            return False
        self._network_uses.subtract(name for name, _ in old)
        self._network_uses.update(name for name, _ in new)
        self._network_uses = +self._network_uses
        return True

    def _affected(self, fact: object) -> Iterator[MoRef]:
        match fact:
            case HostFact() | ComponentFact():
                yield from (HOST, COMPUTE, ROOT_POOL, SERVICE, NETWORK_SYSTEM)
                yield from self.inventory()
            case VmFact():
                yield MoRef("VirtualMachine", fact.vm)
                yield from (
                    MoRef("VirtualMachineSnapshot", f"{fact.vm}-snapshot-{one.number}")
                    for one in fact.snapshots
                )
                yield from self._around(fact)
            case PoolFact():
                yield MoRef("ResourcePool", fact.pool)
                if fact.parent:
                    yield MoRef("ResourcePool", fact.parent)
            case DatastoreFact():
                yield from (MoRef("Datastore", fact.datastore), HOST, STORAGE_SYSTEM)
            case SwitchFact() | AddressFact() | UplinksFact():
                yield from (HOST, NETWORK_SYSTEM)
            case PortGroupFact():
                yield from (HOST, NETWORK_SYSTEM, network_ref(fact.name))
            case TaskFact():
                yield from (MoRef("Task", fact.task), TASK_MANAGER)
                yield MoRef(fact.entity_kind, fact.entity)
            case _:
                yield from _GOVERNED.get(type(fact), ())

    def _around(self, vm: VmFact) -> Iterator[MoRef]:
        yield MoRef("ResourcePool", vm.pool)
        for datastore in self.datastores_of(vm):
            yield MoRef("Datastore", datastore.datastore)
        for nic in vm.config.nics:
            yield network_ref(nic.network)

    def inventory(self) -> Iterator[MoRef]:
        """Yield every managed entity, parents before children."""
        yield from (ROOT_FOLDER, DATACENTER, *_FOLDERS[1:], COMPUTE, HOST)
        for kind, keys in (
            ("ResourcePool", self.pool_ids()),
            ("VirtualMachine", self.vms),
            ("Datastore", self.datastores),
        ):
            yield from (MoRef(kind, key) for key in keys)
        yield from map(network_ref, self.networks())

    def pool_ids(self) -> tuple[str, ...]:
        """Return the ids of all pools, the root first; it exists even before it is stated."""
        root = ROOT_POOL.value
        return (root, *(key for key in self.pools if key != root))

    def networks(self) -> tuple[str, ...]:
        """Return the names of all networks: port groups, and what VMs believe to be one."""
        return tuple(sorted({*self._network_uses, *self.port_groups}))

    def configured(self) -> Networks:
        """Return the switches and port groups."""
        return Networks(tuple(self.switches.values()), tuple(self.port_groups.values()))

    def nics(self) -> tuple[HostNic, ...]:
        """Return the host's network cards; those that are in a team with their links as now."""
        cards = self.hardware.nics if self.hardware else ()
        known = self.uplinks.get(UplinksFact().key)
        return cards if known is None else linked(cards, self.configured().teams(), known.down)

    def cards_in(self, network: str) -> tuple[tuple[str, int, str], ...]:
        """Return the cards of VMs in a network: VM, number of the card, address."""
        if network not in self._network_uses:
            return ()
        return tuple(
            (vm.vm, number, nic.mac)
            for vm in self.vms.values()
            for number, nic in enumerate(vm.config.nics)
            if nic.network == network
        )

    def datastore_of(self, vm: VmFact) -> DatastoreFact | None:
        """Return the VM's datastore, found by id, else by name."""
        if (found := self.datastores.get(vm.datastore)) is not None:
            return found
        named = (one for one in self.datastores.values() if one.name == vm.datastore)
        return next(named, None)

    def datastores_of(self, vm: VmFact) -> tuple[DatastoreFact, ...]:
        """Return the VM's own datastore, and those of its disks and discs elsewhere."""
        found = {} if (own := self.datastore_of(vm)) is None else {own.name: own}
        names = {away[0] for disk in vm.config.disks if (away := in_volume(disk.file_name))}
        if names - found.keys():
            found |= {one.name: one for one in self.datastores.values() if one.name in names}
        return tuple(found.values())

    def entity_name(self, ref: MoRef) -> str | None:
        """Return the name of a managed entity, or None when it does not exist."""
        name = FIXED_NAMES.get(ref)
        if ref in {HOST, COMPUTE}:
            name = self.host.name
        elif ref.type == "VirtualMachine" and (vm := self.vms.get(ref.value)):
            name = vm.config.name
        elif ref.type == "ResourcePool" and (pool := self.pools.get(ref.value)):
            name = pool.name
        elif ref.type == "Datastore" and (datastore := self.datastores.get(ref.value)):
            name = datastore.name
        elif ref.type == "Network" and ref in map(network_ref, self.networks()):
            name = ref.value.removeprefix("HaNetwork-")
        return name

    def parent(self, ref: MoRef) -> MoRef | None:
        """Return the parent of a managed entity."""
        if ref in PARENTS:
            return PARENTS[ref]
        match ref.type:
            case "ResourcePool":
                pool = self.pools.get(ref.value)
                return MoRef("ResourcePool", pool.parent) if pool and pool.parent else COMPUTE
            case "VirtualMachine":
                return VM_FOLDER
            case "Datastore":
                return DATASTORE_FOLDER
            case "Network":
                return NETWORK_FOLDER
            case _:
                return None


_GOVERNED: dict[type, tuple[MoRef, ...]] = {
    RoleFact: (AUTHORIZATION,),
    PermissionFact: (AUTHORIZATION,),
    OptionFact: (AGENT_OPTIONS, ADVANCED_OPTIONS, SESSION_MANAGER),
    LockdownFact: (ACCESS_MANAGER, HOST),
    SessionFact: (SESSION_MANAGER,),
    AutoStartFact: (AUTO_START, HOST),
    HardwareFact: (HOST, STORAGE_SYSTEM, PASSTHROUGH_SYSTEM, NETWORK_SYSTEM),
}
"""What shows the facts about the host as a whole: its devices, and who may do what."""


def _used_networks(fact: object) -> tuple[tuple[str, str], ...]:
    """Return network and address of each card of a VM."""
    if not isinstance(fact, VmFact):
        return ()
    return tuple((nic.network, nic.mac) for nic in fact.config.nics if nic.network)


def _place(fact: object) -> tuple[object, ...]:
    """Return what decides where the fact's object stands in the inventory."""
    match fact:
        case VmFact():
            return (fact.vm, fact.config.name, fact.pool, fact.datastore)
        case PoolFact():
            return (fact.pool, fact.name, fact.parent)
        case DatastoreFact():
            return (fact.datastore, fact.name)
        case HostFact() | PortGroupFact():
            return (fact.name,)
        case _:
            return ()
