"""How much longer a confined VM takes to start than plain QEMU with the same options.

Both are timed from the request to the QMP answer that the guest's CPU runs, in turns, in one run:

    sudo .venv/bin/python bench/cell_launch.py [rounds]
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from casemate.kernel.cells.cgroups import detect
from casemate.kernel.cells.manager import Cells
from casemate.kernel.cells.probe import Accelerator
from casemate.machine.facts import VmConfig
from casemate.machine.plan import HostSide, plan_power_on
from casemate.machine.planaudit import UID_BASE

CONFIG = VmConfig("bench", "", "[d] b/b.vmx", "otherguest", 1, 64, "bios")
CELLS_AT_ONCE = 30


def plain(place: Path) -> float:
    """Start QEMU as a child, with the plan's options but nothing of the plan's confinement."""
    plan = plan_power_on("1", CONFIG, (), HostSide("tcg", 1000, UID_BASE))
    words = list(plan.argv)
    del words[words.index("-sandbox") : words.index("-sandbox") + 2]
    words[words.index("-accel") + 1] = "tcg,tb-size=32"
    listeners = {}
    for listener in plan.listeners:
        path = place / listener.name
        path.unlink(missing_ok=True)
        channel = socket.socket(socket.AF_UNIX)
        channel.bind(str(path))
        channel.listen(1)
        listeners[f"fd={listener.fd}"] = channel
    # All at once: a number may be one of the plan's and one of ours.
    words = [
        ",".join(
            f"fd={listeners[part].fileno()}" if part in listeners else part
            for part in word.split(",")
        )
        for word in words
    ]
    begin = time.perf_counter()
    process = subprocess.Popen(
        words,
        pass_fds=[channel.fileno() for channel in listeners.values()],
        stdin=subprocess.DEVNULL,
    )
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(place / "qmp.sock"))
        stream = control.makefile("rwb")
        stream.readline()
        for command in ("qmp_capabilities", "query-status", "cont"):
            stream.write(json.dumps({"execute": command}).encode() + b"\n")
            stream.flush()
            while b'"return"' not in stream.readline():
                pass
    elapsed = time.perf_counter() - begin
    process.kill()
    process.wait()
    for channel in listeners.values():
        channel.close()
    return elapsed


async def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        cells = Cells(
            place / "run",
            lambda: Path("/"),
            detect("bench"),
            Accelerator("tcg", ""),
            lambda _: None,
        )
        confined, bare = [], []
        for _ in range(rounds):
            bare.append(plain(place))
            begin = time.perf_counter()
            await cells.power_on("1", CONFIG, place)
            confined.append(time.perf_counter() - begin)
            await cells.power_off("1")
        begin = time.perf_counter()
        await asyncio.gather(
            *(cells.power_on(str(vm), CONFIG, place) for vm in range(CELLS_AT_ONCE))
        )
        together = time.perf_counter() - begin
        await cells.close(stop=True)
    for what, times in (("plain QEMU", bare), ("cell", confined)):
        ordered = sorted(times)
        print(
            f"{what:12} ms: min {ordered[0] * 1e3:.0f}  median "
            f"{statistics.median(ordered) * 1e3:.0f}  max {ordered[-1] * 1e3:.0f}"
        )
    extra = (statistics.median(confined) - statistics.median(bare)) * 1e3
    print(f"confinement adds {extra:.0f} ms (goal: at most 25)")
    print(f"{CELLS_AT_ONCE} cells at once: {together:.2f} s (goal: at most 2)")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))
