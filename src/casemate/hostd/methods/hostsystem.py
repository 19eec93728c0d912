"""The host's software, certificate and power, as its administrator changes them."""

from __future__ import annotations

from typing import Final
from xml.sax.saxutils import escape

from casemate.calls import certificates
from casemate.calls import software as s
from casemate.calls.console import EndHost
from casemate.calls.messages import Empty
from casemate.formats import datastorepath
from casemate.hostd.kernelclient import RefusedError
from casemate.hostd.objects.systems import LEVELS
from casemate.hostd.owntask import ended
from casemate.hostd.registry import Context, Handler, Ring, Served
from casemate.hostd.selection import text, texts
from casemate.hostd.soap import fault_of
from casemate.hostd.wellknown import HOST
from casemate.vim25 import faults
from casemate.vim25.faults import FaultError
from casemate.vim25.values import Obj, Value

WHY: Final = "vSphere API"
_DISPLAYED: Final = {
    "vmware_certified": "VMwareCertified",
    "vmware_accepted": "VMwareAccepted",
    "partner": "PartnerSupported",
    "community": "CommunitySupported",
}


async def _acceptance(context: Context) -> Value:
    wanted = text(context.arguments.get("newAcceptanceLevel"))
    if wanted not in _DISPLAYED:
        names = ", ".join(LEVELS.values())
        raise faults.invalid_argument("newAcceptanceLevel", f"The levels are {names}.")
    request = s.AcceptanceSet(context.who.handle, _DISPLAYED[wanted], WHY)
    await context.link.ask(request, s.LevelReply)
    return None


def _end(method: str, *, restart: bool) -> Handler:
    async def handler(context: Context) -> Value:
        host = context.replica.world.host
        if context.arguments.get("force") is not True and not host.in_maintenance_mode:
            raise FaultError(
                Obj("InvalidState"), "The host is not in maintenance mode: enter it, or force."
            )
        await context.link.ask(EndHost(context.who.handle, restart), Empty)
        return ended(context, method, HOST, None)

    return handler


async def _signing_request(context: Context) -> Value:
    spec = context.arguments.get("spec")
    names = texts(spec.get("subjectAlternativeNames")) if isinstance(spec, Obj) else ()
    address = ""
    if context.arguments.get("useIpAddressAsCommonName") is True:
        found = context.replica.world.addresses
        address = next((one.address for one in found.values()), "") if found else ""
        if not address:
            raise FaultError(Obj("HostConfigFault"), "The host knows no address of its own.")
    request = certificates.SigningRequest(context.who.handle, address, names)
    return (await context.link.ask(request, certificates.PemReply)).pem


async def _install_certificate(context: Context) -> Value:
    pem = text(context.arguments.get("cert"))
    request = certificates.InstallCertificate(context.who.handle, pem, WHY)
    await context.link.ask(request, Empty)
    return None


def _paths(context: Context, argument: str) -> tuple[str, ...]:
    """Return datastore paths: bundles are given so, or as /vmfs/volumes/DATASTORE/PATH."""
    found = []
    for given in texts(context.arguments.get(argument)):
        name = given.removeprefix("file://")
        inside = datastorepath.in_volume(name)
        found.append(datastorepath.show(*(inside or datastorepath.parse(name))))
    return tuple(found)


def _change(method: str, *, dry_run: bool) -> Handler:
    async def handler(context: Context) -> Value:
        vibs, depots = _paths(context, "vibUrls"), _paths(context, "bundleUrls")
        names = texts(context.arguments.get("bulletinIds"))
        if context.arguments.get("metaUrls") or not (vibs or depots or names):
            raise faults.invalid_argument("bundleUrls", "Bundles and VIBs are files of datastores.")
        context.reader.allow(HOST, s.SoftwareChange.privilege)
        action = "remove" if names else "install" if vibs else "update"
        request = s.SoftwareChange(
            context.who.handle, action, vibs, depots, names, dry_run=dry_run, why=WHY
        )
        try:
            reply = await context.link.ask(request, s.ChangeReply)
        except RefusedError as error:
            return ended(context, method, HOST, fault_of(error, context.this))
        return ended(context, method, HOST, _result(reply))

    return handler


