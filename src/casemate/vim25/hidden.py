"""Methods and types that real hosts serve and no WSDL names: reading properties, and esxcli.

In the form of pyVmomi's own definitions, which do not have them. Names as public clients send them
(govmomi's ``internal`` package).
"""

from __future__ import annotations

from collections.abc import Mapping

from pyVmomi import VmomiSupport

from casemate.vim25.shapes import Field, Kind, Method, TypeRef

EXECUTER = "ReflectManagedMethodExecuter"
TYPE_MANAGER = "InternalDynamicTypeManager"
ARGUMENT = "ReflectManagedMethodExecuterSoapArgument"
FAULT = "ReflectManagedMethodExecuterSoapFault"
RESULT = "ReflectManagedMethodExecuterSoapResult"

MO_INSTANCE = "DynamicTypeMgrMoInstance"
MO_FILTER = "DynamicTypeMgrMoFilterSpec"
TYPE_FILTER = "DynamicTypeMgrTypeFilterSpec"
FILTER = "DynamicTypeMgrFilterSpec"
ALL_TYPES = "DynamicTypeMgrAllTypeInfo"
MANAGED_TYPE = "DynamicTypeMgrManagedTypeInfo"
DATA_TYPE = "DynamicTypeMgrDataTypeInfo"
METHOD_TYPE = "DynamicTypeMgrMethodTypeInfo"
PROPERTY_TYPE = "DynamicTypeMgrPropertyTypeInfo"
PARAMETER_TYPE = "DynamicTypeMgrParamTypeInfo"
ANNOTATION = "DynamicTypeMgrAnnotation"
DISK_INFO = "VirtualDiskInfo"
DISK_UNIT = "VirtualDiskInfoDiskUnit"

INTERNAL = "urn:internalvim25"
INTERNAL_METHODS = frozenset({"QueryVirtualDiskInfo_Task"})
"""The namespace of methods for which clients name it, and those of them that are served."""

_FIRST = "vim.version.version1"
_SPACE = "vmodl.reflect."
_OPTIONAL: int = VmomiSupport.F_OPTIONAL


def _data(
    vmodl: str, wsdl: str, *fields: tuple[str, str, int], base: str = "vmodl.DynamicData"
) -> list[object]:
    entries = [(name, kind, _FIRST, flags) for name, kind, flags in fields]
    return [_SPACE + vmodl, wsdl, base, _FIRST, entries]


def _described(name: str, wsdl: str, *fields: tuple[str, str, int]) -> list[object]:
    """Return the definition of what describes a type, a method or a part of one."""
    return _data(
        f"DynamicTypeManager.{name}",
        wsdl,
        ("name", "string", 0),
        *fields,
        ("annotation", f"{_SPACE}DynamicTypeManager.Annotation[]", _OPTIONAL),
    )


def _listed(name: str) -> str:
    return f"{_SPACE}DynamicTypeManager.{name}[]"


def _managed(vmodl: str, wsdl: str) -> list[object]:
    return [_SPACE + vmodl, wsdl, "vmodl.ManagedObject", _FIRST, [], []]


