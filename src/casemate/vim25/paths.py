"""Property paths: ``config.hardware.device[2000].backing`` over plain values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from casemate.vim25 import types
from casemate.vim25.faults import invalid_property
from casemate.vim25.shapes import Kind, TypeRef
from casemate.vim25.values import MoRef, Obj, Typed, Value

PATH_LIMIT = 1024
"""Characters of one path: the deepest real ones have about 100."""

PATHS_KEPT = 4096
"""Checked paths remembered: clients use some dozens, and choose them freely."""

_STEP = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)((?:\[(?:"[^"\]]*"|[^"\[\]]+)\])?)(\.|$)')


@dataclass(frozen=True, slots=True)
class Step:
    """One step: a property, and the key of one item when it holds many."""

    name: str
    key: str | None = None


@cache
def _subtype_fields(base: str) -> frozenset[str]:
    """Return the properties of all subtypes; kept by type, never by a name that clients choose."""
    return frozenset(
        name for subtype in types.subtypes(base) for name in types.data_type(subtype).by_name
    )


def parse(path: str) -> tuple[Step, ...]:
    """Split a path into steps. Raises FaultError (InvalidProperty)."""
    steps: list[Step] = []
    place = 0
    while len(path) <= PATH_LIMIT and (match := _STEP.match(path, place)):
        key = match[2][1:-1].strip('"') if match[2] else None
        steps.append(Step(match[1], key))
        place = match.end()
        if not match[3]:
            return tuple(steps)
    raise invalid_property(path[:PATH_LIMIT])


@lru_cache(PATHS_KEPT)
def check(type_name: str, path: str) -> tuple[Step, ...]:
    """Return the steps of a path that can exist on a managed type.

    Raises FaultError (InvalidProperty).

    A property that only some subtype of the declared type has is accepted: what the object really
    holds is known when it is read.
    """
    owner = types.managed_type(type_name)
    steps = parse(path)
    declared = owner.by_name.get(steps[0].name)
    ref = declared.type if declared else None
    for number, step in enumerate(steps):
        if number and ref is not None:
            ref = _step_type(ref, step.name)
        if ref is None or (step.key is not None and not ref.array):
            raise invalid_property(path)
        if step.key is not None:
            ref = ref.item
        if ref.array and number < len(steps) - 1:
            raise invalid_property(path)
    return steps


def _step_type(ref: TypeRef, name: str) -> TypeRef | None:
    if ref.kind is Kind.ANY:
        return ref
    if ref.kind is not Kind.DATA:
        return None
    declared = types.data_type(ref.name).by_name.get(name)
    if declared is not None:
        return declared.type
    return TypeRef(Kind.ANY, "anyType") if name in _subtype_fields(ref.name) else None


def resolve(
    value: Value, ref: TypeRef, key: str | None, steps: Sequence[Step]
) -> tuple[Value, TypeRef]:
    """Follow ``key`` and then ``steps`` from a property's value; an unset end gives None."""
    value, ref = _keyed(value, ref, key)
    for step in steps:
        if isinstance(value, Typed):
            value = value.value
        if not isinstance(value, Obj):
            return None, ref
        declared = types.data_type(value.type).by_name.get(step.name)
        if declared is None:
            return None, ref
        value, ref = _keyed(value.get(step.name), declared.type, step.key)
    return value, ref


def _keyed(value: Value, ref: TypeRef, key: str | None) -> tuple[Value, TypeRef]:
    if key is None:
        return value, ref
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            if isinstance(item, Obj) and str(item.get("key")) == key:
                return item, ref.item
            if isinstance(item, MoRef) and item.value == key:
                return item, ref.item
    return None, ref.item
