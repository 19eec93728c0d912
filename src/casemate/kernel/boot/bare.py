"""The first program of a machine that boots by itself: from firmware's hands to the visor root.

Firmware has verified and measured the boot image that this program came in. It finds the boot
banks on the machine's disk, chooses one, and loads it as everywhere: verified, measured into the
machine's TPM, mounted. The log goes on where firmware's ends. A bank that fails is marked and the
machine starts again, because only a restart gives the TPM a clean state for the other bank.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from casemate.errors import BootError, CasemateError
from casemate.formats.bootcfg import BootState
from casemate.kernel.boot.bank import read_banks, write_states
from casemate.kernel.boot.drivers import Drivers, present
from casemate.kernel.boot.firmware import read_firmware
from casemate.kernel.boot.load import become, load
from casemate.kernel.boot.progress import Progress
from casemate.kernel.boot.settings import Settings
from casemate.kernel.boot.visor import DEVICES, enter_visor
from casemate.kernel.home import INSIDE, Home
from casemate.kernel.sys import mounts
from casemate.kernel.sys.power import Power, end_machine
from casemate.kernel.tpm.device import Tpm
from casemate.policy.banks import BootPlan, after_failure, plan_boot

OWN_MACHINE = ("-I", "-B", "-m", "casemate.kernel.ownmachine")
HOST_NAME = "casemate"
HOME_SPACE = 256 << 20
"""Bytes of RAM that the home may take: sockets, logs, the record of the boot."""

DISK_SECONDS = 20.0
"""Until the disk with the boot banks must have been found."""

BANKS = ("bootbank", "altbootbank")
PARTITIONS = {
    "bootbank": ("vfat", "bootbank"),
    "altbootbank": ("vfat", "altbootbank"),
    "state": ("ext4", "state"),
    "datastore1": ("ext4", "volumes/datastore1"),
}
"""Name of a partition, the file system on it, and where in the home it belongs."""

MODULES = ("loop", "overlay", "erofs", "vfat", "nls_cp437", "nls_ascii")
SHOW_SECONDS = 5.0
"""How long a refusal stays on the console before the machine starts again."""

_FIRST = Path("/run/first")
_HOME = Path("/run/home")
_LAYERS = Path("/run/visor")
_TRUST = Path("/trust")


def main() -> NoReturn:
    """Boot the machine: become the next program, start again, or stay with the reason shown."""
    progress = Progress(-1)
    try:
        _first_mounts()
        progress = Progress(_open_progress())
        progress.tell("start", uptime=_uptime())
        _boot(progress)
    except CasemateError as error:
        _say(error)
        progress.refuse(error)
    while True:
        signal.pause()


def _boot(progress: Progress) -> NoReturn:
    """Boot a bank, or start the machine again for the other one.

    Raises the failure where there is nothing else to try.
    """
    drivers = Drivers()
    drivers.need(*MODULES)
    home = _mount_home(_find_disk(drivers))
    plan = plan_boot(read_banks(home))
    write_states(home, plan.states)
    settings = Settings(
        home=str(INSIDE),
        bank=plan.bank.name,
        host_name=HOST_NAME,
        api="",
        progress=progress.descriptor,
        listener=-1,
        loader=-1,
        boot_time=time.time(),
        launch_digests={},
        drtm=False,
        own_machine=True,
    )
    try:
        firmware = read_firmware()
        with Tpm.hardware() as tpm:
            booted = load(settings, home, _LAYERS, tpm, progress, firmware)
    except CasemateError as error:
        _refused(home, plan, error)
        _say(error)
        progress.refuse(error)
        time.sleep(SHOW_SECONDS)
        end_machine(Power.RESTART)
    _forget_first_root()
    enter_visor(booted.root, home, (*DEVICES, "tpmrm0", "console"), mounts_inside=True)
    become(OWN_MACHINE, settings)


def _refused(home: Home, plan: BootPlan, error: CasemateError) -> None:
    """Make the other bank boot next. Raises the failure where there is no other.

    The only bank keeps its state: what made it fail (a wrong clock, a TPM that was off) may pass.
    """
    try:
        after_failure(plan, error.finding())
    except CasemateError as nothing_left:
        if plan.bank.config is not None:
            write_states(home, [(plan.bank.name, plan.bank.config.bootstate)])
        raise _told_as_end(nothing_left, error) from error
    write_states(home, [(plan.bank.name, BootState.INVALID)])


def _told_as_end(outer: CasemateError, inner: CasemateError) -> CasemateError:
    """Return the inner error, whose remedy is the better one, told as the end of the boot."""
    return BootError(
        f"{inner.component}: {inner.reason} {outer.reason}",
        code=inner.code,
        component=inner.component,
        remedy=inner.remedy,
    )


def _first_mounts() -> None:
    mounts.proc("/proc")
    mounts.machine_views("/sys")
    mounts.devices("/dev")
    mounts.tmpfs("/run", size=HOME_SPACE, mode=0o755, access=mounts.Access.NO_SUID)
    _FIRST.mkdir()
    mounts.leave_first_root(_FIRST)
    socket.sethostname(HOST_NAME)


def _open_progress() -> int:
    try:
        return os.open("/dev/ttyS0", os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return -1


def _find_disk(drivers: Drivers) -> dict[str, Path]:
    """Load the drivers of disks, and return the partitions by name, all of one disk."""
    deadline = time.monotonic() + DISK_SECONDS
    while True:
        failed = drivers.match(present())
        for parts in _disks():
            if BANKS[0] in parts:
                return parts
        if time.monotonic() > deadline:
            raise BootError(
                f"no disk has a boot bank. {' '.join(failed)}".rstrip(),
                code="no-disk",
                component="disk",
                remedy="Check the disk and its controller; install the image again.",
            )
        time.sleep(0.05)


def _disks() -> Iterator[dict[str, Path]]:
    found: dict[str, dict[str, Path]] = {}
    for event in sorted(Path("/sys/class/block").glob("*/uevent")):
        facts = dict(line.split("=", 1) for line in event.read_text().splitlines() if "=" in line)
        if facts.get("DEVTYPE") == "partition" and "PARTNAME" in facts:
            disk = event.parent.resolve().parent.name
            found.setdefault(disk, {})[facts["PARTNAME"]] = Path("/dev", facts["DEVNAME"])
    yield from found.values()


def _mount_home(parts: dict[str, Path]) -> Home:
    home = Home(_HOME)
    home.create()
    shutil.copytree(_TRUST, home.trust, dirs_exist_ok=True)
    for name, (kind, inside) in PARTITIONS.items():
        target = home.path / inside
        target.mkdir(parents=True, exist_ok=True)
        try:
            mounts.disk(parts[name], target, kind)
        except (KeyError, CasemateError) as error:
            if name == BANKS[1]:
                continue  # a host can do without its second bank
            raise BootError(
                f"the partition {name} is missing or cannot be mounted: {error}",
                code="partition",
                component=name,
                remedy="Check the disk; install the image again.",
            ) from error
    home.create()
    return home


def _forget_first_root() -> None:
    """Give back the RAM of the first root: what runs of it is loaded, nothing will be again."""
    device = Path("/").stat().st_dev
    for name in ("usr", "trust", "init"):
        place = Path("/", name)
        if place.is_dir() and place.stat().st_dev == device:
            shutil.rmtree(place, ignore_errors=True)


def _uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def _say(error: CasemateError) -> None:
    sys.stderr.write(
        f"\nThe boot was refused ({error.code}).\n"
        f"{error.component}: {error.reason}\n{error.remedy}\n"
    )
    sys.stderr.flush()


if __name__ == "__main__":
    main()
