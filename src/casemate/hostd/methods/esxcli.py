"""esxcli over the API: the table of the command esxcli, asked for with the session's own rights."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NoReturn

from casemate.calls.admin import SetOption
from casemate.calls.encryption import (
    EncryptionGet,
    EncryptionSet,
    RecoveryList,
    RecoveryRotate,
)
from casemate.calls.esxcli.table import add_namespaces
from casemate.calls.esxcli.tree import Running
from casemate.calls.maintenance import EnterMaintenance, ExitMaintenance
from casemate.calls.messages import Identity, IdentityReply, PowerOff, Snapshot, SnapshotReply
from casemate.calls.modules import ModuleList, ModuleLoad, ModuleSet
from casemate.calls.networks import (
    AddPortGroup,
    AddSwitch,
    RemovePortGroup,
    RemoveSwitch,
    SetNat,
    UpdatePortGroup,
    UpdateSwitch,
)
from casemate.calls.software import (
    AcceptanceGet,
    AcceptanceSet,
    BootOptionSet,
    DepotList,
    SoftwareChange,
    SoftwareList,
    SoftwareValidate,
)
from casemate.errors import ArgumentError, CasemateError
from casemate.hostd import cliformat
from casemate.hostd.objects.fixed import EXECUTER, TYPE_MANAGER
from casemate.hostd.registry import Context, Ring, Served
from casemate.hostd.selection import objs, text
from casemate.hostd.wellknown import HOST
from casemate.machine.facts import VmFact
from casemate.vim25 import faults, hidden
from casemate.vim25.faults import FaultError
from casemate.vim25.values import MoRef, Obj, Value

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

INFO = "ha-dynamic-type-manager-local-cli-cliinfo"
HANDLER = "ha-cli-handler-"
PREFIX = "vim.EsxCLI."
_FETCH = "vim.CLIInfo.FetchCLIInfo"
_ASKED = (
    AcceptanceGet,
    AcceptanceSet,
    AddPortGroup,
    AddSwitch,
    BootOptionSet,
    DepotList,
    EncryptionGet,
    EncryptionSet,
    EnterMaintenance,
    ExitMaintenance,
    ModuleList,
    ModuleLoad,
    ModuleSet,
    PowerOff,
    RecoveryList,
    RecoveryRotate,
    RemovePortGroup,
    RemoveSwitch,
    SetOption,
    SoftwareChange,
    SoftwareList,
    SoftwareValidate,
    UpdatePortGroup,
    SetNat,
    UpdateSwitch,
)
_CALLS = (*_ASKED, Identity)


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong and neither prints nor exits."""

    def error(self, message: str) -> NoReturn:
        raise ArgumentError(message, argument="argument")


@cache
def commands() -> argparse.ArgumentParser:
    """Return the parser of the whole table of commands."""
    parser = _Parser(prog="esxcli", add_help=False)
    add_namespaces(parser)
    return parser


async def _executer(_context: Context) -> Value:
    return EXECUTER


async def _type_manager(_context: Context) -> Value:
    return TYPE_MANAGER


async def _execute(context: Context) -> Value:
    arguments = context.arguments
    method, given = text(arguments.get("method")), objs(arguments.get("argument"))
    try:
        values = dict(cliformat.argument(text(o.get("name")), text(o.get("val"))) for o in given)
        if text(arguments.get("moid")) == INFO and method == _FETCH:
            named = values.get("typeName", ("",))[0]
            path = _path(named)
            response = cliformat.command_info(path, cliformat.find(commands(), path))
        else:
            response = await _run(context, _path(method), values)
    except FaultError:
        raise
    except CasemateError as error:
        detail = cliformat.fault((error.reason, error.remedy))
        return Obj(
            hidden.RESULT,
            fault=Obj(hidden.FAULT, faultMsg="EsxCLI.CLIFault.summary", faultDetail=detail),
        )
    return Obj(hidden.RESULT, response=response)


def _path(name: str) -> tuple[str, ...]:
    if not name.startswith(PREFIX):
        raise ArgumentError(f"There is no {name:.100}.", argument="method")
    return tuple(name.removeprefix(PREFIX).split("."))


async def _run(context: Context, path: tuple[str, ...], values: dict[str, tuple[str, ...]]) -> str:
    if text(context.arguments.get("moid")) != HANDLER + "-".join(path[:-1]):
        raise ArgumentError("The object does not have this command.", argument="moid")
    parser = cliformat.find(commands(), path)
    argv = [*path, *_options(parser, values)]
    options = commands().parse_args(argv)
    options.now = context.replica.clock().timestamp()
    command = Running(options.run(options))
    while command.answer is None:
        try:
            reply = await _ask(context, command.request)
        except CasemateError as error:
            command.fail(error)
        else:
            command.reply(reply)
    return cliformat.response(path, command.answer)


def _options(parser: argparse.ArgumentParser, values: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield the command line that the arguments stand for; a value can never become an option."""
    known = {cliformat.parameter(action): action for action in cliformat.actions(parser)}
    for name, given in values.items():
        action = known.get(name)
        if action is None:
            raise ArgumentError(f"The command has no parameter {name:.80}.", argument=name)
        option = action.option_strings[-1]
        if action.nargs == 0:
            if given and given[-1].lower() in {"true", "1"}:
                yield option
        else:
            yield from (f"{option}={value}" for value in given)


async def _ask(context: Context, request: object) -> object:
    privilege = vars(type(request)).get("privilege", "System.Read")
    context.reader.allow(HOST, str(privilege))
    if isinstance(request, Snapshot):
        reader = context.reader
        return SnapshotReply(
            tuple(
                fact
                for fact in context.replica.world.facts()
                if not isinstance(fact, VmFact) or reader.sees(MoRef("VirtualMachine", fact.vm))
            )
        )
    if isinstance(request, Identity):
        return await context.link.ask(request, IdentityReply)
    if not isinstance(request, _ASKED):
        raise faults.system_error("the command asks for what the API does not offer")
    kind: type = vars(type(request))["reply"]
    return await context.link.ask(_as_session(request, context.who.handle), kind)


def _as_session(request: DataclassInstance, handle: str) -> object:
    """Return the request as a session's."""
    return replace(request, session=handle)


_PRIVILEGES = ", ".join(sorted({str(vars(one)["privilege"]) for one in _CALLS}))
_RULE = f"the privilege of each request that the command sends: {_PRIVILEGES}"
ESXCLI_METHODS = (
    Served(
        "HostSystem",
        "RetrieveManagedMethodExecuter",
        "System.Read",
        _executer,
        ring=Ring.HOST,
        rule="what it runs has privileges of its own",
    ),
    Served(
        "HostSystem",
        "RetrieveDynamicTypeManager",
        "System.Read",
        _type_manager,
        ring=Ring.HOST,
        rule="it shows nothing",
    ),
    Served(
        hidden.EXECUTER,
        "ExecuteSoap",
        "System.Read",
        _execute,
        _CALLS,
        ring=Ring.HOST,
        rule=_RULE,
    ),
)
