"""ContainerView and ListView: sets of objects for clients to walk."""

from __future__ import annotations

from collections.abc import Mapping

from casemate.hostd.reader import Reader
from casemate.hostd.wellknown import HOST
from casemate.hostd.world import World
from casemate.vim25 import types
from casemate.vim25.values import MoRef, Value

LIST_LIMIT = 10_000
"""References in one list view."""


class ContainerView:
    """All entities below a container, of given types."""

    def __init__(
        self,
        ref: MoRef,
        world: World,
        container: MoRef,
        wanted: tuple[str, ...],
        *,
        recursive: bool,
    ) -> None:
        self.ref = ref
        self._world = world
        self._container = container
        self._wanted = wanted
        self._recursive = recursive
        self._seen = -1
        self._view: tuple[MoRef, ...] = ()

    def properties(self) -> Mapping[str, Value]:
        """See ``Own``."""
        return {
            "container": self._container,
            "type": self._wanted,
            "recursive": self._recursive,
            "view": self.view(),
        }

    def close(self) -> None:
        """See ``Own``."""

    def view(self) -> tuple[MoRef, ...]:
        """Return the entities that are in the view now."""
        if not self._world.ready:
            return ()
        if self._seen != self._world.structure:
            self._seen = self._world.structure
            self._view = self._look()
        return self._view

    def _look(self) -> tuple[MoRef, ...]:
        return tuple(
            ref
            for ref in self._world.inventory()
            if self._inside(ref)
            and (not self._wanted or any(types.is_subtype(ref.type, w) for w in self._wanted))
        )

    def _inside(self, ref: MoRef) -> bool:
        left, above = self._around(ref), set[MoRef]()
        while left and self._container not in above:
            above.update(left)
            left = [more for one in left for more in self._around(one)] if self._recursive else []
        return self._container in above

    def _around(self, ref: MoRef) -> list[MoRef]:
        """Return what an entity is in: a VM in its pool and on the host, beside its folder."""
        parent = self._world.parent(ref)
        found = [parent] if parent is not None else []
        if ref.type == "VirtualMachine" and (vm := self._world.vms.get(ref.value)):
            found += [MoRef("ResourcePool", vm.pool), HOST]
        return found


class ListView:
    """A list of references that the client chose."""

    def __init__(self, ref: MoRef, members: tuple[MoRef, ...]) -> None:
        self.ref = ref
        self.members = dict.fromkeys(members)

    def properties(self) -> Mapping[str, Value]:
        """See ``Own``."""
        return {"view": tuple(self.members)}

    def close(self) -> None:
        """See ``Own``."""

    def change(
        self, add: tuple[MoRef, ...], remove: tuple[MoRef, ...], reader: Reader
    ) -> tuple[MoRef, ...]:
        """Add and remove references; returns those that do not exist."""
        unknown = dict.fromkeys(ref for ref in add if not reader.exists(ref))
        for ref in add[:LIST_LIMIT]:
            if ref not in unknown:
                self.members[ref] = None
        for ref in remove:
            self.members.pop(ref, None)
        return tuple(unknown)
