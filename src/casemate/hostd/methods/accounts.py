"""HostLocalAccountManager and UserDirectory: the accounts of this host."""

from __future__ import annotations

from casemate.calls import admin as a
from casemate.calls.messages import Empty
from casemate.hostd.objects.governance import users
from casemate.hostd.reader import ANONYMOUS
from casemate.hostd.registry import Context, Ring, Served
from casemate.hostd.selection import text
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import Obj, Value


def _account(context: Context) -> tuple[str, str, str]:
    spec = context.arguments.get("user")
    if not isinstance(spec, Obj):
        raise faults.invalid_argument("user", "An account needs a description.")
    return text(spec.get("id")), text(spec.get("description")), text(spec.get("password"))


def demand_account(context: Context, user: str) -> None:
    """Raise FaultError (UserNotFound) unless there is such an account."""
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
    demand_account(context, user)
    about = about or context.replica.world.accounts[user].full_name
    request = a.UpdateAccount(context.who.handle, user, about, password)
    await context.link.ask(request, Empty)
    return None


async def _remove_user(context: Context) -> Value:
    user = text(context.arguments.get("userName"))
    demand_account(context, user)
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


_ACCOUNTS = "Host.Local.ManageUserGroups"
_B = Ring.HOST

ACCOUNT_METHODS = (
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
)
