"""Two real guests, and memory for one and a half: the idle one gives way, and nobody dies.

The guests and their balloons are real; the size of the host is what the test says it is.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.resources.lab import GIB, Lab

from casemate.kernel.cells.hostmemory import HostMemory
from casemate.sched.memory import MIB, MemoryState, minimum_free

pytestmark = [pytest.mark.host, pytest.mark.guest, pytest.mark.alone, pytest.mark.timeout(600)]

SIZE = 320
FILL = 220
# What two guests of this size may hold, QEMU's own memory included: room for one and a half.
ROOM = (SIZE * 3 // 2 + 2 * 64) * MIB
HOST = 4 * GIB
MODULES = (
    "virtio/virtio_ring",
    "virtio/virtio",
    "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci",
    "virtio/virtio_balloon",
    "block/virtio_blk",
)
# Both fill as much: one with data that it keeps, the other with a disk's content, read once.
INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs d /dev
/bin/busybox mount -t proc p /proc
for m in /lib/*.ko; do /bin/busybox insmod $m; done
/bin/busybox mkdir /ram
/bin/busybox mount -t tmpfs -o size=100% t /ram
%FILL%
echo guest is ready > /dev/ttyS0
while :; do /bin/busybox sleep 1; echo alive > /dev/ttyS0; done
"""
FILLS = {
    "busy": f"/bin/busybox dd if=/dev/zero of=/ram/fill bs=1M count={FILL} 2>/dev/null",
    "idle": "/bin/busybox cat /dev/vda > /dev/null",
}


@pytest.fixture(scope="module")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a kernel and two initial roots: one holds on to its memory, one does not."""
    kernels = sorted(Path("/boot").glob("vmlinuz-*cloud-amd64"))
    busybox = Path("/bin/busybox")
    if os.geteuid() != 0 or not kernels or not busybox.exists():
        pytest.skip("needs root and a guest kernel: linux-image-cloud-amd64, busybox-static")
    version = kernels[-1].name.removeprefix("vmlinuz-")
    place = tmp_path_factory.mktemp("guests")
    for kind, fill in FILLS.items():
        root = place / kind
        for name in ("bin", "dev", "proc", "lib"):
            (root / name).mkdir(parents=True)
        shutil.copy(busybox, root / "bin/busybox")
        for number, module in enumerate(MODULES):
            source = Path(f"/lib/modules/{version}/kernel/drivers/{module}.ko")
            if source.exists():
                shutil.copy(source, root / "lib" / f"{number}.ko")
        (root / "init").write_text(INIT.replace("%FILL%", fill))
        (root / "init").chmod(0o755)
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        archive = subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"],
            cwd=root,
            input=names.encode(),
            capture_output=True,
            check=True,
            timeout=30,
        )
        (place / f"{kind}.img").write_bytes(gzip.compress(archive.stdout, 1))
    shutil.copy(kernels[-1], place / "kernel")
    for file in place.iterdir():
        file.chmod(0o755 if file.is_dir() else 0o644)
    return place


@pytest.fixture
def lab(tmp_path: Path) -> Any:
    made = Lab(tmp_path, max(os.sched_getaffinity(0)), memory=4 * GIB)
    yield made
    for name in made.cgroups.names():
        made.cgroups.remove(name)
    made.cgroups.close()


async def guest(lab: Lab, linux: Path, name: str, **entries: str) -> str:
    vm = await lab.add(
        name,
        b"",
        memSize=str(SIZE),
        casemate_kernel="kernel",
        casemate_initrd=f"{name}.img",
        casemate_append="console=ttyS0 quiet panic=-1",
        virtio0__0_present="TRUE",
        virtio0__0_fileName="content.img",
        **entries,
    )
    lab.share_files(name, linux / "kernel", linux / f"{name}.img")
    with (lab.datastore / name / "content.img").open("wb") as content:
        content.truncate(FILL * MIB)
    return vm


async def until(true: Callable[[], bool], what: str, seconds: float = 250.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.1)


def said(lab: Lab, vm: str) -> str:
    log = lab.cells.console_log(vm)
    return log.read_text(errors="replace") if log.exists() else ""


def end_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_the_idle_guest_gives_way_and_the_reservation_holds(lab: Lab, linux: Path) -> None:
    def memory() -> HostMemory:
        held = sum(lab.scheduler.held(state.vm) for state in lab.cells.running())
        return HostMemory(HOST, max(0, ROOM + minimum_free(HOST) - held))

    async def story() -> None:
        async with lab.up():
            busy = await guest(lab, linux, "busy", sched_mem_min="256")
            idle = await guest(lab, linux, "idle")
            await asyncio.gather(lab.start(busy), lab.start(idle))
            for vm in (busy, idle):
                await until(lambda vm=vm: "guest is ready" in said(lab, vm), "booted")
            # Its reservation counts before anything is short; from now on the host is small.
            lab.read_memory = memory
            await until(lambda: lab.scheduler.state >= MemoryState.SOFT, "memory is short")

            def told() -> bool:
                # What they told last may be from before they filled their memory.
                use = lab.scheduler.memory_use()
                return len(use) == 2 and use[busy].active > FILL * MIB > use[idle].active

            await until(told, "guests tell what they use")
            await until(
                lambda: lab.scheduler.guests[idle].balloon.actual <= (SIZE - 32) * MIB,
                "the idle guest gives way",
            )
            await until(
                lambda: lab.scheduler.state <= MemoryState.CLEAR, "enough memory is free again"
            )
            moves = {
                vm: [
                    dict(entry.inputs) | dict(entry.outcome)
                    for entry in lab.scheduler.decisions.about(vm, 50)
                    if entry.what == "balloon"
                ]
                for vm in (busy, idle)
            }
            sys.stdout.write(f"idle: {[move['target'] >> 20 for move in moves[idle]]} MiB\n")
            assert moves[idle][0]["state"] >= MemoryState.SOFT
            assert moves[idle][0]["missing"] > 0
            assert all(move["target"] >= 256 * MIB for move in moves[busy]), "its reservation holds"
            assert all(move["target"] >= SIZE * MIB * 35 // 100 for move in moves[idle])
            for vm in (busy, idle):
                seen = said(lab, vm).count("alive")
                await until(lambda vm=vm, n=seen: said(lab, vm).count("alive") > n, "it lives")
            assert "Out of memory" not in said(lab, busy) + said(lab, idle)

            ends = {state.vm: end_score(state.pid) for state in lab.cells.running()}
            assert ends[busy] == 0 < ends[idle], "where all else fails, the idle one ends first"

            # With memory to spare, it is given back.
            lab.read_memory = lambda: HostMemory(HOST, HOST)
            await until(
                lambda: lab.scheduler.guests[idle].balloon.target == SIZE * MIB, "given back"
            )

    asyncio.run(asyncio.wait_for(story(), 580))
