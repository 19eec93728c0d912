"""A file that arrives in order, for a thread that reads it from front to back."""

from __future__ import annotations

import asyncio
import queue
from typing import Final

from casemate.errors import StateError

AHEAD: Final = 4
"""Pieces that wait for the reader."""


class Feed:
    """``put`` and ``end`` are for the event loop, ``read`` for one thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._credit = asyncio.Semaphore(AHEAD)
        self._pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._buffer = bytearray()
        self._start = 0
        self._ended = False

    async def put(self, piece: bytes) -> None:
        """Hand over bytes; waits while the reader is behind."""
        await self._credit.acquire()
        self._pieces.put(piece)

    def end(self, *, whole: bool) -> None:
        """Say that no more comes; ``whole``: that was all of it."""
        self._pieces.put(b"" if whole else None)

    def let_go(self) -> None:
        """Let nobody wait for the reader any more: it has ended."""
        for _ in range(AHEAD):
            self._credit.release()

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the file, fewer only at its end; offsets never go back.

        Raises:
            StateError: The file broke off.
        """
        while self._start + len(self._buffer) < offset + size and self._more():
            self._drop(offset)
        self._drop(offset)
        return bytes(self._buffer[:size])

    def _drop(self, offset: int) -> None:
        gone = min(offset - self._start, len(self._buffer))
        del self._buffer[:gone]
        self._start += gone

    def _more(self) -> bool:
        if self._ended:
            return False
        piece = self._pieces.get()
        if piece is None:
            raise StateError("the disk broke off", code="transfer-broken")
        self._ended = not piece
        self._buffer += piece
        if piece:
            self._loop.call_soon_threadsafe(self._credit.release)
        return not self._ended
