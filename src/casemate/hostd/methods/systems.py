"""The host's smaller systems, what VMs may be made of, and what is always up to date."""

from __future__ import annotations

from casemate.calls.admin import LogReply, ReadLog
from casemate.calls.hardening import LAUNCHES, HardeningAudit, HardeningReply, as_lines
from casemate.calls.maintenance import MAINTENANCE, EnterMaintenance, ExitMaintenance
from casemate.calls.messages import TaskReply
from casemate.errors import NotFoundError
from casemate.hostd.objects import options, systems
from casemate.hostd.objects.base import moment
from casemate.hostd.objects.network import net_config
from casemate.hostd.objects.vm import HARDWARE_VERSION
from casemate.hostd.registry import Context, Ring, Served
from casemate.hostd.selection import text, texts
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import MoRef, Obj, Value

HARDENING = "hardening"
LINES = 1000
"""Lines of a log that one call answers: vSphere's own default."""


async def _packages(context: Context) -> Value:
    return systems.packages(context.reader.scope)


async def _install_date(context: Context) -> Value:
    return moment(context.replica.world.host.boot_time)


async def _uptime(context: Context) -> Value:
    return max(int(context.replica.clock().timestamp() - context.replica.world.host.boot_time), 0)


async def _enter_maintenance(context: Context) -> Value:
    seconds = context.arguments.get("timeout")
    wait = max(seconds, 0) if isinstance(seconds, int) else 0
    request = EnterMaintenance(context.who.handle, wait, "vSphere API")
    return MoRef("Task", (await context.link.ask(request, TaskReply)).task)


async def _exit_maintenance(context: Context) -> Value:
    request = ExitMaintenance(context.who.handle, "vSphere API")
    return MoRef("Task", (await context.link.ask(request, TaskReply)).task)


async def _net_config(context: Context) -> Value:
    service = text(context.arguments.get("nicType"))
    try:
        return net_config(context.reader.scope, service)
    except NotFoundError as error:
        raise faults.invalid_argument("nicType", error.reason) from None


async def _time(context: Context) -> Value:
    return context.replica.clock()


async def _descriptions(_context: Context) -> Value:
    return systems.log_descriptors()


async def _browse(context: Context) -> Value:
    name = text(context.arguments.get("key"))
    if name not in systems.LOGS:
        raise faults.invalid_argument("key", f"There is no log {name:.80}.")
    start, lines = context.arguments.get("start"), context.arguments.get("lines")
    first = start if isinstance(start, int) and start > 0 else 1
    count = lines if isinstance(lines, int) and lines >= 0 else LINES
    if name == HARDENING:
        return await _audit(context, first, min(count, LINES))
    reply = await context.link.ask(
        ReadLog(context.who.handle, name, first, min(count, LINES)), LogReply
    )
    return Obj(
        "DiagnosticManagerLogHeader",
        lineStart=reply.start,
        lineEnd=reply.start + len(reply.lines) - 1 if reply.lines else reply.end,
        lineText=reply.lines,
    )


async def _audit(context: Context, first: int, count: int) -> Obj:
    audit = HardeningAudit(context.who.handle, LAUNCHES)
    lines = as_lines(await context.link.ask(audit, HardeningReply))
    chosen = lines[first - 1 : first - 1 + count]
    return Obj(
        "DiagnosticManagerLogHeader",
        lineStart=first,
        lineEnd=first + len(chosen) - 1 if chosen else len(lines),
        lineText=chosen,
    )


async def _no_service(context: Context) -> Value:
    name = text(context.arguments.get("id"))
    if name != "hostd":
        raise FaultError(Obj("NotFound"), f"There is no service {name:.80}.")
    raise FaultError(
        Obj("HostConfigFault"), "The API is required: it is neither stopped nor restarted."
    )


async def _nothing(_context: Context) -> Value:
    """Answer at once: what is shown follows the facts and never needs a refresh."""


def _version(key: Value) -> str:
    """Return a version of virtual hardware; none was asked for: the newest."""
    version = text(key) or HARDWARE_VERSION
    if version not in options.VERSIONS:
        raise faults.invalid_argument("key", f"There is no virtual hardware {version:.20}.")
    return version


async def _option(context: Context) -> Value:
    return options.config_option((), _version(context.arguments.get("key")))


async def _option_ex(context: Context) -> Value:
    spec = context.arguments.get("spec")
    if not isinstance(spec, Obj):
        return options.config_option()
    return options.config_option(texts(spec.get("guestId")), _version(spec.get("key")))


async def _descriptors(_context: Context) -> Value:
    return options.descriptors()


async def _target(context: Context) -> Value:
    return options.config_target(context.reader.scope)


_SERVICES = "Host.Config.NetService"
_B = Ring.HOST

SYSTEM_METHODS = (
    Served("HostVirtualNicManager", "QueryNetConfig", "System.Read", _net_config, ring=Ring.HOST),
    Served(
        "HostSystem",
        "EnterMaintenanceMode_Task",
        MAINTENANCE,
        _enter_maintenance,
        (EnterMaintenance,),
    ),
    Served(
        "HostSystem",
        "ExitMaintenanceMode_Task",
        MAINTENANCE,
        _exit_maintenance,
        (ExitMaintenance,),
    ),
    Served("ManagedEntity", "Reload", "System.Read", _nothing),
    Served("VirtualMachine", "RefreshStorageInfo", "System.Read", _nothing),
    Served("ResourcePool", "RefreshRuntime", "System.View", _nothing),
    Served("EnvironmentBrowser", "QueryConfigOption", "System.View", _option),
    Served("EnvironmentBrowser", "QueryConfigOptionEx", "System.View", _option_ex),
    Served("EnvironmentBrowser", "QueryConfigOptionDescriptor", "System.View", _descriptors),
    Served("EnvironmentBrowser", "QueryConfigTarget", "System.View", _target),
    Served("HostSystem", "RetrieveHardwareUptime", "System.Read", _uptime, ring=_B),
    Served(
        "HostImageConfigManager",
        "fetchSoftwarePackages",
        "Host.Config.Image",
        _packages,
        ring=_B,
    ),
    Served("HostImageConfigManager", "installDate", "Host.Config.Image", _install_date, ring=_B),
    Served("HostServiceSystem", "StartService", _SERVICES, _no_service, ring=_B),
    Served("HostServiceSystem", "StopService", _SERVICES, _no_service, ring=_B),
    Served("HostServiceSystem", "RestartService", _SERVICES, _no_service, ring=_B),
    Served("HostServiceSystem", "UpdateServicePolicy", _SERVICES, _no_service, ring=_B),
    Served("HostServiceSystem", "RefreshServices", _SERVICES, _nothing, ring=_B),
    Served("HostNetworkSystem", "RefreshNetworkSystem", "Host.Config.Network", _nothing, ring=_B),
    Served("HostFirewallSystem", "RefreshFirewall", _SERVICES, _nothing, ring=_B),
    Served("HostDateTimeSystem", "QueryDateTime", "System.Read", _time, ring=_B),
    Served("DiagnosticManager", "QueryDescriptions", "Global.Diagnostics", _descriptions, ring=_B),
    Served(
        "DiagnosticManager",
        "BrowseDiagnosticLog",
        "Global.Diagnostics",
        _browse,
        (ReadLog, HardeningAudit),
        ring=_B,
    ),
)
