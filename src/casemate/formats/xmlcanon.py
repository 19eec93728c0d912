"""Canonical XML of whole documents and of an element in one, for checking signatures.

Canonical XML 1.0 and 1.1 (W3C REC-xml-c14n-20010315, REC-xml-c14n11-20080502) and exclusive
canonicalisation (REC-xml-exc-c14n-20020718, without a prefix list), without comments. No document
type, no processing instructions: nothing that a reference manifest has needs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from xml.parsers import expat

from casemate.errors import FormatError, LimitError

MAX_DOCUMENT: Final = 4 << 20
"""Bytes, as for all XML from strangers."""
MAX_DEPTH: Final = 16
"""Nested elements; a signature's key value lies at 6."""
MAX_NODES: Final = 1 << 17
"""Elements and pieces of text."""
MAX_NAMESPACES: Final = 64
"""Prefixes that count in one place: each is looked at for every element below."""
MAX_ATTRIBUTES: Final = 256
"""Attributes of one element, declarations among them."""

XML: Final = "http://www.w3.org/XML/1998/namespace"
_TEXT: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#xD;"})
_VALUE: Final = str.maketrans(
    {"&": "&amp;", "<": "&lt;", '"': "&quot;", "\t": "&#x9;", "\n": "&#xA;", "\r": "&#xD;"}
)


class Method(Enum):
    """How to canonicalise, by the name that signatures give it."""

    C14N_10 = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
    C14N_11 = "http://www.w3.org/2006/12/xml-c14n11"
    EXCLUSIVE = "http://www.w3.org/2001/10/xml-exc-c14n#"


@dataclass(slots=True, eq=False)
class Node:
    """An element as it was written: names with prefixes, ``scope`` with all namespaces here."""

    tag: str
    attributes: dict[str, str]
    scope: Mapping[str, str]
    parent: Node | None = None
    content: list[Node | str] = field(default_factory=list)

    @property
    def name(self) -> tuple[str, str]:
        """Namespace and local name."""
        return _resolved(self.tag, self.scope, self.scope.get("", ""))

    def children(self) -> Iterator[Node]:
        """Yield the elements in this one."""
        return (one for one in self.content if isinstance(one, Node))

    def text(self) -> str:
        """Return the text directly in this element."""
        return "".join(one for one in self.content if isinstance(one, str))


def read(data: bytes, *, component: str = "") -> Node:
    """Return the root element with everything in it.

    Raises:
        FormatError: ``xml-syntax``, ``xml-doctype``.
        LimitError: ``xml-limit``.
    """
    builder = _Builder(component)
    if len(data) > MAX_DOCUMENT:
        raise builder.limit()
    parser = expat.ParserCreate("UTF-8")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    parser.StartDoctypeDeclHandler = builder.refused
    parser.ProcessingInstructionHandler = builder.refused
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise _bad(f"not well-formed: {error}", "xml-syntax", component) from error
    if builder.root is None:
        raise _bad("no element", "xml-syntax", component)
    return builder.root


def canonical(node: Node, method: Method, without: Node | None = None) -> bytes:
    """Return an element in canonical form, as if ``without`` were not in it.

    Raises:
        FormatError: ``xml-base``: what version 1.1 does with ``xml:base`` is not done here.
    """
    inherited: dict[str, str] = {}
    if method is not Method.EXCLUSIVE:
        above = node.parent
        while above is not None:
            for name, value in above.attributes.items():
                if name.startswith("xml:"):
                    inherited.setdefault(name, value)
            above = above.parent
        if method is Method.C14N_11:
            inherited.pop("xml:id", None)
            if "xml:base" in inherited:
                raise _bad("xml:base is not supported here", "xml-base", "")
    pieces: list[str] = []
    _write(node, method, without, {}, inherited, pieces)
    return "".join(pieces).encode()


