"""VMs in and out as OVF: what to make of a descriptor, leases, and a descriptor of a VM."""

from __future__ import annotations

import secrets
from collections.abc import Container, Iterator, Mapping
from typing import Final

from casemate.calls import leases as c
from casemate.calls.messages import Empty
from casemate.errors import CasemateError, NotSupportedError
from casemate.formats import ovf
from casemate.hostd.lease import Lease, controller_type, device_key
from casemate.hostd.objects.devices import nic_models
from casemate.hostd.objects.guestos import guest_id, names
from casemate.hostd.registry import Context, Served
from casemate.hostd.selection import objs, text
from casemate.hostd.vmchange import unsupported
from casemate.hostd.vmspec import created
from casemate.machine.facts import VmFact
from casemate.machine.networks import DEFAULT_GROUP
from casemate.vim25 import faults
from casemate.vim25.values import MoRef, Obj, Value

WHY: Final = "vSphere API"
_KIB: Final = 1024
_DISK_DRIVE: Final = 17
"""CIM resource type of a disk."""
_THICK: Final = frozenset({"thick", "eagerZeroedThick", "flat", "monolithicFlat"})
_HTTPS: Final = 443
ENDED_KEPT: Final = 16
"""Leases that are over and may still be looked at."""


def _descriptor(context: Context) -> ovf.OvfMachine:
    return ovf.parse(text(context.arguments.get("ovfDescriptor")).encode())


def _failure(error: CasemateError) -> Obj:
    """Return what a descriptor that is not taken is answered with: data, no fault."""
    kind = "OvfUnsupportedPackage" if isinstance(error, NotSupportedError) else "OvfInvalidPackage"
    values: dict[str, Value] = {} if isinstance(error, NotSupportedError) else {"lineNumber": 0}
    return Obj("LocalizedMethodFault", fault=Obj(kind, **values), localizedMessage=error.reason)


async def _parse(context: Context) -> Value:
    base: dict[str, Value] = {"annotation": "", "defaultEntityName": "", "virtualApp": False}
    base["defaultDeploymentOption"] = ""
    try:
        machine = _descriptor(context)
    except CasemateError as error:
        return Obj("OvfParseDescriptorResult", **base, error=(_failure(error),))
    networks = sorted({network for network, _ in machine.nics})
    base |= {"annotation": machine.annotation, "defaultEntityName": machine.name}
    return Obj(
        "OvfParseDescriptorResult",
        **base,
        network=tuple(Obj("OvfNetworkInfo", name=name, description="") for name in networks),
        approximateDownloadSize=sum(disk.file_size for disk in machine.disks),
        approximateFlatDeploymentSize=sum(disk.capacity for disk in machine.disks),
    )


async def _validate(context: Context) -> Value:
    """Tell what would become of a package here, without making anything."""
    try:
        machine = _descriptor(context)
    except CasemateError as error:
        return Obj("OvfValidateHostResult", error=(_failure(error),))
    return Obj(
        "OvfValidateHostResult",
        downloadSize=sum(disk.file_size for disk in machine.disks),
        flatDeploymentSize=sum(disk.capacity for disk in machine.disks),
        sparseDeploymentSize=sum(disk.file_size for disk in machine.disks),
        warning=tuple(_lost(machine, {}, context.replica.world.port_groups)),
        supportedDiskProvisioning=("thin", "thick", "eagerZeroedThick"),
    )


def _lost(
    machine: ovf.OvfMachine, mapped: Mapping[str, str], networks: Container[str]
) -> Iterator[Obj]:
    """Yield a warning for each network of a package that this host does not have."""
    for one in sorted({n for n, _ in machine.nics if mapped.get(n, n) not in networks}):
        yield Obj(
            "LocalizedMethodFault",
            fault=Obj("OvfUnsupportedDeviceBackingInfo", elementName=one, deviceName=one),
            localizedMessage=f"There is no network {one}: {DEFAULT_GROUP} is used.",
        )


