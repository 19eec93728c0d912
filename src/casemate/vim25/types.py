"""The type table of the vSphere API, read from pyVmomi's own metadata; nothing is typed in twice.

pyVmomi registers every type as a plain definition and makes Python classes of it on demand. Only
the definitions are read here, one type at a time when it is first asked for, so that no class is
ever made and the table costs what is used of it. Names are WSDL names of ``urn:vim25``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from pyVmomi import VmomiSupport

from casemate.errors import NotFoundError
from casemate.vim25 import hidden
from casemate.vim25.shapes import (
    DataType,
    EnumType,
    Field,
    Kind,
    ManagedType,
    Method,
    TypeRef,
)

NAMESPACE = "urn:vim25"
_OPTIONAL: int = VmomiSupport.F_OPTIONAL
_LINK: int = VmomiSupport.F_LINK

PRIMITIVES: Mapping[str, str] = {
    "boolean": "boolean",
    "bool": "boolean",
    "byte": "byte",
    "short": "short",
    "int": "int",
    "long": "long",
    "float": "float",
    "double": "double",
    "string": "string",
    "Link": "string",
    "vmodl.URI": "anyURI",
    "vmodl.Binary": "base64Binary",
    "vmodl.DateTime": "dateTime",
    "vmodl.TypeName": "string",
    "vmodl.MethodName": "string",
    "vmodl.PropertyPath": "string",
}
"""pyVmomi's name of a primitive type, and the XML Schema type it has on the wire."""

XSD_TYPES = frozenset(PRIMITIVES.values())


def _definition(name: str) -> tuple[Kind, list[object]]:
    found = hidden.TYPES.get(name) or VmomiSupport._wsdlDefMap.get((NAMESPACE, name))  # noqa: SLF001  (the raw definitions have no public door)
    if found is None:
        raise NotFoundError(f"there is no type {name} in {NAMESPACE}", component=name)
    if len(found) == 4:  # noqa: PLR2004  (name, WSDL name, version, values)
        return Kind.ENUM, found
    return (Kind.DATA, found) if len(found) == 5 else (Kind.MOREF, found)  # noqa: PLR2004  (managed types have methods too)


def _wsdl_name(vmodl: str) -> tuple[Kind, str]:
    for kind, table in (
        (Kind.DATA, VmomiSupport._dataDefMap),  # noqa: SLF001  (as above)
        (Kind.MOREF, VmomiSupport._managedDefMap),  # noqa: SLF001  (as above)
        (Kind.ENUM, VmomiSupport._enumDefMap),  # noqa: SLF001  (as above)
    ):
        found = table.get(vmodl)
        if found is not None and kind_of(str(found[1])) is kind:
            return kind, str(found[1])
    if (name := hidden.BY_VMODL.get(vmodl)) is not None and (own := kind_of(name)) is not None:
        return own, name
    raise NotFoundError(f"there is no type {vmodl}", component=vmodl)


_SPECIAL: Mapping[str, tuple[Kind, str]] = {
    "anyType": (Kind.ANY, "anyType"),
    "vmodl.DataObject": (Kind.DATA, "DataObject"),
    "vmodl.ManagedObject": (Kind.MOREF, "ManagedObject"),
    # A fault inside data travels with its sentence (WSDL: LocalizedMethodFault).
    "vmodl.MethodFault": (Kind.DATA, "LocalizedMethodFault"),
}


@cache
def type_ref(vmodl: str, *, bare_fault: bool = False) -> TypeRef:
    """Return the reference for pyVmomi's type name, such as ``vim.HostSystem[]``."""
    array = vmodl.endswith("[]")
    name = vmodl.removesuffix("[]")
    if primitive := PRIMITIVES.get(name):
        return TypeRef(Kind.PRIMITIVE, primitive, array)
    if name == "vmodl.MethodFault" and bare_fault:
        return TypeRef(Kind.DATA, "MethodFault", array)
    kind, wsdl = _SPECIAL.get(name) or _wsdl_name(name)
    if kind is Kind.DATA and not bare_fault and _is_fault(wsdl):
        wsdl = "LocalizedMethodFault"
    return TypeRef(kind, wsdl, array)


