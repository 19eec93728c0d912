"""Who may do what where: roles, permissions, and how they are inherited along the inventory.

A permission gives one principal one role on one entity, and on what is below when it propagates.
The permission that stands nearest decides: one on the entity itself replaces all inherited ones. A
VM has two lines of ancestors (its folder and its pool); it inherits along both, and has what
either gives. Kernel and hostd decide by the same object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from casemate.policy.privileges import ANONYMOUS, ROLES, VIEW, Role

Entity = tuple[str, str]
"""Type and id of a managed entity."""

ROOT: Entity = ("Folder", "ha-folder-root")
_DATACENTER: Entity = ("Datacenter", "ha-datacenter")
_VM_FOLDER: Entity = ("Folder", "ha-folder-vm")
_HOST_FOLDER: Entity = ("Folder", "ha-folder-host")
_DATASTORE_FOLDER: Entity = ("Folder", "ha-folder-datastore")
_NETWORK_FOLDER: Entity = ("Folder", "ha-folder-network")
_COMPUTE: Entity = ("ComputeResource", "ha-compute-res")

_FIXED: Mapping[Entity, Entity] = {
    _DATACENTER: ROOT,
    _VM_FOLDER: _DATACENTER,
    _HOST_FOLDER: _DATACENTER,
    _DATASTORE_FOLDER: _DATACENTER,
    _NETWORK_FOLDER: _DATACENTER,
    _COMPUTE: _HOST_FOLDER,
    ("HostSystem", "ha-host"): _COMPUTE,
}
_HOMES: Mapping[str, Entity] = {
    "VirtualMachine": _VM_FOLDER,
    "Datastore": _DATASTORE_FOLDER,
    "Network": _NETWORK_FOLDER,
}
_DEEPEST = 64
"""Steps to the root: pools nest at most 8 deep below a fixed tree of 5."""

PoolOf = Callable[[str, str], str | None]
"""The pool of a VM, or the parent of a pool; None: there is none."""

Lineages = Sequence[Sequence[Entity]]


@dataclass(frozen=True, slots=True)
class Permission:
    """One principal, one role, one entity."""

    entity: Entity
    principal: str
    role: int
    propagate: bool


def lineages(entity: Entity, pool_of: PoolOf) -> Lineages:
    """Return the lines of ancestors, each from the entity to the root; strangers have the root."""
    kind, key = entity
    if kind == "VirtualMachine":
        folder = (entity, *_line(_VM_FOLDER, pool_of))
        pool = pool_of(kind, key)
        return (folder, (entity, *_line(("ResourcePool", pool), pool_of))) if pool else (folder,)
    return (tuple(_line(entity, pool_of)),)


def _line(entity: Entity, pool_of: PoolOf) -> Iterator[Entity]:
    step = entity
    for _ in range(_DEEPEST):
        yield step
        if step == ROOT:
            return
        if step[0] == "ResourcePool":
            above = pool_of(*step)
            step = ("ResourcePool", above) if above else _COMPUTE
        else:
            step = _FIXED.get(step) or _HOMES.get(step[0], ROOT)


class Rights:
    """All roles and permissions. ``pool_of`` answers where VMs and pools stand."""

    def __init__(self, pool_of: PoolOf) -> None:
        self.roles: dict[int, Role] = {role.number: role for role in ROLES}
        self._pool_of = pool_of
        self._held: dict[str, dict[Entity, Permission]] = {}

    def put_role(self, role: Role) -> None:
        """Add or replace a role."""
        self.roles[role.number] = role

    def drop_role(self, number: int) -> None:
        """Forget a role; what was given through it is gone."""
        self.roles.pop(number, None)

    def put(self, permission: Permission) -> None:
        """Add or replace the permission of a principal on an entity."""
        self._held.setdefault(permission.principal, {})[permission.entity] = permission

    def drop(self, entity: Entity, principal: str) -> None:
        """Take a permission away."""
        held = self._held.get(principal, {})
        held.pop(entity, None)
        if not held:
            self._held.pop(principal, None)

    def all(self) -> tuple[Permission, ...]:
        """Return all permissions."""
        return tuple(chain.from_iterable(held.values() for held in self._held.values()))

    def on(self, entity: Entity, *, inherited: bool) -> tuple[Permission, ...]:
        """Return the permissions on an entity, with those that reach it from above."""
        places: dict[Entity, bool] = {}
        for line in lineages(entity, self._pool_of) if inherited else ((entity,),):
            places.update((place, place != entity) for place in line)
        return tuple(
            one
            for one in self.all()
            if one.entity in places and (one.propagate or not places[one.entity])
        )

    def uniform(self, principal: str) -> bool:
        """Tell whether the principal has the same rights on all entities."""
        held = self._held.get(principal, {})
        return not held or (len(held) == 1 and ROOT in held and held[ROOT].propagate)

    def roles_on(self, principal: str, entity: Entity) -> tuple[Role, ...]:
        """Return the roles that decide what the principal may do there."""
        held = self._held.get(principal)
        if not held:
            return ()
        if self.uniform(principal):
            found = {held[ROOT].role}
        else:
            found = {
                number
                for line in lineages(entity, self._pool_of)
                if (number := _nearest(held, line)) is not None
            }
        return tuple(self.roles[number] for number in sorted(found) if number in self.roles)

    def gives(self, principal: str, entity: Entity, privilege: str) -> bool:
        """Tell whether the principal has the privilege on the entity.

        Whoever holds any permission may see that the inventory exists: there is no way to an
        entity but through its ancestors. A VM is nobody's ancestor: it shows itself by its roles.
        """
        known = privilege == ANONYMOUS or (privilege == VIEW and entity[0] != "VirtualMachine")
        if known and principal in self._held:
            return True
        return any(role.gives(privilege) for role in self.roles_on(principal, entity))

    def reach(self, principal: str) -> tuple[tuple[Entity, Permission], ...]:
        """Return everything that was given to a principal."""
        return tuple(self._held.get(principal, {}).items())


def _nearest(held: Mapping[Entity, Permission], line: Sequence[Entity]) -> int | None:
    for distance, place in enumerate(line):
        found = held.get(place)
        if found is not None and (found.propagate or distance == 0):
            return found.role
    return None
