"""SearchIndex: finding entities by name, path, UUID."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import unquote

from casemate.hostd.objects.guest import addresses
from casemate.hostd.objects.vm import vmx_path
from casemate.hostd.objects.vmsettings import instance_uuid
from casemate.hostd.registry import Context, Served
from casemate.hostd.selection import text
from casemate.hostd.wellknown import HOST, ROOT_FOLDER
from casemate.machine.facts import VmFact
from casemate.vim25.values import MoRef, Value


def _child(context: Context, parent: MoRef, name: str) -> MoRef | None:
    world = context.replica.world
    for ref in world.inventory():
        if world.parent(ref) == parent and world.entity_name(ref) == name:
            return ref if context.reader.sees(ref) else None
    return None


def _virtual_machines(context: Context) -> bool:
    return context.arguments.get("vmSearch") is True


def _by_uuid(context: Context) -> tuple[MoRef, ...]:
    world = context.replica.world
    wanted = text(context.arguments.get("uuid")).lower()
    if not _virtual_machines(context):
        return (HOST,) if world.host.uuid.lower() == wanted else ()
    instance = context.arguments.get("instanceUuid") is True
    return tuple(
        ref
        for key, vm in world.vms.items()
        if (instance_uuid(vm.config) if instance else vm.config.uuid).lower() == wanted
        and context.reader.sees(ref := MoRef("VirtualMachine", key))
    )


async def _find_by_uuid(context: Context) -> Value:
    found = _by_uuid(context)
    return found[0] if found else None


async def _find_all_by_uuid(context: Context) -> Value:
    return _by_uuid(context)


async def _find_by_path(context: Context) -> Value:
    step: MoRef | None = ROOT_FOLDER
    for name in text(context.arguments.get("inventoryPath")).strip("/").split("/"):
        if step is not None and name:
            step = _child(context, step, unquote(name))
    return step


async def _find_by_datastore_path(context: Context) -> Value:
    wanted = text(context.arguments.get("path"))
    scope = context.reader.scope
    for key, vm in scope.world.vms.items():
        ref = MoRef("VirtualMachine", key)
        if vmx_path(scope, vm) == wanted and context.reader.sees(ref):
            return ref
    return None


async def _find_child(context: Context) -> Value:
    entity = context.arguments.get("entity")
    if not isinstance(entity, MoRef):
        return None
    context.reader.require(entity)
    return _child(context, entity, text(context.arguments.get("name")))


def _by_dns(context: Context) -> Iterator[MoRef]:
    name = text(context.arguments.get("dnsName")).lower()
    if _virtual_machines(context):
        return _guests(context, lambda vm: vm.guest.host_name.lower() == name)
    return iter((HOST,) if context.replica.world.host.name.lower() == name else ())


def _by_ip(context: Context) -> Iterator[MoRef]:
    wanted = text(context.arguments.get("ip"))
    if _virtual_machines(context):
        return _guests(context, lambda vm: wanted in addresses(vm))
    own = context.replica.world.addresses.values()
    return iter((HOST,) if any(one.address == wanted for one in own) else ())


async def _find_by_dns(context: Context) -> Value:
    return next(_by_dns(context), None)


async def _find_all_by_dns(context: Context) -> Value:
    return tuple(_by_dns(context))


async def _find_by_ip(context: Context) -> Value:
    return next(_by_ip(context), None)


async def _find_all_by_ip(context: Context) -> Value:
    return tuple(_by_ip(context))


def _guests(context: Context, fits: Callable[[VmFact], bool]) -> Iterator[MoRef]:
    """Yield the VMs whose guests say so, of those that the session may see."""
    for vm in context.replica.world.vms.values():
        ref = MoRef("VirtualMachine", vm.vm)
        if vm.guest.agent and fits(vm) and context.reader.sees(ref):
            yield ref


SEARCH_METHODS = (
    Served("SearchIndex", "FindByUuid", "System.View", _find_by_uuid),
    Served("SearchIndex", "FindAllByUuid", "System.View", _find_all_by_uuid),
    Served("SearchIndex", "FindByInventoryPath", "System.View", _find_by_path),
    Served("SearchIndex", "FindByDatastorePath", "System.View", _find_by_datastore_path),
    Served("SearchIndex", "FindChild", "System.View", _find_child),
    Served("SearchIndex", "FindByDnsName", "System.View", _find_by_dns),
    Served("SearchIndex", "FindAllByDnsName", "System.View", _find_all_by_dns),
    Served("SearchIndex", "FindByIp", "System.View", _find_by_ip),
    Served("SearchIndex", "FindAllByIp", "System.View", _find_all_by_ip),
)
