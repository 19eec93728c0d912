"""XML from the wire as a tree of nodes, under limits and without document type declarations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from casemate.errors import FormatError, LimitError

SIZE_LIMIT = 1 << 20
"""Bytes of one request: the largest legitimate ones (filters over 1,000 objects) have 200 kB."""

DEPTH_LIMIT = 64
"""Nesting of elements: a device backing chain in a reconfiguration needs about 20."""

ELEMENT_LIMIT = 50_000
"""Elements of one request: reading 10,000 objects by reference needs about 20,000."""

SOAP = "http://schemas.xmlsoap.org/soap/envelope/"
XSD = "http://www.w3.org/2001/XMLSchema"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
_SEPARATOR = " "


@dataclass(slots=True)
class Node:
    """An element: name, the two attributes that matter, text, children."""

    space: str
    name: str
    xsi_type: tuple[str, str] | None
    reference: str | None
    nil: bool
    children: list[Node] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The character data."""
        return "".join(self.pieces)


_XSD_PREFIXES = frozenset({"xsd", "xs"})


class _Builder:
    """Builds the tree of nodes from expat's events, counting."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[Node] = []
        self._count = 0
        self._prefixes: dict[str, list[str]] = {}

    def declare(self, prefix: str | None, uri: str | None) -> None:
        self._prefixes.setdefault(prefix or "", []).append(uri or "")

    def undeclare(self, prefix: str | None) -> None:
        self._prefixes[prefix or ""].pop()

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._count += 1
        if self._count > ELEMENT_LIMIT:
            raise LimitError(f"more than {ELEMENT_LIMIT} elements")
        if len(self._open) >= DEPTH_LIMIT:
            raise LimitError(f"elements nested deeper than {DEPTH_LIMIT}")
        space, _, name = tag.rpartition(_SEPARATOR)
        node = Node(
            space,
            name,
            self._qname(attributes.get(f"{XSI}{_SEPARATOR}type")),
            attributes.get("type"),
            attributes.get(f"{XSI}{_SEPARATOR}nil", "").strip() in {"true", "1"},
        )
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node
        self._open.append(node)

    def end(self, _tag: str) -> None:
        self._open.pop()

    def text(self, data: str) -> None:
        self._open[-1].pieces.append(data)

    def _qname(self, text: str | None) -> tuple[str, str] | None:
        if text is None:
            return None
        prefix, _, name = text.strip().rpartition(":")
        stack = self._prefixes.get(prefix)
        if not stack:
            if prefix in _XSD_PREFIXES:
                # govmomi writes xsd:string and declares the prefix nowhere.
                return XSD, name
            if prefix:
                raise FormatError(f"the prefix {prefix:.60} of an xsi:type is not declared")
            return "", name
        return stack[-1], name


def _refuse_doctype(*_arguments: object) -> None:
    raise FormatError("a document type declaration is not allowed", code="doctype")


def parse_xml(data: bytes) -> Node:
    """Return the root element. Raises FormatError, LimitError."""
    if len(data) > SIZE_LIMIT:
        raise LimitError(f"request of {len(data)} bytes: the limit is {SIZE_LIMIT}")
    builder = _Builder()
    parser = expat.ParserCreate("UTF-8", _SEPARATOR)
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartNamespaceDeclHandler = builder.declare
    parser.EndNamespaceDeclHandler = builder.undeclare
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code) or "not well-formed"
        raise FormatError(
            f"{reason}\n\nwhile parsing SOAP body\nat line {error.lineno}, "
            f"column {error.offset}\n\nwhile parsing HTTP request before method was determined\n"
            "at line 1, column 0"
        ) from error
    except (ValueError, LookupError) as error:
        raise FormatError(f"not XML in UTF-8: {type(error).__name__}") from error
    if builder.root is None:
        raise FormatError("the request holds no element")
    return builder.root