def _is_fault(name: str) -> bool:
    step: str | None = name
    while step is not None:
        if step == "MethodFault":
            return True
        step = _parent(step)
    return False


def parent_of(name: str) -> str | None:
    """Return the WSDL name of what a type extends, or None. Raises NotFoundError."""
    return _parent(name)


@cache
def _parent(name: str) -> str | None:
    if name == "LocalizedMethodFault":
        return "DynamicData"
    kind, definition = _definition(name)
    above = definition[2]
    if kind is Kind.ENUM or above is None:
        return None
    if above in {"vmodl.DataObject", "vmodl.ManagedObject"}:
        return str(above).removeprefix("vmodl.")
    return _wsdl_name(str(above))[1]


def _known(vmodl: str) -> bool:
    """Tell whether the type belongs to this API; a few properties are of another service's."""
    name = vmodl.removesuffix("[]")
    if name in PRIMITIVES or name in _SPECIAL:
        return True
    try:
        _wsdl_name(name)
    except NotFoundError:
        return False
    return True


def _field(entry: tuple[object, ...], *, bare_fault: bool = False) -> Field:
    name, vmodl, version, flags = entry[:4]
    privilege = entry[4] if len(entry) > 4 else None  # noqa: PLR2004  (data properties have no privilege)
    if not isinstance(flags, int):
        raise TypeError(f"flags of {name} are {flags!r}")
    text = str(vmodl)
    if flags & _LINK:
        text = "Link[]" if text.endswith("[]") else "Link"
    return Field(
        str(name),
        type_ref(text, bare_fault=bare_fault),
        str(version),
        bool(flags & _OPTIONAL),
        None if privilege is None else str(privilege),
    )


@cache
def enum_type(name: str) -> EnumType:
    """Return the enumeration. Raises NotFoundError."""
    kind, definition = _definition(name)
    if kind is not Kind.ENUM or not isinstance(definition[3], list):
        raise NotFoundError(f"{name} is not an enumeration", component=name)
    return EnumType(name, str(definition[2]), tuple(map(str, definition[3])))


def own_fields(name: str) -> tuple[Field, ...]:
    """Return the fields that a data object type adds to what it extends. Raises NotFoundError."""
    kind, definition = _definition(name)
    if kind is not Kind.DATA:
        raise NotFoundError(f"{name} is not a data object type", component=name)
    entries = definition[4] or ()
    if not isinstance(entries, list | tuple):
        raise TypeError(f"properties of {name} are {entries!r}")
    return tuple(
        _field(tuple(entry), bare_fault=name == "LocalizedMethodFault")
        for entry in entries
        # pyVmomi keeps a fault's sentence in ``msg``, which is not on the wire.
        if not (name == "MethodFault" and entry[0] == "msg") and _known(entry[1])
    )


@cache
def data_type(name: str) -> DataType:
    """Return the data object type. Raises NotFoundError."""
    kind, definition = _definition(name)
    if kind is not Kind.DATA:
        raise NotFoundError(f"{name} is not a data object type", component=name)
    above = _parent(name)
    inherited = data_type(above).fields if above else ()
    fields = (*inherited, *own_fields(name))
    return DataType(name, str(definition[3]), above, fields, {f.name: f for f in fields})


@cache
def managed_type(name: str) -> ManagedType:
    """Return the managed object type. Raises NotFoundError."""
    kind, definition = _definition(name)
    if kind is not Kind.MOREF:
        raise NotFoundError(f"{name} is not a managed object type", component=name)
    above = _parent(name)
    inherited = managed_type(above).properties if above else ()
    entries = definition[4] or ()
    if not isinstance(entries, list | tuple):
        raise TypeError(f"properties of {name} are {entries!r}")
    fields = (*inherited, *(_field(tuple(entry)) for entry in entries))
    return ManagedType(name, str(definition[3]), above, fields, {f.name: f for f in fields})


