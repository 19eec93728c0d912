"""A host whose VM works for minutes: what its auditor says, and what we see beside it.

Usage, as root: python bench/watch.py [--home DIR] [--minutes N]

The guest is started again every few seconds, so QEMU translates a boot's code over and over. All
the while every process of the host is looked at, and entropy is measured now and then, because its
probes are processes too. In the end there must be no writable code, no violation, and a verdict.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from up import run

EVERY = 0.05
RESET = 8.0
AUDIT = 30.0


def below(first: int) -> list[int]:
    """Return the pids of a process and of all below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [first]
    for pid in found:
        found += [one for one, parent in parents.items() if parent == pid]
    return found


def writable_code(pid: int) -> list[str]:
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return []
    return [line for line in lines if {"w", "x"} <= set(line.split()[1])]


def watch(home: Path, seconds: float) -> None:
    first = int(json.loads((home / "run" / "host.json").read_text())["pid"])
    begin = time.monotonic()
    looks = resets = audits = 0
    bad: set[str] = set()
    reset = audit = begin
    while (now := time.monotonic()) < begin + seconds:
        for pid in below(first):
            bad.update(writable_code(pid))
        looks += 1
        if now > reset:
            run(home, "vm", "reset", "demo")
            resets, reset = resets + 1, now + RESET
        if now > audit:
            report = json.loads(run(home, "hardening", "audit", "--launches", "64", check=False))
            broken = [one["process"] for one in report["processes"] if not one["accepted"]]
            bad.update(f"audit: {name}" for name in broken)
            audits, audit = audits + 1, now + AUDIT
        time.sleep(EVERY)
    codes = [found["code"] for found in json.loads(run(home, "status"))["findings"]]
    violations = [code for code in codes if code.startswith("process-")]
    print(f"{seconds:.0f} s: {looks} looks at all processes, {resets} starts of the guest,")
    print(f"{audits} audits with 64 launches of 4 programs")
    print(f"writable code: {sorted(bad) or 'none'}; violations: {violations or 'none'}")
    port = json.loads((home / "run" / "host.json").read_text())["port"]
    verdict = json.loads(run(home, "attest", f"localhost:{port}", check=False))
    print(f"attestation: {verdict['verdict']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", default=None)
    parser.add_argument("--minutes", type=float, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(options.home or scratch)
        run(home, "up", "--port", "0")
        try:
            watch(home, options.minutes * 60)
        finally:
            run(home, "down", "--force")


if __name__ == "__main__":
    main()
