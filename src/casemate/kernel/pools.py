"""The host's pool tree: kept in the store, told as facts, and asked before anything is reserved.

One tree a resource is computed from the pools and the VMs that run (or are being started):
CPU in MHz, memory in bytes. Whoever starts a VM holds its claim from admission on, so that two
starts at once cannot both be given the last of something.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Final

from casemate.errors import ArgumentError, CasemateError, NotFoundError
from casemate.kernel.inventory import ROOT_POOL, Inventory
from casemate.kernel.store import Store, StoredPool
from casemate.kernel.stream import FactStream
from casemate.machine.facts import Allocation, PoolFact, PoolUsage, PowerState, VmConfig, VmFact
from casemate.sched import admission
from casemate.sched import tree as nodes
from casemate.sched.admission import Change, Resource, admit, check_vcpus
from casemate.sched.ledger import accounts, health
from casemate.sched.memory import MIB, QEMU_KVM, QEMU_TCG, minimum_free
from casemate.sched.shares import SharesLevel, cpu_shares, memory_shares
from casemate.sched.tree import Tree

RESOURCES: Final[tuple[Resource, Resource]] = ("cpu", "memory")
HOST_MEMORY: Final = 384 * MIB
"""Bytes for kernel, hostd, TPM and page tables, besides what is always kept free."""
HOST_CPU_PERCENT: Final = 5
"""Percent of the processors for kernel and hostd."""
_PREFIX: Final = "pool-"
_NAME_LIMIT: Final = 80
"""Characters of a name in vSphere."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the host has for VMs: MHz, MHz of one core, bytes; and how it runs them."""

    cpu_mhz: int
    core_mhz: int
    memory: int
    accelerator: str


def capacity_of(core_mhz: int, cores: int, memory: int, accelerator: str) -> Capacity:
    """Return what a machine has for VMs once the host itself has its part.

    Whole cores are promised, as vSphere does: a second thread of a core adds much less than one.
    """
    cpu = core_mhz * cores * (100 - HOST_CPU_PERCENT) // 100
    return Capacity(cpu, core_mhz, max(0, memory - minimum_free(memory) - HOST_MEMORY), accelerator)


@dataclass(frozen=True, slots=True)
class Settings:
    """What is configured of a pool."""

    cpu: Allocation
    memory: Allocation
    scale_descendants: bool = False


_ROOT_SHARES: Final = 9000


