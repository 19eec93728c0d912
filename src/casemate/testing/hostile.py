"""Hostile calls: well-formed by the type table, then bent here and there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from xml.sax.saxutils import escape

from casemate.vim25 import types
from casemate.vim25.shapes import Field, Kind, Method, TypeRef

DEEPEST = 5
"""Nesting of generated data: deeper ones are made by bending."""

_TEXTS = (
    "",
    "x",
    "name",
    "[datastore1] vm1/vm1.vmx",
    "../../etc/passwd",
    "%s%n",
    "'\";--",
    "<b>&amp;",
    "\u202e\U0001f600",
    "A" * 5000,
    "0",
    "-1",
)
_NUMBERS = (0, 1, -1, 7, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, 2**63, 10**30)
_JUNK = ("NaN", "1e999", "0x10", "true", "", "\u0661", "2026-13-45T99:99:99Z", "====")
_TIMES = ("2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999+14:00")


class Hostile:
    """Makes the XML of a call's parameters. Deterministic for a seed."""

    def __init__(self, seed: int, ids: Sequence[tuple[str, str]]) -> None:
        self._random = random.Random(seed)  # noqa: S311  (test data)
        self._ids = ids
        self._bend = 0.02

    def parameters(self, method: Method) -> str:
        """Return the parameters of a call."""
        self._bend = self._random.choice((0.0, 0.0, 0.01, 0.05, 0.2))
        return "".join(self._field(one, 0) for one in method.parameters)

    def receiver(self, method: Method) -> tuple[str, str]:
        """Return an object that has the method, most of the time."""
        fitting = [one for one in self._ids if types.is_subtype(one[0], method.owner)]
        return self._random.choice(fitting or self._ids)

    def _field(self, field: Field, depth: int) -> str:
        if self._random.random() < self._bend:
            return self._bent(field)
        if field.optional and self._random.random() < 0.6:  # noqa: PLR2004  (sparse data)
            return ""
        count = self._random.choice((0, 1, 1, 2)) if field.type.array else 1
        return "".join(self._value(field.name, field.type.item, depth) for _ in range(count))

    def _bent(self, field: Field) -> str:
        name = field.name
        whole = self._value(name, field.type.item, DEEPEST)
        return self._random.choice(
            (
                "",
                whole * 2,
                f"<{name}/>",
                f"<{name}>{self._random.choice(_JUNK)}</{name}>",
                f'<{name} xsi:nil="true"/>',
                f'<{name} xsi:type="{self._random.choice(types.data_names())}"/>',
                f'<{name} xsi:type="xsd:nothing">1</{name}>',
                f'<{name} xsi:type="undeclared:string">1</{name}>',
                f'<{name} type="VirtualMachine">1</{name}>',
                f"<{name}>" + "<a>" * 80 + "</a>" * 80 + f"</{name}>",
                f"<unknown>{whole}</unknown>",
                f'<x:{name} xmlns:x="urn:other">1</x:{name}>',
                f"<{name}><![CDATA[<&]]></{name}>",
                f"<{name}>&#1;</{name}>",
                f"<{name}>",
                whole * 200,
            )
        )

    def _value(self, tag: str, ref: TypeRef, depth: int, xsi: str = "") -> str:
        match ref.kind:
            case Kind.PRIMITIVE:
                return f"<{tag}{xsi}>{self._plain(ref.name)}</{tag}>"
            case Kind.ENUM:
                value = self._random.choice(types.enum_type(ref.name).values)
                return f"<{tag}{xsi}>{value}</{tag}>"
            case Kind.MOREF:
                kind, key = self._random.choice(self._ids)
                return f'<{tag} type="{kind}">{escape(key)}</{tag}>'
            case Kind.ANY:
                name = self._random.choice(("string", "int", "boolean", "long", "dateTime"))
                inner = TypeRef(Kind.PRIMITIVE, name)
                return self._value(tag, inner, depth, f' xsi:type="xsd:{name}"')
            case Kind.DATA:
                return self._data(tag, ref.name, depth)

    def _data(self, tag: str, base: str, depth: int) -> str:
        if depth >= DEEPEST:
            return f"<{tag}/>"
        name, shown = base, ""
        if self._random.random() < 0.3:  # noqa: PLR2004  (some are of a subtype)
            name = self._random.choice(sorted(types.subtypes(base)))
            shown = f' xsi:type="{name}"'
        fields = types.data_type(name).fields
        inner = "".join(self._field(field, depth + 1) for field in fields)
        return f"<{tag}{shown}>{inner}</{tag}>"

    def _plain(self, name: str) -> str:
        match name:
            case "boolean":
                return self._random.choice(("true", "false", "1", "0"))
            case "string" | "anyURI":
                return escape(self._random.choice(_TEXTS))
            case "dateTime":
                return self._random.choice(_TIMES)
            case "base64Binary":
                return "AAEC"
            case _:
                return str(self._random.choice(_NUMBERS))
