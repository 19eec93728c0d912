"""TCG reference integrity manifests: a SWID tag that lists support files by their hashes.

The base RIM is XML (ISO/IEC 19770-2, TCG PC Client RIM 1.04); its payload names support RIMs:
event logs (``.rimel``) or PCR lists. Names are resolved by namespace, not by prefix. Its own
signature is for ``xmldsig`` to check; what is read here is what that signature covers.
"""

from __future__ import annotations

import binascii
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from casemate.errors import DigestError, FormatError
from casemate.formats.algorithms import digest
from casemate.formats.eventlog import EventLog, parse
from casemate.formats.xmltree import Element, parse_xml

SWID: Final = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
XMLDSIG: Final = "http://www.w3.org/2000/09/xmldsig#"
_HASHES: Final = {
    "http://www.w3.org/2001/04/xmlenc#sha256": "sha256",
    "http://www.w3.org/2001/04/xmldsig-more#sha384": "sha384",
    "http://www.w3.org/2001/04/xmlenc#sha384": "sha384",
    "http://www.w3.org/2001/04/xmlenc#sha512": "sha512",
}
_XMLNS: Final = "xmlns"
MAX_FILES: Final = 1024
"""Support files of one manifest."""


@dataclass(frozen=True, slots=True)
class RimFile:
    """A support file; ``digests`` by algorithm, at least one that is not weak."""

    name: str
    size: int
    digests: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class BaseRim:
    """A base RIM.

    ``platform`` are the attributes of its meta element, by local name. ``has_xmldsig`` says that
    it carries an XMLDSig signature, which proves nothing before it is checked.
    """

    tag_id: str
    name: str
    version: str
    creators: tuple[str, ...]
    platform: Mapping[str, str]
    files: tuple[RimFile, ...]
    has_xmldsig: bool


def _bad(reason: str, code: str = "rim-malformed") -> FormatError:
    return FormatError(
        f"RIM: {reason}",
        code=code,
        component="reference",
        remedy="Get the manifest and its support files again from the maker of the machine.",
    )


@dataclass(frozen=True, slots=True)
class _Node:
    """An element with its resolved name and attributes."""

    name: tuple[str, str]
    attributes: Mapping[tuple[str, str], str]
    element: Element
    scope: Mapping[str, str]

    def children(self) -> Iterator[_Node]:
        for child in self.element.children:
            yield _resolve(child, self.scope)

    def get(self, name: str) -> str:
        return self.attributes.get(("", name), "")


def _resolve(element: Element, outer: Mapping[str, str]) -> _Node:
    scope = dict(outer)
    for key, value in element.attributes.items():
        if key == _XMLNS:
            scope[""] = value
        elif key.startswith(_XMLNS + ":"):
            scope[key.partition(":")[2]] = value
    attributes = {
        _qualified(key, scope, attribute=True): value
        for key, value in element.attributes.items()
        if key.partition(":")[0] != _XMLNS
    }
    return _Node(_qualified(element.tag, scope, attribute=False), attributes, element, scope)


def _qualified(name: str, scope: Mapping[str, str], *, attribute: bool) -> tuple[str, str]:
    prefix, colon, local = name.rpartition(":")
    if not colon:
        return ("" if attribute else scope.get("", ""), name)
    if prefix == "xml":
        return ("xml", local)
    if prefix not in scope:
        raise _bad(f"the prefix {prefix[:32]!r} stands for nothing")
    return (scope[prefix], local)


