"""Sessions, roles, permissions, accounts, options and lockdown."""

from __future__ import annotations

from casemate.calls import admin as a
from casemate.calls.messages import Empty
from casemate.hostd.objects.base import permission
from casemate.hostd.objects.governance import (
    given,
    option_values,
    privilege_ids,
    users,
)
from casemate.hostd.reader import ANONYMOUS
from casemate.hostd.registry import Context, Ring, Served
from casemate.hostd.selection import objs, refs, text, texts
from casemate.hostd.world import AGENT_OPTIONS
from casemate.policy import options
from casemate.policy.privileges import ROLES, Role
from casemate.policy.rights import ROOT, Permission
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import MoRef, Obj, Typed, Value

MODIFY = "Authorization.ModifyPermissions"
_ADMIN = -1


def _missing(reason: str) -> FaultError:
    return FaultError(Obj("NotFound"), reason)


def _number(value: Value) -> int:
    return value if isinstance(value, int) else 0


def _entity(context: Context, name: str = "entity") -> MoRef:
    ref = context.arguments.get(name)
    if not isinstance(ref, MoRef):
        raise faults.invalid_argument(name, "An entity is needed.")
    return ref


async def _terminate(context: Context) -> Value:
    known = {one.key for one in context.sessions} | set(context.replica.world.logins)
    keys = texts(context.arguments.get("sessionId"))
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise _missing("There is no such session.")
    if context.who.key in keys:
        raise faults.invalid_argument("sessionId", "A session ends itself with Logout.")
    for key in keys:
        await context.link.ask(a.TerminateSession(context.who.handle, key), Empty)
        context.sessions.forget(key)
    return None


async def _set_message(context: Context) -> Value:
    message = text(context.arguments.get("message"))
    await context.link.ask(a.SetMessage(context.who.handle, message), Empty)
    world = context.replica.world
    await context.replica.until(lambda: world.option(options.MESSAGE) == message)
    return None


def _role(context: Context, number: int) -> Role:
    found = context.replica.world.rights.roles.get(number)
    if found is None:
        raise _missing("There is no such role.")
    return found


def _added(context: Context) -> Role:
    role = _role(context, _number(context.arguments.get("roleId")))
    if role.number < 0:
        raise faults.invalid_argument("roleId", "Built-in roles stay as they are.")
    return role


def _check_name(context: Context, name: str, but: int = 0) -> None:
    roles = context.replica.world.rights.roles.values()
    if any(role.name == name and role.number != but for role in roles):
        raise FaultError(Obj("AlreadyExists", name=name), f"There is a role {name:.80} already.")
    if not name or not name.isprintable():
        raise FaultError(Obj("InvalidName", name=name), "A role has a printable name.")


def _privileges(context: Context) -> tuple[str, ...]:
    named = dict.fromkeys((*ROLES[2].privileges, *texts(context.arguments.get("privIds"))))
    unknown = sorted(set(named) - set(privilege_ids()))
    if unknown:
        raise faults.invalid_argument("privIds", f"There is no privilege {unknown[0]:.100}.")
    return tuple(sorted(named))


async def _add_role(context: Context) -> Value:
    name = text(context.arguments.get("name"))
    _check_name(context, name)
    request = a.AddRole(context.who.handle, name, _privileges(context))
    number = (await context.link.ask(request, a.RoleReply)).role
    roles = context.replica.world.rights.roles
    await context.replica.until(lambda: number in roles)
    return number


async def _update_role(context: Context) -> Value:
    role = _added(context)
    name = text(context.arguments.get("newName"))
    _check_name(context, name, but=role.number)
    wanted = _privileges(context)
    request = a.UpdateRole(context.who.handle, role.number, name, wanted)
    await context.link.ask(request, Empty)
    fresh = Role(role.number, name, name, frozenset(wanted))
    roles = context.replica.world.rights.roles
    await context.replica.until(lambda: roles.get(fresh.number) == fresh)
    return None


async def _remove_role(context: Context) -> Value:
    role = _added(context)
    strict = context.arguments.get("failIfUsed") is True
    if strict and any(one.role == role.number for one in context.replica.world.rights.all()):
        raise FaultError(Obj("RemoveFailed"), "The role is in use.")
    await context.link.ask(a.RemoveRole(context.who.handle, role.number, strict), Empty)
    roles = context.replica.world.rights.roles
    await context.replica.until(lambda: role.number not in roles)
    return None


async def _role_permissions(context: Context) -> Value:
    role = _role(context, _number(context.arguments.get("roleId")))
    every = context.replica.world.rights.all()
    return tuple(permission(one) for one in every if one.role == role.number)


async def _all_permissions(context: Context) -> Value:
    return tuple(map(permission, context.replica.world.rights.all()))


