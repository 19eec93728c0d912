"""A guest with Debian's own qemu-guest-agent: kernel and first root out of installed packages."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from casemate.errors import HostError
from casemate.image.cpio import Entry, device, folder, link, program, write_cpio
from casemate.image.debian import Packages
from casemate.image.demo import in_order, kernel_release

AGENT = Path("/usr/sbin/qemu-ga")
LOADER = Path("/lib64/ld-linux-x86-64.so.2")
APPEND = "console=ttyS0 quiet panic=10 loglevel=4"
MODULES = (
    *(f"drivers/virtio/virtio{name}.ko" for name in ("_ring", "", "_pci_modern_dev")),
    *(f"drivers/virtio/virtio{name}.ko" for name in ("_pci_legacy_dev", "_pci")),
    *("drivers/block/virtio_blk.ko", "drivers/char/virtio_console.ko"),
)
APPLETS = ("cat", "date", "echo", "grep", "insmod", "mount", "mkdir", "poweroff", "reboot", "sh")
INIT = b"""#!/bin/sh
mount -t devtmpfs d /dev; mount -t proc p /proc; mount -t sysfs s /sys
mkdir -p /run /var/run /tmp /disk
for m in /lib/modules/*.ko; do insmod $m; done
echo real > /proc/sys/kernel/hostname
[ -b /dev/vda ] && mount -t ext4 /dev/vda /disk
port=$(cd /sys/class/virtio-ports && grep -l org.qemu.guest_agent.0 */name)
qemu-ga -m virtio-serial -p /dev/${port%/name} -t /run -F/hook &
echo guest is up
n=0
while :; do n=$((n+1)); echo $n > /disk/count 2>/dev/null; sleep 0.1; done
"""
HOOK = b"#!/bin/sh\necho hook $1 > /dev/ttyS0\n"
SHUTDOWN = b"""#!/bin/sh
case "$*" in *-r*) reboot -f ;; *) poweroff -f ;; esac
"""


def first_root() -> Iterator[Entry]:
    """Yield what the guest runs from: busybox, the agent with its libraries, drivers."""
    for path in ("bin", "dev", "lib", "lib/modules", "lib64", "proc", "sbin", "sys", "etc"):
        yield folder(path)
    yield device("dev/console", 5, 1)
    yield program("bin/busybox", Path("/bin/busybox").read_bytes())
    for applet in (*APPLETS, "sleep"):
        yield link(f"bin/{applet}", "busybox")
    yield program("init", INIT)
    yield program("hook", HOOK)
    yield program("sbin/shutdown", SHUTDOWN)
    yield program("bin/qemu-ga", AGENT.read_bytes())
    yield program("lib64/ld-linux-x86-64.so.2", LOADER.resolve().read_bytes())
    told = subprocess.run(["ldd", AGENT], capture_output=True, check=True, text=True).stdout
    for library in re.findall(r"=> (/\S+)", told):
        yield program(f"lib/{Path(library).name}", Path(library).read_bytes())
    place = Path("/usr/lib/modules") / kernel_release(Packages()) / "kernel"
    modules = in_order([(place / module).read_bytes() for module in MODULES])
    for number, (name, data) in enumerate(modules):
        yield program(f"lib/modules/{number:02}-{name}.ko", data)


def write_guest(place: Path) -> tuple[tuple[str, str], ...]:
    """Write kernel and first root to a VM's directory; returns the entries that boot them."""
    if not AGENT.exists() or shutil.which("ldd") is None:
        pytest.skip("needs the Debian package qemu-guest-agent")
    try:
        kernel = Path(f"/boot/vmlinuz-{kernel_release(Packages())}")
    except HostError as error:
        pytest.skip(f"needs a guest kernel: {error.reason}")
    (place / "kernel").write_bytes(kernel.read_bytes())
    (place / "initrd").write_bytes(gzip.compress(write_cpio(first_root()), 1))
    for name in ("kernel", "initrd"):
        (place / name).chmod(0o644)
    said = {"kernel": "kernel", "initrd": "initrd", "append": APPEND}
    return tuple((f"casemate.{name}", value) for name, value in said.items())


def write_ext4(disk: Path) -> None:
    """Put an empty ext4 file system on a raw disk that is there."""
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", disk], check=True, capture_output=True)
