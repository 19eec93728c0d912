"""Our errors as faults of the vSphere API."""

from __future__ import annotations

from collections.abc import Mapping

from casemate import errors
from casemate.errors import CasemateError
from casemate.vim25 import types
from casemate.vim25.shapes import Field, Kind
from casemate.vim25.values import MoRef, Obj, Value

SENTENCES: Mapping[str, str] = {
    "InvalidLogin": "Cannot complete login due to an incorrect user name or password.",
    "ManagedObjectNotFound": (
        "The object has already been deleted or has not been completely created"
    ),
    "NoPermission": "Permission to perform this operation was denied.",
    "NotAuthenticated": "The session is not authenticated.",
    "NotSupported": "The operation is not supported on the object.",
}
"""The sentences that clients know; for others the error's own is used."""


class FaultError(CasemateError):
    """A fault as it goes to a client: the fault object, and its sentence as ``reason``."""

    default_code = "fault"

    def __init__(self, fault: Obj, sentence: str | None = None) -> None:
        super().__init__(sentence or SENTENCES.get(fault.type, fault.type))
        self.object = fault

    def localized(self) -> Obj:
        """Return the fault as it stands inside data (a task's error, a missing property)."""
        return Obj("LocalizedMethodFault", fault=self.object, localizedMessage=self.reason)


def not_found(ref: MoRef) -> FaultError:
    """Return the fault for an object that does not exist (any more)."""
    return FaultError(Obj("ManagedObjectNotFound", obj=ref))


def not_authenticated(ref: MoRef, privilege: str) -> FaultError:
    """Return the fault for a call without a session."""
    return FaultError(_permission("NotAuthenticated", ref, privilege))


def no_permission(ref: MoRef, privilege: str) -> FaultError:
    """Return the fault for a session that lacks the privilege."""
    return FaultError(_permission("NoPermission", ref, privilege))


def _permission(name: str, ref: MoRef, privilege: str) -> Obj:
    lacking = Obj("NoPermissionEntityPrivileges", entity=ref, privilegeIds=(privilege,))
    return Obj(name, object=ref, privilegeId=privilege, missingPrivileges=(lacking,))


def method_not_found(ref: MoRef, name: str) -> FaultError:
    """Return the fault for a known method that is not served here."""
    return FaultError(
        Obj("MethodNotFound", receiver=ref, method=name),
        f"The method {name} is not part of this host's interface.",
    )


def invalid_property(name: str) -> FaultError:
    """Return the fault for a property path that leads nowhere."""
    return FaultError(Obj("InvalidProperty", name=name), f"There is no property {name}.")


def invalid_argument(name: str, reason: str) -> FaultError:
    """Return the fault for an argument that cannot be accepted."""
    return FaultError(Obj("InvalidArgument", invalidProperty=name), reason)


def from_error(error: CasemateError, this: MoRef) -> FaultError:
    """Return the fault that an error of ours is, for a call on ``this``."""
    if isinstance(error, FaultError):
        return error
    if isinstance(error, errors.PermissionDeniedError):
        return no_permission(this, error.privilege)
    details: dict[str, str] = {}
    if isinstance(error, errors.PowerStateError):
        details = {"requestedState": error.requested, "existingState": error.existing}
    elif isinstance(error, errors.ArgumentError):
        details = {"invalidProperty": error.argument}
    elif isinstance(error, errors.FileError):
        details = errors.file_details(error)
    return from_details(error.fault, error.reason, details, this)


def from_details(name: str, reason: str, details: Mapping[str, str], this: MoRef) -> FaultError:
    """Return the fault ``name`` with these details, as far as its type has them.

    Details arrive as text; a reference is written ``Type:id``. A fault that is unknown or lacks a
    required detail becomes a SystemError that keeps the sentence.
    """
    if types.kind_of(name) is not Kind.DATA or not types.is_subtype(name, "MethodFault"):
        return system_error(reason)
    values: dict[str, Value] = {}
    for field in types.data_type(name).fields:
        text = details.get(field.name)
        value: Value = None
        if text is not None and not field.type.array:
            value = _detail(field, text)
        elif field.type.kind is Kind.MOREF and not field.type.array:
            value = this if types.is_subtype(this.type, field.type.name) else None
        if value is None and not (field.optional or field.type.array):
            return system_error(reason)
        values[field.name] = value
    return FaultError(Obj(name, **values), SENTENCES.get(name, reason))


def _detail(field: Field, text: str) -> Value:
    match field.type.kind, field.type.name:
        case Kind.PRIMITIVE, "string" | "anyURI":
            return text
        case Kind.PRIMITIVE, "boolean":
            return text == "true"
        case Kind.PRIMITIVE, "byte" | "short" | "int" | "long":
            return int(text) if text.lstrip("-").isdecimal() and len(text) < 19 else None  # noqa: PLR2004  (fits into 64 bits)
        case Kind.ENUM, name:
            return text if text in types.enum_type(name).values else None
        case Kind.MOREF, base:
            kind, _, value = text.partition(":")
            known = types.kind_of(kind) is Kind.MOREF and types.is_subtype(kind, base)
            return MoRef(kind, value) if known and value else None
        case _:
            return None


def system_error(reason: str) -> FaultError:
    """Return the fault for what went wrong inside."""
    return FaultError(
        Obj("SystemError", reason=reason), f"A general system error occurred: {reason}"
    )


def invalid_request(reason: str) -> FaultError:
    """Return the fault for a request that could not be understood."""
    return FaultError(Obj("InvalidRequest"), reason)
