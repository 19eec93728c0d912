"""The coverage-guided targets run, and a few thousand inputs find nothing but our own errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["packages", "elf"])
def test_a_target_survives_what_the_fuzzer_makes_of_its_seeds(name: str, tmp_path: Path) -> None:
    program = Path(__file__).with_name(f"{name}.py")
    ran = subprocess.run(
        [sys.executable, program, "-runs=3000", "-seed=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "Done 3000 runs" in ran.stderr
