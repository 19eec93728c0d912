"""Fuzz target: the ELF reader and the hardening rules over it.

    python tests/fuzz/elf.py [SECONDS]

Where the coverage-guided fuzzer atheris is installed it drives; otherwise programs of this machine
and built ones are mutated at random. Whatever the bytes, only our own error may escape.
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from casemate.errors import FormatError
from casemate.policy.levels import Level
from casemate.policy.payloads import check_file
from casemate.testing.elves import Elf

SECONDS = 60.0
LARGEST = 1 << 18
SLOWEST = 2.0


def target(data: bytes) -> None:
    """Judge one file."""
    begun = time.monotonic()
    with contextlib.suppress(FormatError):
        check_file("/usr/lib/x", b"\x7fELF" + data[4:], Level.COMMUNITY)
    taken = time.monotonic() - begun
    if taken > SLOWEST:
        raise RuntimeError(f"{len(data)} bytes took {taken:.1f} s")


def mutated(draw: random.Random, data: bytes) -> bytes:
    """Change some bytes, mostly where the headers are; sometimes cut the end off."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 16)):
        reach = min(len(changed), draw.choice((64, 1024, len(changed))))
        changed[draw.randrange(reach)] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    return bytes(changed[: draw.choice((len(changed), draw.randint(4, len(changed))))])


def main() -> None:
    """Run until the time is over; a defect ends it with its traceback."""
    if find_spec("atheris"):
        atheris = import_module("atheris")
        atheris.Setup(sys.argv, target)
        atheris.Fuzz()
        return
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    seeds = [
        Elf().build(),
        Elf(bits=32).build(),
        Elf(hash_table="sysv", runpath="/usr/lib").build(),
    ]
    libraries = Path("/usr/lib/x86_64-linux-gnu").glob("lib[a-f]*.so.*")
    seeds += [path.read_bytes() for path in libraries if path.stat().st_size < LARGEST]
    seed = random.SystemRandom().getrandbits(32)
    draw, tried, until = random.Random(seed), 0, time.monotonic() + seconds
    while time.monotonic() < until:
        target(mutated(draw, draw.choice(seeds)))
        tried += 1
    sys.stdout.write(f"seed {seed}: {tried} files, no defect\n")


if __name__ == "__main__":
    main()
