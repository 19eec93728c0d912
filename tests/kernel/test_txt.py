"""The log of a launch is found where Linux and the processor leave it, and nowhere else."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from casemate.errors import HostError
from casemate.kernel.txt import HEAP_REGISTERS, read_launch

HEAP = 0x2000_0000


def memory(path: Path, base: int, size: int) -> Path:
    """Make a machine's memory with holes: registers, and a heap of three words."""
    with path.open("wb") as stream:
        stream.seek(HEAP)
        stream.write(b"heap" * 3)
        stream.seek(HEAP_REGISTERS)
        stream.write(struct.pack("<QQ", base, size))
    return path


def test_secure_launch_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "eventlog").write_bytes(b"log")
    found = read_launch(tmp_path / "eventlog", tmp_path / "none")
    assert (found.data, found.base) == (b"log", None)


def test_after_tboot_the_registers_lead_to_the_heap(tmp_path: Path) -> None:
    found = read_launch(tmp_path / "none", memory(tmp_path / "mem", HEAP, 12))
    assert (found.data, found.base) == (b"heap" * 3, HEAP)


@pytest.mark.parametrize(
    ("base", "size"),
    [(0, 12), (HEAP, 0), (HEAP, 1 << 40), (2**64 - 1, 2**64 - 1), (1 << 40, 12)],
)
def test_registers_without_a_heap_are_no_launch(tmp_path: Path, base: int, size: int) -> None:
    with pytest.raises(HostError) as caught:
        read_launch(tmp_path / "none", memory(tmp_path / "mem", base, size))
    assert caught.value.code == "no-launch"


def test_a_machine_that_shows_no_memory_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        read_launch(tmp_path / "none", tmp_path / "mem")
    assert caught.value.code == "memory-closed"
