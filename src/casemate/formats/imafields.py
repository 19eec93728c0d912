"""What the template data of an IMA record says: digest, name, signature, buffer."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from casemate.errors import FormatError
from casemate.formats.ima import OLD_TEMPLATE, ImaEntry

_LITTLE, _BIG = struct.Struct("<I"), struct.Struct(">I")
_OLD_DIGEST: Final = 20
MAX_FIELDS: Final = 16
"""Fields of one template; ``evm-sig`` has nine."""
BOOT_AGGREGATE: Final = b"boot_aggregate"

TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = {
    "ima-ng": ("d-ng", "n-ng"),
    "ima-ngv2": ("d-ngv2", "n-ng"),
    "ima-sig": ("d-ng", "n-ng", "sig"),
    "ima-sigv2": ("d-ngv2", "n-ng", "sig"),
    "ima-buf": ("d-ng", "n-ng", "buf"),
    "ima-modsig": ("d-ng", "n-ng", "sig", "d-modsig", "modsig"),
    "evm-sig": (
        "d-ng",
        "n-ng",
        "evmsig",
        "xattrnames",
        "xattrlengths",
        "xattrvalues",
        "iuid",
        "igid",
        "imode",
    ),
}
"""The fields of the templates that Linux defines, beside ``ima``."""
_FIELDS: Final = frozenset(name for names in TEMPLATES.values() for name in names)


def fields_of(template: str) -> tuple[str, ...] | None:
    """Return the fields of a template, None where it is unknown.

    A template given to the kernel by its format (``ima_template_fmt=``) has that as its name.
    """
    names = TEMPLATES.get(template)
    if names is None:
        given = tuple(template.split("|"))
        usual = given[:2] in {("d-ng", "n-ng"), ("d-ngv2", "n-ng")}
        return given if usual and len(given) <= MAX_FIELDS and _FIELDS.issuperset(given) else None
    return names


@dataclass(frozen=True, slots=True)
class Measurement:
    """A record's content; everything is bytes as the kernel wrote them.

    Attributes:
        digest: ``sha256:`` and the raw digest, as in ``key``.
        path: the file's path, the buffer's or key ring's name, without its NUL.
        kind: ``""``, or the digest's type in ``v2`` templates (``ima``, ``verity``).
        fields: the other fields by name.
    """

    algorithm: str
    digest: bytes
    path: bytes
    kind: str = ""
    fields: Mapping[str, bytes] | None = None

    @property
    def signature(self) -> bytes:
        """The file's signature (``security.ima``), empty where it has none."""
        return (self.fields or {}).get("sig", b"")

    @property
    def is_boot_aggregate(self) -> bool:
        """Whether it is the record that ties the list to the boot."""
        return self.path == BOOT_AGGREGATE


def split_fields(data: bytes) -> list[bytes]:
    """Split template data into its length-prefixed fields.

    Lengths of a big-endian kernel that does not write the canonical form never fit the other way.

    Raises:
        FormatError: ``ima-template``: lengths that do not fit.
    """
    try:
        return _split(data, _LITTLE)
    except FormatError:
        try:
            return _split(data, _BIG)
        except FormatError:
            pass
        raise


def _split(data: bytes, number: struct.Struct) -> list[bytes]:
    fields: list[bytes] = []
    position, total = 0, len(data)
    while position < total:
        if position + 4 > total or len(fields) == MAX_FIELDS:
            raise _bad("its fields do not fill it")
        (size,) = number.unpack_from(data, position)
        position += 4
        if size > total - position:
            raise _bad(f"a field of {size} bytes ends behind it")
        fields.append(data[position : position + size])
        position += size
    return fields


def _bad(reason: str) -> FormatError:
    return FormatError(f"IMA template data: {reason}", code="ima-template")


def measurement(entry: ImaEntry) -> Measurement:
    """Decode a record of a known template.

    Raises:
        FormatError: ``ima-template``: not what the template promises, or
            ``ima-template-unknown``.
    """
    if entry.template == OLD_TEMPLATE:
        path = entry.data[_OLD_DIGEST:].rstrip(b"\0")
        return Measurement("sha1", entry.data[:_OLD_DIGEST], path)
    names = fields_of(entry.template)
    if names is None:
        raise FormatError(
            f"an IMA template {entry.template!r}, which nobody knows",
            code="ima-template-unknown",
            remedy="Let the host use ima-ng or ima-sig (ima_template= on its command line).",
        )
    fields = split_fields(entry.data)
    if len(fields) != len(names):
        raise _bad(f"{len(fields)} fields, {entry.template} has {len(names)}")
    kind, algorithm, digest = _digest(fields[0], versioned=names[0] == "d-ngv2")
    rest = dict(zip(names[2:], fields[2:], strict=True)) or None
    return Measurement(algorithm, digest, fields[1].removesuffix(b"\0"), kind, rest)


def _digest(data: bytes, *, versioned: bool) -> tuple[str, str, bytes]:
    r"""Read ``[type:]algorithm:\0digest``."""
    label, mark, digest = data.partition(b":\0")
    kind, colon, name = label.rpartition(b":")
    if not mark or bool(colon) != versioned or not name.isascii():
        raise _bad("its digest names no algorithm")
    return kind.decode("latin-1"), name.decode("ascii"), digest
