"""Plain values of the vSphere API: data objects, references, typed values, ready-made fragments.

A data object is an ``Obj``: the name of its WSDL type and its set fields. Nothing here knows the
type table; ``encode`` and ``decode`` check values against it. Values are never changed after they
were made: a changed object is a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


class MoRef(NamedTuple):
    """A managed object reference: WSDL type and id."""

    type: str
    value: str


class Obj:
    """A data object: ``Obj("Description", label="x", summary="y")``; ``None`` means unset."""

    __slots__ = ("fields", "type")

    type: str
    fields: Mapping[str, Value]

    def __init__(self, type_name: str, /, **fields: Value) -> None:
        self.type = type_name
        self.fields = {name: value for name, value in fields.items() if value is not None}

    def get(self, name: str) -> Value:
        """Return the field's value, or None when it is unset."""
        return self.fields.get(name)

    def replace(self, **fields: Value) -> Obj:
        """Return a copy with these fields changed."""
        return Obj(self.type, **{**self.fields, **fields})

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Obj) and self.type == other.type and dict(self.fields) == other.fields
        )

    def __hash__(self) -> int:
        return hash((self.type, *self.fields))

    def __repr__(self) -> str:
        inner = "".join(f", {name}={value!r}" for name, value in self.fields.items())
        return f"Obj({self.type!r}{inner})"


@dataclass(frozen=True, slots=True)
class Typed:
    """A value with its wire type, for places of type Any: ``Typed("long", 5)``.

    ``type`` is a WSDL name (``int``, ``VirtualMachinePowerState``, ``HostSystem``); ``array`` makes
    it ``ArrayOf`` that, and then ``value`` is a sequence.
    """

    type: str
    value: Value
    array: bool = False


@dataclass(frozen=True, slots=True)
class Raw:
    """Elements that are encoded already, to be taken over as they are (tag included).

    ``more`` follows ``text``: what is long is never joined before it becomes bytes.
    """

    text: str
    more: tuple[str, ...] = ()

    @property
    def whole(self) -> str:
        """All of it."""
        return "".join((self.text, *self.more))


Value = (
    None
    | bool
    | int
    | float
    | str
    | bytes
    | datetime
    | MoRef
    | Obj
    | Typed
    | Raw
    | Sequence["Value"]
)