async def _scan(context: Context) -> Value:
    depots = _paths(context, "bundleUrls")
    if not depots:
        raise faults.invalid_argument("bundleUrls", "Bundles are files of datastores.")
    handle = context.who.handle
    try:
        found = await context.link.ask(s.DepotList(handle, depots), s.DepotReply)
        present = await context.link.ask(s.SoftwareList(handle, rebooting=True), s.SoftwareReply)
    except RefusedError as error:
        return ended(context, "ScanHostPatchV2_Task", HOST, fault_of(error, context.this))
    held = {vib.vib_id for vib in present.vibs}
    status = tuple(
        _status(vib.vib_id, installed=vib.vib_id in held, restart=True) for vib in found.vibs
    )
    outcome = Obj("HostPatchManagerResult", version="1.4", status=status)
    return ended(context, "ScanHostPatchV2_Task", HOST, outcome)


def _status(name: str, *, installed: bool, restart: bool) -> Obj:
    return Obj(
        "HostPatchManagerStatus",
        id=name,
        applicable=not installed,
        installed=installed,
        restartRequired=restart,
        reconnectRequired=False,
        vmOffRequired=False,
    )


def _result(reply: s.ChangeReply) -> Obj:
    parts = [
        f"<message>{escape(reply.message)}</message>",
        *(f"<installed>{escape(one)}</installed>" for one in reply.installed),
        *(f"<removed>{escape(one)}</removed>" for one in reply.removed),
        *(f"<skipped>{escape(one)}</skipped>" for one in reply.skipped),
        f"<rebootRequired>{str(reply.reboot_required).lower()}</rebootRequired>",
    ]
    return Obj(
        "HostPatchManagerResult",
        version="1.4",
        status=tuple(
            _status(one, installed=True, restart=reply.reboot_required) for one in reply.installed
        ),
        xmlResult=f"<esxupdate-response>{''.join(parts)}</esxupdate-response>",
    )


_PATCH: Final = "HostPatchManager"
_B: Final = Ring.HOST
_ALSO: Final = f"and {s.SoftwareChange.privilege}"
_CHANGES: Final = (s.SoftwareChange,)

HOST_SYSTEM_METHODS = (
    Served(
        "HostImageConfigManager",
        "UpdateHostImageAcceptanceLevel",
        s.AcceptanceSet.privilege,
        _acceptance,
        (s.AcceptanceSet,),
        ring=_B,
    ),
    Served(
        "HostSystem",
        "RebootHost_Task",
        EndHost.privilege,
        _end("RebootHost_Task", restart=True),
        (EndHost,),
        ring=_B,
        rule="maintenance mode or force; where the host is the machine's own system",
    ),
    Served(
        "HostSystem",
        "ShutdownHost_Task",
        EndHost.privilege,
        _end("ShutdownHost_Task", restart=False),
        (EndHost,),
        ring=_B,
        rule="maintenance mode or force; where the host is the machine's own system",
    ),
    Served(
        "HostCertificateManager",
        "GenerateCertificateSigningRequest",
        "Certificate.Manage",
        _signing_request,
        (certificates.SigningRequest,),
        ring=_B,
    ),
    Served(
        "HostCertificateManager",
        "InstallServerCertificate",
        "Certificate.Manage",
        _install_certificate,
        (certificates.InstallCertificate,),
        ring=_B,
    ),
    Served(
        _PATCH,
        "CheckHostPatch_Task",
        "System.Read",
        _change("CheckHostPatch_Task", dry_run=True),
        _CHANGES,
        ring=_B,
        rule=_ALSO,
    ),
    Served(
        _PATCH,
        "ScanHostPatchV2_Task",
        "System.Read",
        _scan,
        (s.DepotList, s.SoftwareList),
        ring=_B,
    ),
    Served(
        _PATCH,
        "InstallHostPatchV2_Task",
        "Host.Config.Patch",
        _change("InstallHostPatchV2_Task", dry_run=False),
        _CHANGES,
        ring=_B,
        rule=_ALSO,
    ),
    Served(
        _PATCH,
        "UninstallHostPatch_Task",
        "Host.Config.Patch",
        _change("UninstallHostPatch_Task", dry_run=False),
        _CHANGES,
        ring=_B,
        rule=_ALSO,
    ),
)
