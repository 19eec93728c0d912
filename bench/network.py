"""What filters and bridges of a host cost guests, against the same QEMU on a plain bridge.

Needs root; works in a network namespace of its own. Two Linux guests, one of which sends to the
other as fast as it can; every other window the filters of both cards are taken away, so that what
is compared ran in the same second of the same machine. Usage: python bench/network.py [WINDOWS]
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from casemate.image.cpio import program, write_cpio
from casemate.image.debian import Packages
from casemate.image.demo import boot_files, first_root, kernel_release
from casemate.kernel.sys.packetfilter import PacketFilters
from casemate.kernel.wires import Wires
from casemate.machine.networkplan import Card, Filter
from casemate.machine.networks import FIRST
from casemate.machine.wiring import plan_network

WINDOWS = 24
SECONDS = 2.0
BOOT_SECONDS = 120.0
INIT = b"""#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /lib/*.ko; do insmod "$module"; done
for word in $(cat /proc/cmdline); do
    case $word in
    demo.own=*) own=${word#*=} ;;
    esac
done
ip link set eth0 up
ip addr add "10.0.0.$own/24" dev eth0
if [ "$own" = 1 ]; then
    while :; do busybox dd if=/dev/zero bs=64k 2>/dev/null | busybox nc 10.0.0.2 5000; sleep 1; done
fi
while :; do busybox nc -l -p 5000 >/dev/null; done
"""


def start(place: Path, number: int, tap: int) -> subprocess.Popen[bytes]:
    command = [
        *("/usr/bin/qemu-system-x86_64", "-machine", "q35,accel=tcg", "-m", "256", "-nodefaults"),
        *("-display", "none", "-serial", f"file:{place}/log{number}"),
        *("-kernel", str(place / "kernel"), "-initrd", str(place / "initrd")),
        *("-append", f"console=ttyS0 quiet demo.own={number}"),
        *("-netdev", f"tap,id=n,fd={tap}"),
        *("-device", f"virtio-net-pci,netdev=n,mac={card(number).mac},romfile="),
    ]
    return subprocess.Popen(command, pass_fds=(tap,))


def card(number: int) -> Card:
    return Card(str(number), 0, f"00:50:56:00:00:{number:02x}", "VM Network")


def switch(filters: tuple[Filter, ...], *, on: bool) -> None:
    tables = PacketFilters()
    for one in filters:
        if on:
            tables.put(one, {})
        else:
            tables.drop(one.name)
    tables.close()


async def received(wires: Wires) -> int:
    return (await wires.traffic())["2"][0]


async def main() -> None:
    windows = int(sys.argv[1]) if len(sys.argv) > 1 else WINDOWS
    packages = Packages()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        root = first_root(packages, kernel_release(packages))
        entries = [program("init", INIT) if one.path == "init" else one for one in root]
        (place / "kernel").write_bytes(boot_files(packages)["vmlinuz"])
        (place / "initrd").write_bytes(write_cpio(entries))
        wires = Wires(None)
        plan = plan_network(FIRST, (card(1), card(2)))
        taps = [await wires.open_tap(card(number).tap) for number in (1, 2)]
        await wires.apply(plan)
        guests = [start(place, number, tap) for number, tap in zip((1, 2), taps, strict=True)]
        try:
            end = time.monotonic() + BOOT_SECONDS
            while await received(wires) < 20_000_000:
                if time.monotonic() > end:
                    raise TimeoutError("the guests do not send")
                await asyncio.sleep(0.5)
            rates: dict[bool, list[float]] = {True: [], False: []}
            for number in range(windows):
                # on, off, off, on: a drift of the machine's load counts for both.
                on = number % 4 in {0, 3}
                await wires.run(switch, plan.filters, on=on)
                before, begin = await received(wires), time.perf_counter()
                await asyncio.sleep(SECONDS)
                count = await received(wires) - before
                rates[on].append(count / (time.perf_counter() - begin) / 1e6)
            ratio = statistics.median(a / b for a, b in zip(rates[True], rates[False], strict=True))
            with_filters, plain = (statistics.median(rates[on]) for on in (True, False))
            print(f"guest to guest: {with_filters:.1f} MB/s, plain bridge {plain:.1f} MB/s")
            print(f"of the plain bridge's, pair by pair: {ratio:.3f}")
        finally:
            for guest in guests:
                guest.kill()
                guest.wait()
            for tap in taps:
                os.close(tap)
            await wires.close()


if __name__ == "__main__":
    asyncio.run(main())