def kind_of(name: str) -> Kind | None:
    """Return what the WSDL name stands for in ``urn:vim25``, or None."""
    try:
        return _definition(name)[0]
    except NotFoundError:
        return None


def ancestors(name: str) -> Iterator[str]:
    """Yield the type itself and everything it extends."""
    step: str | None = name
    while step is not None:
        yield step
        step = _parent(step)


@cache
def is_subtype(name: str, base: str) -> bool:
    """Whether ``name`` is ``base`` or extends it."""
    return name == base or base in ancestors(name)


def array_name(name: str) -> str:
    """Return the name of the array type: ``ArrayOfInt`` for ``int``."""
    return f"ArrayOf{name[0].upper()}{name[1:]}"


def enum_names() -> tuple[str, ...]:
    """Return the names of all enumerations, ascending."""
    return _names(Kind.ENUM)


@cache
def data_names() -> tuple[str, ...]:
    """Return the names of all data object types, ascending."""
    return _names(Kind.DATA)


@cache
def managed_names() -> tuple[str, ...]:
    """Return the names of all managed object types, ascending."""
    return _names(Kind.MOREF)


def _names(kind: Kind) -> tuple[str, ...]:
    every = VmomiSupport._wsdlDefMap  # noqa: SLF001  (as above)
    return tuple(
        sorted(name for space, name in every if space == NAMESPACE and kind_of(name) is kind)
    )


@cache
def subtypes(base: str) -> frozenset[str]:
    """Return ``base`` and every data type that extends it."""
    own = {base} if kind_of(base) is Kind.DATA else set()
    return frozenset(own.union(name for name in data_names() if is_subtype(name, base)))


@cache
def method_owners() -> Mapping[str, tuple[str, int]]:
    """Return for every method of vim25 its declaring type and its place in the definition."""
    found: dict[str, tuple[str, int]] = {}
    for owner in managed_names():
        methods = _definition(owner)[1][5] or ()
        if isinstance(methods, list | tuple):
            found.update({str(m[1]): (owner, place) for place, m in enumerate(methods)})
    return found


@cache
def method(name: str) -> Method:
    """Return the method with this WSDL name. Raises NotFoundError."""
    if (found := hidden.METHODS.get(name)) is not None:
        return found
    if name not in method_owners():
        raise NotFoundError(f"there is no method {name} in {NAMESPACE}", component=name)
    owner, place = method_owners()[name]
    methods = _definition(owner)[1][5]
    if not isinstance(methods, list | tuple):
        raise TypeError(f"methods of {owner} are {methods!r}")
    _, wsdl, version, parameters, (flags, result, _), privilege, _ = methods[place]
    return Method(
        str(wsdl),
        owner,
        str(version),
        tuple(_field(tuple(p)) for p in parameters if _known(p[1])),
        type_ref(str(result)) if result != "void" and _known(str(result)) else None,
        bool(flags & _OPTIONAL),
        None if privilege is None else str(privilege),
    )


def faults_of(name: str) -> tuple[str, ...]:
    """Return the WSDL names of the faults that a method declares. Raises NotFoundError."""
    owner, place = method_owners()[name]
    methods = _definition(owner)[1][5]
    declared = methods[place][-1] if isinstance(methods, list | tuple) else None
    return tuple(_wsdl_name(str(one))[1] for one in declared or () if _known(str(one)))


@cache
def method_named(owner: str, vmodl: str) -> str | None:
    """Return the WSDL name of a method by its type and short name (``powerOn``), or None."""
    for name in ancestors(owner):
        methods = _definition(name)[1][5] or ()
        if isinstance(methods, list | tuple):
            for entry in methods:
                if vmodl in {entry[0], entry[1]}:
                    return str(entry[1])
    return None
