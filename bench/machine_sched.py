"""Shares, pools, reservation and limit on a machine of its own: control groups of version 2.

Usage, as root: python bench/machine_sched.py [--home DIR]; builds the image where there is none.
The image boots in QEMU with one emulated processor; VMs inside it want all of that in every even
minute and rest in the odd ones: the 5 % that VMs leave to the host's processes are too little for
an API that is emulated. The host's own counters tell, over one sample of 20 s, what each VM got, as
a part of what they got together: the host's processes take theirs too. The computer must be quiet.
"""

from __future__ import annotations

import argparse
import base64
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from ssl import CERT_NONE, create_default_context
from typing import Any
from urllib.request import Request, urlopen

from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim
from rich.console import Console

from casemate.cli.machineboot import follow
from casemate.formats import vmdk, vmx
from casemate.image.bootable import PLACE, build_bootable
from casemate.image.build import RELEASED
from casemate.image.debian import Packages
from casemate.image.secureboot import ovmf_variables
from casemate.image.vm import DISK, Hardware, Machine, create
from casemate.kernel.home import Home
from casemate.kernel.tpm import swtpm

SPIN = bytes.fromhex("fb b002 e670 e471 a801 7506 31c9 e2fe ebf0 f4 ebed")
"""Real mode: ask the clock for the minute; count to 65,536 where it is even, else halt; again."""
SECTORS = 2048
MEMORY = 1536
"""MiB of the machine."""
SAMPLE = 20
MINUTE = 60
START = 5
"""Seconds in which demand is noticed."""
COUNTERS = ("cpu.usagemhz.average", "cpu.entitlement.latest")


def boot_sector() -> bytes:
    """Return the guest."""
    return SPIN.ljust(510, b"\0") + b"\x55\xaa"


