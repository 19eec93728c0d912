"""Which objects and properties a PropertyFilterSpec selects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from casemate.errors import LimitError
from casemate.hostd.reader import Reader
from casemate.hostd.wellknown import (
    SERVICE,
    SESSION_MANAGER,
)
from casemate.vim25 import faults, paths, types
from casemate.vim25.faults import FaultError
from casemate.vim25.shapes import Kind
from casemate.vim25.values import MoRef, Obj, Value

STEP_LIMIT = 200_000
"""Steps of one traversal: a whole inventory of 10,000 VMs needs about 60,000."""

Selection = dict[MoRef, tuple[str, ...]]
"""Selected objects in the order in which they were found, and the paths to report of each."""


@dataclass(frozen=True, slots=True)
class _Traversal:
    """A checked TraversalSpec."""

    type: str
    steps: tuple[paths.Step, ...]
    skip: bool
    select: tuple[Obj, ...]
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
        self.walked: frozenset[MoRef] = frozenset()
        """The objects that decided on the last selection: by what they hold, or as missing."""
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
            steps = paths.check(kind, path)
            select = objs(item.get("selectSet"))
            self._traversals[id(item)] = _Traversal(
                kind, steps, item.get("skip") is True, select, path
            )
            self._check_selections(select)

    def _check_names(self, items: Iterable[Obj]) -> None:
        for item in items:
            if item.type == "TraversalSpec":
                self._check_names(objs(item.get("selectSet")))
            elif text(item.get("name")) not in self._named:
                raise faults.invalid_argument(
                    "specSet.objectSet.selectSet.name",
                    f"No selection has the name {text(item.get('name')):.80}.",
                )

    def select(self, reader: Reader, *, gone: bool = False) -> Selection:
        """Return what is selected now; ``gone``: objects that are named may have ended.

        Raises FaultError (ManagedObjectNotFound), LimitError.
        """
        found: Selection = {}
        walked: set[tuple[MoRef, int]] = set()
        self.walked = frozenset[MoRef]()
        for item in self._objects:
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
            self._walk(ref, objs(item.get("selectSet")), reader, found, walked)
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

    def _walk(
        self,
        start: MoRef,
        select: Sequence[Obj],
        reader: Reader,
        found: Selection,
        walked: set[tuple[MoRef, int]],
    ) -> None:
        pending = [(start, item) for item in reversed(select)]
        while pending:
            ref, item = pending.pop()
            resolved = item if item.type == "TraversalSpec" else self._named[text(item.get("name"))]
            if (ref, id(resolved)) in walked:
                continue
            walked.add((ref, id(resolved)))
            if len(walked) > STEP_LIMIT:
                raise LimitError(f"a selection of more than {STEP_LIMIT} steps")
            traversal = self._traversals[id(resolved)]
            targets = _targets(ref, traversal, reader)
            if not traversal.skip:
                for target in targets:
                    self._take(target, reader, found)
            below = traversal.select[::-1]
            pending.extend((target, one) for target in targets for one in below)


def _targets(ref: MoRef, traversal: _Traversal, reader: Reader) -> list[MoRef]:
    if not types.is_subtype(ref.type, traversal.type):
        return []
    try:
        value, _ = reader.resolve(ref, traversal.path)
    except FaultError:
        # What may not be read leads nowhere.
        return []
    return reader.present(refs(value))
