"""Whole hosts, each in a home of its own, driven by the command line as a person would."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from casemate.formats.imgdb import DbVib, ImageDb, parse_imgdb, write_imgdb

COMMAND = Path(sys.executable).parent / "casemate"


@dataclass
class TestHost:
    """A host and its home; ``casemate`` runs the command and returns (status, parsed JSON)."""

    __test__ = False

    home: Path
    output: str = field(default="", repr=False)

    @property
    def bank(self) -> Path:
        return self.home / "bootbank"

    def casemate(self, *arguments: str, timeout: float = 400) -> tuple[int, Any]:
        ran = subprocess.run(
            [str(COMMAND), "--home", str(self.home), *arguments, "--json"],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        self.output = ran.stdout + ran.stderr
        assert "Traceback" not in self.output, self.output
        return ran.returncode, json.loads(ran.stdout) if ran.stdout.strip() else None

    def up(self, *arguments: str) -> dict[str, Any]:
        status, told = self.casemate("up", "--port", "0", *arguments)
        assert status == 0, self.output
        return dict(told)

    def refused(self) -> dict[str, str]:
        """Bring up what must not come up, and return the error."""
        status, told = self.casemate("up", "--port", "0", "--no-demo")
        assert status == 2, self.output
        assert self.casemate("status")[1]["state"] == "down"
        return dict(told["error"])

    def attest(self) -> tuple[int, dict[str, Any]]:
        port = self.port
        status, told = self.casemate(
            "attest", f"localhost:{port}", "--reference", str(self.home / "reference.json")
        )
        return status, dict(told)

    @property
    def port(self) -> int:
        return int(json.loads((self.home / "run" / "host.json").read_text())["port"])

    @property
    def first_process(self) -> int:
        return int(json.loads((self.home / "run" / "host.json").read_text())["pid"])

    def child(self, name: str) -> int:
        """Return the host's process whose command line contains ``name``."""
        for pid, words in descendants(self.first_process):
            if name in words:
                return pid
        raise AssertionError(f"no process {name!r} below {self.first_process}")

    def edit_database(self, change: Callable[[DbVib], DbVib], vib: str) -> None:
        """Rewrite the image database with one VIB changed."""
        path = self.bank / "imgdb.tgz"
        db = parse_imgdb(path.read_bytes())
        vibs = tuple(change(v) if v.descriptor.name == vib else v for v in db.vibs)
        profile = replace(db.profile, vib_ids=tuple(v.descriptor.vib_id for v in vibs))
        path.write_bytes(write_imgdb(ImageDb(profile, vibs)))


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """Give pid and command line of every process below ``pid``."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        try:
            words = Path(f"/proc/{one}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        yield one, words
        waiting += children.get(one, [])


def left_behind(home: Path) -> list[str]:
    """Return what a host of this home left on the machine: processes, mounts, cgroups, loops."""
    found = []
    mark = str(home)
    group = "casemate-" + hashlib.sha256(mark.encode()).hexdigest()[:8]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                ended = (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
            except OSError:
                continue
            ours = mark in words and "casemate.kernel" in words
            if ours and not ended:
                found.append(f"process {entry.name}: {words}")
    found += [
        f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if mark in line
    ]
    found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"*/{group}*")]
    found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"{group}*")]
    return found


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build one image with its trust, reference and TPM, to be copied by every host."""
    if os.geteuid() != 0:
        pytest.skip("needs root: namespaces, mounts, swtpm")
    home = tmp_path_factory.mktemp("built", numbered=False) / "home"
    host = TestHost(home)
    (home.parent / "home").mkdir(exist_ok=True)
    (home / "password").write_text(host.up("--no-demo")["password"])
    assert host.casemate("down")[0] == 0
    assert left_behind(home) == []
    return home


@pytest.fixture
def host(built: Path, tmp_path: Path) -> Iterator[TestHost]:
    """Give a host that is down, with a built image; nothing may be left of it afterwards."""
    home = tmp_path / "h"
    shutil.copytree(built, home, symlinks=True, ignore=shutil.ignore_patterns("vibs", "cache"))
    for place in (home / "tpm" / "state", *(home / "tpm" / "state").iterdir()):
        os.chown(place, 64001, 64001)
    os.chown(home / "state" / "tls" / "rui.key", 64000, 64000)
    made = TestHost(home)
    yield made
    assert made.casemate("down", "--force")[0] == 0, made.output
    # What was killed may take a moment to end.
    deadline = time.monotonic() + 60
    while left := left_behind(home):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
