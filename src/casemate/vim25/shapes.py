"""What a type of the vSphere API consists of: kinds, references, fields, methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    """What a type is."""

    PRIMITIVE = "primitive"
    ENUM = "enum"
    DATA = "data"
    MOREF = "reference"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class TypeRef:
    """A type where it is used: kind, WSDL name, and whether there are many of it."""

    kind: Kind
    name: str
    array: bool = False

    @property
    def item(self) -> TypeRef:
        """The type of one item."""
        return TypeRef(self.kind, self.name)

    @property
    def wire_name(self) -> str:
        """The name that an array of it carries in an xsi:type (without ``ArrayOf``)."""
        if self.kind is Kind.MOREF:
            return "ManagedObjectReference"
        if self.kind is Kind.ANY:
            return "anyType"
        return self.name


@dataclass(frozen=True, slots=True)
class Field:
    """A property of a data or managed type, or a parameter of a method."""

    name: str
    type: TypeRef
    version: str
    optional: bool
    privilege: str | None = None


@dataclass(frozen=True, slots=True)
class EnumType:
    """An enumeration."""

    name: str
    version: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DataType:
    """A data object type; ``fields`` holds the inherited ones first."""

    name: str
    version: str
    parent: str | None
    fields: tuple[Field, ...]
    by_name: Mapping[str, Field] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Method:
    """A method: where it is declared, what it takes and gives."""

    name: str
    owner: str
    version: str
    parameters: tuple[Field, ...]
    result: TypeRef | None
    result_optional: bool
    privilege: str | None

    @property
    def is_task(self) -> bool:
        """Whether it answers a task."""
        return self.name.endswith("_Task")


@dataclass(frozen=True, slots=True)
class ManagedType:
    """A managed object type; ``properties`` holds the inherited ones first."""

    name: str
    version: str
    parent: str | None
    properties: tuple[Field, ...]
    by_name: Mapping[str, Field] = field(repr=False)
