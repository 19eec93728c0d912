"""HostAccessManager: lockdown, its exceptions, and who may do what on the host as a whole."""

from __future__ import annotations

from casemate.calls import admin as a
from casemate.calls.messages import Empty
from casemate.hostd.methods.accounts import demand_account
from casemate.hostd.methods.authorization import ADMIN, MODIFY, give, keep_administrator, take
from casemate.hostd.registry import Context, Ring, Served
from casemate.hostd.selection import text, texts
from casemate.policy.rights import ROOT, Permission
from casemate.vim25 import faults
from casemate.vim25.values import MoRef, Obj, Value

_MODES = {-1: "accessAdmin", -2: "accessReadOnly", -5: "accessNoAccess"}


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
        demand_account(context, user)
    await context.link.ask(a.SetLockdownExceptions(context.who.handle, named), Empty)
    wanted = tuple(dict.fromkeys(named))
    await context.replica.until(lambda: context.replica.world.lockdown.exceptions == wanted)
    return None


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
    demand_account(context, user)
    numbers = {name: number for number, name in _MODES.items()}
    if mode == "accessNone":
        keep_administrator(context, MoRef(*ROOT), user)
        await take(context, MoRef(*ROOT), user)
        return None
    if mode not in numbers:
        raise faults.invalid_argument("accessMode", "This mode cannot be set.")
    number = numbers[str(mode)]
    if number != ADMIN:
        keep_administrator(context, MoRef(*ROOT), user)
    await give(context, Permission(ROOT, user, number, propagate=True))
    return None


_B = Ring.HOST

ACCESS_METHODS = (
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