async def _entity_permissions(context: Context) -> Value:
    inherited = context.arguments.get("inherited") is True
    entity = _entity(context)
    place = (entity.type, entity.value)
    found = context.replica.world.rights.on(place, inherited=inherited)
    return tuple(map(permission, found))


def _keep_administrator(context: Context, entity: MoRef, principal: str) -> None:
    held = context.replica.world.rights.on(ROOT, inherited=False)
    admins = {one.principal for one in held if one.role == _ADMIN}
    if tuple(entity) == ROOT and admins == {principal}:
        raise FaultError(
            Obj("AuthMinimumAdminPermission"),
            "The last administrator of the host cannot lose its role.",
        )


async def _set_permissions(context: Context) -> Value:
    entity = _entity(context)
    wanted = [_checked(context, entity, item) for item in objs(context.arguments.get("permission"))]
    for one in wanted:
        await _give(context, one)
    return None


async def _give(context: Context, one: Permission) -> None:
    request = a.SetPermission(
        context.who.handle, *one.entity, one.principal, one.role, one.propagate
    )
    await context.link.ask(request, Empty)
    rights = context.replica.world.rights
    await context.replica.until(lambda: one in rights.on(one.entity, inherited=False))


async def _take(context: Context, entity: MoRef, principal: str) -> None:
    request = a.RemovePermission(context.who.handle, entity.type, entity.value, principal)
    await context.link.ask(request, Empty)
    rights, place = context.replica.world.rights, (entity.type, entity.value)

    def gone() -> bool:
        return all(one.principal != principal for one in rights.on(place, inherited=False))

    await context.replica.until(gone)


def _checked(context: Context, entity: MoRef, item: Obj) -> Permission:
    principal = text(item.get("principal"))
    if item.get("group") is True or principal not in context.replica.world.accounts:
        raise FaultError(
            Obj("UserNotFound", principal=principal, unresolved=False),
            f"There is no account {principal:.80}.",
        )
    role = _role(context, _number(item.get("roleId")))
    if role.number != _ADMIN:
        _keep_administrator(context, entity, principal)
    propagate = item.get("propagate") is True
    return Permission((entity.type, entity.value), principal, role.number, propagate)


async def _remove_permission(context: Context) -> Value:
    entity = _entity(context)
    principal = text(context.arguments.get("user"))
    held = context.replica.world.rights.on((entity.type, entity.value), inherited=False)
    if context.arguments.get("isGroup") is True or all(o.principal != principal for o in held):
        raise _missing("There is no such permission.")
    _keep_administrator(context, entity, principal)
    await _take(context, entity, principal)
    return None


def _user_of(context: Context) -> str:
    key = text(context.arguments.get("sessionId"))
    for one in context.sessions:
        if one.key == key:
            return one.user
    raise FaultError(
        Obj("InvalidArgument", invalidProperty="sessionId"), "There is no such session."
    )


def _gives(context: Context, user: str, entity: MoRef, privilege: str) -> bool:
    return context.replica.world.rights.gives(user, (entity.type, entity.value), privilege)


async def _has_privilege(context: Context) -> Value:
    user, entity = _user_of(context), _entity(context)
    return tuple(
        _gives(context, user, entity, one) for one in texts(context.arguments.get("privId"))
    )


async def _has_privileges(context: Context) -> Value:
    user = _user_of(context)
    wanted = texts(context.arguments.get("privId"))
    return tuple(
        Obj(
            "EntityPrivilege",
            entity=entity,
            privAvailability=tuple(
                Obj(
                    "PrivilegeAvailability",
                    privId=one,
                    isGranted=_gives(context, user, entity, one),
                )
                for one in wanted
            ),
        )
        for entity in refs(context.arguments.get("entity"))
    )


async def _user_privileges(context: Context) -> Value:
    user = text(context.arguments.get("userName"))
    if user not in context.replica.world.accounts:
        raise FaultError(
            Obj("UserNotFound", principal=user, unresolved=False), f"No account {user:.80}."
        )
    rights = context.replica.world.rights
    return tuple(
        Obj(
            "UserPrivilegeResult",
            entity=entity,
            privileges=tuple(
                sorted(
                    {
                        p
                        for r in rights.roles_on(user, (entity.type, entity.value))
                        for p in given(r)
                    }
                )
            ),
        )
        for entity in refs(context.arguments.get("entities"))
    )


def _account(context: Context) -> tuple[str, str, str]:
    spec = context.arguments.get("user")
    if not isinstance(spec, Obj):
        raise faults.invalid_argument("user", "An account needs a description.")
    return text(spec.get("id")), text(spec.get("description")), text(spec.get("password"))