async def _import_spec(context: Context) -> Value:
    params = context.arguments.get("cisp")
    store = context.arguments.get("datastore")
    if not isinstance(params, Obj) or not isinstance(store, MoRef):
        raise faults.invalid_argument("cisp", "Parameters and a datastore are needed.")
    try:
        machine = _descriptor(context)
    except CasemateError as error:
        return Obj("OvfCreateImportSpecResult", error=(_failure(error),))
    name = text(params.get("entityName")) or machine.name
    mapped = {
        text(one.get("name")): ref.value.removeprefix("HaNetwork-")
        for one in objs(params.get("networkMapping"))
        if isinstance(ref := one.get("network"), MoRef)
    }
    networks = context.replica.world.port_groups
    warnings = tuple(_lost(machine, mapped, networks))
    known = {
        n: mapped.get(n, n) if mapped.get(n, n) in networks else DEFAULT_GROUP
        for n, _ in machine.nics
    }
    datastore = context.replica.world.datastores[store.value].name
    thin = text(params.get("diskProvisioning")) not in _THICK
    spec = Obj(
        "VirtualMachineConfigSpec",
        name=name,
        annotation=machine.annotation or None,
        guestId=guest if (guest := guest_id(machine.guest_id)) in names() else "otherGuest64",
        files=Obj("VirtualMachineFileInfo", vmPathName=f"[{datastore}]"),
        numCPUs=machine.cpus,
        memoryMB=machine.memory_mib,
        firmware=machine.firmware,
        deviceChange=tuple(
            Obj(
                "VirtualDeviceConfigSpec",
                operation="add",
                fileOperation="create" if device.type == "VirtualDisk" else None,
                device=device,
            )
            for device in _devices(machine, known, thin=thin)
        ),
    )
    items = tuple(
        Obj(
            "OvfFileItem",
            deviceId=device_key(name, f"{disk.bus}{disk.bus_number}", disk.unit),
            path=disk.file_name,
            size=disk.file_size or None,
            cimType=_DISK_DRIVE,
            create=False,
        )
        for disk in machine.disks
    )
    return Obj(
        "OvfCreateImportSpecResult",
        importSpec=Obj("VirtualMachineImportSpec", configSpec=spec),
        fileItem=items,
        warning=warnings,
    )


def _devices(machine: ovf.OvfMachine, networks: Mapping[str, str], *, thin: bool) -> Iterator[Obj]:
    """Yield the devices of a new VM; their keys are negative: they are made by the host."""
    keys: dict[tuple[str, int], int] = {}
    for bus, number in sorted({(disk.bus, disk.bus_number) for disk in machine.disks}):
        key = keys[bus, number] = -200 - len(keys)
        more: dict[str, Value] = {"sharedBus": "noSharing"} if bus == "scsi" else {}
        yield Obj(controller_type(bus), key=key, busNumber=number, **more)
    for place, disk in enumerate(machine.disks):
        yield Obj(
            "VirtualDisk",
            key=-300 - place,
            backing=Obj(
                "VirtualDiskFlatVer2BackingInfo",
                fileName="",
                diskMode="persistent",
                thinProvisioned=thin,
            ),
            controllerKey=keys[disk.bus, disk.bus_number],
            unitNumber=disk.unit,
            capacityInKB=disk.capacity // _KIB,
            capacityInBytes=disk.capacity,
        )
    kinds = {model: kind for kind, model in nic_models().items()}
    for place, (network, model) in enumerate(machine.nics):
        backing = Obj("VirtualEthernetCardNetworkBackingInfo", deviceName=networks[network])
        yield Obj(kinds.get(model, "VirtualE1000"), key=-400 - place, backing=backing)


async def _import(context: Context) -> Value:
    spec = context.arguments.get("spec")
    config = spec.get("configSpec") if isinstance(spec, Obj) else None
    if not isinstance(spec, Obj) or spec.type != "VirtualMachineImportSpec":
        raise unsupported("One virtual machine is imported, and no vApp.")
    if not isinstance(config, Obj):
        raise faults.invalid_argument("spec.configSpec", "A configuration is needed.")
    change = created(config, context.replica.world.port_groups)
    request = c.OpenImport(context.who.handle, change.config, why=WHY, into=context.this.value)
    reply = await context.link.ask(request, c.LeaseReply)
    return await _lend(context, reply, change.config.name, importing=True)


async def _export(context: Context) -> Value:
    vm = context.replica.world.vms[context.this.value]
    request = c.OpenExport(context.who.handle, vm.vm, WHY)
    reply = await context.link.ask(request, c.LeaseReply)
    return await _lend(context, reply, vm.config.name, importing=False)


async def _lend(context: Context, reply: c.LeaseReply, name: str, *, importing: bool) -> MoRef:
    world, sessions, session = context.replica.world, context.sessions, context.who
    over = [ref for ref, own in session.own.items() if isinstance(own, Lease) and own.over]
    for old in over[:-ENDED_KEPT]:
        session.drop(old)
    token = secrets.token_hex(32)
    port = "" if world.endpoint.port == _HTTPS else f":{world.endpoint.port}"
    lease = Lease(
        MoRef("HttpNfcLease", session.new_id()),
        token,
        session.handle,
        name,
        reply,
        importing,
        f"https://*{port}/nfc",
        world.endpoint.thumbprint,
        lambda gone: _drop(sessions.leases, gone),
    )
    session.add(lease)
    sessions.leases[token] = lease
    await context.replica.until(lambda: reply.vm in world.vms)
    return lease.ref


def _drop(leases: dict[str, Lease], token: str) -> None:
    leases.pop(token, None)


