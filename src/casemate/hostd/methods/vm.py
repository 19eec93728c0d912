"""Power, registration and the host's own methods."""

from __future__ import annotations

import secrets

from casemate.calls.messages import (
    Empty,
    EvidenceReply,
    PowerOff,
    PowerOn,
    Quote,
    RegisterVm,
    Reset,
    ShutdownGuest,
    TaskReply,
    UnregisterVm,
)
from casemate.calls.vms import RebootGuest, StandbyGuest
from casemate.hostd.objects.systems import LEVELS
from casemate.hostd.registry import Context, Handler, Ring, Served
from casemate.hostd.selection import text
from casemate.machine.facts import ComponentFact
from casemate.policy.report import Origin, attestation_report
from casemate.vim25.faults import FaultError
from casemate.vim25.values import MoRef, Obj, Value

NONCE_SIZE = 32
"""Bytes of the nonce of a quote that hostd asks for itself."""

REPORT_BANK = "sha256"
ALL_PCRS = tuple(range(24))


def _power(request: type[PowerOn | PowerOff | Reset]) -> Handler:
    async def handler(context: Context) -> Value:
        call = request(context.who.handle, context.this.value, "vSphere API")
        reply = await context.link.ask(call, TaskReply)
        return MoRef("Task", reply.task)

    return handler


async def _terminate(context: Context) -> Value:
    request = PowerOff(context.who.handle, context.this.value, "vSphere API")
    await context.link.ask(request, TaskReply)
    return None


async def _shutdown_guest(context: Context) -> Value:
    await context.link.ask(
        ShutdownGuest(context.who.handle, context.this.value, "vSphere API"), Empty
    )
    return None


async def _reboot_guest(context: Context) -> Value:
    request = RebootGuest(context.who.handle, context.this.value, "vSphere API")
    await context.link.ask(request, Empty)
    return None


async def _standby_guest(context: Context) -> Value:
    request = StandbyGuest(context.who.handle, context.this.value, "vSphere API")
    await context.link.ask(request, Empty)
    return None


async def _register(context: Context) -> Value:
    if context.arguments.get("asTemplate") is True:
        raise FaultError(Obj("NotSupported"))
    pool = context.arguments.get("pool")
    if isinstance(pool, MoRef):
        context.reader.require(pool)
        context.reader.allow(pool, "Resource.AssignVMToPool")
    into = pool.value if isinstance(pool, MoRef) else ""
    path = text(context.arguments.get("path"))
    reply = await context.link.ask(
        RegisterVm(context.who.handle, path, "vSphere API", into), TaskReply
    )
    return MoRef("Task", reply.task)


async def _unregister(context: Context) -> Value:
    await context.link.ask(
        UnregisterVm(context.who.handle, context.this.value, "vSphere API"), Empty
    )
    return None


async def _report(context: Context) -> Value:
    quote = Quote(secrets.token_bytes(NONCE_SIZE), (REPORT_BANK,), ALL_PCRS)
    evidence = await context.link.ask(quote, EvidenceReply)
    context.replica.set_pcrs(evidence.pcrs)
    values = {
        index: value
        for bank in evidence.pcrs
        if bank.algorithm == REPORT_BANK
        for index, value in bank.values
    }
    origins = {
        fact.file_name: Origin(fact.vib_name, fact.vib_version, fact.vib_vendor)
        for fact in evidence.components
        if isinstance(fact, ComponentFact)
    }
    return attestation_report(evidence.log, values, origins, complete=evidence.boot_complete)


async def _acceptance(context: Context) -> Value:
    level = context.replica.world.host.acceptance_level
    return LEVELS.get(level, level)


async def _profile(context: Context) -> Value:
    host = context.replica.world.host
    return Obj("HostImageProfileSummary", name=host.image_profile, vendor=host.image_vendor)


_IMAGE = "HostImageConfigManager"

VM_METHODS = (
    Served("VirtualMachine", "PowerOnVM_Task", PowerOn.privilege, _power(PowerOn), (PowerOn,)),
    Served("VirtualMachine", "PowerOffVM_Task", PowerOff.privilege, _power(PowerOff), (PowerOff,)),
    Served("VirtualMachine", "TerminateVM", PowerOff.privilege, _terminate, (PowerOff,)),
    Served("VirtualMachine", "ResetVM_Task", Reset.privilege, _power(Reset), (Reset,)),
    Served(
        "VirtualMachine",
        "ShutdownGuest",
        ShutdownGuest.privilege,
        _shutdown_guest,
        (ShutdownGuest,),
    ),
    Served("VirtualMachine", "RebootGuest", RebootGuest.privilege, _reboot_guest, (RebootGuest,)),
    Served(
        "VirtualMachine", "StandbyGuest", StandbyGuest.privilege, _standby_guest, (StandbyGuest,)
    ),
    Served("VirtualMachine", "UnregisterVM", UnregisterVm.privilege, _unregister, (UnregisterVm,)),
    Served(
        "Folder",
        "RegisterVM_Task",
        RegisterVm.privilege,
        _register,
        (RegisterVm,),
        rule="Datastore.Browse on the datastore",
    ),
    Served("HostSystem", "QueryTpmAttestationReport", "System.Read", _report, (Quote,)),
    Served(
        "HostImageConfigManager",
        "HostImageConfigGetAcceptance",
        "System.Read",
        _acceptance,
        ring=Ring.HOST,
    ),
    Served(
        "HostImageConfigManager",
        "HostImageConfigGetProfile",
        "System.Read",
        _profile,
        ring=Ring.HOST,
    ),
)
