"""The Intel TXT heap, down to the event log that it points to.

Four blocks (BIOS, OS to MLE, OS to SINIT, SINIT to MLE), each behind a u64 size that counts
itself. From version 6 on, OsSinitData ends with extended data elements; one of type 8 says where
the agile event log lies. Every address is checked against the heap before it is used. Intel TXT
Software Development Guide, appendices C and G. Integers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from casemate.errors import FormatError, LimitError
from casemate.formats.eventlog import EventLog, parse
from casemate.formats.reader import Reader

MAX_HEAP: Final = 16 << 20
"""Bytes; heaps have 1 MiB."""
MAX_ELEMENTS: Final = 64
"""Extended data elements of one block."""
_SIZE: Final = 8
_OS_SINIT: Final = 2
_LOG_POINTER: Final = 8
_END: Final = 0
_ELEMENTS_VERSION: Final = 6
_ELEMENTS_OFFSET: Final = 92
"""Where the elements begin in OsSinitData of versions 6 and 7, its size field not counted."""
_SIGNATURE: Final = b"Spec ID Event03\0"
_LEGACY_HEAD: Final = 32


@dataclass(frozen=True, slots=True)
class LogPointer:
    """HEAP_EVENT_LOG_POINTER_ELEMENT2_1: physical address, and sizes in bytes."""

    address: int
    allocated: int
    first: int
    next: int


def _bad(reason: str) -> FormatError:
    return FormatError(f"TXT heap: {reason}")


def log_pointer(heap: bytes) -> LogPointer:
    """Find the pointer to the event log.

    Raises:
        FormatError: sizes that do not fit, an old OsSinitData, or no pointer.
        LimitError: larger than any heap.
    """
    if len(heap) > MAX_HEAP:
        raise LimitError(f"a TXT heap of {len(heap)} bytes")
    reader = Reader(heap, "TXT heap")
    for _ in range(_OS_SINIT):
        reader.skip(_block_size(reader) - _SIZE)
    block = Reader(reader.view(_block_size(reader) - _SIZE), "TXT heap: OsSinitData")
    version = block.u32le()
    if version < _ELEMENTS_VERSION:
        raise _bad(f"OsSinitData of version {version} has no event log")
    block.skip(_ELEMENTS_OFFSET - block.position)
    for _ in range(MAX_ELEMENTS):
        kind, size = block.u32le(), block.u32le()
        if kind == _END:
            break
        body = Reader(block.view(size - _SIZE), "TXT heap: element")
        if kind == _LOG_POINTER:
            pointer = LogPointer(body.u64le(), body.u32le(), body.u32le(), body.u32le())
            body.end()
            return pointer
    raise _bad("it points to no event log")


def _block_size(reader: Reader) -> int:
    size = reader.u64le()
    if size < _SIZE:
        raise _bad(f"a block of {size} bytes")
    return size


def heap_event_log(heap: bytes, base: int) -> EventLog:
    """Return the event log in a heap that lies at physical address ``base``.

    Raises:
        FormatError: the log is not inside the heap, not as long as it says, or no event log.
        LimitError: larger than any heap or log.
    """
    pointer = log_pointer(heap)
    start = pointer.address - base
    if not 0 <= start <= len(heap) - pointer.allocated:
        raise _bad("the event log does not lie inside the heap")
    if not pointer.first <= pointer.next <= pointer.allocated:
        raise _bad("the event log is longer than its place")
    log = heap[start + pointer.first : start + pointer.next]
    if not log.startswith(_SIGNATURE, _LEGACY_HEAD):
        raise _bad("what it points to is no event log")
    return parse(log)
