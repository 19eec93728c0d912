"""How esxcli prints: tables and indented blocks for people, JSON, CSV, XML and key=value for tools.

An answer is rows of (label, value) in order. Values are text, numbers, truth or lists of text. The
labels are ESXi's; JSON, CSV and key-value output use them without spaces, as ESXi does.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from casemate.calls.esxcli.answer import Answer, Row, Value, key
from casemate.formats.text import escape as printable

FORMATTERS: Final = ("json", "csv", "xml", "keyvalue")


def render(answer: Answer, formatter: str = "") -> str:
    """Return the output of a command, with a line end unless it is empty."""
    match formatter:
        case "json":
            return _json(answer)
        case "csv":
            return _csv(answer)
        case "xml":
            return _xml(answer)
        case "keyvalue":
            return _key_value(answer)
        case _:
            return _for_people(answer)


def _for_people(answer: Answer) -> str:
    if answer.kind == "text":
        return f"{printable(answer.text)}\n"
    return _table(answer) if answer.kind == "table" else _simple(answer)


def _table(answer: Answer) -> str:
    labels = list(answer.columns or (answer.rows[0] if answer.rows else ()))
    if not labels:
        return ""
    lines = [labels, ["" for _ in labels]]
    lines += [[_shown(row[label]) for label in labels] for row in answer.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(labels))]
    lines[1] = ["-" * width for width in widths]
    text = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return "".join(f"{line}\n" for line in text)


def _simple(answer: Answer) -> str:
    blocks = []
    for number, row in enumerate(answer.rows):
        header = answer.headers[number] if number < len(answer.headers) else ""
        lines = [printable(header)] if header else []
        lines += [f"   {label}: {_shown(value)}".rstrip() for label, value in row.items()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + ("\n" if blocks else "")


def _json(answer: Answer) -> str:
    if answer.kind == "text":
        return f"{json.dumps(answer.text)}\n"
    rows = [
        {
            key(label): list(value) if isinstance(value, tuple) else value
            for label, value in row.items()
        }
        for row in answer.rows
    ]
    single = answer.kind == "simple" and len(rows) == 1 and not answer.headers
    return json.dumps(rows[0] if single else rows, indent=3) + "\n"


def _csv(answer: Answer) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=",\n")
    if answer.kind == "text":
        writer.writerow(["string"])
        writer.writerow([answer.text])
        return out.getvalue()
    labels = [key(label) for label in (answer.columns or _labels(answer.rows))]
    writer.writerow(labels)
    for row in answer.rows:
        values = {key(label): value for label, value in row.items()}
        writer.writerow([_plain(values.get(label, "")) for label in labels])
    return out.getvalue()


def _key_value(answer: Answer) -> str:
    if answer.kind == "text":
        return f"string={printable(answer.text)}\n"
    prefix = f"{answer.structure}" if len(answer.rows) <= 1 else "{}[{}]"
    lines = []
    for number, row in enumerate(answer.rows):
        name = prefix if len(answer.rows) <= 1 else prefix.format(answer.structure, number)
        for label, value in row.items():
            kind = _kind(value)
            lines.append(f"{name}.{key(label)}.{kind}={_shown(value)}\n")
    return "".join(lines)


def _xml(answer: Answer) -> str:
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<output xmlns="http://www.vmware.com/Products/ESX/5.0/esxcli">',
    ]
    if answer.kind == "text":
        lines.append(f"  <string>{escape(printable(answer.text))}</string>")
    else:
        lines.append(f"  <list type={quoteattr(f'structure[{answer.structure}]')}>")
        for row in answer.rows:
            lines.append(f"    <structure typeName={quoteattr(answer.structure)}>")
            lines += [_xml_field(label, value) for label, value in row.items()]
            lines.append("    </structure>")
        lines.append("  </list>")
    return "\n".join((*lines, "</output>")) + "\n"


def _xml_field(label: str, value: Value) -> str:
    name = quoteattr(key(label))
    if isinstance(value, tuple):
        items = "".join(f"<string>{escape(printable(one))}</string>" for one in value)
        return f'      <field name={name}><list type="string">{items}</list></field>'
    kind = _kind(value)
    return f"      <field name={name}><{kind}>{escape(_shown(value))}</{kind}></field>"


def _labels(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(label for row in rows for label in row))


def _kind(value: Value) -> str:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case tuple():
            return "string[]"
        case _:
            return "string"


def _plain(value: Value) -> str:
    return ",".join(value) if isinstance(value, tuple) else _shown(value)


def _shown(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case tuple():
            return printable(", ".join(value))
        case _:
            return printable(str(value))
