"""A bounded cursor over bytes that somebody else wrote.

Every read is checked against what is left, so a length field that lies costs one comparison and
never memory. Integers come in both byte orders: TCG event logs and PE are little-endian, TPM
structures are big-endian.
"""

from __future__ import annotations

from struct import Struct

from casemate.errors import FormatError

_U16_LE, _U32_LE, _U64_LE = Struct("<H"), Struct("<I"), Struct("<Q")
_U16_BE, _U32_BE, _U64_BE = Struct(">H"), Struct(">I"), Struct(">Q")


class Reader:
    """Reads ``data`` from front to back.

    Args:
        data: the bytes; not copied.
        what: names the structure in errors ("TPMS_ATTEST", "GPT header").
        code: the reason code of the errors raised here.
    """

    __slots__ = ("_data", "_position", "code", "what")

    def __init__(
        self, data: bytes | bytearray | memoryview, what: str, *, code: str = "malformed"
    ) -> None:
        view = memoryview(data)
        self._data = view if type(data) is bytes else view.cast("B")
        self._position = 0
        self.what = what
        self.code = code

    @property
    def position(self) -> int:
        """Offset of the next byte."""
        return self._position

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._position

    def error(self, reason: str) -> FormatError:
        """Return (not raise) an error that names the structure."""
        return FormatError(f"{self.what}: {reason}", code=self.code)

    def _advance(self, size: int) -> int:
        start = self._position
        if size < 0 or size > len(self._data) - start:
            left = len(self._data) - start
            raise self.error(f"{size} bytes wanted at offset {start}, {left} are left")
        self._position = start + size
        return start

    def view(self, size: int) -> memoryview:
        """Return the next ``size`` bytes without copying."""
        start = self._advance(size)
        return self._data[start : start + size]

    def take(self, size: int) -> bytes:
        """Return a copy of the next ``size`` bytes."""
        start = self._advance(size)
        return bytes(self._data[start : start + size])

    def rest(self) -> bytes:
        """Return a copy of all that is left."""
        return self.take(self.left)

    def peek(self, size: int) -> bytes:
        """Return up to ``size`` of the next bytes and stay where we are."""
        return bytes(self._data[self._position : self._position + size])

    def skip(self, size: int) -> None:
        """Step over ``size`` bytes."""
        self._advance(size)

    def u8(self) -> int:
        """Read one byte."""
        return self._data[self._advance(1)]

    def u16le(self) -> int:
        """Read a little-endian 16-bit integer."""
        value: int = _U16_LE.unpack_from(self._data, self._advance(2))[0]
        return value

    def u32le(self) -> int:
        """Read a little-endian 32-bit integer."""
        value: int = _U32_LE.unpack_from(self._data, self._advance(4))[0]
        return value

    def u64le(self) -> int:
        """Read a little-endian 64-bit integer."""
        value: int = _U64_LE.unpack_from(self._data, self._advance(8))[0]
        return value

    def u16be(self) -> int:
        """Read a big-endian 16-bit integer."""
        value: int = _U16_BE.unpack_from(self._data, self._advance(2))[0]
        return value

    def u32be(self) -> int:
        """Read a big-endian 32-bit integer."""
        value: int = _U32_BE.unpack_from(self._data, self._advance(4))[0]
        return value

    def u64be(self) -> int:
        """Read a big-endian 64-bit integer."""
        value: int = _U64_BE.unpack_from(self._data, self._advance(8))[0]
        return value

    def tpm2b(self, limit: int) -> bytes:
        """Read a TPM2B: big-endian 16-bit size, then that many bytes, at most ``limit``."""
        size = self.u16be()
        if size > limit:
            raise self.error(f"a field of {size} bytes, at most {limit} are allowed")
        return self.take(size)

    def end(self) -> None:
        """Raise unless everything was read."""
        if self.left:
            raise self.error(f"{self.left} bytes after its end")
