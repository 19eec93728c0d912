"""What a host's API costs while guests fill their disks, and flood serial ports and network.

Usage, as root: python bench/hostile.py [--guests N] [--floods N] [--calls N]; boots a host of its
own.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from casemate.image.cpio import program, write_cpio
from casemate.image.debian import Packages
from casemate.image.demo import MODULES, boot_files, first_root, kernel_release, write_demo
from casemate.testing.hostileguest import HOSTILE_SECTOR
from casemate.testing.soapclient import ENVELOPE

COMMAND = Path(sys.executable).parent / "casemate"
DISK = "256M"
BOOT_SECONDS = 120.0
BOOTED = 5000
"""Frames that a guest sends only when it floods."""
GENERATOR = "net/core/pktgen.ko"
"""Linux's packet generator: it needs no address, no neighbour and no program to send."""
FLOOD = b"""#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /lib/*.ko; do insmod "$module"; done
ip link set eth0 up
echo "add_device eth0" > /proc/net/pktgen/kpktgend_0
for line in "count 0" "pkt_size 1400" "dst 10.0.0.9" "dst_mac ff:ff:ff:ff:ff:ff"; do
  echo "$line" > /proc/net/pktgen/eth0
done
echo "flooding"
echo start > /proc/net/pktgen/pgctrl
while :; do sleep 1; done
"""


def run(home: Path, *arguments: str) -> dict[str, object]:
    ran = subprocess.run(
        [str(COMMAND), "--home", str(home), *arguments, "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(json.loads(ran.stdout)) if ran.stdout.startswith("{") else {}


def write_flood(home: Path, name: str) -> str:
    """Write a Linux guest that floods its network with frames for everybody; return its path."""
    place, packages = home / "volumes/datastore1" / name, Packages()
    made = write_demo(place, name=name, packages=packages)
    release = kernel_release(packages)
    root = first_root(packages, release, (*MODULES, GENERATOR))
    entries = [program("init", FLOOD) if one.path == "init" else one for one in root]
    for file, data in (
        ("kernel", boot_files(packages)["vmlinuz"]),
        ("initrd", write_cpio(entries)),
    ):
        (place / file).write_bytes(data)
        (place / file).chmod(0o644)
    with made.vmx.open("a") as stream:
        stream.write('casemate.kernel = "kernel"\ncasemate.initrd = "initrd"\n')
        stream.write('casemate.append = "console=ttyS0 quiet"\n')
    return f"[datastore1] {name}/{name}.vmx"


class Api:
    """One connection with a session."""

    def __init__(self, port: int, password: str) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._connection = http.client.HTTPSConnection("localhost", port, context=context)
        self._headers = {"SOAPAction": "urn:vim25/8.0.3.0"}
        inner = f"<userName>root</userName><password>{password}</password>"
        reply = self.call("Login", "SessionManager", "ha-sessionmgr", inner)
        self._headers["Cookie"] = str(reply.getheader("set-cookie"))

    def call(self, name: str, kind: str, key: str, inner: str = "") -> http.client.HTTPResponse:
        this = f'<_this type="{kind}">{key}</_this>'
        body = ENVELOPE.format(f'<{name} xmlns="urn:vim25">{this}{inner}</{name}>')
        self._connection.request("POST", "/sdk", body, self._headers)
        reply = self._connection.getresponse()
        reply.read()
        assert reply.status == 200, name
        return reply


def measure(api: Api, vm: str, calls: int) -> list[float]:
    """Return milliseconds of reads of a VM and of the host's clock, a hundred a second at most."""
    taken = []
    for number in range(calls):
        began = time.perf_counter()
        if number % 2:
            api.call("CurrentTime", "ServiceInstance", "ServiceInstance")
        else:
            api.call("Fetch", "VirtualMachine", vm, "<prop>summary</prop>")
        taken.append((time.perf_counter() - began) * 1000)
        time.sleep(0.01)
    return sorted(taken)


def told(name: str, taken: list[float]) -> None:
    last = taken[int(len(taken) * 0.99)]
    print(f"{name:<24}{statistics.median(taken):>8.1f}{last:>8.1f}{taken[-1]:>8.1f}")


def flood(home: Path, api: Api, floods: int, calls: int) -> None:
    """Measure while guests flood their network; tell how much they send."""
    guests = []
    for number in range(floods):
        run(home, "vm", "register", write_flood(home, f"flood{number}"))
    for one in json.loads(listed(home))["vms"]:
        if one["name"].startswith("flood"):
            run(home, "vm", "on", one["id"])
            guests.append(one["id"])
    end = time.monotonic() + BOOT_SECONDS
    while sent(home) < BOOTED:
        if time.monotonic() > end:
            raise TimeoutError("the guests do not send")
        time.sleep(0.5)
    before, begin = sent(home), time.perf_counter()
    told(f"{len(guests)} floods of the network", measure(api, guests[0], calls))
    rate = (sent(home) - before) / (time.perf_counter() - begin)
    print(f"{rate:.0f} frames a second meanwhile")


def listed(home: Path) -> str:
    command = [str(COMMAND), "--home", str(home), "status", "--json"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sent(home: Path) -> int:
    """Return how many frames guests have sent: the counters of the network that they are in."""
    init = str(json.loads((home / "run/host.json").read_text())["pid"])
    found = 0
    for task in Path("/proc").glob("[0-9]*/task/[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if init == parent(task):
                for line in (task / "net/dev").read_text().splitlines():
                    if line.strip().startswith("t"):
                        found = max(found, int(line.partition(":")[2].split()[1]))
    return found


def parent(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guests", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--floods", type=int, default=1, help="guests that flood their network")
    parser.add_argument("--calls", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        up = run(home, "up", "--port", "0", "--no-demo")
        try:
            port = int(re.search(r":(\d+)/", str(up["api"]))[1])
            api = Api(port, str(up["password"]))
            vms = []
            for number in range(options.guests):
                made = run(home, "vm", "create", f"evil{number}", "--disk", DISK)
                flat = home / f"volumes/datastore1/evil{number}/evil{number}-flat.vmdk"
                with flat.open("r+b") as stream:
                    stream.write(HOSTILE_SECTOR)
                vms.append(str(made["vm"]))
            print(
                f"{'milliseconds':<24}{'median':>8}{'p99':>8}{'worst':>8}   ({options.calls} calls)"
            )
            told("quiet", measure(api, vms[0], options.calls))
            for vm in vms:
                run(home, "vm", "on", vm)
            time.sleep(3)
            told(f"{options.guests} hostile guests", measure(api, vms[0], options.calls))
            for number, vm in enumerate(vms):
                flat = home / f"volumes/datastore1/evil{number}/evil{number}-flat.vmdk"
                logs = sum(f.stat().st_size for f in (home / "run/log").glob(f"vm-{vm}-*"))
                print(
                    f"VM {vm}: disk {flat.stat().st_blocks >> 11} MiB, serial log {logs >> 10} KiB"
                )
            for vm in vms:
                run(home, "vm", "off", vm)
            flood(home, api, options.floods, options.calls)
        finally:
            run(home, "down", "--force")


if __name__ == "__main__":
    main()