def _known(context: Context, user: str) -> None:
    if user not in context.replica.world.accounts:
        raise FaultError(Obj("UserNotFound", principal=user, unresolved=False), "No such account.")


async def _create_user(context: Context) -> Value:
    user, about, password = _account(context)
    if user in context.replica.world.accounts:
        raise FaultError(Obj("AlreadyExists", name=user), f"There is an account {user:.80}.")
    request = a.CreateAccount(context.who.handle, user, about, password)
    await context.link.ask(request, Empty)
    await context.replica.until(lambda: user in context.replica.world.accounts)
    return None


async def _update_user(context: Context) -> Value:
    user, about, password = _account(context)
    _known(context, user)
    about = about or context.replica.world.accounts[user].full_name
    request = a.UpdateAccount(context.who.handle, user, about, password)
    await context.link.ask(request, Empty)
    return None


async def _remove_user(context: Context) -> Value:
    user = text(context.arguments.get("userName"))
    _known(context, user)
    await context.link.ask(a.RemoveAccount(context.who.handle, user), Empty)
    await context.replica.until(lambda: user not in context.replica.world.accounts)
    return None


async def _change_password(context: Context) -> Value:
    user, old, new = (
        text(context.arguments.get(name))[:256] for name in ("user", "oldPassword", "newPassword")
    )
    await context.link.ask(a.ChangePassword(user, old, new, context.peer), Empty)
    return None


async def _find_users(context: Context) -> Value:
    wanted = text(context.arguments.get("searchStr")).lower()
    exact = context.arguments.get("exactMatch") is True
    member = context.arguments.get("belongsToGroup")
    if context.arguments.get("findUsers") is not True or member or context.arguments.get("domain"):
        return ()
    return tuple(
        one
        for one in users(context.reader.scope)
        if (name := text(one.get("principal")).lower()) == wanted or (not exact and wanted in name)
    )


async def _query_options(context: Context) -> Value:
    prefix = text(context.arguments.get("name"))
    found = option_values(context.reader.scope, context.this.value, prefix)
    if prefix and not found:
        raise FaultError(Obj("InvalidName", name=prefix), f"There is no option {prefix:.100}.")
    return found


async def _update_options(context: Context) -> Value:
    context.reader.allow(context.this, "Host.Config.AdvancedConfig")
    if context.this == AGENT_OPTIONS:
        context.reader.allow(context.this, "Global.Settings")
    known = {
        text(one.get("key")) for one in option_values(context.reader.scope, context.this.value)
    }
    changes: list[tuple[str, str]] = []
    for item in objs(context.arguments.get("changedValue")):
        name, value = text(item.get("key")), item.get("value")
        if name not in known:
            raise FaultError(Obj("InvalidName", name=name), f"There is no option {name:.100}.")
        plain = value.value if isinstance(value, Typed) else value
        if not isinstance(plain, str | int) or isinstance(plain, bool):
            raise faults.invalid_argument(name, "An option is text or a number.")
        # All are checked before the first is changed.
        changes.append((name, options.check(name, str(plain))))
    for name, checked in changes:
        await context.link.ask(a.SetOption(context.who.handle, name, checked), Empty)
    world = context.replica.world
    await context.replica.until(lambda: all(world.option(n) == v for n, v in changes))
    return None


async def _change_lockdown(context: Context) -> Value:
    mode = text(context.arguments.get("mode"))
    await context.link.ask(a.SetLockdown(context.who.handle, mode), Empty)
    await context.replica.until(lambda: context.replica.world.lockdown.mode == mode)
    return None


async def _exceptions(context: Context) -> Value:
    return context.replica.world.lockdown.exceptions


async def _set_exceptions(context: Context) -> Value:
    named = texts(context.arguments.get("users"))
    for user in named:
        _known(context, user)
    await context.link.ask(a.SetLockdownExceptions(context.who.handle, named), Empty)
    wanted = tuple(dict.fromkeys(named))
    await context.replica.until(lambda: context.replica.world.lockdown.exceptions == wanted)
    return None


_MODES = {-1: "accessAdmin", -2: "accessReadOnly", -5: "accessNoAccess"}


async def _access_entries(context: Context) -> Value:
    held = context.replica.world.rights.on(ROOT, inherited=False)
    return tuple(
        Obj(
            "HostAccessControlEntry",
            principal=one.principal,
            group=False,
            accessMode=_MODES.get(one.role, "accessOther"),
        )
        for one in held
    )


