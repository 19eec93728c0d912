"""tboot's Verified Launch Policy, version 2: which modules a measured launch may go on with.

A head of 12 bytes, and an entry for each module; integers are little-endian and not aligned. A
module's digest covers its command line and its content. Sources: tboot 1.10.5, ``vlp.txt`` and
tb_polgen(8); the bytes are those that tb_polgen writes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

VERSION: Final = 2
HALT: Final = 2
"""Policy type: the launch ends with any error."""
SHA256: Final = 0x0B
EXTEND_PCR17: Final = 1
"""Policy control: the policy itself is measured into PCR 17."""
NO_PCR: Final = 0xFF
IMAGE: Final = 1
"""Kind of an entry: the module must have one of the digests."""

_HEAD: Final = struct.Struct("<BBBIIB")
_ENTRY: Final = struct.Struct("<BBBIB")


@dataclass(frozen=True, slots=True)
class LaunchModule:
    """A module in the order of the boot loader's entry.

    Module 0 is always measured into PCR 18; ``pcr`` names another one, None none.
    """

    pcr: int | None
    digest: bytes


def module_digest(command_line: str, content: bytes) -> bytes:
    """Return what tboot measures of a module, SHA-256; the line without the module's name."""
    line = hashlib.sha256(command_line.encode()).digest()
    return hashlib.sha256(line + hashlib.sha256(content).digest()).digest()


def write_policy(modules: Sequence[LaunchModule]) -> bytes:
    """Return the policy that halts the machine unless the modules are exactly these."""
    head = _HEAD.pack(VERSION, HALT, SHA256, EXTEND_PCR17, 0, len(modules))
    entries = (
        _ENTRY.pack(number, NO_PCR if one.pcr is None else one.pcr, IMAGE, 0, 1) + one.digest
        for number, one in enumerate(modules)
    )
    return head + b"".join(entries)