class Host:
    """The machine's API."""

    def __init__(self, port: int, password: str) -> None:
        self.port, self._password = port, password
        self.context = create_default_context()
        self.context.check_hostname, self.context.verify_mode = False, CERT_NONE
        self.si: Any = SmartConnect(
            host="localhost", port=port, user="root", pwd=password, sslContext=self.context
        )
        center = self.si.content.rootFolder.childEntity[0]
        (self.system,) = center.hostFolder.childEntity[0].host
        self._folder = center.vmFolder
        self.root = self.system.parent.resourcePool
        named = {
            f"{one.groupInfo.key}.{one.nameInfo.key}.{one.rollupType}": one.key
            for one in self.si.content.perfManager.perfCounter
        }
        self._counters = {named[name]: name for name in COUNTERS}

    def upload(self, path: str, data: bytes) -> None:
        """Write a file into the datastore."""
        where = (
            f"https://localhost:{self.port}/folder/{path}?dcPath=ha-datacenter&dsName=datastore1"
        )
        secret = base64.b64encode(f"root:{self._password}".encode()).decode()
        headers = {"Authorization": f"Basic {secret}"}
        with urlopen(Request(where, data, headers, method="PUT"), context=self.context):
            pass

    def add(self, name: str) -> Any:  # noqa: ANN401 (pyVmomi has no types)
        """Make a VM that never rests."""
        disk = vmdk.Vmdk(
            vmdk.CreateType.MONOLITHIC_FLAT, f"{name}-flat.vmdk", SECTORS, adapter="ide"
        )
        rows = (
            *(("config.version", "8"), ("virtualHW.version", "21"), ("displayName", name)),
            *(("guestOS", "otherGuest"), ("firmware", "bios"), ("numvcpus", "1")),
            *(("memSize", "16"), ("sata0.present", "TRUE"), ("sata0:0.present", "TRUE")),
            ("sata0:0.fileName", f"{name}.vmdk"),
        )
        self.si.content.fileManager.MakeDirectory(name=f"[datastore1] {name}")
        self.upload(f"{name}/{name}-flat.vmdk", boot_sector().ljust(SECTORS * 512, b"\0"))
        self.upload(f"{name}/{name}.vmdk", vmdk.write(disk))
        self.upload(f"{name}/{name}.vmx", vmx.write(vmx.Vmx(rows)))
        return self.register(name)

    def register(self, name: str) -> Any:  # noqa: ANN401
        """Register what was uploaded as a VM."""
        task = self._folder.RegisterVM_Task(
            f"[datastore1] {name}/{name}.vmx", asTemplate=False, pool=self.root
        )
        WaitForTask(task)
        return task.info.result

    def free(self) -> int:
        """Return how much memory the machine could hand out at its last sample; MiB."""
        manager = self.si.content.perfManager
        (counter,) = (
            one.key
            for one in manager.perfCounter
            if (one.groupInfo.key, one.nameInfo.key) == ("mem", "consumed")
            and one.rollupType == "average"
        )
        spec = vim.PerformanceManager.QuerySpec(
            entity=self.system,
            metricId=[vim.PerformanceManager.MetricId(counterId=counter, instance="")],
            intervalId=SAMPLE,
            maxSample=1,
        )
        while True:
            for one in manager.QueryPerf([spec]):
                for series in one.value:
                    if series.value:
                        used = series.value[-1] >> 10
                        return int(self.system.hardware.memorySize >> 20) - int(used)
            time.sleep(1)

    def pool(self, name: str) -> Any:  # noqa: ANN401
        """Make a pool with normal shares and nothing reserved."""
        given = vim.ResourceAllocationInfo(
            shares=vim.SharesInfo(level="normal"),
            reservation=0,
            limit=-1,
            expandableReservation=True,
        )
        spec = vim.ResourceConfigSpec(cpuAllocation=given, memoryAllocation=given)
        return self.root.CreateResourcePool(name, spec)

    def place(self, pool: Any, vm: Any) -> None:  # noqa: ANN401
        """Move a VM into a pool."""
        pool.MoveIntoResourcePool([vm])

    def measure(self, vms: dict[str, Any]) -> dict[str, tuple[float, float]]:
        """Return what each VM got, and was entitled to, in the next minute of work: MHz."""
        work = 2 * MINUTE * (time.time() // (2 * MINUTE) + 1)
        time.sleep(work + MINUTE - time.time())
        return {name: self._sample(vm, work) for name, vm in vms.items()}

    def _sample(self, vm: Any, work: float) -> tuple[float, float]:  # noqa: ANN401
        """Return the last whole sample of a minute of work."""
        metrics = [
            vim.PerformanceManager.MetricId(counterId=n, instance="") for n in self._counters
        ]
        spec = vim.PerformanceManager.QuerySpec(
            entity=vm, metricId=metrics, intervalId=SAMPLE, maxSample=10
        )
        (found,) = self.si.content.perfManager.QueryPerf([spec])
        ends = [one.timestamp.timestamp() for one in found.sampleInfo]
        inside = [
            number
            for number, end in enumerate(ends)
            if work + SAMPLE + START <= end <= work + MINUTE
        ]
        if not inside:
            raise SystemExit("no sample of that minute: this computer is too busy to measure on")
        values = {self._counters[one.id.counterId]: one.value for one in found.value}
        return tuple(float(values[name][inside[-1]]) for name in COUNTERS)  # type: ignore[return-value]


def allocation(shares: int, reservation: int = 0, limit: int = -1) -> vim.ResourceAllocationInfo:
    """Return a VM's part of the processor; MHz."""
    return vim.ResourceAllocationInfo(
        shares=vim.SharesInfo(level="custom", shares=shares), reservation=reservation, limit=limit
    )


def show(title: str, got: dict[str, tuple[float, float]], whole: float | None = None) -> float:
    """Print a table; return the largest difference in points."""
    sums = [whole or sum(row[number] for row in got.values()) for number in (0, 1)]
    print(f"{title}\n    {'VM':<10}{'got MHz':>9}{'entitled':>9}{'got %':>8}{'due %':>8}")
    worst = 0.0
    for name, (used, due) in got.items():
        parts = 100 * used / sums[0], 100 * due / sums[1]
        worst = max(worst, abs(parts[0] - parts[1]))
        print(f"    {name:<10}{used:>9.0f}{due:>9.0f}{parts[0]:>8.1f}{parts[1]:>8.1f}")
    return worst


def experiment(host: Host) -> float:
    """Run the scenarios; return the largest difference in points."""
    mhz = host.system.summary.hardware.cpuMhz
    vms = {name: host.add(name) for name in ("a", "b", "c", "d")}
    scenarios: dict[str, tuple[dict[str, vim.ResourceAllocationInfo], float | None]] = {
        "shares 2:1": ({"a": allocation(2000), "b": allocation(1000)}, None),
        "reservation of half": (
            {"a": allocation(500, mhz // 2), "b": allocation(2000), "c": allocation(1000)},
            None,
        ),
        "limit of a quarter": (
            {"a": allocation(1000, limit=mhz // 4), "b": allocation(1000)},
            None,
        ),
        "two pools alike, one VM in the first, three in the second": (
            dict.fromkeys("abcd", allocation(1000)),
            None,
        ),
    }
    worst = 0.0
    for title, (wanted, whole) in scenarios.items():
        if len(wanted) == len(vms):
            pools = host.pool("first"), host.pool("second")
            for name, vm in vms.items():
                host.place(pools[name != "a"], vm)
        while time.time() // MINUTE % 2 == 0:
            time.sleep(1)
        for name, cpu in wanted.items():
            WaitForTask(vms[name].ReconfigVM_Task(vim.vm.ConfigSpec(cpuAllocation=cpu)))
            if vms[name].runtime.powerState != "poweredOn":
                WaitForTask(vms[name].PowerOnVM_Task())
        for name in vms.keys() - wanted.keys():
            if vms[name].runtime.powerState == "poweredOn":
                WaitForTask(vms[name].PowerOffVM_Task())
        running = {name: vms[name] for name in wanted}
        worst = max(worst, show(title, host.measure(running), whole))
    return worst


def prepared(home: Path, place: Path) -> None:
    """Make the machine, and the image where there is none."""
    disk = home / PLACE / DISK
    if not disk.exists():
        build_bootable(home, disk, now=datetime.now(UTC))
    packages = Packages()
    create(place, disk, ovmf_variables(home, packages, RELEASED), packages)
    swtpm.manufacture(Home(place))


@contextmanager
def running(what: str | None) -> Iterator[Host]:
    """Read the command line, boot a machine, and yield its host.

    Args:
        what: what the bench does, for its help.
    """
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--home", type=Path, default=None)
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch, "machine")
        prepared(options.home or Path(scratch, "home"), place)
        with Machine(place, Hardware(cpus=1, memory=MEMORY, port=port)) as machine:
            machine.start()
            boot = follow(machine, Console(), quiet=True)
            host = Host(port, boot.password)
            try:
                yield host
            finally:
                Disconnect(host.si)


def main() -> None:
    """Print the tables."""
    with running(__doc__) as host:
        worst = experiment(host)
    print(f"largest difference: {worst:.1f} points (goal: 3)")
    sys.exit(worst > 3.0)


if __name__ == "__main__":
    main()
