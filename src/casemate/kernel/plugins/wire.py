"""What the kernel and a plug-in's process say to each other: a small JSON object, then bytes.

u32 length of the JSON | u32 length of the bytes | JSON | bytes          (big-endian)
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any, Final

from casemate.errors import FormatError, LimitError

MAX_WORDS: Final = 1 << 16
"""Bytes of the JSON of a message; the largest has some hundred."""
MAX_BYTES: Final = 4 << 20
"""Bytes behind it: one piece of a disk."""

_LENGTHS: Final = struct.Struct(">II")


def pack(words: dict[str, Any], data: bytes = b"") -> bytes:
    """Return a message. Raises LimitError."""
    text = json.dumps(words).encode()
    if len(text) > MAX_WORDS or len(data) > MAX_BYTES:
        raise LimitError("A message is larger than the other side takes.", code="plugin-message")
    return _LENGTHS.pack(len(text), len(data)) + text + data


def unpack(read: Callable[[int], bytes]) -> tuple[dict[str, Any], bytes]:
    """Read a message.

    Args:
        read: Returns just so many bytes, or raises.

    Raises:
        LimitError: It is too large.
        FormatError: It is none.
    """
    text_length, length = _LENGTHS.unpack(read(_LENGTHS.size))
    if text_length > MAX_WORDS or length > MAX_BYTES:
        raise LimitError("A message is larger than one may be.", code="plugin-message")
    try:
        words = json.loads(read(text_length))
    except (ValueError, RecursionError) as error:
        raise FormatError("A message is no JSON.", code="plugin-message") from error
    if not isinstance(words, dict):
        raise FormatError("A message is no object.", code="plugin-message")
    return words, read(length) if length else b""
