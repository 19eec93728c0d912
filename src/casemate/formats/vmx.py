"""VMX: the text file that describes a VMware virtual machine.

Lines of ``name = "value"``; names are compared without case; ``#`` starts a comment line. A byte
that may not stand in a value is written ``|XX`` (two hexadecimal digits). ``.encoding`` names the
character set of the file. A name that occurs twice is an error, as it is for VMware: two readers
could otherwise see two machines in one file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from casemate.errors import FormatError, LimitError

# Bytes: real files stay under 64 KiB.
SIZE_LIMIT: Final = 1 << 20
# Lines and characters: generous for any machine with every device.
LINE_LIMIT: Final = 16384
NAME_LIMIT: Final = 256
VALUE_LIMIT: Final = 65536
# Character sets in which every byte below 0x80 means ASCII, so that "|" and quotes are unambiguous.
# In others (Shift_JIS, GBK, Big5) such a byte may be the second half of a character.
_ENCODINGS: Final = {
    "utf-8": "utf-8",
    "us-ascii": "ascii",
    **{f"iso-8859-{part}": f"iso8859-{part}" for part in (*range(1, 12), *range(13, 17))},
    **{f"windows-{page}": f"cp{page}" for page in range(1250, 1259)},
    **{name: name for name in ("koi8-r", "koi8-u", "euc-jp", "euc-kr", "gb2312")},
}
_BOM: Final = b"\xef\xbb\xbf"
_ENCODING_NAME: Final = ".encoding"
_NAME: Final = re.compile(r"[A-Za-z0-9_.:\-]+")
_BLANKS: Final = b" \t"
_ESCAPE: Final = re.compile(rb"\|(..?)?", re.DOTALL)
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{2}")
# Characters that would end a line or a value; "|" is the escape itself.
_TO_ESCAPE: Final = re.compile(r'["|\x01-\x1f\x7f]')
_COMPONENT: Final = "vmx"


@dataclass(frozen=True, slots=True)
class Vmx:
    """The entries in the file's order, with values as text. ``.encoding`` is not among them."""

    entries: tuple[tuple[str, str], ...]

    def get(self, name: str, default: str = "") -> str:
        """Return the value of ``name`` (in any case), or ``default``."""
        wanted = name.lower()
        return next((value for key, value in self.entries if key.lower() == wanted), default)

    def lowered(self) -> dict[str, str]:
        """Return all values by lower-case name."""
        return {key.lower(): value for key, value in self.entries}


def parse(data: bytes) -> Vmx:
    """Parse a file.

    Raises:
        FormatError: A line is no entry, a name occurs twice, an escape or a character is wrong,
            or the character set keeps ASCII not as it is, as UTF-8, ISO-8859, windows-125x, EUC do.
        LimitError: The file, a name or a value is too long.
    """
    if len(data) > SIZE_LIMIT:
        raise LimitError(f"a vmx file of {len(data)} bytes is too large", component=_COMPONENT)
    lines = data.removeprefix(_BOM).replace(b"\r\n", b"\n").split(b"\n")
    if len(lines) > LINE_LIMIT:
        raise LimitError(f"a vmx file of {len(lines)} lines is too long", component=_COMPONENT)
    raw: dict[str, tuple[str, bytes]] = {}
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if not stripped or stripped.startswith(b"#"):
            continue
        name, value = _entry(line, number)
        if name.lower() in raw:
            raise FormatError(
                f"line {number}: {name} is already defined",
                component=_COMPONENT,
                code="vmx-duplicate",
                remedy="Remove one of the two lines.",
            )
        raw[name.lower()] = (name, value)
    encoding = _encoding(raw.pop(_ENCODING_NAME, ("", b"UTF-8"))[1])
    return Vmx(tuple((name, _text(name, value, encoding)) for name, value in raw.values()))


def write(vmx: Vmx) -> bytes:
    """Write a file in UTF-8; ``parse`` gives the same entries back.

    Raises:
        FormatError: A name or a value cannot be written.
    """
    return b"".join(_lines(vmx.entries))


def _lines(entries: Iterable[tuple[str, str]]) -> Iterable[bytes]:
    yield b'.encoding = "UTF-8"\n'
    for name, value in entries:
        if not _NAME.fullmatch(name) or name.lower() == _ENCODING_NAME or "\0" in value:
            raise FormatError(f"{name!r} cannot be written to a vmx file", component=_COMPONENT)
        escaped = _TO_ESCAPE.sub(lambda match: f"|{ord(match[0]):02X}", value)
        try:
            yield f'{name} = "{escaped}"\n'.encode()
        except UnicodeEncodeError as error:
            raise FormatError(f"the value of {name} is not text", component=_COMPONENT) from error


def _entry(line: bytes, number: int) -> tuple[str, bytes]:
    """Split one line into name and raw value, in linear time."""
    left, equals, right = line.partition(b"=")
    name, right = left.strip(_BLANKS).decode("latin-1"), right.strip(_BLANKS)
    if right.startswith(b'"'):
        value, closing, tail = right[1:].partition(b'"')
        tail = tail.strip(_BLANKS)
        good = bool(closing) and (not tail or tail.startswith(b"#"))
    else:
        value = right.partition(b"#")[0].strip(_BLANKS)
        good = b'"' not in value
    if not (good and equals and _NAME.fullmatch(name)):
        raise FormatError(
            f'line {number} is not of the form name = "value"',
            component=_COMPONENT,
            code="vmx-line",
            remedy="Correct the line.",
        )
    if len(name) > NAME_LIMIT or len(value) > VALUE_LIMIT:
        raise LimitError(f"line {number} is too long", component=_COMPONENT)
    return name, value


def _encoding(declared: bytes) -> str:
    """Return Python's name of a declared character set."""
    name = declared.decode("ascii", "replace").lower()
    try:
        return _ENCODINGS[name]
    except KeyError:
        raise FormatError(
            f"the character set {name!r} is not supported",
            component=_COMPONENT,
            code="vmx-encoding",
            remedy='Convert the file to UTF-8 and set .encoding = "UTF-8".',
        ) from None


def _text(name: str, value: bytes, encoding: str) -> str:
    """Undo the escapes, then decode."""
    try:
        text = _ESCAPE.sub(_unescape, value).decode(encoding)
    except UnicodeDecodeError as error:
        raise FormatError(
            f"the value of {name} is not {encoding}", component=_COMPONENT, code="vmx-text"
        ) from error
    if "\0" in text:
        raise FormatError(f"the value of {name} contains a zero byte", component=_COMPONENT)
    return text


def _unescape(match: re.Match[bytes]) -> bytes:
    """Turn ``|XX`` into its byte."""
    digits = match[1] or b""
    if not _HEX.fullmatch(digits):
        raise FormatError(
            "an escape is not | and two hexadecimal digits",
            component=_COMPONENT,
            code="vmx-escape",
            remedy="Write | itself as |7C.",
        )
    return bytes((int(digits, 16),))
