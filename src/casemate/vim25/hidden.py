"""Methods and types that real hosts serve and no WSDL names: reading properties, and esxcli.

In the form of pyVmomi's own definitions, which do not have them. Names as public clients send them
(govmomi's ``internal`` package).
"""

from __future__ import annotations

from collections.abc import Mapping

from pyVmomi import VmomiSupport

EXECUTER = "ReflectManagedMethodExecuter"
TYPE_MANAGER = "InternalDynamicTypeManager"
ARGUMENT = "ReflectManagedMethodExecuterSoapArgument"
FAULT = "ReflectManagedMethodExecuterSoapFault"
RESULT = "ReflectManagedMethodExecuterSoapResult"

_FIRST = "vim.version.version1"
_SPACE = "vmodl.reflect."


def _data(vmodl: str, wsdl: str, *fields: tuple[str, str, int]) -> list[object]:
    entries = [(name, kind, _FIRST, flags) for name, kind, flags in fields]
    return [_SPACE + vmodl, wsdl, "vmodl.DynamicData", _FIRST, entries]


def _managed(vmodl: str, wsdl: str) -> list[object]:
    return [_SPACE + vmodl, wsdl, "vmodl.ManagedObject", _FIRST, [], []]


_OPTIONAL: int = VmomiSupport.F_OPTIONAL
_DEFINITIONS = (
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
