"""ServiceInstance, SessionManager and Fetch."""

from __future__ import annotations

from casemate.calls import admin as a
from casemate.calls.messages import CloneSession, Empty, Login, Logout, ResumeSession, SessionReply
from casemate.hostd.objects.service import content
from casemate.hostd.reader import ANONYMOUS
from casemate.hostd.registry import Context, Ring, Served
from casemate.hostd.selection import text, texts
from casemate.policy import options
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import Obj, Raw, Value

_CLONE = "CloneSession"
_TEXT_LIMIT = 256
"""Characters of a user name or password that are passed on."""


async def _content(context: Context) -> Value:
    return content(context.reader.scope)


async def _time(context: Context) -> Value:
    return context.replica.clock()


async def _login(context: Context) -> Value:
    user = text(context.arguments.get("userName"))[:_TEXT_LIMIT]
    password = text(context.arguments.get("password"))[:_TEXT_LIMIT]
    reply = await context.link.ask(Login(user, password, context.peer), SessionReply)
    if context.session is not None:
        await context.sessions.end(context.session)
    context.session = context.sessions.open(reply, context.peer, context.agent)
    return context.session.user_session()


async def _logout(context: Context) -> Value:
    await context.sessions.end(context.who)
    context.session = None
    return None


async def _clone_ticket(context: Context) -> Value:
    return context.sessions.tickets.issue(context.who.handle, _CLONE, "", "")


async def _clone(context: Context) -> Value:
    ticket = text(context.arguments.get("cloneTicket"))
    handle = context.sessions.tickets.redeem(ticket, _CLONE, "", "")
    if handle is None:
        raise FaultError(Obj("InvalidLogin"), "The ticket is not good, or was used already.")
    reply = await context.link.ask(CloneSession(handle, context.peer), SessionReply)
    if context.session is not None:
        await context.sessions.end(context.session)
    context.session = context.sessions.open(reply, context.peer, context.agent)
    return context.session.user_session()


async def _is_active(context: Context) -> Value:
    key, user = context.arguments.get("sessionID"), text(context.arguments.get("userName"))
    return context.sessions.user_of(text(key), context.replica.world) == user


async def _terminate(context: Context) -> Value:
    keys, world = texts(context.arguments.get("sessionId")), context.replica.world
    if any(context.sessions.user_of(key, world) is None for key in keys):
        raise FaultError(Obj("NotFound"), "There is no such session.")
    if context.who.key in keys:
        raise faults.invalid_argument("sessionId", "A session ends itself with Logout.")
    for key in keys:
        await context.link.ask(a.TerminateSession(context.who.handle, key), Empty)
        context.sessions.forget(key)
    await context.replica.until(lambda: not any(key in world.logins for key in keys))
    return None


async def _set_message(context: Context) -> Value:
    message = text(context.arguments.get("message"))
    await context.link.ask(a.SetMessage(context.who.handle, message), Empty)
    world = context.replica.world
    await context.replica.until(lambda: world.option(options.MESSAGE) == message)
    return None


async def _fetch(context: Context) -> Value:
    value = context.reader.fragment(context.this, text(context.arguments.get("prop")))
    if value is None:
        return None
    return Raw(f"<returnval{value.removeprefix('<val').removesuffix('</val>')}</returnval>")


SERVICE_METHODS = (
    Served("ServiceInstance", "RetrieveServiceContent", ANONYMOUS, _content),
    Served("ServiceInstance", "CurrentTime", "System.View", _time),
    Served("SessionManager", "Login", ANONYMOUS, _login, (Login, Logout)),
    Served("SessionManager", "Logout", "System.View", _logout, (Logout, ResumeSession)),
    Served(
        "SessionManager",
        "AcquireCloneTicket",
        "System.View",
        _clone_ticket,
        ring=Ring.COMPATIBILITY,
    ),
    Served(
        "SessionManager",
        "CloneSession",
        ANONYMOUS,
        _clone,
        (CloneSession, Logout),
        ring=Ring.COMPATIBILITY,
        rule="a ticket of a session that is still good: once, for a minute",
    ),
    Served("SessionManager", "SessionIsActive", "Sessions.ValidateSession", _is_active),
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
        ring=Ring.HOST,
    ),
    # Each property has a privilege of its own.
    Served("ManagedObject", "Fetch", ANONYMOUS, _fetch),
)
