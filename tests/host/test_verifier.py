"""A whole host and a whole verifier: enrolled, trusted, an agent; another boot and log found."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.host.conftest import COMMAND, TestHost
from tests.ports import free_port

pytestmark = [pytest.mark.host, pytest.mark.timeout(600)]

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def verifier(tmp_path: Path, host: TestHost) -> Iterator[Run]:
    """A verifier in a process of its own; returns what runs its commands."""
    state = tmp_path / "v"

    def run(*arguments: str) -> tuple[int, Any]:
        ran = subprocess.run(
            [str(COMMAND), "verifier", *arguments, "--state", str(state), "--json"],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert "Traceback" not in ran.stderr, ran.stderr
        return ran.returncode, json.loads(ran.stdout)

    trust = str(host.home / "trust")
    status, told = run("up", "--detach", "--port", "0", "--address", "127.0.0.1", "--trust", trust)
    assert status == 0
    assert told["password"]
    yield run
    assert run("down")[0] == 0


def until(run: Run, name: str, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + 100
    while True:
        found: dict[str, Any] = run("show", name)[1]
        if found["state"] == state or time.monotonic() > deadline:
            assert found["state"] == state, found["verdict"]
            return found
        time.sleep(0.5)


def test_a_host_is_enrolled_trusted_and_found_when_it_boots_something_else(
    host: TestHost, verifier: Run, tmp_path: Path
) -> None:
    port = free_port()
    status, told = host.casemate("up", "--no-demo", "--port", str(port))
    assert (status, told["attestation"]) == (0, "trusted")
    assert host.casemate("pool", "create", "noted")[0] == 0  # in the audit log
    assert verifier("reference", "add", str(host.home / "reference.json"))[0] == 0
    address = f"127.0.0.1:{port}"
    status, told = verifier("enroll", address, "--name", "box", "--cadence", "6")
    assert (status, told["state"]) == (0, "pending")
    assert verifier("approve", "box")[0] == 0
    good = until(verifier, "box", "trusted")
    assert good["round"]["result"]["sections"]["vibs"] == "affirming"
    assert verifier("token", "box")[1]["allowed"] is True
    assert verifier("reference", "check", str(host.home / "reference.json"))[0] == 0

    status, told = verifier("enroll", "pushed", "--push")
    secret = {**os.environ, "CASEMATE_AGENT_SECRET": told["token"]}
    running = json.loads((tmp_path / "v" / "running.json").read_text())
    agent = subprocess.run(
        [str(COMMAND), "agent", "--verifier", f"https://localhost:{running['port']}", "--ca",
         str(tmp_path / "v" / "tls" / "rui.crt"), "--host", address, "--once", "--json"],
        capture_output=True, text=True, timeout=400, check=False, env=secret,
    )  # fmt: skip
    assert agent.returncode == 2
    assert "enrolled as box" in agent.stdout + agent.stderr

    host.casemate("down", "--force")
    store = host.home / "state" / "casemate.db"
    with closing(sqlite3.connect(store, timeout=60)) as database, database:
        for table in ("audit", "audit_chain", "sqlite_sequence"):
            database.execute(f"DELETE FROM {table}")
    cfg = host.bank / "boot.cfg"
    cfg.write_text(cfg.read_text().replace("kernelopt=", "kernelopt=debug=1 ", 1))
    status, told = host.casemate("up", "--no-demo", "--port", str(port))
    assert (status, told["attestation"]) == (1, "untrusted")
    bad = until(verifier, "box", "failed-latched")
    codes = {one["code"] for one in bad["round"]["result"]["findings"]}
    assert "boot-option-changed" in codes
    assert {"audit-truncated", "audit-changed"} & codes
    assert verifier("token", "box")[1]["allowed"] is False
    assert verifier("audit")[0] == 0


def test_a_verifier_that_is_told_to_stop_says_so_to_the_others(tmp_path: Path) -> None:
    def run(*arguments: str) -> None:
        words = [str(COMMAND), "verifier", *arguments, "--state", str(tmp_path)]
        subprocess.run(words, capture_output=True, timeout=400, check=True)

    def stopped() -> list[tuple[int]]:
        with closing(sqlite3.connect(tmp_path / "verifier.db", timeout=60)) as store:
            return store.execute("SELECT stopped FROM worker").fetchall()

    run("up", "--detach", "--port", "0", "--address", "127.0.0.1")
    deadline = time.monotonic() + 60
    while not stopped():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run("down")
    assert stopped() == [(1,)]
    assert not (tmp_path / "running.json").exists()
