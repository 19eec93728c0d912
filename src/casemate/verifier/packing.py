"""Rounds compressed for the store, without compressing twice what most of them have in common.

A host's log and components are the same from one boot to the next, and often those of its
neighbours; its quotes are new in every round. So evidence is packed in parts, and the packed form
of large parts is remembered.
"""

from __future__ import annotations

import hashlib
import struct
import threading
import zlib
from collections import OrderedDict
from typing import Final

from casemate.calls import evidence as wire

REMEMBERED: Final = 1024
"""Packed parts kept: some 4 KiB each."""
LARGE: Final = 1024
"""Bytes from which on a part is worth remembering."""
LARGEST: Final = 128 << 10
"""Bytes of a packed part that is remembered."""
_MARK: Final = b"\1"
_SIZE: Final = struct.Struct(">I")


class Packer:
    """Packs; safe to use from several threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, bytes] = OrderedDict()
        self._turn = threading.Lock()

    def pack(self, data: bytes) -> bytes:
        """Return what ``unpack`` turns back."""
        place = wire.split(data)
        if place is None:
            return _MARK + _framed(self._part(data))
        first, last = place
        rest = data[:first] + data[last:]
        middle = self._part(data[first:last])
        return b"".join((_MARK, _framed(zlib.compress(rest, 1)), _SIZE.pack(first), middle))

    def _part(self, data: bytes) -> bytes:
        if len(data) < LARGE:
            return zlib.compress(data, 1)
        key = hashlib.sha256(data).digest()
        with self._turn:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        made = zlib.compress(data, 6)
        if len(made) > LARGEST:
            return made
        with self._turn:
            self._known[key] = made
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return made


def _framed(part: bytes) -> bytes:
    return _SIZE.pack(len(part)) + part


def unpack(data: bytes) -> bytes:
    """Return what was packed; empty stays empty."""
    if not data.startswith(_MARK):
        return zlib.decompress(data) if data else b""
    (size,) = _SIZE.unpack_from(data, 1)
    start = 1 + _SIZE.size
    rest = zlib.decompress(data[start : start + size])
    if start + size == len(data):
        return rest
    (place,) = _SIZE.unpack_from(data, start + size)
    middle = zlib.decompress(data[start + size + _SIZE.size :])
    return rest[:place] + middle + rest[place:]
