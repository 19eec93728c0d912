"""Read and write ``ar`` archives in the plain common form (System V names, no symbol table).

A VIB is such an archive. The reader is strict, because whatever it lets through unseen is a place
where unsigned bytes can hide: every byte of the file belongs to a header, a member or its padding.
Source: ar(5), as GNU binutils writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from casemate.errors import FormatError, LimitError

MAGIC: Final = b"!<arch>\n"
HEADER_SIZE: Final = 60
"""Bytes of one member header."""
MAX_MEMBERS: Final = 1_024
"""Members; a VIB has two and one per payload, and the largest known has a few dozen."""
MAX_NAME: Final = 15
"""Characters; the header has 16 and one is the closing slash. Long-name tables are refused."""

_END: Final = b"`\n"
_PAD: Final = b"\n"
_NAME: Final = re.compile(rb"([0-9A-Za-z_.+-]{1,16})(/?) *")
_DECIMAL: Final = re.compile(rb"([0-9]+) *")
_OCTAL: Final = re.compile(rb"([0-7]+) *")
_NUMBER_FIELDS: Final = (
    ("time", 16, 28, _DECIMAL),
    ("owner", 28, 34, _DECIMAL),
    ("group", 34, 40, _DECIMAL),
    ("mode", 40, 48, _OCTAL),
)


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive; ``data`` is a view of the archive's bytes, not a copy."""

    name: str
    data: memoryview


def parse_ar(data: bytes | memoryview, *, component: str = "") -> tuple[Member, ...]:
    """Return the members in file order; duplicates are kept, for the caller to judge.

    Args:
        data: The whole archive.
        component: What errors say they are about.

    Raises:
        FormatError: The bytes are not a plain archive (codes ``ar-magic``, ``ar-header``,
            ``ar-name``, ``ar-truncated``, ``ar-padding``).
        LimitError: More than ``MAX_MEMBERS`` members.
    """
    view = memoryview(data).cast("B").toreadonly()
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise FormatError("This is not an ar archive.", code="ar-magic", component=component)
    members: list[Member] = []
    offset = len(MAGIC)
    while offset < len(view):
        if len(members) == MAX_MEMBERS:
            raise LimitError(
                f"The archive has more than {MAX_MEMBERS} members.",
                code="ar-members",
                component=component,
            )
        name, size = _header(bytes(view[offset : offset + HEADER_SIZE]), offset, component)
        start = offset + HEADER_SIZE
        end = start + size
        if end > len(view):
            raise FormatError(
                f"Member {name} claims {size} bytes, but the archive ends after "
                f"{len(view) - start}.",
                code="ar-truncated",
                component=component,
            )
        members.append(Member(name, view[start:end]))
        offset = end + (size & 1)
        if size & 1 and bytes(view[end:offset]) != _PAD:
            raise FormatError(
                f"Member {name} is not followed by its padding byte.",
                code="ar-padding",
                component=component,
            )
    return tuple(members)


def write_ar(members: Iterable[tuple[str, bytes | memoryview]], *, component: str = "") -> bytes:
    """Return an archive of these members: same input, same bytes (no times, no owners).

    Raises:
        FormatError: A name does not fit the header (code ``ar-name``).
    """
    parts: list[bytes | memoryview] = [MAGIC]
    for name, data in members:
        encoded = name.encode("utf-8", "replace")
        if len(encoded) > MAX_NAME or not _NAME.fullmatch(encoded):
            raise FormatError(
                f"{name!r} cannot be the name of an archive member: at most {MAX_NAME} letters, "
                "digits, '-', '_', '.' or '+'.",
                code="ar-name",
                component=component,
            )
        size = len(data)
        head = f"{name + '/':<16}{0:<12}{0:<6}{0:<6}{'644':<8}{size:<10}"
        parts += (head.encode(), _END, data)
        if size & 1:
            parts.append(_PAD)
    return b"".join(parts)


def _header(head: bytes, offset: int, component: str) -> tuple[str, int]:
    """Return name and size (bytes) from one header."""
    if len(head) < HEADER_SIZE or head[58:] != _END:
        raise FormatError(
            f"There is no member header at byte {offset}: bytes trail the archive, or it is cut.",
            code="ar-header",
            component=component,
        )
    name = _NAME.fullmatch(head[:16])
    if name is None:
        raise FormatError(
            f"The member at byte {offset} has no plain name.", code="ar-name", component=component
        )
    for field, start, end, pattern in _NUMBER_FIELDS:
        value = head[start:end]
        if value.strip(b" ") and not pattern.fullmatch(value):
            raise FormatError(
                f"The {field} of the member at byte {offset} is not a number.",
                code="ar-header",
                component=component,
            )
    size = _DECIMAL.fullmatch(head[48:58])
    if size is None:
        raise FormatError(
            f"The size of the member at byte {offset} is not a number.",
            code="ar-header",
            component=component,
        )
    return name[1].decode("ascii"), int(size[1])
