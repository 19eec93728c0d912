"""OptionManager: the advanced options of host and agent."""

from __future__ import annotations

from casemate.calls import admin as a
from casemate.calls.messages import Empty
from casemate.hostd.objects.governance import of_agent, option_values
from casemate.hostd.registry import Context, Ring, Served
from casemate.hostd.selection import objs, text
from casemate.hostd.wellknown import AGENT_OPTIONS
from casemate.policy import options
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import Obj, Typed, Value


async def _query_options(context: Context) -> Value:
    prefix = text(context.arguments.get("name"))
    found = option_values(context.reader.scope, context.this.value, prefix)
    if prefix and not found:
        raise FaultError(Obj("InvalidName", name=prefix), f"There is no option {prefix:.100}.")
    return found


async def _update_options(context: Context) -> Value:
    context.reader.allow(context.this, "Host.Config.AdvancedConfig")
    wanted = objs(context.arguments.get("changedValue"))
    if context.this == AGENT_OPTIONS or any(of_agent(text(one.get("key"))) for one in wanted):
        context.reader.allow(context.this, "Global.Settings")
    known = {
        text(one.get("key")) for one in option_values(context.reader.scope, context.this.value)
    }
    changes: list[tuple[str, str]] = []
    for item in wanted:
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


_B = Ring.HOST

OPTION_METHODS = (
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
)
