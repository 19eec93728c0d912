"""The log of a dynamic launch as Linux and the processor leave it: read, not believed.

Secure Launch shows it in securityfs. After tboot it lies in the TXT heap, whose address and size
stand in the processor's public registers; Linux shows both through /dev/mem unless it is locked
down. Intel TXT Software Development Guide, appendix B.1: TXT.HEAP.BASE, TXT.HEAP.SIZE.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.formats.txtheap import MAX_HEAP

SECURE_LAUNCH: Final = Path("/sys/kernel/security/slaunch/eventlog")
MEMORY: Final = Path("/dev/mem")
HEAP_REGISTERS: Final = 0xFED30300
"""Physical address of TXT.HEAP.BASE in public space; TXT.HEAP.SIZE follows it."""
LOG_LIMIT: Final = 1 << 20
_PAIR: Final = struct.Struct("<QQ")
_EMPTY: Final = (0, 0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True, slots=True)
class LaunchLog:
    """What was found: a log, or (``base`` is not None) a heap at that physical address."""

    data: bytes
    base: int | None = None


def read_launch(log: Path = SECURE_LAUNCH, memory: Path = MEMORY) -> LaunchLog:
    """Read the log of the launch that this machine was started with.

    Raises:
        HostError: ``no-launch``: the machine has no TXT, or no launch took place;
            ``memory-closed``: Linux does not show the memory.
    """
    if log.exists():
        with log.open("rb") as stream:
            return LaunchLog(stream.read(LOG_LIMIT))
    try:
        with memory.open("rb", buffering=0) as stream:
            base, size = _PAIR.unpack(_at(stream.fileno(), HEAP_REGISTERS, _PAIR.size))
            if base in _EMPTY or not 0 < size <= MAX_HEAP:
                raise _no_launch()
            return LaunchLog(_at(stream.fileno(), base, size), base)
    except OSError as error:
        raise HostError(
            f"the TXT heap cannot be read: {error.strerror}",
            code="memory-closed",
            component=str(memory),
            remedy="Read it as root under a Linux that is not locked down (lockdown=none).",
        ) from error


def _at(handle: int, address: int, size: int) -> bytes:
    data = os.pread(handle, size, address)
    if len(data) != size:
        raise _no_launch()
    return data


def _no_launch() -> HostError:
    return HostError(
        "the processor's registers show no TXT heap",
        code="no-launch",
        component="TXT",
        remedy="Switch TXT on in the firmware's setup, and start the machine through tboot.",
    )
