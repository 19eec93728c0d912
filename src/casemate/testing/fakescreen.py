"""A guest's screen for tests: speaks RFB as QEMU does, shows a pattern, keeps what it is told.

Source: RFC 6143 (The Remote Framebuffer Protocol).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field

WIDTH, HEIGHT = 320, 200
_VERSION = b"RFB 003.008\n"
_SET_FORMAT, _SET_ENCODINGS, _REQUEST, _KEY, _POINTER = 0, 2, 3, 4, 5
# 32 bits a pixel, 24 of colour, little-endian, true colour; red is the third byte.
_FORMAT = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


def colour_at(x: int, y: int) -> tuple[int, int, int]:
    """Return red, green and blue of a pixel of the pattern."""
    return (x % 256, y, 64)


@dataclass
class FakeScreen:
    """One screen. ``keys``: keysym and whether it went down; ``pointer``: buttons, x, y."""

    keys: list[tuple[int, bool]] = field(default_factory=list)
    pointer: list[tuple[int, int, int]] = field(default_factory=list)
    viewers: int = 0
    _jobs: set[asyncio.Task[None]] = field(default_factory=set)

    async def connect(
        self,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a viewer's connection."""
        ours, its = socket.socketpair()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        back, forth = await asyncio.open_unix_connection(sock=its)
        job = asyncio.ensure_future(self._serve(back, forth))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return reader, writer

    def hang_up(self) -> None:
        """End all viewers' connections, as the end of a guest does."""
        for job in tuple(self._jobs):
            job.cancel()

    async def close(self) -> None:
        """End all viewers' connections and wait until they have ended."""
        self.hang_up()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.viewers += 1
        shift = (16, 8, 0)
        try:
            with contextlib.suppress(EOFError, OSError):
                writer.write(_VERSION)
                assert await reader.readexactly(len(_VERSION)) == _VERSION
                writer.write(b"\1\1")
                assert await reader.readexactly(1) == b"\1"
                writer.write(bytes(4))
                await reader.readexactly(1)
                name = b"fake"
                writer.write(struct.pack(">HH16sI", WIDTH, HEIGHT, _FORMAT, len(name)) + name)
                while True:
                    (kind,) = await reader.readexactly(1)
                    if kind == _SET_FORMAT:
                        body = await reader.readexactly(19)
                        shift = (body[13], body[14], body[15])
                    elif kind == _SET_ENCODINGS:
                        _, count = struct.unpack(">BH", await reader.readexactly(3))
                        await reader.readexactly(4 * count)
                    elif kind == _REQUEST:
                        incremental = (await reader.readexactly(9))[0]
                        if not incremental:
                            writer.write(_picture(shift))
                    elif kind == _KEY:
                        down, symbol = struct.unpack(">B2xI", await reader.readexactly(7))
                        self.keys.append((symbol, bool(down)))
                    elif kind == _POINTER:
                        self.pointer.append(struct.unpack(">BHH", await reader.readexactly(5)))
                    else:
                        return
        finally:
            self.viewers -= 1
            writer.close()


def _picture(shift: tuple[int, int, int]) -> bytes:
    """Return an update of the whole screen in raw encoding."""
    pixels = bytearray()
    for y in range(HEIGHT):
        for x in range(WIDTH):
            value = sum(part << at for part, at in zip(colour_at(x, y), shift, strict=True))
            pixels += value.to_bytes(4, "little")
    return struct.pack(">BxHHHHHi", 0, 1, 0, 0, WIDTH, HEIGHT, 0) + bytes(pixels)
