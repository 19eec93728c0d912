"""The pool tree for one resource: who competes with whom, and for how much.

A tree is a value: every change makes a new one. It holds one resource, in one unit that the caller
chooses (MHz for CPU, bytes or MiB for memory); a host has one tree for each. The root pool is the
host itself: reservation and limit are its capacity, and it lends nothing from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, NamedTuple

from casemate.errors import ArgumentError, LimitError, NotFoundError

UNLIMITED: Final = -1
ROOT: Final = "ha-root-pool"

MAX_POOLS: Final = 4096
"""Pools of one host; ESXi 6 allows 1600."""
MAX_DEPTH: Final = 8
"""Pools above each other, the root included; as ESXi's own limit."""
MAX_VMS: Final = 16_384
"""VMs of one host; ESXi 8 runs 1024."""
MAX_AMOUNT: Final = 1 << 60
"""Largest reservation, limit, size or share: no machine has more bytes."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """Reservation, limit (``UNLIMITED``: none) and shares of a VM or pool.

    ``expandable`` (pools) lets reservations inside borrow from the parent. ``scale_descendants``
    (pools) makes the pools below weigh as much as the VMs that run in them.
    """

    reservation: int = 0
    limit: int = UNLIMITED
    shares: int = 1000
    expandable: bool = False
    scale_descendants: bool = False


class Vm(NamedTuple):
    """A powered-on VM: where it is, what it was given, and how much it could use at most.

    ``overhead`` is what the host needs beside the guest; it is reserved together with
    ``allocation.reservation`` and comes on top of ``size`` (memory; 0 for CPU).
    """

    id: str
    pool: str
    allocation: Allocation
    size: int
    overhead: int = 0


class Pool(NamedTuple):
    """A resource pool below another."""

    id: str
    parent: str
    allocation: Allocation


class Layout(NamedTuple):
    """The tree as columns: nodes are numbered, pools first, every parent before its children.

    ``children`` has one tuple per pool, ordered by id, so that ties never depend on the order of
    creation. ``limit`` is the largest useful amount: ``MAX_AMOUNT`` where there is none.
    """

    ids: list[str]
    numbers: dict[str, int]
    parent: list[int]
    children: list[tuple[int, ...]]
    reservation: list[int]
    limit: list[int]
    size: list[int]
    shares: list[int]
    expandable: list[bool]

    @property
    def pools(self) -> int:
        """How many of the nodes are pools; they come first."""
        return len(self.children)


@dataclass(frozen=True)
class Tree:
    """Capacity, pools and powered-on VMs of one resource.

    ``scale_descendants`` is the root pool's own setting.

    Raises:
        ArgumentError: a value out of range, an unknown parent, or pools in a circle.
        LimitError: more pools, levels or VMs than a host may have.
    """

    capacity: int
    pools: Mapping[str, Pool]
    vms: Mapping[str, Vm]
    scale_descendants: bool = False

    @classmethod
    def of(
        cls,
        capacity: int,
        pools: Iterable[Pool] = (),
        vms: Iterable[Vm] = (),
        *,
        scale_descendants: bool = False,
    ) -> Tree:
        """Make a tree of pools and VMs in any order."""
        named = {p.id: p for p in pools}, {v.id: v for v in vms}
        return cls(capacity, *named, scale_descendants=scale_descendants)

    def __post_init__(self) -> None:
        """Refuse what is no tree."""
        _check_amount(self.capacity, "capacity", ROOT)
        if len(self.pools) > MAX_POOLS or len(self.vms) > MAX_VMS:
            raise LimitError(
                f"{len(self.pools)} pools and {len(self.vms)} VMs; "
                f"a host has at most {MAX_POOLS} and {MAX_VMS}."
            )
        if ROOT in self.pools or not self.pools.keys().isdisjoint(self.vms):
            raise ArgumentError("Two nodes of the tree have one id.", argument="id")
        for pool in self.pools.values():
            if pool.parent != ROOT and pool.parent not in self.pools:
                raise NotFoundError(f"There is no pool {pool.parent!r}.", component=pool.id)
            check_allocation(pool.id, pool.allocation)
        for vm in self.vms.values():
            if vm.pool != ROOT and vm.pool not in self.pools:
                raise NotFoundError(f"There is no pool {vm.pool!r}.", component=vm.id)
            check_allocation(vm.id, vm.allocation)
            _check_amount(vm.size, "size", vm.id)
            _check_amount(vm.overhead, "overhead", vm.id)
        self._check_depth()

    def _check_depth(self) -> None:
        depth = {ROOT: 1}
        for start in self.pools:
            path = []
            at = start
            while at not in depth:
                path.append(at)
                if len(path) > MAX_DEPTH:
                    raise LimitError(
                        f"Pool {start!r} is more than {MAX_DEPTH} levels deep, or its own ancestor."
                    )
                at = self.pools[at].parent
            below = depth[at]
            for number, pool in enumerate(reversed(path), 1):
                depth[pool] = below + number
            if path and below + len(path) > MAX_DEPTH:
                raise LimitError(f"Pool {start!r} is more than {MAX_DEPTH} levels deep.")

    @property
    def _root(self) -> Allocation:
        scale = self.scale_descendants
        return Allocation(self.capacity, self.capacity, 0, scale_descendants=scale)

    def allocation(self, node: str) -> Allocation:
        """Return the allocation of a pool or VM; the root's is the host's capacity."""
        if node == ROOT:
            return self._root
        if node in self.pools:
            return self.pools[node].allocation
        if node in self.vms:
            return self.vms[node].allocation
        raise NotFoundError(f"There is no pool or VM {node!r} in the tree.", component=node)

    def parent(self, node: str) -> str:
        """Return the pool that a pool or VM is in."""
        if node in self.pools:
            return self.pools[node].parent
        if node in self.vms:
            return self.vms[node].pool
        raise NotFoundError(f"There is no pool or VM {node!r} in the tree.", component=node)

    def path(self, node: str) -> tuple[str, ...]:
        """Return the pools from the root down to a node, and the node itself."""
        steps = [node]
        while steps[-1] != ROOT:
            steps.append(self.parent(steps[-1]))
        return tuple(reversed(steps))

    def with_capacity(self, capacity: int) -> Tree:
        """Return the tree on a host of another size."""
        return replace(self, capacity=capacity)

    def with_vm(self, vm: Vm) -> Tree:
        """Return the tree with a VM added or replaced."""
        return replace(self, vms={**self.vms, vm.id: vm})

    def without_vm(self, vm: str) -> Tree:
        """Return the tree without a VM."""
        self.parent(vm)
        return replace(self, vms={key: v for key, v in self.vms.items() if key != vm})

    def with_pool(self, pool: Pool) -> Tree:
        """Return the tree with a pool added or replaced."""
        return replace(self, pools={**self.pools, pool.id: pool})

    def without_pool(self, pool: str) -> Tree:
        """Return the tree without a pool; what was in it moves to its parent."""
        up = self.parent(pool)
        return replace(
            self,
            pools={
                key: p._replace(parent=up) if p.parent == pool else p
                for key, p in self.pools.items()
                if key != pool
            },
            vms={key: v._replace(pool=up) if v.pool == pool else v for key, v in self.vms.items()},
        )

    @cached_property
    def layout(self) -> Layout:
        """The tree as columns, made once."""
        return _laid_out(self)


def check_allocation(node: str, allocation: Allocation) -> None:
    """Check one allocation by itself.

    Raises:
        ArgumentError: negative or absurd numbers.
    """
    _check_amount(allocation.reservation, "reservation", node)
    _check_amount(allocation.shares, "shares", node)
    if allocation.limit != UNLIMITED:
        _check_amount(allocation.limit, "limit", node)


def _check_amount(value: int, name: str, node: str) -> None:
    if not 0 <= value <= MAX_AMOUNT:
        raise ArgumentError(f"{value} cannot be the {name}.", argument=name, component=node)


def _laid_out(tree: Tree) -> Layout:
    members: dict[str, list[str]] = {ROOT: []}
    members.update((pool, []) for pool in tree.pools)
    for pool in tree.pools.values():
        members[pool.parent].append(pool.id)
    ids = [ROOT]
    for at in ids:
        ids.extend(members[at])
    pools = len(ids)
    for vm in tree.vms.values():
        members[vm.pool].append(vm.id)
    ids.extend(tree.vms)
    numbers = {node: number for number, node in enumerate(ids)}
    children = [tuple([numbers[c] for c in sorted(members[pool])]) for pool in ids[:pools]]
    parent = [0] * len(ids)
    for number, group in enumerate(children):
        for child in group:
            parent[child] = number
    given = [tree.allocation(ROOT)]
    given += [tree.pools[pool].allocation for pool in ids[1:pools]]
    given += [vm.allocation for vm in tree.vms.values()]
    extra = [0] * pools + [vm.overhead for vm in tree.vms.values()]
    return Layout(
        ids=ids,
        numbers=numbers,
        parent=parent,
        children=children,
        reservation=[a.reservation + e for a, e in zip(given, extra, strict=True)],
        limit=[
            MAX_AMOUNT if a.limit == UNLIMITED else a.limit + e
            for a, e in zip(given, extra, strict=True)
        ],
        size=[0] * pools + [vm.size + vm.overhead for vm in tree.vms.values()],
        shares=[a.shares for a in given],
        expandable=[a.expandable for a in given],
    )
