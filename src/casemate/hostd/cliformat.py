"""How esxcli's commands and answers look in XML, as real hosts write them.

Arguments and answers travel as escaped XML inside strings.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from casemate.calls.esxcli.answer import Answer, Row, key
from casemate.calls.esxcli.answer import Value as Cell
from casemate.calls.esxcli.tree import children
from casemate.errors import ArgumentError, FormatError
from casemate.formats.xmltree import parse_xml
from casemate.vim25.encode import escape

ARGUMENT_LIMIT = 16 << 10
"""Bytes of one argument."""

_SPACES = (
    'xmlns="urn:vim25" xmlns:xsd="http://www.w3.org/2001/XMLSchema" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
)


def argument(name: str, value: str) -> tuple[str, tuple[str, ...]]:
    """Return an argument: its name, and the text of each of its elements. Raises CasemateError."""
    if len(value) > ARGUMENT_LIMIT:
        raise ArgumentError(f"{name:.80} is longer than {ARGUMENT_LIMIT} bytes", argument=name)
    root = parse_xml(f"<a>{value}</a>".encode())
    if any(child.tag.rpartition(":")[2] != name or child.children for child in root.children):
        raise FormatError(f"the argument {name:.80} is not an element of that name")
    return name, tuple(child.text for child in root.children)


def find(parser: argparse.ArgumentParser, path: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a namespace or command. Raises ArgumentError."""
    for word in path:
        below = children(parser)
        if word not in below:
            raise ArgumentError(
                f"Unknown command or namespace {' '.join(path):.100}", argument="typeName"
            )
        parser = below[word]
    return parser


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the options of a command that people are told of."""
    for action in parser._actions:  # noqa: SLF001  (as above)
        if action.option_strings and action.dest != "help" and action.help != argparse.SUPPRESS:
            yield action


def parameter(action: argparse.Action) -> str:
    """Return the name of an option as a parameter: that of its long form, without dashes."""
    return action.option_strings[-1].replace("-", "")


def _element(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def command_info(path: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """Return the CommandInfo of a namespace: its commands, their parameters and hints."""
    methods = "".join(
        _method(name, below)
        for name, below in children(parser).items()
        if below.get_default("run") is not None
    )
    head = _element("name", ".".join(path)) + _element("displayName", path[-1])
    return f"<CommandInfo>{head}{_element('help', parser.description or '')}{methods}</CommandInfo>"


def _method(name: str, parser: argparse.ArgumentParser) -> str:
    inner = _element("name", name) + _element("displayName", name)
    inner += _element("help", parser.description or "")
    for action in actions(parser):
        long = action.option_strings[-1].lstrip("-")
        inner += "<param>" + _element("name", parameter(action)) + _element("displayName", long)
        inner += _element("help", action.help or "")
        inner += "".join(_element("aliases", one) for one in action.option_strings)
        inner += _element("flag", "true" if action.nargs == 0 else "false") + "</param>"
    inner += "".join(
        f"<hints>{_element('key', one)}{_element('value', value)}</hints>"
        for one, value in parser.get_default("hints").items()
    )
    return f"<method>{inner}</method>"


def response(path: Sequence[str], answer: Answer) -> str:
    """Return the answer of a command."""
    if answer.kind == "text":
        return f'<obj {_SPACES} xsi:type="xsd:string">{escape(answer.text)}</obj>'
    kind = "VimEsxCLI" + "".join(path) + answer.structure
    if answer.kind == "simple" and len(answer.rows) == 1 and len(answer.headers) <= 1:
        return f'<obj {_SPACES} xsi:type="{kind}">{_fields(answer.rows[0])}</obj>'
    rows = "".join(
        f'<DataObject xsi:type="{kind}">{_fields(row)}</DataObject>' for row in answer.rows
    )
    return f'<obj {_SPACES} xsi:type="ArrayOfDataObject">{rows}</obj>'


def _fields(row: Row) -> str:
    return "".join(
        _element(key(label), text) for label, value in row.items() for text in _texts(value)
    )


def _texts(value: Cell) -> tuple[str, ...]:
    match value:
        case tuple():
            return value
        case bool():
            return ("true" if value else "false",)
        case _:
            return (str(value),)


def fault(sentences: Sequence[str]) -> str:
    """Return the detail of a fault."""
    inner = "".join(_element("errMsg", one) for one in sentences)
    return f'<obj {_SPACES} xsi:type="VimEsxCLICLIFault">{inner}</obj>'
