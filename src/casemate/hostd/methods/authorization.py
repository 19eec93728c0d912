"""AuthorizationManager: roles, permissions, and what a user may do."""

from __future__ import annotations

from collections.abc import Iterator

from casemate.calls import admin as a
from casemate.calls.messages import Empty
from casemate.errors import LimitError
from casemate.hostd.objects.base import permission
from casemate.hostd.objects.governance import given, privilege_ids
from casemate.hostd.registry import Context, Served
from casemate.hostd.selection import objs, refs, text, texts
from casemate.policy.privileges import ROLES, VIEW, Role
from casemate.policy.rights import ROOT, Permission
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import MoRef, Obj, Value

MODIFY = "Authorization.ModifyPermissions"
ADMIN = -1
ANSWERS_LIMIT = 500_000
"""Pairs of entity and privilege in one question: all 400 privileges on 1,000 VMs."""


def _missing(reason: str) -> FaultError:
    return FaultError(Obj("NotFound"), reason)


def _number(value: Value) -> int:
    return value if isinstance(value, int) else 0


def _entity(context: Context, name: str = "entity") -> MoRef:
    ref = context.arguments.get(name)
    if not isinstance(ref, MoRef):
        raise faults.invalid_argument(name, "An entity is needed.")
    return ref


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
    return tuple(permission(one) for one in _visible(context) if one.role == role.number)


async def _all_permissions(context: Context) -> Value:
    return tuple(map(permission, _visible(context)))


def _visible(context: Context) -> Iterator[Permission]:
    """Yield the permissions on what the session may view, as vSphere does."""
    for one in context.replica.world.rights.all():
        if context.reader.may(MoRef(*one.entity), VIEW):
            yield one


async def _entity_permissions(context: Context) -> Value:
    inherited = context.arguments.get("inherited") is True
    entity = _entity(context)
    place = (entity.type, entity.value)
    found = context.replica.world.rights.on(place, inherited=inherited)
    return tuple(map(permission, found))


def keep_administrator(context: Context, entity: MoRef, principal: str) -> None:
    """Raise FaultError if the principal is the last who governs the host."""
    held = context.replica.world.rights.on(ROOT, inherited=False)
    admins = {one.principal for one in held if one.role == ADMIN}
    if tuple(entity) == ROOT and admins == {principal}:
        raise FaultError(
            Obj("AuthMinimumAdminPermission"),
            "The last administrator of the host cannot lose its role.",
        )


async def _set_permissions(context: Context) -> Value:
    entity = _entity(context)
    wanted = [_checked(context, entity, item) for item in objs(context.arguments.get("permission"))]
    for one in wanted:
        await give(context, one)
    return None


async def give(context: Context, one: Permission) -> None:
    """Set a permission; it can be read when this returns."""
    request = a.SetPermission(
        context.who.handle, *one.entity, one.principal, one.role, one.propagate
    )
    await context.link.ask(request, Empty)
    rights = context.replica.world.rights
    await context.replica.until(lambda: one in rights.on(one.entity, inherited=False))


async def take(context: Context, entity: MoRef, principal: str) -> None:
    """Remove a permission; it can be read no more when this returns."""
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
    if role.number != ADMIN:
        keep_administrator(context, entity, principal)
    propagate = item.get("propagate") is True
    return Permission((entity.type, entity.value), principal, role.number, propagate)


async def _remove_permission(context: Context) -> Value:
    entity = _entity(context)
    principal = text(context.arguments.get("user"))
    held = context.replica.world.rights.on((entity.type, entity.value), inherited=False)
    if context.arguments.get("isGroup") is True or all(o.principal != principal for o in held):
        raise _missing("There is no such permission.")
    keep_administrator(context, entity, principal)
    await take(context, entity, principal)
    return None


def _user_of(context: Context) -> str:
    key = text(context.arguments.get("sessionId"))
    user = context.sessions.user_of(key, context.replica.world)
    if user is None:
        raise FaultError(
            Obj("InvalidArgument", invalidProperty="sessionId"), "There is no such session."
        )
    return user


def _gives(context: Context, user: str, entity: MoRef, privilege: str) -> bool:
    return context.replica.world.rights.gives(user, (entity.type, entity.value), privilege)


async def _has_privilege(context: Context) -> Value:
    user, entity = _user_of(context), _entity(context)
    return tuple(
        _gives(context, user, entity, one) for one in texts(context.arguments.get("privId"))
    )


def _bounded(entities: int, privileges: int) -> None:
    if entities * privileges > ANSWERS_LIMIT:
        raise LimitError(f"a question for more than {ANSWERS_LIMIT} answers; ask in parts")


async def _has_privileges(context: Context) -> Value:
    user = _user_of(context)
    wanted = texts(context.arguments.get("privId"))
    _bounded(len(refs(context.arguments.get("entity"))), len(wanted))
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
    _bounded(len(refs(context.arguments.get("entities"))), len(privilege_ids()))
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


_AUTH = "AuthorizationManager"
_ROLES = "Authorization.ModifyRoles"

AUTHORIZATION_METHODS = (
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
)
