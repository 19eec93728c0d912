"""HostKernelModuleSystem: what VIBs bring to be loaded, and what was loaded at boot."""

from __future__ import annotations

from casemate.calls.messages import Empty
from casemate.calls.modules import CONFIG, NO_MODULE, Module, ModuleList, ModuleSet, ModulesReply
from casemate.hostd.kernelclient import RefusedError
from casemate.hostd.objects.systems import payload_modules
from casemate.hostd.registry import Context, Ring, Served
from casemate.hostd.selection import text
from casemate.vim25.faults import FaultError
from casemate.vim25.values import Obj, Value

_NO_SECTION = Obj("KernelModuleSectionInfo", address=0)


async def _query(context: Context) -> Value:
    booted = payload_modules(context.reader.scope)
    own = [_facts(one) for one in await _loadable(context)]
    return tuple(
        Obj(
            "KernelModuleInfo",
            id=number,
            useCount=0,
            readOnlySection=_NO_SECTION,
            writableSection=_NO_SECTION,
            textSection=_NO_SECTION,
            dataSection=_NO_SECTION,
            bssSection=_NO_SECTION,
            **facts,
        )
        for number, facts in enumerate((*booted, *own))
    )


async def _options(context: Context) -> Value:
    return (await _named(context)).options


async def _set_options(context: Context) -> Value:
    name = (await _named(context)).name
    options = " ".join(text(context.arguments.get("options")).split())
    handle = context.who.handle
    await context.link.ask(ModuleSet(handle, name, options=options, why="vSphere API"), Empty)
    return None


async def _named(context: Context) -> Module:
    """Return the one that was asked for, alone: each is verified on the way."""
    name = text(context.arguments.get("name"))
    try:
        found = await _loadable(context, name)
    except RefusedError as error:
        if error.code != NO_MODULE:
            raise
        found = ()
    for module in found:
        if module.name == name:
            return module
    raise FaultError(Obj("NotFound"), f"There is no module {name:.80} that has options.")


async def _loadable(context: Context, name: str = "") -> tuple[Module, ...]:
    return (await context.link.ask(ModuleList(context.who.handle, name), ModulesReply)).modules


def _facts(one: Module) -> dict[str, Value]:
    return {
        "name": one.name,
        "version": one.version or one.vib_version,
        "filename": one.file,
        "optionString": one.options,
        "loaded": one.loaded,
        "enabled": one.enabled,
    }


MODULE_METHODS = (
    Served("HostKernelModuleSystem", "QueryModules", CONFIG, _query, ring=Ring.HOST),
    Served(
        "HostKernelModuleSystem",
        "QueryConfiguredModuleOptionString",
        CONFIG,
        _options,
        ring=Ring.HOST,
    ),
    Served(
        "HostKernelModuleSystem",
        "UpdateModuleOptionString",
        CONFIG,
        _set_options,
        (ModuleSet,),
        ring=Ring.HOST,
    ),
)
