"""Which processes a host has to answer for."""

from __future__ import annotations

from pathlib import Path

import pytest

from casemate.kernel.processes import processes


def fake(proc: Path, pid: int, name: str, state: str, flags: int) -> None:
    place = proc / str(pid)
    place.mkdir()
    after = " ".join([state, "1", "0", "0", "0", "-1", str(flags), *["0"] * 12, "77", "0"])
    (place / "stat").write_text(f"{pid} ({name}) {after}\n")
    (place / "status").write_text(f"Name:\t{name}\nUid:\t0\t0\t0\t0\n")


@pytest.mark.parametrize("name", ["kthreadd", "a) S 1 0 0 0 -1 2097152 (b"])
def test_threads_of_linux_and_ended_processes_are_left_out_and_names_decide_nothing(
    tmp_path: Path, name: str
) -> None:
    fake(tmp_path, 1, name, "S", 0x400000)
    fake(tmp_path, 2, "kthreadd", "S", 0x200000 | 0x40)
    fake(tmp_path, 3, name, "Z", 0x400000)
    assert [(one.pid, one.began) for one in processes(tmp_path)] == [(1, 77)]
