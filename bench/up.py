"""From `casemate up` to ready on a built image, stage by stage, over several boots.

Usage, as root: python bench/up.py [--runs N] [--home DIR] [--vms N]; builds an image when there is
none. With --vms the management's memory is told with so many VMs running, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = Path(sys.executable).parent / "casemate"


def run(home: Path, *arguments: str, check: bool = True) -> str:
    """Run the command and return what it printed; ``check``: it must succeed."""
    ran = subprocess.run(
        [str(COMMAND), "--home", str(home), *arguments, "--json"],
        check=check,
        capture_output=True,
        text=True,
    )
    return ran.stdout


def resident(pid: int) -> float:
    """Return the proportional set size of a process in MiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def management(home: Path) -> dict[str, float]:
    """Return the memory of every management process of the running host, in MiB."""
    first = int(json.loads((home / "run" / "host.json").read_text())["pid"])
    found = {"init": resident(first)}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            words = (entry / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if parent == first and "qemu" not in words:
            name = next((n for n in ("hostd", "swtpm", "casemate.kernel") if n in words), words)
            found[name.removeprefix("casemate.")] = resident(int(entry.name))
    return found


def with_more(home: Path, vms: int) -> dict[str, float]:
    """Start small VMs until so many run, and return the memory of the management then."""
    for number in range(vms - 1):
        run(home, "vm", "create", f"more{number}", "--memory", "32M")
        run(home, "vm", "on", f"more{number}")
    # The counters' first samples are in after that time.
    time.sleep(25)
    return management(home)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--home", default=None)
    parser.add_argument("--vms", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(options.home or scratch)
        stages: dict[str, list[float]] = {}
        memory: dict[str, float] = {}
        more: dict[str, float] = {}
        for number in range(options.runs + 1):
            told = json.loads(run(home, "up", "--port", "0"))
            if number:
                for name, taken in {**told["stages"], "total": told["seconds"]}.items():
                    stages.setdefault(name, []).append(taken)
                memory = management(home)
            if options.vms and number == options.runs:
                more = with_more(home, options.vms)
            run(home, "down", "--force")
    print(f"{'stage':<20}{'min s':>8}{'median s':>10}{'max s':>8}   ({options.runs} boots)")
    for name, taken in stages.items():
        middle = statistics.median(taken)
        bar = "#" * round(middle * 40)
        print(f"{name:<20}{min(taken):>8.2f}{middle:>10.2f}{max(taken):>8.2f}   {bar}")
    for count, sizes in ((1, memory), (options.vms, more)):
        if sizes:
            print(f"\nmemory (PSS) with {count} VMs")
        for name, size in {**sizes, "together": sum(sizes.values())}.items() if sizes else ():
            print(f"{name:<20}{size:>8.1f} MiB")


if __name__ == "__main__":
    main()
