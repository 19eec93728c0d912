"""Read small XML documents from strangers into plain trees, within limits.

No document type, no entities, no encodings but UTF-8: what is left cannot grow, cannot reach
outside, and means the same to every reader.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from casemate.errors import FormatError, LimitError

MAX_DOCUMENT: Final = 4 << 20
"""Bytes; the descriptor of ESXi's largest VIB, with its file list, stays under 1 MiB."""
MAX_DEPTH: Final = 8
"""Nested elements; a descriptor needs 4."""
MAX_ELEMENTS: Final = 65_536
"""Elements in one document: a file list has one per file."""
MAX_ATTRIBUTES: Final = 32
"""Attributes of one element; the meta element of a reference integrity manifest has about 20."""

_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_TEXT: Final = str.maketrans(_ESCAPES)
_QUOTED: Final = str.maketrans({**_ESCAPES, '"': "&quot;", "\n": "&#10;", "\t": "&#9;"})


@dataclass(slots=True)
class Element:
    """One element; ``text`` is the character data of the element itself, stripped."""

    tag: str
    attributes: dict[str, str]
    children: list[Element] = field(default_factory=list)
    text: str = ""

    def find(self, tag: str) -> Element | None:
        """Return the first child of this name."""
        return next((child for child in self.children if child.tag == tag), None)

    def all(self, tag: str) -> tuple[Element, ...]:
        """Return all children of this name."""
        return tuple(child for child in self.children if child.tag == tag)


def parse_xml(data: bytes, *, component: str = "") -> Element:
    """Return the root element.

    Raises:
        FormatError: Not well-formed (``xml-syntax``), or with a document type (``xml-doctype``).
        LimitError: Larger or deeper than this module's limits (``xml-limit``).
    """
    if len(data) > MAX_DOCUMENT:
        raise LimitError(
            f"The XML document has more than {MAX_DOCUMENT} bytes.",
            code="xml-limit",
            component=component,
        )
    builder = _Builder(component)
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.characters
    parser.StartDoctypeDeclHandler = builder.doctype
    try:
        data.decode("utf-8")  # expat would follow the byte order mark of another encoding
        parser.Parse(data, True)
    except (expat.ExpatError, UnicodeDecodeError) as error:
        raise FormatError(
            f"The XML is not well-formed: {error}.", code="xml-syntax", component=component
        ) from error
    return builder.root()


def write_xml(root: Element) -> bytes:
    """Return the document, two spaces per level, LF, UTF-8: same tree, same bytes."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>']
    _write(root, "", lines)
    lines.append("")
    return "\n".join(lines).encode()


def _write(element: Element, indent: str, lines: list[str]) -> None:
    attributes = "".join(
        f' {name}="{value.translate(_QUOTED)}"' for name, value in element.attributes.items()
    )
    head = f"{indent}<{element.tag}{attributes}"
    if element.children:
        lines.append(f"{head}>")
        for child in element.children:
            _write(child, indent + "  ", lines)
        lines.append(f"{indent}</{element.tag}>")
    elif element.text:
        lines.append(f"{head}>{element.text.translate(_TEXT)}</{element.tag}>")
    else:
        lines.append(f"{head}/>")


class _Builder:
    """Collects what expat reports."""

    def __init__(self, component: str) -> None:
        self._component = component
        self._stack: list[tuple[Element, list[str]]] = []
        self._root: Element | None = None
        self._count = 0

    def root(self) -> Element:
        if self._root is None:
            raise FormatError(
                "The XML has no element.", code="xml-syntax", component=self._component
            )
        return self._root

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > MAX_ELEMENTS:
            raise self._too_many(MAX_ELEMENTS, "elements")
        if len(self._stack) >= MAX_DEPTH:
            raise self._too_many(MAX_DEPTH, "levels")
        if len(attributes) > MAX_ATTRIBUTES:
            raise self._too_many(MAX_ATTRIBUTES, "attributes in one element")
        element = Element(tag, attributes)
        if self._stack:
            self._stack[-1][0].children.append(element)
        else:
            self._root = element
        self._stack.append((element, []))

    def _too_many(self, limit: int, what: str) -> LimitError:
        return LimitError(
            f"The XML has more than {limit} {what}.", code="xml-limit", component=self._component
        )

    def end(self, _tag: str) -> None:
        element, text = self._stack.pop()
        element.text = "".join(text).strip(" \t\n")

    def characters(self, text: str) -> None:
        self._stack[-1][1].append(text)

    def doctype(self, *_arguments: object) -> None:
        raise FormatError(
            "The XML declares a document type; entities are not accepted.",
            code="xml-doctype",
            component=self._component,
        )
