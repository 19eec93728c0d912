"""The VMs that start and stop with the host."""

from __future__ import annotations

from dataclasses import replace

from casemate.calls import autostart as calls
from casemate.calls.messages import Empty
from casemate.hostd.registry import Context, Served
from casemate.hostd.selection import objs, text
from casemate.machine.autostart import AutoStartDefaults, AutoStartEntry, merged
from casemate.vim25 import faults
from casemate.vim25.values import MoRef, Obj, Value

WHY = "vSphere API"


async def _configure(context: Context) -> Value:
    spec = context.arguments.get("spec")
    if not isinstance(spec, Obj):
        raise faults.invalid_argument("spec", "A configuration is needed.")
    given = spec.get("defaults")
    world = context.replica.world
    present = world.autostart
    defaults = _defaults(given, present.defaults) if isinstance(given, Obj) else None
    entries = tuple(_entry(info, context) for info in objs(spec.get("powerInfo")))
    wanted = merged(replace(present, defaults=defaults or present.defaults), entries)
    request = calls.SetAutoStart(context.who.handle, defaults, entries, WHY)
    await context.link.ask(request, Empty)
    await context.replica.until(lambda: world.autostart == wanted)
    return None


def _defaults(given: Obj, before: AutoStartDefaults) -> AutoStartDefaults:
    enabled, heartbeat = given.get("enabled"), given.get("waitForHeartbeat")
    return AutoStartDefaults(
        enabled=before.enabled if enabled is None else enabled is True,
        start_delay=_number(given.get("startDelay"), before.start_delay),
        stop_delay=_number(given.get("stopDelay"), before.stop_delay),
        wait_for_heartbeat=before.wait_for_heartbeat if heartbeat is None else heartbeat is True,
        stop_action=_action(given.get("stopAction")) or before.stop_action,
    )


def _entry(info: Obj, context: Context) -> AutoStartEntry:
    ref = info.get("key")
    if not isinstance(ref, MoRef):
        raise faults.invalid_argument("spec.powerInfo.key", "It names no VM.")
    context.reader.require(ref)
    return AutoStartEntry(
        vm=ref.value,
        order=_number(info.get("startOrder"), -1),
        start_delay=_number(info.get("startDelay"), -1),
        start_action=_action(info.get("startAction")) or "none",
        wait_for_heartbeat=text(info.get("waitForHeartbeat")) or "systemDefault",
        stop_delay=_number(info.get("stopDelay"), -1),
        stop_action=_action(info.get("stopAction")) or "systemDefault",
    )


def _action(value: Value) -> str:
    """Return an action; clients write some of them with a capital letter."""
    given = text(value)
    return given[:1].lower() + given[1:]


def _number(value: Value, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


async def _power_on(context: Context) -> Value:
    await context.link.ask(calls.AutoStart(context.who.handle, WHY), Empty)
    return None


async def _power_off(context: Context) -> Value:
    await context.link.ask(calls.AutoStop(context.who.handle, WHY), Empty)
    return None


_MANAGER = "HostAutoStartManager"

AUTOSTART_METHODS = (
    Served(
        _MANAGER,
        "ReconfigureAutostart",
        calls.SetAutoStart.privilege,
        _configure,
        (calls.SetAutoStart,),
    ),
    Served(_MANAGER, "AutoStartPowerOn", calls.AutoStart.privilege, _power_on, (calls.AutoStart,)),
    Served(_MANAGER, "AutoStartPowerOff", calls.AutoStop.privilege, _power_off, (calls.AutoStop,)),
)
