"""``descriptor.xml`` of a VIB: bytes to values and back.

Elements that this module does not know are skipped, because newer builders add some; an element
that may stand once and stands twice is refused, because readers would differ on which one counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from casemate.errors import FormatError
from casemate.formats.descriptor_values import (
    Checksum,
    Constraint,
    Descriptor,
    PayloadInfo,
    SoftwarePlatform,
    Url,
    VibType,
)
from casemate.formats.xmltree import Element, parse_xml, write_xml

__all__ = [
    "Checksum",
    "Constraint",
    "Descriptor",
    "PayloadInfo",
    "SoftwarePlatform",
    "Url",
    "VibType",
    "parse_descriptor",
    "write_descriptor",
]

SCHEMA_VERSION: Final = "5.0"
"""The descriptor version that ESXi 5 to 8 read."""

_RELATIONSHIPS: Final = {
    "depends": "depends",
    "conflicts": "conflicts",
    "replaces": "replaces",
    "provides": "provides",
    "compatibleWith": "compatible_with",
}
_SWITCHES: Final = {
    "live-install-allowed": "live_install_allowed",
    "live-remove-allowed": "live_remove_allowed",
    "cimom-restart": "cimom_restart",
    "stateless-ready": "stateless_ready",
    "overlay": "overlay",
}
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


def parse_descriptor(data: bytes, *, component: str = "descriptor.xml") -> Descriptor:
    """Return the values of a descriptor.

    Raises:
        FormatError: Not well-formed, incomplete, ambiguous, or a value that ESXi's rules exclude
            (codes ``xml-*`` and ``descriptor-*``).
        LimitError: A stated size or count was passed.
    """
    root = parse_xml(data, component=component)
    try:
        return _read(root)
    except FormatError as error:
        error.component = error.component or component
        raise


def write_descriptor(descriptor: Descriptor) -> bytes:
    """Return ``descriptor.xml``: same values, same bytes."""
    return write_xml(_tree(descriptor))


def _read(root: Element) -> Descriptor:
    if root.tag != "vib":
        raise FormatError(
            f"The XML is a <{root.tag[:64]}>, not a VIB's descriptor.", code="descriptor-root"
        )
    relationships = _one(root, "relationships")
    requires = _one(root, "system-requires")
    install, remove = _maintenance(_one(requires, "maintenance-mode"))
    level = _one(root, "acceptance-level")
    return Descriptor(
        name=_text(root, "name"),
        version=_text(root, "version"),
        vendor=_text(root, "vendor"),
        summary=_text(root, "summary", optional=True),
        release_date=_date(_text(root, "release-date")),
        type=_type(_text(root, "type")),
        description=_text(root, "description", optional=True),
        urls=tuple(
            Url(child.attributes.get("key", ""), child.text) for child in _all(root, "urls", "url")
        ),
        **{
            field: tuple(_constraint(one) for one in _all(relationships, tag, "constraint"))
            for tag, field in _RELATIONSHIPS.items()
        },
        tags=tuple(child.text for child in _all(root, "software-tags", "tag")),
        install_needs_maintenance=install,
        remove_needs_maintenance=remove,
        hardware_vendors=tuple(
            child.attributes.get("vendor", "")
            for child in (requires.all("hwplatform") if requires else ())
        ),
        software_platforms=tuple(
            SoftwarePlatform(
                child.attributes.get("productLineID", ""),
                child.attributes.get("version", ""),
                child.attributes.get("locale", ""),
            )
            for child in (requires.all("softwarePlatform") if requires else ())
        ),
        files=tuple(child.text for child in _all(root, "file-list", "file")),
        acceptance_level="community" if level is None else level.text,
        live_install_allowed=_switch(root, "live-install-allowed"),
        live_remove_allowed=_switch(root, "live-remove-allowed"),
        cimom_restart=_switch(root, "cimom-restart"),
        stateless_ready=_switch(root, "stateless-ready"),
        overlay=_switch(root, "overlay"),
        payloads=tuple(_payload(child) for child in _all(root, "payloads", "payload")),
    )


def _tree(descriptor: Descriptor) -> Element:
    requires = Element(
        "system-requires",
        {},
        [
            Element(
                "maintenance-mode",
                {
                    "install": _boolean(descriptor.install_needs_maintenance),
                    "remove": _boolean(descriptor.remove_needs_maintenance),
                },
            ),
            *(Element("hwplatform", {"vendor": one}) for one in descriptor.hardware_vendors),
            *(
                Element(
                    "softwarePlatform",
                    {
                        "productLineID": one.product_line,
                        "version": one.version,
                        "locale": one.locale,
                    },
                )
                for one in descriptor.software_platforms
            ),
        ],
    )
    relationships = [
        Element(tag, {}, [_constraint_tree(one) for one in getattr(descriptor, field)])
        for tag, field in _RELATIONSHIPS.items()
    ]
    return Element(
        "vib",
        {"version": SCHEMA_VERSION},
        [
            _leaf("type", descriptor.type),
            _leaf("name", descriptor.name),
            _leaf("version", descriptor.version),
            _leaf("vendor", descriptor.vendor),
            _leaf("summary", descriptor.summary),
            _leaf("description", descriptor.description),
            _leaf("release-date", descriptor.release_date.isoformat()),
            Element(
                "urls", {}, [Element("url", {"key": u.key}, text=u.href) for u in descriptor.urls]
            ),
            Element("relationships", {}, relationships),
            _leaves("software-tags", "tag", descriptor.tags),
            requires,
            _leaves("file-list", "file", descriptor.files),
            _leaf("acceptance-level", descriptor.acceptance_level),
            *(_leaf(tag, _boolean(getattr(descriptor, name))) for tag, name in _SWITCHES.items()),
            Element("payloads", {}, [_payload_tree(one) for one in descriptor.payloads]),
        ],
    )


def _one(parent: Element | None, tag: str) -> Element | None:
    """Return the child of this name, None without one; two are ambiguous."""
    found = parent.all(tag) if parent is not None else ()
    if len(found) > 1:
        raise FormatError(f"The descriptor has two <{tag}>.", code="descriptor-ambiguous")
    return found[0] if found else None


def _all(parent: Element | None, group: str, tag: str) -> tuple[Element, ...]:
    found = _one(parent, group)
    return () if found is None else found.all(tag)


def _text(root: Element, tag: str, *, optional: bool = False) -> str:
    element = _one(root, tag)
    if element is None and not optional:
        raise FormatError(f"The descriptor has no <{tag}>.", code="descriptor-incomplete")
    return "" if element is None else element.text


def _truth(text: str, what: str) -> bool:
    try:
        return _BOOLEANS[text]
    except KeyError:
        raise FormatError(
            f"<{what}> is {text[:64]!r}, neither true nor false.", code="descriptor-boolean"
        ) from None


def _switch(root: Element, tag: str) -> bool:
    element = _one(root, tag)
    return False if element is None else _truth(element.text, tag)


def _maintenance(element: Element | None) -> tuple[bool, bool]:
    """Return whether installing and removing need maintenance mode (old form: one text)."""
    if element is None:
        return False, False
    both = _truth(element.text, element.tag) if element.text else False
    install, remove = (
        _truth(element.attributes[key], element.tag) if key in element.attributes else both
        for key in ("install", "remove")
    )
    return install, remove


def _date(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        raise FormatError(
            f"The release date {text[:64]!r} is not an ISO 8601 time.", code="descriptor-date"
        ) from None


def _type(text: str) -> VibType:
    try:
        return VibType(text)
    except ValueError:
        raise FormatError(f"{text[:64]!r} is not a type of VIB.", code="descriptor-type") from None


def _constraint(element: Element) -> Constraint:
    attributes = element.attributes
    return Constraint(
        attributes.get("name", ""), attributes.get("relation", ""), attributes.get("version", "")
    )


def _constraint_tree(constraint: Constraint) -> Element:
    attributes = {"name": constraint.name}
    if constraint.relation:
        attributes |= {"relation": constraint.relation, "version": constraint.version}
    return Element("constraint", attributes)


def _payload(element: Element) -> PayloadInfo:
    attributes = element.attributes
    size = attributes.get("size", "")
    if not (size.isascii() and size.isdecimal() and len(size) <= len(str(1 << 64))):
        raise FormatError(
            f"A payload has the size {size[:64]!r}, which is no number.", code="descriptor-payload"
        )
    return PayloadInfo(
        name=attributes.get("name", ""),
        type=attributes.get("type", ""),
        size=int(size),
        checksums=tuple(_checksum(child) for child in element.all("checksum")),
    )


def _checksum(element: Element) -> Checksum:
    try:
        value = bytes.fromhex(element.text)
    except ValueError:
        raise FormatError(
            "A payload's checksum is not hexadecimal.", code="descriptor-checksum"
        ) from None
    attributes = element.attributes
    return Checksum(
        attributes.get("checksum-type", ""), value, attributes.get("verify-process", "")
    )


def _payload_tree(payload: PayloadInfo) -> Element:
    return Element(
        "payload",
        {"name": payload.name, "type": payload.type, "size": str(payload.size)},
        [
            Element(
                "checksum",
                {"checksum-type": one.type}
                | ({"verify-process": one.process} if one.process else {}),
                text=one.value.hex(),
            )
            for one in payload.checksums
        ],
    )


def _leaf(tag: str, text: str) -> Element:
    return Element(tag, {}, text=text)


def _leaves(group: str, tag: str, texts: Iterable[str]) -> Element:
    return Element(group, {}, [_leaf(tag, text) for text in texts])


def _boolean(value: bool) -> str:  # noqa: FBT001 - the value is what gets written
    return "true" if value else "false"