_NAMED = (("wsdlName", "string", 0), ("version", "string", 0))
_DYNAMIC_TYPES = (
    _data("DynamicTypeManager.FilterSpec", FILTER),
    _data(
        "DynamicTypeManager.MoFilterSpec",
        MO_FILTER,
        ("id", "string", _OPTIONAL),
        ("typeSubstr", "string", _OPTIONAL),
        base=f"{_SPACE}DynamicTypeManager.FilterSpec",
    ),
    _data(
        "DynamicTypeManager.TypeFilterSpec",
        TYPE_FILTER,
        ("typeSubstr", "string", _OPTIONAL),
        base=f"{_SPACE}DynamicTypeManager.FilterSpec",
    ),
    _data(
        "DynamicTypeManager.MoInstance", MO_INSTANCE, ("id", "string", 0), ("moType", "string", 0)
    ),
    _data(
        "DynamicTypeManager.Annotation",
        ANNOTATION,
        ("name", "string", 0),
        ("parameter", "string[]", _OPTIONAL),
    ),
    _described(
        "PropertyTypeInfo",
        PROPERTY_TYPE,
        ("version", "string", 0),
        ("type", "string", 0),
        ("privId", "string", _OPTIONAL),
        ("msgIdFormat", "string", _OPTIONAL),
    ),
    _described(
        "ParamTypeInfo",
        PARAMETER_TYPE,
        ("version", "string", 0),
        ("type", "string", 0),
        ("privId", "string", _OPTIONAL),
    ),
    _described(
        "MethodTypeInfo",
        METHOD_TYPE,
        *_NAMED,
        ("paramTypeInfo", _listed("ParamTypeInfo"), _OPTIONAL),
        ("returnTypeInfo", f"{_SPACE}DynamicTypeManager.ParamTypeInfo", _OPTIONAL),
        ("fault", "string[]", _OPTIONAL),
        ("privId", "string", _OPTIONAL),
    ),
    _described(
        "ManagedTypeInfo",
        MANAGED_TYPE,
        *_NAMED,
        ("base", "string[]", _OPTIONAL),
        ("property", _listed("PropertyTypeInfo"), _OPTIONAL),
        ("method", _listed("MethodTypeInfo"), _OPTIONAL),
    ),
    _described(
        "DataTypeInfo",
        DATA_TYPE,
        *_NAMED,
        ("base", "string[]", _OPTIONAL),
        ("property", _listed("PropertyTypeInfo"), _OPTIONAL),
    ),
    _data(
        "DynamicTypeManager.AllTypeInfo",
        ALL_TYPES,
        ("managedTypeInfo", _listed("ManagedTypeInfo"), _OPTIONAL),
        ("dataTypeInfo", _listed("DataTypeInfo"), _OPTIONAL),
    ),
)
_DEFINITIONS = (
    *_DYNAMIC_TYPES,
    _data("VirtualDiskInfo.DiskUnit", DISK_UNIT, ("name", "string", 0)),
    _data(
        "VirtualDiskInfo",
        DISK_INFO,
        ("unit", f"{_SPACE}VirtualDiskInfo.DiskUnit", 0),
        ("diskType", "string", 0),
        ("parent", "string", _OPTIONAL),
    ),
    _data(
        "ManagedMethodExecuter.SoapArgument", ARGUMENT, ("name", "string", 0), ("val", "string", 0)
    ),
    _data(
        "ManagedMethodExecuter.SoapFault",
        FAULT,
        ("faultMsg", "string", 0),
        ("faultDetail", "string", _OPTIONAL),
    ),
    _data(
        "ManagedMethodExecuter.SoapResult",
        RESULT,
        ("response", "string", _OPTIONAL),
        ("fault", _SPACE + "ManagedMethodExecuter.SoapFault", _OPTIONAL),
    ),
    _managed("ManagedMethodExecuter", EXECUTER),
    _managed("DynamicTypeManager", TYPE_MANAGER),
)

TYPES: Mapping[str, list[object]] = {str(one[1]): one for one in _DEFINITIONS}
"""The definitions by WSDL name."""

BY_VMODL: Mapping[str, str] = {str(definition[0]): name for name, definition in TYPES.items()}
"""The WSDL name of each by its vmodl name."""

FETCH = Method(
    "Fetch",
    "ManagedObject",
    "vmodl.version.version0",
    (Field("prop", TypeRef(Kind.PRIMITIVE, "string"), "vmodl.version.version0", optional=False),),
    TypeRef(Kind.ANY, "anyType"),
    result_optional=True,
    privilege=None,
)
"""The hidden method by which pyVmomi reads one property of one object."""

_VERSION_0 = "vmodl.version.version0"


def _text(name: str) -> Field:
    return Field(name, TypeRef(Kind.PRIMITIVE, "string"), _VERSION_0, optional=False)


def _retrieves(name: str, result: str) -> Method:
    given = TypeRef(Kind.MOREF, result)
    return Method(name, "HostSystem", _VERSION_0, (), given, result_optional=True, privilege=None)


def _describes(name: str, result: str, *, array: bool = False) -> Method:
    spec = TypeRef(Kind.DATA, FILTER)
    return Method(
        name,
        TYPE_MANAGER,
        _VERSION_0,
        (Field("filterSpec", spec, _VERSION_0, optional=True),),
        TypeRef(Kind.DATA, result, array=array),
        result_optional=True,
        privilege=None,
    )


METHODS: Mapping[str, Method] = {
    one.name: one
    for one in (
        FETCH,
        _retrieves("RetrieveManagedMethodExecuter", EXECUTER),
        _retrieves("RetrieveDynamicTypeManager", TYPE_MANAGER),
        _describes("DynamicTypeMgrQueryMoInstances", MO_INSTANCE, array=True),
        _describes("DynamicTypeMgrQueryTypeInfo", ALL_TYPES),
        Method(
            "QueryVirtualDiskInfo_Task",
            "VirtualDiskManager",
            _VERSION_0,
            (
                _text("name"),
                Field("datacenter", TypeRef(Kind.MOREF, "Datacenter"), _VERSION_0, optional=True),
                Field(
                    "includeParents",
                    TypeRef(Kind.PRIMITIVE, "boolean"),
                    _VERSION_0,
                    optional=True,
                ),
            ),
            TypeRef(Kind.MOREF, "Task"),
            result_optional=False,
            privilege=None,
        ),
        Method(
            "ExecuteSoap",
            EXECUTER,
            _VERSION_0,
            (
                *map(_text, ("moid", "version", "method")),
                Field(
                    "argument",
                    TypeRef(Kind.DATA, ARGUMENT, array=True),
                    _VERSION_0,
                    optional=True,
                ),
            ),
            TypeRef(Kind.DATA, RESULT),
            result_optional=True,
            privilege=None,
        ),
    )
}
"""Methods that no WSDL names and that are served all the same."""
