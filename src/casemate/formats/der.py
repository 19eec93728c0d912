"""A small DER reader that keeps every original byte, for certificates that strict readers refuse.

Lengths are definite, minimal and checked against what is left; nothing is re-encoded, ever, so a
signature can be checked over the bytes that were signed. X.690, section 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from casemate.errors import FormatError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_ID: Final = 0x06
SEQUENCE: Final = 0x30
SET: Final = 0x31
MAX_ITEMS: Final = 4096
"""Elements of one sequence; a CRL's entries are not read with this."""
_LONG_TAG: Final = 0x1F


@dataclass(frozen=True, slots=True)
class Tlv:
    """One element: tag octet, content, and the element as it stood."""

    tag: int
    content: bytes
    raw: bytes

    def items(self) -> tuple[Tlv, ...]:
        """Return the elements of which the content is made."""
        found: list[Tlv] = []
        position = 0
        while position < len(self.content):
            if len(found) == MAX_ITEMS:
                raise _bad(f"more than {MAX_ITEMS} elements")
            item = read_tlv(self.content, position)
            found.append(item)
            position += len(item.raw)
        return tuple(found)

    def expect(self, tag: int) -> Tlv:
        """Return the element itself if it has this tag."""
        if self.tag != tag:
            raise _bad(f"tag 0x{self.tag:02x} where 0x{tag:02x} belongs")
        return self


def _bad(reason: str) -> FormatError:
    return FormatError(f"DER: {reason}")


def read_tlv(data: bytes, position: int = 0) -> Tlv:
    """Read the element at ``position``; what follows it is left alone.

    Raises:
        FormatError: a high tag number, an indefinite or too long length, or too few bytes.
    """
    if position + 2 > len(data):
        raise _bad("it ends inside a header")
    tag, first = data[position], data[position + 1]
    if tag & _LONG_TAG == _LONG_TAG:
        raise _bad("a high tag number")
    start = position + 2
    if first < 0x80:  # noqa: PLR2004  # the short form
        size = first
    else:
        count = first & 0x7F
        if not 1 <= count <= 4 or start + count > len(data):  # noqa: PLR2004  # 4 GiB is enough
            raise _bad("a length of unusual form")
        size = int.from_bytes(data[start : start + count], "big")
        if size < 0x80 or size >> (8 * (count - 1)) == 0:  # noqa: PLR2004  # not minimal
            raise _bad("a length that is not minimal")
        start += count
    end = start + size
    if end > len(data):
        raise _bad(f"an element of {size} bytes, {len(data) - start} are left")
    return Tlv(tag, data[start:end], data[position:end])


def write_tlv(tag: int, content: bytes) -> bytes:
    """Return an element."""
    size = len(content)
    if size < 0x80:  # noqa: PLR2004  # the short form
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def oid_text(content: bytes) -> str:
    """Return the dotted form of an object identifier's content."""
    if not content or content[-1] & 0x80 or len(content) > 64:  # noqa: PLR2004  # bytes
        raise _bad("an object identifier that does not end")
    numbers: list[int] = []
    value = 0
    for byte in content:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def bits(content: bytes) -> bytes:
    """Return the bytes of a BIT STRING that has no unused bits."""
    if not content or content[0]:
        raise _bad("a bit string that is not made of bytes")
    return content[1:]
