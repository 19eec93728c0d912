"""Which objects and properties a PropertyFilterSpec selects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from casemate.errors import LimitError
from casemate.hostd.reader import Reader
from casemate.hostd.wellknown import SERVICE, SESSION_MANAGER
from casemate.vim25 import faults, paths, types
from casemate.vim25.faults import FaultError
from casemate.vim25.shapes import Kind
from casemate.vim25.values import MoRef, Obj, Value

STEP_LIMIT = 200_000
"""Steps of one retrieval, taken and to be taken: a whole inventory of 10,000 VMs needs 60,000."""

PATHS_LIMIT = 1000
"""Paths of one specification: a VM has some 50 properties, and what is told of each is kept."""

Selection = dict[MoRef, tuple[str, ...]]
"""Selected objects in the order in which they were found, and the paths to report of each."""


@dataclass(frozen=True, slots=True)
class _Traversal:
    """A checked TraversalSpec."""

    type: str
    skip: bool
    path: str


def objs(value: Value) -> tuple[Obj, ...]:
    """Return the data objects of an array argument."""
    if value is None or isinstance(value, str | bytes) or not isinstance(value, Sequence):
        return ()
    return tuple(item for item in value if isinstance(item, Obj))


def refs(value: Value) -> tuple[MoRef, ...]:
    """Return the references of a property's value: one, many, or none."""
    if isinstance(value, MoRef):
        return (value,)
    if value is None or isinstance(value, str | bytes) or not isinstance(value, Sequence):
        return ()
    return tuple(item for item in value if isinstance(item, MoRef))


def texts(value: Value) -> tuple[str, ...]:
    """Return the strings of an array argument."""
    if value is None or isinstance(value, str | bytes) or not isinstance(value, Sequence):
        return ()
    return tuple(item for item in value if isinstance(item, str))


def text(value: Value) -> str:
    """Return a string argument; unset: empty."""
    return value if isinstance(value, str) else ""


