"""What lives as long as the host does not carry what it never uses."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "without"),
    [
        (
            "casemate.kernel.start",
            "cryptography ssl asyncio casemate.formats.pe email xml.sax casemate.calls",
        ),
        (
            "casemate.kernel.ownmachine",
            "cryptography argon2 tpm2_pytss casemate.formats.imgdb casemate.kernel.boot.loader",
        ),
        ("casemate.hostd.main", "cryptography ctypes jinja2 rich casemate.kernel sqlite3"),
        ("casemate.kernel.__main__", "pyVmomi starlette jinja2 rich casemate.hostd xml.sax"),
    ],
)
def test_a_process_does_not_load_what_it_has_no_use_for(module, without):
    program = f"import sys, {module}; print(*sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True
    )
    assert not set(ran.stdout.split()) & set(without.split())