class Pools:
    """The pools and the claims of VMs on them."""

    def __init__(
        self, store: Store, stream: FactStream, inventory: Inventory, capacity: Capacity
    ) -> None:
        self._store = store
        self._stream = stream
        self._inventory = inventory
        self.capacity = capacity
        self._starting: dict[str, VmFact] = {}
        self._usage: Mapping[str, tuple[PoolUsage, PoolUsage]] = {}
        self._pools = {_id(stored.number): stored for stored in store.pools()}

    def pools(self) -> dict[str, Settings]:
        """Return the settings of every pool but the root."""
        return {pool: _settings(stored) for pool, stored in self._pools.items()}

    def name(self, pool: str) -> str:
        """Return a pool's name. Raises NotFoundError."""
        return "Resources" if pool == ROOT_POOL else self._stored(pool).name

    def running(self) -> dict[str, VmFact]:
        """Return the VMs that run or are being started."""
        found = {f.vm: f for f in self._inventory.vms() if f.power is PowerState.POWERED_ON}
        return found | self._starting

    def tree(self, resource: Resource) -> Tree:
        """Return the tree of a resource as it is now."""
        capacity = self.capacity.cpu_mhz if resource == "cpu" else self.capacity.memory
        pools = [
            nodes.Pool(pool, _id(stored.parent), self.allocation(_settings(stored), resource))
            for pool, stored in self._pools.items()
        ]
        vms = [self.claim(fact, resource) for fact in self.running().values()]
        return Tree.of(capacity, pools, vms)

    def claim(self, fact: VmFact, resource: Resource) -> nodes.Vm:
        """Return a VM as the tree counts it."""
        config = fact.config
        pool = fact.pool if fact.pool in self._pools else ROOT_POOL
        if resource == "cpu":
            given = _in_tree(config.cpu_allocation, 1)
            return nodes.Vm(fact.vm, pool, given, config.cpus * self.capacity.core_mhz)
        model = QEMU_KVM if self.capacity.accelerator == "kvm" else QEMU_TCG
        overhead = model.reserve(config.cpus, config.memory_mib)
        given = _in_tree(config.memory_allocation, MIB)
        return nodes.Vm(fact.vm, pool, given, config.memory_mib * MIB, overhead)

    def allocation(self, settings: Settings, resource: Resource) -> nodes.Allocation:
        """Return a pool's settings of a resource as the tree counts them."""
        settings = _resolved(settings)
        given = settings.cpu if resource == "cpu" else settings.memory
        return replace(
            _in_tree(given, 1 if resource == "cpu" else MIB),
            scale_descendants=settings.scale_descendants,
        )

    def resolve_vm(
        self, config: VmConfig, cpu: Allocation, memory: Allocation
    ) -> tuple[Allocation, Allocation]:
        """Put the numbers behind the levels of a VM's shares. Raises ArgumentError."""
        levels = _level(cpu), _level(memory)
        return (
            replace(cpu, shares=cpu_shares(levels[0], cpu.shares, config.cpus)),
            replace(memory, shares=memory_shares(levels[1], memory.shares, config.memory_mib)),
        )

    @contextmanager
    def starting(self, vm: str, config: VmConfig) -> Iterator[None]:
        """Hold what a VM claims while it is being started as ``config`` says.

        Raises:
            AdmissionError: The host or its pool cannot reserve so much; with the numbers.
            ArgumentError: Its allocations contradict themselves.
        """
        fact = replace(self._inventory.vm(vm), config=config)
        claims = {resource: self.claim(fact, resource) for resource in RESOURCES}
        check_vcpus(claims["cpu"], config.cpus, self.capacity.core_mhz)
        for resource, claim in claims.items():
            admit(self.tree(resource), admission.PowerOn(claim), resource)
        self._starting[fact.vm] = fact
        try:
            yield
        finally:
            self._starting.pop(fact.vm, None)

    def create(self, parent: str, name: str, settings: Settings) -> str:
        """Make a pool and return its id. Raises AdmissionError, ArgumentError, NotFoundError."""
        above = 0 if parent == ROOT_POOL else self._stored(parent).number
        self._check_name(above, name, "")
        settings = _resolved(settings)
        self._admit(
            lambda resource: admission.CreatePool(
                nodes.Pool("new", parent, self.allocation(settings, resource))
            )
        )
        number = self._store.add_pool(above, name, _dump(settings))
        self._pools[_id(number)] = StoredPool(number, above, name, _dump(settings))
        return _id(number)

    def update(self, pool: str, name: str | None, settings: Settings) -> None:
        """Change a pool. Raises AdmissionError, ArgumentError, NotFoundError."""
        stored = self._stored(pool)
        if name is not None:
            self._check_name(stored.parent, name, pool)
        settings = _resolved(settings)
        self._admit(
            lambda resource: admission.Reconfigure(pool, self.allocation(settings, resource))
        )
        self._put(replace(stored, name=name or stored.name, settings=_dump(settings)))

    def move(self, pool: str, parent: str) -> None:
        """Move a pool into another. Raises AdmissionError, ArgumentError, NotFoundError."""
        stored = self._stored(pool)
        above = 0 if parent == ROOT_POOL else self._stored(parent).number
        if above == stored.parent:
            return
        self._check_name(above, stored.name, pool)
        self._admit(lambda _: admission.Move(pool, parent))
        self._put(replace(stored, parent=above))

    def remove(self, pool: str) -> None:
        """Remove a pool; what is in it moves to its parent. Raises NotFoundError."""
        stored = self._stored(pool)
        children = [one for one in self._pools.values() if one.parent == stored.number]
        for child in children:
            self._put(replace(child, parent=stored.parent))
        for fact in self._inventory.vms():
            if fact.pool == pool:
                self._place(fact, _id(stored.parent))
        self._store.remove_pool(stored.number)
        del self._pools[pool]
        self._stream.retract(PoolFact, pool)

    def assign(self, vm: str, pool: str) -> None:
        """Move a VM into a pool. Raises AdmissionError, NotFoundError."""
        fact = self._inventory.vm(vm)
        if pool != ROOT_POOL:
            self._stored(pool)
        if vm in self.running() and fact.pool != pool:
            self._admit(lambda _: admission.Move(vm, pool))
        self._place(fact, pool)

    def check_vm(self, fact: VmFact, cpu: Allocation, memory: Allocation) -> None:
        """Refuse allocations of a VM that cannot be. Raises AdmissionError, ArgumentError."""
        changed = replace(
            fact, config=replace(fact.config, cpu_allocation=cpu, memory_allocation=memory)
        )
        claims = {resource: self.claim(changed, resource) for resource in RESOURCES}
        check_vcpus(claims["cpu"], fact.config.cpus, self.capacity.core_mhz)
        if fact.vm in self.running():
            self._admit(
                lambda resource: admission.Reconfigure(fact.vm, claims[resource].allocation)
            )
            return
        for resource, claim in claims.items():
            alone = Tree.of(nodes.MAX_AMOUNT, [], [claim._replace(pool=ROOT_POOL)])
            admit(alone, admission.Reconfigure(fact.vm, claim.allocation), resource)

    def admit_config(self, fact: VmFact, config: VmConfig) -> None:
        """Refuse a configuration whose resources cannot be. Raises as ``check_vm`` does."""
        cpu, memory = self.resolve_vm(config, config.cpu_allocation, config.memory_allocation)
        self.check_vm(replace(fact, config=config), cpu, memory)

    def publish(self, usage: Mapping[str, tuple[PoolUsage, PoolUsage]] | None = None) -> None:
        """Publish every pool with its accounts; ``usage``: what its VMs use of CPU and memory."""
        if usage is not None:
            self._usage = usage
        trees = {resource: self.tree(resource) for resource in RESOURCES}
        figures = {resource: accounts(trees[resource]) for resource in RESOURCES}
        states = [health(trees[resource]).colour for resource in RESOURCES]
        for pool in (ROOT_POOL, *self._pools):
            parts = []
            for resource, measured in zip(
                RESOURCES, self._usage.get(pool, (PoolUsage(), PoolUsage())), strict=True
            ):
                account = figures[resource][pool]
                parts.append(
                    replace(
                        measured,
                        reservation_used=account.used,
                        reservation_used_for_vm=account.used_for_vms,
                        unreserved=account.unreserved,
                        max_usage=min(account.max_usage, trees[resource].capacity),
                    )
                )
            fact = self._fact(pool)
            colour = next((c for c in ("red", "yellow") if c in states), "green")
            self._stream.publish(
                replace(fact, colour=colour, cpu_usage=parts[0], memory_usage=parts[1])
            )

    def _fact(self, pool: str) -> PoolFact:
        if pool == ROOT_POOL:
            mhz, mib = self.capacity.cpu_mhz, self.capacity.memory // MIB
            cpu, memory = (Allocation(n, n, "custom", _ROOT_SHARES) for n in (mhz, mib))
            return PoolFact(ROOT_POOL, "Resources", "", cpu, memory)
        stored = self._pools[pool]
        given = _settings(stored)
        return PoolFact(
            pool,
            stored.name,
            _id(stored.parent),
            given.cpu,
            given.memory,
            given.scale_descendants,
        )

    def _admit(self, change: Callable[[Resource], Change]) -> None:
        for resource in RESOURCES:
            admit(self.tree(resource), change(resource), resource)

    def _check_name(self, parent: int, name: str, own: str) -> None:
        if not 0 < len(name) <= _NAME_LIMIT or not name.isprintable():
            raise ArgumentError(f"not 1 to {_NAME_LIMIT} printable characters", argument="name")
        for pool, stored in self._pools.items():
            if pool != own and (stored.parent, stored.name) == (parent, name):
                raise ArgumentError(
                    f"the name {name!r} already exists here", argument="name", component=pool
                )

    def _stored(self, pool: str) -> StoredPool:
        if pool == ROOT_POOL:
            raise ArgumentError("the root pool is the host: it cannot be changed", argument="pool")
        try:
            return self._pools[pool]
        except KeyError:
            raise NotFoundError(f"there is no pool {pool[:40]!r}", component=pool[:40]) from None

    def _put(self, stored: StoredPool) -> None:
        self._store.put_pool(stored)
        self._pools[_id(stored.number)] = stored

    def _place(self, fact: VmFact, pool: str) -> None:
        self._store.set_pool(int(fact.vm), pool)
        self._inventory.update(replace(fact, pool=pool))