def _own(context: Context) -> Lease:
    lease = context.who.own.get(context.this)
    if not isinstance(lease, Lease):
        raise faults.not_found(context.this)
    if lease.over:
        raise faults.from_details("InvalidState", "The lease is over.", {}, context.this)
    return lease


async def _progress(context: Context) -> Value:
    lease, percent = _own(context), context.arguments.get("percent")
    lease.percent = min(100, max(0, percent)) if isinstance(percent, int) else lease.percent
    await context.link.ask(c.KeepLease(context.who.handle, lease.lent.vm, lease.percent), Empty)
    return None


async def _complete(context: Context) -> Value:
    lease = _own(context)
    request = c.CloseLease(context.who.handle, lease.lent.vm, complete=True, why=WHY)
    await context.link.ask(request, Empty)
    lease.end("done")
    return None


async def _abort(context: Context) -> Value:
    lease = _own(context)
    request = c.CloseLease(context.who.handle, lease.lent.vm, complete=False, why=WHY)
    await context.link.ask(request, Empty)
    reason = "The lease was aborted."
    fault = context.arguments.get("fault")
    shown = fault if isinstance(fault, Obj) else Obj("RequestCanceled")
    lease.error = Obj("LocalizedMethodFault", fault=shown, localizedMessage=reason)
    lease.end("error")
    return None


async def _manifest(context: Context) -> Value:
    lease = context.who.own.get(context.this)
    if not isinstance(lease, Lease):
        raise faults.not_found(context.this)
    return lease.manifest()


async def _describe(context: Context) -> Value:
    entity, params = context.arguments.get("obj"), context.arguments.get("cdp")
    vm = context.replica.world.vms.get(entity.value) if isinstance(entity, MoRef) else None
    if vm is None or not isinstance(entity, MoRef) or entity.type != "VirtualMachine":
        raise unsupported("A descriptor is made of one virtual machine.")
    context.reader.allow(entity, "System.Read")
    given = params if isinstance(params, Obj) else Obj("OvfCreateDescriptorParams")
    machine = _machine(vm, given)
    return Obj(
        "OvfCreateDescriptorResult",
        ovfDescriptor=ovf.write(machine).decode(),
        includeImageFiles=False,
    )


def _machine(vm: VmFact, params: Obj) -> ovf.OvfMachine:
    files = {text(one.get("deviceId")): one for one in objs(params.get("ovfFiles"))}
    disks = []
    for disk in vm.config.disks:
        file = files.get(device_key(vm.vm, disk.controller, disk.unit))
        if disk.kind != "disk" or file is None:
            continue
        bus = disk.controller.rstrip("0123456789")
        if bus not in {"ide", "scsi", "sata"}:
            raise unsupported(f"A disk on {disk.controller} is not exported.")
        size = file.get("size")
        disks.append(
            ovf.OvfDisk(
                text(file.get("path")),
                size if isinstance(size, int) else 0,
                disk.capacity,
                bus,
                int(disk.controller.removeprefix(bus) or 0),
                disk.unit,
            )
        )
    config = vm.config
    return ovf.OvfMachine(
        name=text(params.get("name")) or config.name,
        guest_id=config.guest_id,
        cpus=config.cpus,
        memory_mib=config.memory_mib,
        firmware=config.firmware,
        disks=tuple(disks),
        nics=tuple((nic.network, nic.model) for nic in config.nics),
        annotation=text(params.get("description")) or config.annotation,
    )


_OVF: Final = "OvfManager"
_LEASE: Final = "HttpNfcLease"
_RULE: Final = "the session's own lease"

OVF_METHODS = (
    Served(_OVF, "ParseDescriptor", "System.View", _parse),
    Served(_OVF, "CreateImportSpec", "System.View", _import_spec),
    Served(_OVF, "ValidateHost", "System.View", _validate),
    Served(_OVF, "CreateDescriptor", "System.View", _describe, rule="System.Read on the VM"),
    Served(
        "ResourcePool",
        "ImportVApp",
        c.OpenImport.privilege,
        _import,
        (c.OpenImport,),
        rule="Datastore.AllocateSpace on the datastore",
    ),
    Served("VirtualMachine", "ExportVm", c.OpenExport.privilege, _export, (c.OpenExport,)),
    Served(_LEASE, "HttpNfcLeaseProgress", "System.View", _progress, (c.KeepLease,), rule=_RULE),
    Served(_LEASE, "HttpNfcLeaseComplete", "System.View", _complete, (c.CloseLease,), rule=_RULE),
    Served(_LEASE, "HttpNfcLeaseAbort", "System.View", _abort, (c.CloseLease,), rule=_RULE),
    Served(_LEASE, "HttpNfcLeaseGetManifest", "System.View", _manifest, rule=_RULE),
)