def _write(
    node: Node,
    method: Method,
    without: Node | None,
    written: Mapping[str, str],
    inherited: Mapping[str, str],
    pieces: list[str],
) -> None:
    own = {k: v for k, v in node.attributes.items() if k.partition(":")[0] != "xmlns"}
    shown = _namespaces(node, own, method)
    fresh = {
        prefix: space
        for prefix, space in shown.items()
        if written.get(prefix, "" if prefix == "" else None) != space
    }
    pieces.append(f"<{node.tag}")
    for prefix, space in sorted(fresh.items()):
        name = f"xmlns:{prefix}" if prefix else "xmlns"
        pieces.append(f' {name}="{space.translate(_VALUE)}"')
    named = sorted((_resolved(k, node.scope, ""), k, v) for k, v in ({**inherited, **own}).items())
    pieces.extend(f' {key}="{value.translate(_VALUE)}"' for _, key, value in named)
    pieces.append(">")
    below = {**written, **fresh}
    for one in node.content:
        if isinstance(one, str):
            pieces.append(one.translate(_TEXT))
        elif one is not without:
            _write(one, method, without, below, {}, pieces)
    pieces.append(f"</{node.tag}>")


def _namespaces(node: Node, own: Mapping[str, str], method: Method) -> dict[str, str]:
    """Return the namespaces that this element has to show, unless one above has shown them."""
    if method is not Method.EXCLUSIVE:
        return {"": "", **{k: v for k, v in node.scope.items() if k != "xml"}}
    used = {node.tag.rpartition(":")[0], *(k.rpartition(":")[0] for k in own if ":" in k)}
    return {prefix: node.scope.get(prefix, "") for prefix in used if prefix != "xml"}


def _resolved(name: str, scope: Mapping[str, str], default: str) -> tuple[str, str]:
    prefix, colon, local = name.rpartition(":")
    if not colon:
        return default, name
    if prefix == "xml":
        return XML, local
    if prefix not in scope:
        raise _bad(f"the prefix {prefix[:32]!r} stands for nothing", "xml-syntax", "")
    return scope[prefix], local


class _Builder:
    def __init__(self, component: str) -> None:
        self.root: Node | None = None
        self._component = component
        self._open: list[Node] = []
        self._nodes = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._count()
        above = self._open[-1] if self._open else None
        if len(self._open) >= MAX_DEPTH or len(attributes) > MAX_ATTRIBUTES:
            raise self.limit()
        scope = self._scope(above.scope if above else {}, attributes)
        node = Node(tag, attributes, scope, above)
        names = [_resolved(k, scope, "") for k in attributes if k.partition(":")[0] != "xmlns"]
        if len(set(names)) != len(names):
            raise _bad("an element has an attribute twice", "xml-syntax", self._component)
        if above is None:
            self.root = node
        else:
            above.content.append(node)
        self._open.append(node)

    def _scope(self, above: Mapping[str, str], attributes: dict[str, str]) -> Mapping[str, str]:
        own: dict[str, str] = {}
        for key, value in attributes.items():
            if key == "xmlns" or key.startswith("xmlns:"):
                prefix = key.partition(":")[2]
                if prefix and not value:
                    raise _bad("a prefix is declared as nothing", "xml-syntax", self._component)
                own[prefix] = value
        scope = {**above, **own} if own else above
        if len(scope) > MAX_NAMESPACES:
            raise self.limit()
        return scope

    def end(self, _tag: str) -> None:
        self._open.pop()

    def text(self, data: str) -> None:
        self._count()
        if self._open:
            self._open[-1].content.append(data)

    def refused(self, *_: object) -> None:
        raise _bad("it has a document type or an instruction", "xml-doctype", self._component)

    def limit(self) -> LimitError:
        return LimitError(
            "The XML document is larger or deeper than is read here.",
            code="xml-limit",
            component=self._component,
        )

    def _count(self) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self.limit()


def _bad(reason: str, code: str, component: str) -> FormatError:
    return FormatError(f"XML: {reason}", code=code, component=component)