def _id(number: int) -> str:
    return f"{_PREFIX}{number}" if number else ROOT_POOL


def _in_tree(given: Allocation, unit: int) -> nodes.Allocation:
    return nodes.Allocation(
        given.reservation * unit,
        given.limit if given.limit < 0 else given.limit * unit,
        given.shares,
        given.expandable,
    )


def _level(given: Allocation) -> SharesLevel:
    try:
        return SharesLevel(given.shares_level)
    except ValueError:
        raise ArgumentError(
            f"{given.shares_level[:20]!r} is no level of shares", argument="shares.level"
        ) from None


def _resolved(settings: Settings) -> Settings:
    """Put the numbers behind the levels of shares; only custom ones are taken as stated."""
    cpu, memory = settings.cpu, settings.memory
    return replace(
        settings,
        cpu=replace(cpu, shares=cpu_shares(_level(cpu), cpu.shares)),
        memory=replace(memory, shares=memory_shares(_level(memory), memory.shares)),
    )


def _dump(settings: Settings) -> str:
    return json.dumps(asdict(settings))


def _settings(stored: StoredPool) -> Settings:
    try:
        value = json.loads(stored.settings)
        return Settings(
            Allocation(**value["cpu"]),
            Allocation(**value["memory"]),
            value["scale_descendants"] is True,
        )
    except (ValueError, TypeError, KeyError) as error:
        raise CasemateError(
            f"the settings of pool {stored.name!r} cannot be read: {error}", component=stored.name
        ) from error
