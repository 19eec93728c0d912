"""The VIB container: ``descriptor.xml``, ``sig.pkcs7``, then one member per payload.

Reading a VIB leaves no byte unaccounted: members come in the order ESXi writes, each once, every
payload is announced by the descriptor with its size, and nothing trails. Whether the signature and
the checksums hold is policy (``policy.acceptance``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from casemate.errors import FormatError, LimitError
from casemate.formats.ar import parse_ar, write_ar
from casemate.formats.cms_checks import MAX_SIGNATURE
from casemate.formats.descriptor import Descriptor, parse_descriptor
from casemate.formats.xmltree import MAX_DOCUMENT

DESCRIPTOR_NAME: Final = "descriptor.xml"
SIGNATURE_NAME: Final = "sig.pkcs7"
_HEAD: Final = (DESCRIPTOR_NAME, SIGNATURE_NAME)


@dataclass(frozen=True, slots=True)
class Vib:
    """A VIB taken apart; payloads are views of the file's bytes, in file order."""

    descriptor: Descriptor
    descriptor_bytes: bytes
    signature: bytes
    payloads: Mapping[str, memoryview]


def parse_vib(data: bytes | memoryview, *, component: str = "") -> Vib:
    """Take a VIB apart.

    Args:
        data: The whole file.
        component: What errors say they are about, such as the file's name.

    Raises:
        FormatError: Not a VIB, or one with hidden, missing or doubled parts (codes ``ar-*``,
            ``vib-*``, ``payload-*``, ``xml-*``, ``descriptor-*``).
        LimitError: Descriptor or signature are larger than any real one.
    """
    members = parse_ar(data, component=component)
    names = [member.name for member in members]
    if len(set(names)) != len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise FormatError(
            f"The VIB has two members {double}.", code="vib-duplicate", component=component
        )
    if tuple(names[:2]) != _HEAD:
        raise FormatError(
            f"A VIB starts with {DESCRIPTOR_NAME} and {SIGNATURE_NAME}; this one with "
            f"{' and '.join(names[:2]) or 'nothing'}.",
            code="vib-order",
            component=component,
        )
    for member, limit in zip(members[:2], (MAX_DOCUMENT, MAX_SIGNATURE), strict=True):
        if len(member.data) > limit:
            raise LimitError(
                f"{member.name} has more than {limit} bytes.", code="vib-limit", component=component
            )
    descriptor_bytes, signature = (bytes(member.data) for member in members[:2])
    descriptor = parse_descriptor(descriptor_bytes, component=component)
    payloads = {member.name: member.data for member in members[2:]}
    _match(descriptor, payloads, component or descriptor.vib_id)
    return Vib(descriptor, descriptor_bytes, signature, payloads)


def write_vib(
    descriptor_bytes: bytes, signature: bytes, payloads: Iterable[tuple[str, bytes | memoryview]]
) -> bytes:
    """Return a VIB of exactly these parts: same parts, same bytes.

    An unsigned VIB has an empty signature.

    Raises:
        FormatError: A payload's name does not fit the container (code ``ar-name``).
    """
    head = ((DESCRIPTOR_NAME, descriptor_bytes), (SIGNATURE_NAME, signature))
    return write_ar((*head, *payloads))


def _match(descriptor: Descriptor, payloads: Mapping[str, memoryview], component: str) -> None:
    """Raise unless members and announced payloads are the same, with the same sizes."""
    for name, data in payloads.items():
        announced = descriptor.payload(name)
        if announced is None:
            raise FormatError(
                f"The VIB has a member {name} that its descriptor does not announce.",
                code="payload-unknown",
                component=component,
            )
        if announced.size != len(data):
            raise FormatError(
                f"Payload {name} has {len(data)} bytes; the descriptor announces {announced.size}.",
                code="payload-size",
                component=component,
            )
    for announced in descriptor.payloads:
        if announced.name not in payloads:
            raise FormatError(
                f"The VIB lacks the payload {announced.name} that its descriptor announces.",
                code="payload-missing",
                component=component,
            )