class Selector:
    """A checked PropertyFilterSpec. Raises FaultError when it makes no sense."""

    def __init__(self, spec: Obj) -> None:
        self._properties = objs(spec.get("propSet"))
        self._objects = objs(spec.get("objectSet"))
        self._report_missing = spec.get("reportMissingObjectsInResults") is True
        self._named: dict[str, Obj] = {}
        self._traversals: dict[int, _Traversal] = {}
        self._per_type: dict[str, tuple[str, ...] | None] = {}
        self._below: dict[int, tuple[Obj, ...]] = {}
        self.steps = 0
        """Steps of the last selection."""
        self.walked: frozenset[MoRef] = frozenset()
        """The objects that decided on the last selection: by what they hold, or as missing."""
        if sum(len(texts(item.get("pathSet"))) for item in self._properties) > PATHS_LIMIT:
            raise LimitError(f"more than {PATHS_LIMIT} paths in one specification")
        for number, item in enumerate(self._properties):
            self._check_properties(item, number)
        for item in self._objects:
            self._check_selections(objs(item.get("selectSet")))
        for item in self._objects:
            self._check_names(objs(item.get("selectSet")))

    def _check_properties(self, item: Obj, number: int) -> None:
        name = text(item.get("type"))
        if types.kind_of(name) is not Kind.MOREF:
            raise faults.invalid_argument(
                f"specSet.propSet[{number}].type", f"There is no managed object type {name:.80}."
            )
        for path in texts(item.get("pathSet")):
            paths.check(name, path)

    def _check_selections(self, items: Iterable[Obj]) -> None:
        for item in items:
            if item.type != "TraversalSpec":
                continue
            if name := text(item.get("name")):
                self._named[name] = item
            kind, path = text(item.get("type")), text(item.get("path"))
            if types.kind_of(kind) is not Kind.MOREF:
                raise faults.invalid_argument(
                    "specSet.objectSet.selectSet.type",
                    f"There is no managed object type {kind:.80}.",
                )
            paths.check(kind, path)
            self._traversals[id(item)] = _Traversal(kind, item.get("skip") is True, path)
            self._check_selections(objs(item.get("selectSet")))

    def _check_names(self, items: Iterable[Obj]) -> None:
        for item in items:
            if item.type == "TraversalSpec":
                self._check_names(objs(item.get("selectSet")))
            elif text(item.get("name")) not in self._named:
                raise faults.invalid_argument(
                    "specSet.objectSet.selectSet.name",
                    f"No selection has the name {text(item.get('name')):.80}.",
                )

    def select(self, reader: Reader, *, gone: bool = False, steps: int = STEP_LIMIT) -> Selection:
        """Return what is selected now; ``gone``: objects that are named may have ended.

        Raises FaultError (ManagedObjectNotFound), LimitError.
        """
        found: Selection = {}
        walked: set[tuple[MoRef, int]] = set()
        self.walked = frozenset[MoRef]()
        self.steps = 0
        for item in self._objects:
            self._spend(1, steps)
            ref = item.get("obj")
            if not isinstance(ref, MoRef):
                continue
            if reader.session is None and ref not in {SERVICE, SESSION_MANAGER}:
                raise faults.not_authenticated(ref, "System.View")
            if not reader.exists(ref):
                self.walked |= {ref}
                if gone or self._report_missing:
                    continue
                raise faults.not_found(ref)
            if item.get("skip") is not True:
                self._take(ref, reader, found)
            self._walk(ref, item, reader, found, walked, steps)
        self.walked |= {ref for ref, _ in walked}
        return found

    def _take(self, ref: MoRef, reader: Reader, found: Selection) -> None:
        if ref.type not in self._per_type:
            self._per_type[ref.type] = self._paths(ref.type, reader)
        if (wanted := self._per_type[ref.type]) is not None:
            found.setdefault(ref, wanted)

    def _paths(self, type_name: str, reader: Reader) -> tuple[str, ...] | None:
        wanted: dict[str, None] = {}
        matching = False
        for item in self._properties:
            if not types.is_subtype(type_name, text(item.get("type"))):
                continue
            matching = True
            if item.get("all") is True:
                wanted.update(dict.fromkeys(reader.property_names(type_name)))
            wanted.update(dict.fromkeys(texts(item.get("pathSet"))))
        return tuple(wanted) if matching else None

    def _spend(self, count: int, limit: int) -> None:
        self.steps += count
        if self.steps > limit:
            raise LimitError(f"a selection of more than {STEP_LIMIT} steps")

    def _next(self, item: Obj) -> tuple[Obj, ...]:
        """Return the traversals that follow, each once, the last first."""
        if id(item) not in self._below:
            every = [
                one if one.type == "TraversalSpec" else self._named[text(one.get("name"))]
                for one in objs(item.get("selectSet"))
            ]
            self._below[id(item)] = tuple({id(one): one for one in every}.values())[::-1]
        return self._below[id(item)]

    def _walk(
        self,
        start: MoRef,
        item: Obj,
        reader: Reader,
        found: Selection,
        walked: set[tuple[MoRef, int]],
        steps: int,
    ) -> None:
        below = self._next(item)
        self._spend(len(below), steps)
        pending = [(start, one) for one in below]
        while pending:
            ref, one = pending.pop()
            if (ref, id(one)) in walked:
                continue
            walked.add((ref, id(one)))
            traversal = self._traversals[id(one)]
            targets = _targets(ref, traversal, reader)
            if not traversal.skip:
                for target in targets:
                    self._take(target, reader, found)
            below = self._next(one)
            self._spend(len(targets) * len(below), steps)
            pending.extend((target, following) for target in targets for following in below)


def _targets(ref: MoRef, traversal: _Traversal, reader: Reader) -> list[MoRef]:
    if not types.is_subtype(ref.type, traversal.type):
        return []
    try:
        value, _ = reader.resolve(ref, traversal.path)
    except FaultError:
        # What may not be read leads nowhere.
        return []
    return reader.present(refs(value))
