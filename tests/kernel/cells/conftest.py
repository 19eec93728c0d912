"""Cells on this machine's own root, with guests of a few kilobytes or a small Linux."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.forks import forked

from casemate.kernel.cells.cell import CellExit
from casemate.kernel.cells.cgroups import Cgroups, detect
from casemate.kernel.cells.manager import Cells
from casemate.kernel.cells.probe import Accelerator
from casemate.machine.facts import DiskSpec, VmConfig

VISOR_DIRECTORIES = ("dev", "proc", "run", "sys", "tmp")
# Real mode: print "ok" on the first serial port, then halt with interrupts on, again and again.
BOOT_CODE = bytes.fromhex("ba f8 03 b0 6f ee b0 6b ee b0 0a ee fb f4 eb fc")


# As much of a guest agent as a shell can be.
AGENT = r"""#!/bin/busybox sh
until port=$(echo /dev/vport*p1) && [ -c "$port" ]; do /bin/busybox sleep 0.1; done
exec 3<>"$port"
while :; do
  # While nobody is at the other end there is nothing to read.
  read -r line <&3 || { /bin/busybox sleep 0.1; continue; }
  case "$line" in
    *guest-sync-delimited*) id=${line##*:}; printf '\377{"return": %s}\n' "${id%%\}*}" >&3;;
    *host-name*) echo '{"return": {"host-name": "small"}}' >&3;;
    *network-get*) echo '{"return": [{"name": "eth0", "hardware-address": "00:50:56:00:00:09",
 "ip-addresses": [{"ip-address": "192.0.2.9", "prefix": 24}]}]}' | /bin/busybox tr -d '\n' >&3
      echo >&3;;
    *powerdown*) /bin/busybox poweroff -f;;
  esac
done
"""


class Bench:
    """A home's worth of cells under test."""

    def __init__(self, place: Path, visor_root: Path) -> None:
        self.run_dir = place / "run"
        self.vm_dir = place / "vm"
        self.vm_dir.mkdir()
        self.visor_root = visor_root
        self.home_id = uuid4().hex[:8]
        self.cgroups: Cgroups = detect(self.home_id)
        self.exits: list[CellExit] = []
        self.disk("disk.img", BOOT_CODE.ljust(510, b"\0") + b"\x55\xaa" + bytes(4 << 20))

    def disk(self, name: str, content: bytes) -> None:
        (self.vm_dir / name).write_bytes(content)

    def config(self, **changes: Any) -> VmConfig:
        fields: dict[str, Any] = {
            "name": "bench",
            "uuid": "",
            "vmx_path": "[datastore1] bench/bench.vmx",
            "guest_id": "otherguest",
            "cpus": 1,
            "memory_mib": 32,
            "firmware": "bios",
            "disks": (DiskSpec("disk.img", "disk", "raw", 0, "ide0", 0),),
        }
        return VmConfig(**{**fields, **changes})

    @asynccontextmanager
    async def cells(self) -> AsyncIterator[Cells]:
        cells = Cells(
            self.run_dir,
            lambda: self.visor_root,
            self.cgroups,
            Accelerator("tcg", "test"),
            self.exits.append,
        )
        try:
            yield cells
        finally:
            await cells.close(stop=True)

    def leftovers(self) -> list[str]:
        found = [str(path) for path in (self.run_dir / "cells").iterdir()]
        found += sorted(self.cgroups.names())
        mounts = Path("/proc/self/mountinfo").read_text()
        found += [line for line in mounts.splitlines() if str(self.run_dir) in line]
        return found


@pytest.fixture
def bench(root_only: None, tmp_path: Path) -> Any:  # noqa: ARG001 (asked for its skip)
    if not Path("/usr/bin/qemu-system-x86_64").exists():
        pytest.skip("needs QEMU: /usr/bin/qemu-system-x86_64")
    made = Bench(tmp_path, Path("/"))
    yield made
    for name in made.cgroups.names():
        made.cgroups.remove(name)
    made.cgroups.close()


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine to its end, with a time limit."""

    def runner(body: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(asyncio.wait_for(body, 550))

    return runner


async def until(true: Callable[[], bool], seconds: float = 100.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def small_linux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a kernel and an initial root that prints a line, then follows the power button."""
    kernels = sorted(Path("/boot").glob("vmlinuz-*cloud-amd64"))
    busybox = Path("/bin/busybox")
    if not kernels or not busybox.exists():
        pytest.skip("needs a guest kernel: linux-image-cloud-amd64 and busybox-static")
    version = kernels[-1].name.removeprefix("vmlinuz-")
    place = tmp_path_factory.mktemp("linux")
    root = place / "root"
    for name in ("bin", "dev", "proc"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    virtio = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev")
    modules = [
        *("drivers/acpi/button.ko", "drivers/input/evdev.ko"),
        *(f"drivers/virtio/{name}.ko" for name in (*virtio, "virtio_pci")),
        "drivers/char/virtio_console.ko",
    ]
    for number, module in enumerate(modules):
        source = Path(f"/lib/modules/{version}/kernel/{module}")
        if source.exists():
            shutil.copy(source, root / f"{number}-{source.name}")
    (root / "agent").write_text(AGENT)
    (root / "agent").chmod(0o755)
    (root / "init").write_text(
        "#!/bin/busybox sh\n"
        "export PATH=/bin\n"
        "/bin/busybox mount -t devtmpfs d /dev\n/bin/busybox mount -t proc p /proc\n"
        "for m in /*.ko; do /bin/busybox insmod $m; done\n"
        "/bin/busybox dmesg | /bin/busybox grep 'W+X' > /dev/ttyS0\n"
        "/agent &\n"
        # One event of 24 bytes is the press of the button.
        "for e in /dev/input/event*; do\n"
        "(/bin/busybox head -c 24 $e > /dev/null && /bin/busybox poweroff -f) &\n"
        "done\n"
        # A press before the readers are there would be lost.
        "/bin/busybox sleep 2\necho guest is up > /dev/ttyS0\n"
        "while :; do /bin/busybox sleep 1; done\n"
    )
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
    (place / "initrd").write_bytes(gzip.compress(archive.stdout, 1))
    shutil.copy(kernels[-1], place / "kernel")
    for name in ("kernel", "initrd"):
        (place / name).chmod(0o644)
    return place


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def namespaces(pid: int | str) -> dict[str, str]:
    names = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
    return {name: str(Path(f"/proc/{pid}/ns/{name}").readlink()) for name in names}


def lines_of(pid: int, name: str) -> list[str]:
    return Path(f"/proc/{pid}/{name}").read_text().splitlines()


def open_files(pid: int) -> set[str]:
    return {str(descriptor.readlink()) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}


def processes_of(group: Path) -> list[str]:
    try:
        return (group / "cgroup.procs").read_text().split()
    except FileNotFoundError:
        return []


def alive(pid: int) -> bool:
    try:
        return status(pid)["State"][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@contextmanager
def bystander() -> Iterator[int]:
    """Give a process that has nothing to do with any of it."""
    pid = forked(signal.pause)
    try:
        yield pid
    finally:
        end(pid)
        os.waitpid(pid, 0)
