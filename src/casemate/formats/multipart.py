"""Forms with files, as browsers send them: every part is whole, none comes twice (RFC 7578)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from casemate.errors import FormatError, LimitError

MAX_PARTS: Final = 32
"""Fields of one form."""
MAX_HEAD: Final = 2048
"""Bytes of the lines before a field's value."""

_BOUNDARY: Final = re.compile(
    r"""multipart/form-data\s*;\s*boundary="""
    r"""(?:"([\w'()+,./:=? -]{1,70})"|([\w'()+./:=?-]{1,70}))\s*""",
    re.ASCII | re.IGNORECASE,
)
_DISPOSITION: Final = re.compile(
    rb'content-disposition: *form-data; *name="([^"\r\n]*)"(?:; *filename="([^"\r\n]*)")? *',
    re.IGNORECASE,
)
_ENDS: Final = (b"--", b"--\r\n")


@dataclass(frozen=True, slots=True)
class Part:
    """A field's value; ``file`` is the name that its file has there, None where it is no file."""

    data: bytes
    file: str | None = None


def is_multipart(content_type: str) -> bool:
    """Tell whether a body of this type is read by ``parse_form``."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def parse_form(body: bytes, content_type: str) -> dict[str, Part]:
    """Return the fields of a form by name.

    Raises:
        FormatError: ``form-malformed``.
        LimitError: more than ``MAX_PARTS`` fields.
    """
    found = _BOUNDARY.fullmatch(content_type.strip())
    if found is None:
        raise _bad("its type names no boundary")
    mark = b"\r\n--" + (found[1] or found[2]).encode()
    # The first boundary stands where the body begins: as if a line had ended before it.
    before, *pieces = (b"\r\n" + body).split(mark, MAX_PARTS + 2)
    if len(pieces) > MAX_PARTS + 1:
        raise LimitError(f"a form of more than {MAX_PARTS} fields")
    if before or not pieces or pieces[-1] not in _ENDS:
        raise _bad("it does not begin and end with its boundary")
    fields: dict[str, Part] = {}
    for piece in pieces[:-1]:
        name, part = _part(piece)
        if name in fields:
            raise _bad(f"the field {name[:64]!r} comes twice")
        fields[name] = part
    return fields


def _part(piece: bytes) -> tuple[str, Part]:
    head, blank, data = piece.partition(b"\r\n\r\n")
    if not blank or not head.startswith(b"\r\n") or len(head) > MAX_HEAD:
        raise _bad("a field has no head")
    named = [match for line in head.split(b"\r\n") if (match := _DISPOSITION.fullmatch(line))]
    if len(named) != 1:
        raise _bad("a field has no name")
    try:
        name, file = named[0][1].decode(), named[0][2]
        return name, Part(data, None if file is None else file.decode())
    except UnicodeDecodeError as error:
        raise _bad("a name is not UTF-8") from error


def _bad(reason: str) -> FormatError:
    return FormatError(f"a form: {reason}", code="form-malformed", component="form")
