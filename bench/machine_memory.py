"""Two Linux guests and memory for one and a half, on a machine of its own: cgroup version 2.

Usage, as root: python bench/machine_memory.py [--home DIR]; builds the image where there is none.
The image boots in QEMU; inside, both guests fill the same part of their memory: one with data that
it keeps, the other with a disk's content, which it reads once. The host's own statistics tell what
gives way; then one is switched off, and the other's memory is given back.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from machine_sched import MEMORY, Host, running
from pyVim.task import WaitForTask
from pyVmomi import vim

from casemate.formats import vmdk, vmx
from casemate.image.cpio import Entry, program, write_cpio
from casemate.image.debian import Packages
from casemate.image.demo import (
    BOOT_CONFIGURATION,
    MBR,
    MODULES,
    SECTOR,
    boot_files,
    first_root,
    kernel_release,
    write_disk,
)
from casemate.sched.memory import MIB, QEMU_TCG, minimum_free

GUESTS = 1.5
"""There is memory for so many, with what QEMU needs and the host keeps free."""
FILLED = 0.7
RESERVED = 0.8
"""Of the busy guest's memory."""
BOOT_LIMIT, SQUEEZE_LIMIT, RETURN_LIMIT = 1800, 900, 600
"""Seconds until the guests have filled their memory, one gives way, and it has all of it again."""
CALM = "no_timer_check lpj=4000000 tsc=reliable nokaslr mitigations=off"
"""What spares a kernel that is emulated by an emulated machine the measuring of its clocks."""
SAID = 4000
"""Characters of what a guest said that are shown where the story goes another way."""
INIT = """#!/bin/busybox sh
export PATH=/bin
mount -t devtmpfs d /dev
mount -t proc p /proc
for m in /lib/*.ko; do insmod $m; done
mount -t tmpfs -o size=100% t /tmp
%FILL%
echo guest is ready > /dev/ttyS0
while :; do sleep 1; echo alive > /dev/ttyS0; done
"""
FILL = {
    "busy": "/bin/busybox dd if=/dev/zero of=/tmp/fill bs=1M count=%COUNT% 2>/dev/null",
    "idle": "cat /dev/vda > /dev/null",
}


def boot_disk(fill: str) -> bytes:
    """Return a disk that boots Linux, which fills its memory and lives."""
    packages = Packages()

    def entries() -> Iterator[Entry]:
        release = kernel_release(packages)
        for entry in first_root(packages, release, (*MODULES, "drivers/block/virtio_blk.ko")):
            if entry.path != "init":
                yield entry
        yield program("init", INIT.replace("%FILL%", fill).encode())

    with tempfile.TemporaryDirectory() as scratch:
        disk = Path(scratch, "disk")
        files = {
            **boot_files(packages),
            "root.img": write_cpio(entries()),
            "syslinux.cfg": BOOT_CONFIGURATION.replace("quiet loglevel=3", CALM).encode(),
        }
        write_disk(disk, files, (packages.root / MBR).read_bytes())
        return disk.read_bytes()


class Guests:
    """Two guests of a host."""

    def __init__(self, host: Host, size: int) -> None:
        self._host, self.size = host, size
        self.vms: dict[str, Any] = {name: self._add(name, int(size * FILLED)) for name in FILL}

    def said(self, name: str) -> bytes:
        """Return what a guest wrote to its serial port."""
        address = f"{name}/serial.log?dcPath=ha-datacenter&dsName=datastore1"
        asked = Request(
            f"https://localhost:{self._host.port}/folder/{address}", headers=self._cookie()
        )
        try:
            with urlopen(asked, context=self._host.context) as answer:
                return bytes(answer.read())
        except HTTPError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return b""
            raise

    def ballooned(self) -> dict[str, int]:
        """Return by how much each guest's memory is smaller now; MiB."""
        return {name: vm.summary.quickStats.balloonedMemory for name, vm in self.vms.items()}

    def _cookie(self) -> dict[str, str]:
        return {"Cookie": self._host.si._stub.cookie}  # noqa: SLF001 (as all its users do)

    def _add(self, name: str, count: int) -> Any:  # noqa: ANN401 (pyVmomi has no types)
        content = self._host.si.content
        place = f"[datastore1] {name}"
        content.fileManager.MakeDirectory(name=place)
        spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(
            diskType="thin", adapterType="lsiLogic", capacityKb=count * 1024
        )
        WaitForTask(
            content.virtualDiskManager.CreateVirtualDisk_Task(f"{place}/content.vmdk", spec=spec)
        )
        rows = (
            *(("config.version", "8"), ("virtualHW.version", "21"), ("displayName", name)),
            *(("guestOS", "other6xlinux-64"), ("firmware", "bios"), ("numvcpus", "1")),
            *(("memSize", str(self.size)), ("sata0.present", "TRUE"), ("virtio0.present", "TRUE")),
            *(("sata0:0.present", "TRUE"), ("sata0:0.fileName", "boot.vmdk")),
            *(("virtio0:0.present", "TRUE"), ("virtio0:0.fileName", "content.vmdk")),
            *(("serial0.present", "TRUE"), ("serial0.fileType", "file")),
            ("serial0.fileName", "serial.log"),
        )
        flat = boot_disk(FILL[name].replace("%COUNT%", str(count)))
        disk = vmdk.Vmdk(
            vmdk.CreateType.MONOLITHIC_FLAT, "boot-flat.vmdk", len(flat) // SECTOR, adapter="ide"
        )
        self._host.upload(f"{name}/boot-flat.vmdk", flat)
        self._host.upload(f"{name}/boot.vmdk", vmdk.write(disk))
        self._host.upload(f"{name}/{name}.vmx", vmx.write(vmx.Vmx(rows)))
        return self._host.register(name)