def parse_rim(data: bytes) -> BaseRim:
    """Read a base RIM.

    Exactly one SoftwareIdentity, as the root, and one Payload directly in it count; anything of
    these names elsewhere is refused, so that what is read is what a signature would cover.

    Raises:
        FormatError: ``rim-malformed``, ``reference-empty`` (no file, or a file without hash),
            ``reference-weak`` (only weak hashes), ``xml-syntax``, ``xml-doctype``.
        LimitError: ``xml-limit``.
    """
    root = _resolve(parse_xml(data, component="reference"), {})
    if root.name != (SWID, "SoftwareIdentity"):
        raise _bad("it is no SWID tag")
    parts = [(child.name, child) for child in root.children()]
    payloads = [child for name, child in parts if name == (SWID, "Payload")]
    signatures = [child for name, child in parts if name == (XMLDSIG, "Signature")]
    for signature in signatures:
        _refuse_hidden(signature)
    if len(payloads) != 1 or len(signatures) > 1:
        raise _bad(f"it has {len(payloads)} payloads and {len(signatures)} signatures")
    entities = [child for name, child in parts if name == (SWID, "Entity")]
    metas = [child for name, child in parts if name == (SWID, "Meta")]
    files = tuple(_files(payloads[0], ""))
    if not files:
        raise _bad("its payload lists no file", "reference-empty")
    names = [file.name for file in files]
    if len(set(names)) != len(names) or len(names) > MAX_FILES:
        raise _bad("its payload lists a file twice, or too many")
    return BaseRim(
        root.get("tagId"),
        root.get("name"),
        root.get("version"),
        tuple(one.get("name") for one in entities if "tagCreator" in one.get("role").split()),
        {local: value for meta in metas for (_, local), value in meta.attributes.items()},
        files,
        has_xmldsig=bool(signatures),
    )


def _refuse_hidden(node: _Node) -> None:
    """Refuse a tag inside a signature: the way to show one document and sign another."""
    for child in node.children():
        if child.name[0] == SWID:
            raise _bad("a SWID element hides inside its signature")
        _refuse_hidden(child)


def _files(node: _Node, path: str) -> Iterator[RimFile]:
    for child in node.children():
        if child.name == (SWID, "Directory"):
            yield from _files(child, f"{path}{child.get('name')}/")
        elif child.name == (SWID, "File"):
            yield _file(child)
        elif child.name[0] in {SWID, XMLDSIG}:
            raise _bad(f"a {child.name[1]} stands inside its payload")


def _file(node: _Node) -> RimFile:
    name, size = node.get("name"), node.get("size")
    if not name or not size.isascii() or not size.isdigit() or len(size) > 12:  # noqa: PLR2004
        raise _bad("a file without name or size")
    digests: dict[str, bytes] = {}
    hashed = False
    for (space, local), value in node.attributes.items():
        if local != "hash":
            continue
        hashed = True
        algorithm = _HASHES.get(space)
        if algorithm is not None:
            try:
                digests[algorithm] = binascii.unhexlify(value)
            except (binascii.Error, ValueError):
                raise _bad(f"the hash of {name[:64]!r} is not hexadecimal") from None
    if not digests:
        code = "reference-weak" if hashed else "reference-empty"
        raise _bad(f"the file {name[:64]!r} has no hash that proves anything", code)
    return RimFile(name, int(size), digests)


def check_support(rim: BaseRim, name: str, data: bytes) -> RimFile:
    """Check that a support file is the one that the manifest lists.

    Raises:
        DigestError: ``reference-digest``: it is not listed, or its size or a hash differs.
    """
    listed = next((file for file in rim.files if file.name == name), None)
    good = listed is not None and len(data) == listed.size
    if (
        listed is None
        or not good
        or not all(
            hmac.compare_digest(digest(algorithm, data), value)
            for algorithm, value in listed.digests.items()
        )
    ):
        raise DigestError(
            f"The support file {name[:64]!r} is not the one that the manifest lists.",
            code="reference-digest",
            component="reference",
            remedy="Get manifest and support files again, from one source and of one version.",
        )
    return listed


def support_log(rim: BaseRim, name: str, data: bytes) -> EventLog:
    """Return a support RIM that is an event log, once it is the one listed.

    Raises:
        DigestError: as ``check_support``.
        FormatError: it is no event log.
    """
    check_support(rim, name, data)
    return parse(data)
