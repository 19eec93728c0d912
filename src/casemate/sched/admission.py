"""May this change be made? Every change keeps all reservations covered, or is refused with numbers.

A change is a value. ``apply`` makes it, ``admit`` makes it only if the rules of vSphere allow it:

- A VM may start, or raise its reservation, within what its pool can still reserve.
- An expandable pool borrows from its parent, and so on upwards, until a fixed pool or a limit.
- A pool's reservation is taken from its parent when it is made, even if nothing runs in it.
- While the host has lost capacity (yellow), pools may be changed as long as the tree stays
  consistent in itself; VMs are still bounded by the real capacity.

What lowers claims (power-off, removal) is always admitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, assert_never

from casemate.errors import AdmissionError, ArgumentError, NotFoundError
from casemate.sched.ledger import accounts
from casemate.sched.tree import (
    MAX_AMOUNT,
    ROOT,
    UNLIMITED,
    Allocation,
    Pool,
    Tree,
    Vm,
    check_allocation,
)

Resource = Literal["cpu", "memory"]

FAULTS: Final = {
    "cpu": "InsufficientCpuResourcesFault",
    "memory": "InsufficientMemoryResourcesFault",
    "host-cpu": "InsufficientHostCpuCapacityFault",
    "host-memory": "InsufficientHostMemoryCapacityFault",
    "per-cpu": "InsufficientPerCpuCapacity",
}
"""The vSphere fault for each ``resource`` of an ``AdmissionError`` raised here."""


@dataclass(frozen=True, slots=True)
class PowerOn:
    """A VM starts; its reservation and overhead are taken."""

    vm: Vm


@dataclass(frozen=True, slots=True)
class PowerOff:
    """A VM stops."""

    vm: str


@dataclass(frozen=True, slots=True)
class CreatePool:
    """A pool is made."""

    pool: Pool


@dataclass(frozen=True, slots=True)
class RemovePool:
    """A pool is destroyed; what is in it moves to its parent."""

    pool: str


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """A pool or a running VM gets another allocation."""

    node: str
    allocation: Allocation


@dataclass(frozen=True, slots=True)
class Move:
    """A pool, with all in it, or a running VM moves into another pool."""

    node: str
    pool: str


@dataclass(frozen=True, slots=True)
class Resize:
    """The host's capacity becomes another: always admitted, it has happened."""

    capacity: int


Change = PowerOn | PowerOff | CreatePool | RemovePool | Reconfigure | Move | Resize


def apply(tree: Tree, change: Change) -> Tree:
    """Return the tree after a change, whether it is allowed or not.

    Raises:
        NotFoundError: the change is about something that is not there.
        ArgumentError: a value that cannot be.
    """
    match change:
        case PowerOn(vm):
            after = tree.with_vm(vm)
        case PowerOff(vm_id):
            after = tree.without_vm(vm_id)
        case CreatePool(pool):
            after = tree.with_pool(pool)
        case RemovePool(pool_id):
            after = tree.without_pool(_not_root(pool_id))
        case Reconfigure(node, allocation):
            after = _with_allocation(tree, _not_root(node), allocation)
        case Move(node, into):
            after = _moved(tree, _not_root(node), into)
        case Resize(capacity):
            after = tree.with_capacity(capacity)
        case _:
            assert_never(change)
    return after


def admit(tree: Tree, change: Change, resource: Resource) -> Tree:
    """Return the tree after a change that the rules allow.

    Raises:
        AdmissionError: something would be reserved that is not there; carries what was requested
            and what is available, and names the pool that stopped it.
        ArgumentError: an allocation that contradicts itself or what runs in the pool.
        NotFoundError: the change is about something that is not there.
    """
    after = apply(tree, change)
    match change:
        case PowerOn(vm):
            _check_new(tree, vm.id)
            _check_consistent(vm.id, vm.allocation)
            _check_size(vm, vm.allocation)
            _grow_vm(tree, vm.pool, vm.allocation.reservation + vm.overhead, vm.id, resource)
        case CreatePool(pool):
            _check_new(tree, pool.id)
            _check_consistent(pool.id, pool.allocation)
            _grow_pool(tree, pool.parent, pool.allocation.reservation, pool.id, resource)
        case Reconfigure(node, allocation):
            _check_consistent(node, allocation)
            if node in tree.vms:
                vm = tree.vms[node]
                _check_size(vm, allocation)
                more = allocation.reservation - vm.allocation.reservation
                _grow_vm(tree, vm.pool, more, node, resource)
            else:
                _reconfigure_pool(tree, node, allocation, resource)
        case Move(node, into):
            _move(tree, node, into, resource)
        case PowerOff() | RemovePool() | Resize():
            pass
    return after