def until(true: Callable[[], bool], what: str, seconds: float) -> float:
    """Wait; return how long it took. Raises SystemExit where it never came."""
    began = time.monotonic()
    while not true():
        if time.monotonic() > began + seconds:
            raise SystemExit(f"not within {seconds} s: {what}")
        time.sleep(5)
    return time.monotonic() - began


def experiment(host: Host) -> None:
    """Tell the story; raises SystemExit where it goes another way."""
    room = host.free()
    overhead = -(-QEMU_TCG.reserve(1, room) // MIB)
    usable = room - minimum_free(MEMORY * MIB) // MIB
    guests = Guests(host, int(usable / GUESTS - overhead) // 8 * 8)
    try:
        story(host, guests, room)
    except SystemExit:
        for name, vm in guests.vms.items():
            print(f"{name} is {vm.runtime.powerState} and said:")
            print(guests.said(name).decode(errors="replace")[-SAID:])
        raise


def story(host: Host, guests: Guests, room: int) -> None:
    """See ``experiment``."""
    began = time.monotonic()
    print(
        f"the machine has {MEMORY} MiB, {room} of them free; two guests of {guests.size} MiB,"
        f" each fills {int(guests.size * FILLED)}; {int(guests.size * RESERVED)} of the busy one's"
        " are reserved\n     seconds  free MiB  busy less by  idle less by"
    )

    def row(mark: str) -> dict[str, int]:
        found = guests.ballooned()
        print(
            f"    {time.monotonic() - began:8.0f}{host.free():10}{found['busy']:14}"
            f"{found['idle']:14}  {mark}",
            flush=True,
        )
        return found

    busy, idle = guests.vms["busy"], guests.vms["idle"]
    reserved = int(guests.size * RESERVED)
    memory = vim.ResourceAllocationInfo(reservation=reserved)
    WaitForTask(busy.ReconfigVM_Task(vim.vm.ConfigSpec(memoryAllocation=memory)))
    for name, vm in guests.vms.items():
        WaitForTask(vm.PowerOnVM_Task())
        until(lambda name=name: b"ready" in guests.said(name), f"{name} is ready", BOOT_LIMIT)  # type: ignore[misc]
        row(f"{name} filled its memory")
    until(lambda: row("")["idle"] >= guests.size // 10, "the idle one gives way", SQUEEZE_LIMIT)
    if guests.size - row("it gave way")["busy"] < reserved:
        raise SystemExit("the busy one's reservation does not hold")
    for name, vm in guests.vms.items():
        before = guests.said(name).count(b"alive")
        until(
            lambda name=name, n=before: guests.said(name).count(b"alive") > n,  # type: ignore[misc]
            f"{name} lives",
            RETURN_LIMIT,
        )
        if vm.runtime.powerState != "poweredOn" or b"Out of memory" in guests.said(name):
            raise SystemExit(f"{name} was killed, or killed a program of its own")
    row("both live")
    WaitForTask(busy.PowerOffVM_Task())
    until(lambda: row("")["idle"] == 0, "memory is given back", RETURN_LIMIT)
    WaitForTask(idle.PowerOffVM_Task())


def main() -> None:
    """Print the table."""
    with running(__doc__) as host:
        experiment(host)


if __name__ == "__main__":
    main()
