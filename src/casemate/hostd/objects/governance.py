"""Roles, privileges, options, accounts and lockdown as managed objects show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from casemate.hostd.objects.base import Getters, Scope, description, element
from casemate.policy import options
from casemate.policy.options import Option
from casemate.policy.privileges import Role
from casemate.vim25 import types
from casemate.vim25.values import Obj, Typed, Value

_BY_HAND = (
    "Authorization.ModifyPermissions",
    "Authorization.ModifyRoles",
    "Datastore.AllocateSpace",
    "Datastore.Browse",
    "Datastore.DeleteFile",
    "Datastore.FileManagement",
    "Global.CancelTask",
    "Global.Diagnostics",
    "Global.Settings",
    "Host.Config.AdvancedConfig",
    "Network.Assign",
    "Resource.AssignVMToPool",
    "Resource.DeletePool",
    "Resource.EditPool",
    "Resource.MovePool",
    "Resource.RenamePool",
    "Sessions.GlobalMessage",
    "VirtualMachine.Config.AddExistingDisk",
    "VirtualMachine.Config.AddNewDisk",
    "VirtualMachine.Config.AddRemoveDevice",
    "VirtualMachine.Config.AdvancedConfig",
    "VirtualMachine.Config.Annotation",
    "VirtualMachine.Config.CPUCount",
    "VirtualMachine.Config.DiskExtend",
    "VirtualMachine.Config.EditDevice",
    "VirtualMachine.Config.ManagedBy",
    "VirtualMachine.Config.Memory",
    "VirtualMachine.Config.RemoveDisk",
    "VirtualMachine.Config.Rename",
    "VirtualMachine.Config.Resource",
    "VirtualMachine.Config.Settings",
    "VirtualMachine.Interact.ConsoleInteract",
    "VirtualMachine.Interact.DeviceConnection",
    "VirtualMachine.Interact.SetCDMedia",
    "VirtualMachine.Inventory.Delete",
    "VirtualMachine.Provisioning.Clone",
)
"""Privileges that the metadata does not name because they depend on what is changed."""


@cache
def privilege_ids() -> tuple[str, ...]:
    """Return every privilege that a method, a parameter or a property demands, ascending."""
    return tuple(sorted({*_BY_HAND, *_named()}))


def _named() -> Iterator[str]:
    for name in types.method_owners():
        method = types.method(name)
        if method.privilege:
            yield method.privilege
        yield from (p.privilege for p in method.parameters if p.privilege)
    for name in types.managed_names():
        yield from (p.privilege for p in types.managed_type(name).properties if p.privilege)


def _privileges(_scope: Scope, _key: str) -> Value:
    return tuple(
        Obj(
            "AuthorizationPrivilege",
            privId=one,
            onParent=False,
            name=one.rpartition(".")[2],
            privGroupName=one.rpartition(".")[0],
        )
        for one in privilege_ids()
    )


def _description(_scope: Scope, _key: str) -> Obj:
    groups = sorted({one.rpartition(".")[0] for one in privilege_ids()})
    return Obj(
        "AuthorizationDescription",
        privilege=tuple(element(one, one.rpartition(".")[2]) for one in privilege_ids()),
        privilegeGroup=tuple(element(one, one) for one in groups),
    )


def given(role: Role) -> tuple[str, ...]:
    """Return the privileges that a role gives, ascending."""
    return tuple(one for one in privilege_ids() if role.gives(one))


def _roles(scope: Scope, _key: str) -> Value:
    return tuple(
        Obj(
            "AuthorizationRole",
            roleId=role.number,
            system=role.number < 0,
            name=role.name,
            info=description(role.label),
            privilege=given(role),
        )
        for role in sorted(scope.world.rights.roles.values(), key=lambda role: role.number)
    )


def of_agent(name: str) -> bool:
    """Tell whether an option is the agent's, and so one of both managers."""
    return name.startswith("Config.HostAgent.")


def _is_here(option: Option, key: str) -> bool:
    return key == "ha-adv-options" or of_agent(option.name)


def option_values(scope: Scope, key: str, prefix: str = "") -> tuple[Obj, ...]:
    """Return the options of a manager whose name is, or begins with, ``prefix``."""
    return tuple(
        Obj("OptionValue", key=name, value=_typed(option, scope.world.option(name)))
        for name, option in options.OPTIONS.items()
        if _is_here(option, key)
        and (not prefix or name == prefix or name.startswith(prefix.rstrip(".") + "."))
    )


def _typed(option: Option, text: str) -> Typed:
    value = text or option.default
    return Typed("long", int(value)) if option.number else Typed("string", value)


def _definitions(_scope: Scope, key: str) -> Value:
    return tuple(
        Obj(
            "OptionDef",
            label=option.label,
            summary=option.label,
            key=name,
            optionType=_option_type(option),
        )
        for name, option in options.OPTIONS.items()
        if _is_here(option, key)
    )


def _option_type(option: Option) -> Obj:
    if option.number:
        return Obj(
            "LongOption",
            valueIsReadonly=option.read_only,
            min=option.low,
            max=option.high,
            defaultValue=int(option.default),
        )
    if option.choices:
        return Obj(
            "ChoiceOption",
            valueIsReadonly=option.read_only,
            choiceInfo=tuple(element(one, one.capitalize()) for one in option.choices),
            defaultIndex=option.choices.index(option.default),
        )
    return Obj("StringOption", valueIsReadonly=option.read_only, defaultValue=option.default)


def users(scope: Scope) -> tuple[Obj, ...]:
    """Return all accounts as UserSearchResults."""
    return tuple(
        Obj(
            "PosixUserSearchResult",
            principal=fact.name,
            fullName=fact.full_name,
            group=False,
            id=fact.number,
            shellAccess=False,
        )
        for fact in scope.world.accounts.values()
    )


GOVERNANCE_GETTERS: Mapping[str, Getters] = {
    "AuthorizationManager": {
        "privilegeList": _privileges,
        "description": _description,
        "roleList": _roles,
    },
    "OptionManager": {"supportedOption": _definitions, "setting": option_values},
    "HostAccessManager": {"lockdownMode": lambda scope, _key: scope.world.lockdown.mode.value},
    "UserDirectory": {"domainList": lambda *_: ()},
}