async def _change_access(context: Context) -> Value:
    context.reader.allow(MoRef(*ROOT), MODIFY)
    user, mode = text(context.arguments.get("principal")), context.arguments.get("accessMode")
    _known(context, user)
    numbers = {name: number for number, name in _MODES.items()}
    if mode == "accessNone":
        _keep_administrator(context, MoRef(*ROOT), user)
        await _take(context, MoRef(*ROOT), user)
        return None
    if mode not in numbers:
        raise faults.invalid_argument("accessMode", "This mode cannot be set.")
    number = numbers[str(mode)]
    if number != _ADMIN:
        _keep_administrator(context, MoRef(*ROOT), user)
    await _give(context, Permission(ROOT, user, number, propagate=True))
    return None


_AUTH = "AuthorizationManager"
_ROLES = "Authorization.ModifyRoles"
_ACCOUNTS = "Host.Local.ManageUserGroups"
_B = Ring.HOST

GOVERNANCE_METHODS = (
    Served(
        "SessionManager",
        "TerminateSession",
        "Sessions.TerminateSession",
        _terminate,
        (a.TerminateSession,),
    ),
    Served(
        "SessionManager",
        "UpdateServiceMessage",
        "Sessions.GlobalMessage",
        _set_message,
        (a.SetMessage,),
        ring=_B,
    ),
    Served(_AUTH, "AddAuthorizationRole", _ROLES, _add_role, (a.AddRole,)),
    Served(_AUTH, "UpdateAuthorizationRole", _ROLES, _update_role, (a.UpdateRole,)),
    Served(_AUTH, "RemoveAuthorizationRole", _ROLES, _remove_role, (a.RemoveRole,)),
    Served(_AUTH, "RetrieveRolePermissions", "System.View", _role_permissions),
    Served(_AUTH, "RetrieveAllPermissions", "System.View", _all_permissions),
    Served(
        _AUTH,
        "RetrieveEntityPermissions",
        "System.View",
        _entity_permissions,
        rule="System.Read on the entity",
    ),
    Served(
        _AUTH,
        "SetEntityPermissions",
        "System.View",
        _set_permissions,
        (a.SetPermission,),
        rule=f"{MODIFY} on the entity",
    ),
    Served(
        _AUTH,
        "RemoveEntityPermission",
        "System.View",
        _remove_permission,
        (a.RemovePermission,),
        rule=f"{MODIFY} on the entity",
    ),
    Served(_AUTH, "HasPrivilegeOnEntity", "System.View", _has_privilege),
    Served(_AUTH, "HasPrivilegeOnEntities", "System.View", _has_privileges),
    Served(
        _AUTH,
        "FetchUserPrivilegeOnEntities",
        "System.View",
        _user_privileges,
        rule="System.View on each entity",
    ),
    Served(
        "HostLocalAccountManager",
        "CreateUser",
        _ACCOUNTS,
        _create_user,
        (a.CreateAccount,),
        ring=_B,
    ),
    Served(
        "HostLocalAccountManager",
        "UpdateUser",
        _ACCOUNTS,
        _update_user,
        (a.UpdateAccount,),
        ring=_B,
    ),
    Served(
        "HostLocalAccountManager",
        "RemoveUser",
        _ACCOUNTS,
        _remove_user,
        (a.RemoveAccount,),
        ring=_B,
    ),
    Served(
        "HostLocalAccountManager",
        "ChangePassword",
        ANONYMOUS,
        _change_password,
        (a.ChangePassword,),
        ring=_B,
        rule="the account's present password",
    ),
    Served(
        "UserDirectory",
        "RetrieveUserGroups",
        "System.View",
        _find_users,
        ring=_B,
        rule="any session",
    ),
    Served("OptionManager", "QueryOptions", "System.View", _query_options, ring=_B),
    Served(
        "OptionManager",
        "UpdateOptions",
        "System.View",
        _update_options,
        (a.SetOption,),
        ring=_B,
        rule="Host.Config.AdvancedConfig, for the agent's options Global.Settings too",
    ),
    Served(
        "HostAccessManager",
        "ChangeLockdownMode",
        "Host.Config.Settings",
        _change_lockdown,
        (a.SetLockdown,),
        ring=_B,
    ),
    Served("HostAccessManager", "QueryLockdownExceptions", "Global.Settings", _exceptions, ring=_B),
    Served(
        "HostAccessManager",
        "UpdateLockdownExceptions",
        "Global.Settings",
        _set_exceptions,
        (a.SetLockdownExceptions,),
        ring=_B,
    ),
    Served(
        "HostAccessManager",
        "RetrieveHostAccessControlEntries",
        "Global.Settings",
        _access_entries,
        ring=_B,
    ),
    Served(
        "HostAccessManager",
        "ChangeAccessMode",
        "Global.Settings",
        _change_access,
        (a.SetPermission, a.RemovePermission),
        ring=_B,
        rule=f"{MODIFY} on the root folder",
    ),
)
