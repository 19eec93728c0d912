"""A client over the govmomi library, unmodified, against a running host and its real VMs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY
from tests.host.conftest import TestHost

LIBRARY = Path("/usr/share/gocode/src/github.com/vmware/govmomi")
STEPS = 86

pytestmark = [
    pytest.mark.host,
    pytest.mark.guest,
    pytest.mark.interop,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        shutil.which("go") is None or not LIBRARY.is_dir(), reason="no Go or no govmomi here"
    ),
]


def test_a_client_over_govmomi_does_all_that_its_users_do(host: TestHost, tmp_path: Path) -> None:
    client = tmp_path / "client"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode"}
    environment.setdefault("GOCACHE", str(Path.home() / ".cache" / "go-build"))
    subprocess.run(
        ["go", "build", "-o", str(client), "."],
        cwd=REPOSITORY / "tests" / "interop" / "govmomi",
        env=environment,
        check=True,
        timeout=300,
    )
    host.up()
    password = (host.home / "password").read_text()
    ran = subprocess.run(
        [str(client), f"https://root:{password}@127.0.0.1:{host.port}/sdk"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = ran.stdout.splitlines()
    assert [line for line in lines if line.startswith("FAIL")] == [], ran.stderr
    assert sum(line.startswith("ok") for line in lines) >= STEPS
    assert ran.returncode == 0
