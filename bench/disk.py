"""How fast a guest reads and writes its disk: in a cell, under plain QEMU, under libvirt.

One guest image, one machine, one kind of disk (virtio-blk over a raw file); the three take turns.
Each run of the guest reads and writes with direct I/O many times and says how long each took.

    sudo .venv/bin/python bench/disk.py [rounds]
"""

from __future__ import annotations

import asyncio
import gzip
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from libvirtd import Libvirt, domain, libvirtd

from casemate.formats import vmdk
from casemate.image.cpio import Entry, device, folder, link, program, write_cpio
from casemate.image.debian import Packages
from casemate.image.demo import in_order, kernel_release
from casemate.kernel.cells.cgroups import detect
from casemate.kernel.cells.manager import Cells
from casemate.kernel.cells.probe import Accelerator
from casemate.machine.facts import DiskSpec, VmConfig

SIZE_MIB = 256
TIMES = 6
# Reads go through the host's cache: one alone is over too soon for the guest's clock.
READS = 4
APPEND = "console=ttyS0 quiet panic=1"
MODULES = (
    *(f"drivers/virtio/virtio{name}.ko" for name in ("_ring", "", "_pci_modern_dev")),
    *(f"drivers/virtio/virtio{name}.ko" for name in ("_pci_legacy_dev", "_pci")),
    "drivers/block/virtio_blk.ko",
)
INIT = f"""#!/bin/sh
mount -t devtmpfs d /dev; mount -t proc p /proc
for m in /lib/*.ko; do insmod $m; done
for i in $(seq {TIMES}); do
    read a x < /proc/uptime
    for j in $(seq {READS}); do
        dd if=/dev/vda of=/dev/null bs=1M count={SIZE_MIB} iflag=direct 2>/dev/null
    done
    read b x < /proc/uptime
    dd if=/dev/zero of=/dev/vda bs=1M count={SIZE_MIB} oflag=direct 2>/dev/null
    read c x < /proc/uptime
    echo took $a $b $c
done
echo all done
sync; poweroff -f
"""
SAID = re.compile(rb"took ([0-9.]+) ([0-9.]+) ([0-9.]+)")


def entries(release: str) -> Iterator[Entry]:
    for path in ("bin", "dev", "lib", "proc"):
        yield folder(path)
    yield device("dev/console", 5, 1)
    yield program("bin/busybox", Path("/usr/bin/busybox").read_bytes())
    for applet in ("sh", "mount", "insmod", "seq", "dd", "sync", "poweroff", "echo"):
        yield link(f"bin/{applet}", "busybox")
    yield program("init", INIT.encode())
    place = Path("/usr/lib/modules") / release / "kernel"
    for number, (name, data) in enumerate(
        in_order([(place / module).read_bytes() for module in MODULES])
    ):
        yield program(f"lib/{number:02}-{name}.ko", data)


def measured(said: bytes) -> dict[str, list[float]]:
    """Return MiB a second of each pass."""
    found: dict[str, list[float]] = {"read": [], "write": []}
    for told in SAID.findall(said):
        begin, middle, end = (float(one) for one in told)
        found["read"].append(READS * SIZE_MIB / (middle - begin))
        found["write"].append(SIZE_MIB / (end - middle))
    return found


async def in_cell(place: Path) -> bytes:
    disk = DiskSpec("d.vmdk", "disk", "vmdk", SIZE_MIB << 20, "virtio0", 0)
    boot = {"kernel": "kernel", "initrd": "initrd", "append": APPEND}
    extra = (*((f"casemate.{name}", value) for name, value in boot.items()),)
    extra = (*extra, ("svga.present", "FALSE"))
    config = VmConfig("b", "", "[d] b/b.vmx", "other", 1, 256, "bios", disks=(disk,), extra=extra)
    ended = asyncio.Event()
    cells = Cells(
        place / "run",
        lambda: Path("/"),
        detect("benchdisk"),
        Accelerator("tcg", ""),
        lambda _: ended.set(),
    )
    cells.console_log("1").unlink(missing_ok=True)
    try:
        await cells.power_on("1", config, place)
        await asyncio.wait_for(ended.wait(), 300)
        return cells.console_log("1").read_bytes()
    finally:
        await cells.close(stop=True)


def plain(place: Path) -> bytes:
    node = f"driver=raw,node-name=d,file.driver=file,file.filename={place}/d-flat.vmdk"
    words = ["qemu-system-x86_64", "-accel", "tcg,tb-size=32", "-machine", "q35", "-cpu", "max"]
    words += ["-m", "256M", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]
    words += ["-blockdev", f"{node},file.discard=unmap", "-device", "virtio-blk-pci,drive=d"]
    words += ["-kernel", f"{place}/kernel", "-initrd", f"{place}/initrd", "-append", APPEND]
    return subprocess.run(
        words, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=300
    ).stdout


def under_libvirt(other: Libvirt, place: Path) -> bytes:
    said = place / "said"
    devices = (
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/>"
        f"<source file='{place}/d-flat.vmdk'/><target dev='vda' bus='virtio'/></disk>"
        f"<serial type='file'><source path='{said}'/></serial>"
    )
    boot = f"<kernel>{place}/kernel</kernel><initrd>{place}/initrd</initrd>"
    said.unlink(missing_ok=True)
    other.create(place, "disk", domain("disk", 256, devices, f"{boot}<cmdline>{APPEND}</cmdline>"))
    deadline = time.monotonic() + 300
    while other.say("list", "--name").split():
        if time.monotonic() > deadline:
            raise SystemExit("the guest does not end")
        time.sleep(0.5)
    return said.read_bytes()


def main(rounds: int) -> None:
    release = kernel_release(Packages())
    sums: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name, libvirtd() as other:
        place = Path(name)
        place.chmod(0o755)
        (place / "kernel").write_bytes(Path(f"/boot/vmlinuz-{release}").read_bytes())
        (place / "initrd").write_bytes(gzip.compress(write_cpio(entries(release)), 1))
        sectors = (SIZE_MIB << 20) // vmdk.SECTOR
        described = vmdk.Vmdk(vmdk.CreateType.MONOLITHIC_FLAT, "d-flat.vmdk", sectors)
        (place / "d.vmdk").write_bytes(vmdk.write(described))
        (place / "d-flat.vmdk").write_bytes(bytes(SIZE_MIB << 20))
        for _ in range(rounds):
            runs = {"cell": asyncio.run(in_cell(place)), "plain QEMU": plain(place)}
            if other is not None:
                runs["libvirt"] = under_libvirt(other, place)
            for who, said in runs.items():
                for kind, speeds in measured(said).items():
                    if len(speeds) != TIMES:
                        raise SystemExit(f"{who}: {said[-500:]!r}")
                    sums.setdefault((who, kind), []).extend(speeds)
    for kind in ("read", "write"):
        bare = statistics.median(sums["plain QEMU", kind])
        for who in dict.fromkeys(who for who, _ in sums):
            speeds = sorted(sums[who, kind])
            middle = statistics.median(speeds)
            print(
                f"{kind:6} {who:11} MiB/s: min {speeds[0]:6.0f}  median {middle:6.0f}  "
                f"max {speeds[-1]:6.0f}   {middle / bare:.3f} of plain QEMU"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
