"""What esxcli's objects are, told to clients that ask before they call: DynamicTypeManager.

Everything is read off the table of commands: a namespace is an object and its type, a command a
method, the columns of a table the properties of a data type.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cache

from casemate.calls.esxcli.answer import key
from casemate.calls.esxcli.tree import children
from casemate.hostd import cliformat
from casemate.hostd.methods.esxcli import HANDLER, INFO, PREFIX, commands
from casemate.hostd.registry import Context, Ring, Served
from casemate.hostd.selection import text
from casemate.vim25 import hidden
from casemate.vim25.values import Obj, Value

VERSION = "vim.version.version5"
"""The version of the API that brought esxcli's objects: 5.0."""
_INFO_TYPE = "vim.CLIInfo"
_FIELDS = "fields:"
_OPTIONAL = Obj(hidden.ANNOTATION, name="optional")

_Path = tuple[str, ...]


@cache
def _namespaces() -> tuple[tuple[_Path, argparse.ArgumentParser], ...]:
    """Return every namespace that has commands, with its parser."""
    return tuple(_walk((), commands()))


def _walk(
    path: _Path, parser: argparse.ArgumentParser
) -> Iterator[tuple[_Path, argparse.ArgumentParser]]:
    below = children(parser)
    if any(one.get_default("run") is not None for one in below.values()):
        yield path, parser
    for name, one in below.items():
        yield from _walk((*path, name), one)


def _type(path: _Path) -> str:
    return PREFIX + ".".join(path)


def _parameter(action: argparse.Action) -> Obj:
    many = isinstance(action, argparse._AppendAction)  # noqa: SLF001  (argparse tells it in no other way)
    kind = "boolean" if action.nargs == 0 else "string[]" if many else "string"
    return Obj(
        hidden.PARAMETER_TYPE,
        name=cliformat.parameter(action),
        version=VERSION,
        type=kind,
        annotation=() if action.required else (_OPTIONAL,),
    )


def _structures(parser: argparse.ArgumentParser) -> dict[str, tuple[str, ...]]:
    """Return the columns of the tables that a command answers, by structure."""
    hints = parser.get_default("hints")
    return {
        name.removeprefix(_FIELDS): tuple(value.split(","))
        for name, value in hints.items()
        if name.startswith(_FIELDS)
    }


def _method(path: _Path, name: str, parser: argparse.ArgumentParser) -> Obj:
    structure = next(iter(_structures(parser)), "")
    given = f"{_type(path)}.{structure}[]" if structure else "anyType"
    return Obj(
        hidden.METHOD_TYPE,
        name=name,
        wsdlName="VimEsxCLI" + "".join((*path, name)),
        version=VERSION,
        paramTypeInfo=tuple(map(_parameter, cliformat.actions(parser))),
        returnTypeInfo=Obj(
            hidden.PARAMETER_TYPE,
            name="return",
            version=VERSION,
            type=given,
            annotation=(_OPTIONAL,),
        ),
        fault=("vim.EsxCLI.CLIFault",),
    )


def _managed(path: _Path, parser: argparse.ArgumentParser) -> Obj:
    below = children(parser).items()
    return Obj(
        hidden.MANAGED_TYPE,
        name=_type(path),
        wsdlName="VimEsxCLI" + "".join(path),
        version=VERSION,
        base=("vmodl.ManagedObject",),
        method=tuple(
            _method(path, name, one) for name, one in below if one.get_default("run") is not None
        ),
    )


def _data(path: _Path, parser: argparse.ArgumentParser) -> Iterator[Obj]:
    found: dict[str, tuple[str, ...]] = {}
    for one in children(parser).values():
        if one.get_default("run") is not None:
            found |= _structures(one)
    for structure, columns in found.items():
        properties = tuple(
            Obj(
                hidden.PROPERTY_TYPE,
                name=key(label),
                version=VERSION,
                type="string",
                annotation=(_OPTIONAL,),
            )
            for label in columns
        )
        yield Obj(
            hidden.DATA_TYPE,
            name=f"{_type(path)}.{structure}",
            wsdlName="VimEsxCLI" + "".join(path) + structure,
            version=VERSION,
            base=("vmodl.DynamicData",),
            property=properties,
        )


def _part(context: Context, name: str) -> str:
    spec = context.arguments.get("filterSpec")
    return text(spec.get(name)) if isinstance(spec, Obj) else ""


async def _instances(context: Context) -> Value:
    wanted, part = _part(context, "id"), _part(context, "typeSubstr")
    known = [(INFO, _INFO_TYPE)]
    known += [(HANDLER + "-".join(path), _type(path)) for path, _ in _namespaces()]
    return tuple(
        Obj(hidden.MO_INSTANCE, id=moid, moType=kind)
        for moid, kind in known
        if part in kind and wanted in {"", moid}
    )


async def _types(context: Context) -> Value:
    part = _part(context, "typeSubstr")
    chosen = [(path, parser) for path, parser in _namespaces() if part in _type(path)]
    return Obj(
        hidden.ALL_TYPES,
        managedTypeInfo=tuple(_managed(path, parser) for path, parser in chosen),
        dataTypeInfo=tuple(one for path, parser in chosen for one in _data(path, parser)),
    )


_RULE = "it tells what there is, and runs nothing"
DYNAMIC_TYPE_METHODS = tuple(
    Served(hidden.TYPE_MANAGER, name, "System.Read", handler, ring=Ring.HOST, rule=_RULE)
    for name, handler in (
        ("DynamicTypeMgrQueryMoInstances", _instances),
        ("DynamicTypeMgrQueryTypeInfo", _types),
    )
)