def check_vcpus(vm: Vm, vcpus: int, core_mhz: int) -> None:
    """Refuse a CPU reservation that would need more than a core for one vCPU.

    Raises:
        AdmissionError: for the resource ``per-cpu``, in MHz per vCPU.
    """
    each = -(-vm.allocation.reservation // max(1, vcpus))
    if each > core_mhz:
        raise AdmissionError(
            f"{vm.id} reserves {each} MHz per vCPU; a core of this host has {core_mhz}.",
            resource="per-cpu",
            requested=each,
            available=core_mhz,
            component=vm.id,
        )


def _with_allocation(tree: Tree, node: str, allocation: Allocation) -> Tree:
    tree.parent(node)
    if node in tree.vms:
        return tree.with_vm(tree.vms[node]._replace(allocation=allocation))
    return tree.with_pool(tree.pools[node]._replace(allocation=allocation))


def _moved(tree: Tree, node: str, into: str) -> Tree:
    tree.parent(node)
    if into != ROOT and into not in tree.pools:
        raise NotFoundError(f"There is no pool {into!r}.", component=node)
    if node in tree.vms:
        return tree.with_vm(tree.vms[node]._replace(pool=into))
    if node in tree.path(into):
        raise ArgumentError(
            f"Pool {node!r} cannot move into itself.", argument="pool", component=node
        )
    return tree.with_pool(tree.pools[node]._replace(parent=into))


def _not_root(node: str) -> str:
    if node == ROOT:
        raise ArgumentError("The root pool is the host: it cannot be changed.", argument="pool")
    return node


def _check_new(tree: Tree, node: str) -> None:
    if node in tree.vms or node in tree.pools:
        raise ArgumentError(f"{node!r} is in the tree already.", argument="id", component=node)


def _check_consistent(node: str, allocation: Allocation) -> None:
    check_allocation(node, allocation)
    if allocation.limit != UNLIMITED and allocation.reservation > allocation.limit:
        raise ArgumentError(
            f"The reservation {allocation.reservation} is above the limit {allocation.limit}.",
            argument="limit",
            component=node,
        )


def _check_size(vm: Vm, allocation: Allocation) -> None:
    if allocation.reservation > vm.size:
        raise ArgumentError(
            f"The reservation {allocation.reservation} is above the size {vm.size}.",
            argument="reservation",
            component=vm.id,
        )


def _grow(tree: Tree, pool: str, amount: int, asker: str, resource: Resource) -> None:
    """Check that a pool can reserve so much more."""
    if amount <= 0:
        return
    available = accounts(tree)[pool].unreserved
    if amount <= available:
        return
    stop = _stopped_by(tree, pool, amount)
    where = "the host" if stop == ROOT else f"pool {stop!r}"
    place = "the root" if pool == ROOT else f"pool {pool!r}"
    unit = "MHz of CPU" if resource == "cpu" else "bytes of memory"
    raise AdmissionError(
        f"{asker} asks for {amount} {unit}; {available} can still be reserved in "
        f"{place}, bounded by {where}.",
        resource=f"host-{resource}" if stop == ROOT else resource,
        requested=amount,
        available=available,
        component=asker,
    )


def _grow_vm(tree: Tree, pool: str, amount: int, asker: str, resource: Resource) -> None:
    """Check that a VM may take so much more; where capacity was lost, pools promise too much."""
    _grow(tree, pool, amount, asker, resource)
    real = sum(vm.allocation.reservation + vm.overhead for vm in tree.vms.values())
    if amount > 0 and real + amount > tree.capacity:
        available = max(0, tree.capacity - real)
        raise AdmissionError(
            f"{asker} asks for {amount} of {resource}; {available} of the host's {tree.capacity} "
            "is not held by running VMs.",
            resource=f"host-{resource}",
            requested=amount,
            available=available,
            component=asker,
        )


def _grow_pool(tree: Tree, parent: str, amount: int, asker: str, resource: Resource) -> None:
    """Check that a pool's claim on its parent may grow; capacity the host lost does not count."""
    if accounts(tree)[ROOT].used > tree.capacity:
        tree = tree.with_capacity(MAX_AMOUNT)
    _grow(tree, parent, amount, asker, resource)


def _stopped_by(tree: Tree, pool: str, amount: int) -> str:
    """Return the first pool on the way up that cannot give what is still missing."""
    figures = accounts(tree)
    at = pool
    missing = amount
    while at != ROOT:
        account = figures[at]
        given = tree.pools[at].allocation
        if given.limit != UNLIMITED and account.used + missing > given.limit:
            return at
        missing -= min(missing, account.own_unreserved)
        if missing and not given.expandable:
            return at
        at = tree.pools[at].parent
    return ROOT


def _reconfigure_pool(tree: Tree, pool: str, wanted: Allocation, resource: Resource) -> None:
    account = accounts(tree)[pool]
    if not wanted.expandable and account.used > wanted.reservation:
        raise AdmissionError(
            f"{account.used} is reserved in pool {pool!r}; a fixed reservation of "
            f"{wanted.reservation} does not hold that.",
            resource=resource,
            requested=account.used,
            available=wanted.reservation,
            component=pool,
        )
    if wanted.limit != UNLIMITED and account.used > wanted.limit:
        raise AdmissionError(
            f"{account.used} is reserved in pool {pool!r}, above the limit {wanted.limit}.",
            resource=resource,
            requested=account.used,
            available=wanted.limit,
            component=pool,
        )
    more = max(wanted.reservation, account.used) - account.claim
    _grow_pool(tree, tree.pools[pool].parent, more, pool, resource)


def _move(tree: Tree, node: str, into: str, resource: Resource) -> None:
    """Check the destination as if what moves were not in the tree."""
    if node in tree.vms:
        vm = tree.vms[node]
        without = tree.without_vm(node)
        _grow_vm(without, into, vm.allocation.reservation + vm.overhead, node, resource)
        return
    claim = accounts(tree)[node].claim
    kept = tree.pools[node].allocation
    empty = Pool(node, tree.parent(node), Allocation(shares=kept.shares))
    gone = {vm.id for vm in tree.vms.values() if node in tree.path(vm.id)}
    inner = {p for p in tree.pools if p != node and node in tree.path(p)}
    without = Tree(
        tree.capacity,
        {key: p for key, p in {**tree.pools, node: empty}.items() if key not in inner},
        {key: v for key, v in tree.vms.items() if key not in gone},
    )
    _grow_pool(without, into, claim, node, resource)
