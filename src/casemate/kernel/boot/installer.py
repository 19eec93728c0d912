"""The first program of an installer: puts the image that came with it on a disk of this machine.

Firmware has verified all of it: Linux, this program, the image and the file of an unattended
installation are parts of one signed boot image. Nothing is read from the medium, so it needs no
driver. Without a file it asks, on screen and serial line at once.
"""

from __future__ import annotations

import json
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from uuid import UUID

import casemate
from casemate.errors import CasemateError, HostError
from casemate.formats.gpt import HEAD
from casemate.formats.sparsedisk import SparseDisk
from casemate.kernel.boot.ask import ask
from casemate.kernel.boot.drivers import Drivers, present
from casemate.kernel.boot.firmwareboot import FirmwareBoot, started_partition
from casemate.kernel.boot.install import install
from casemate.kernel.boot.installscreen import Screen
from casemate.kernel.boot.lastword import named
from casemate.kernel.boot.machinedisk import BANKS, DISK_SECONDS, MachineDisk
from casemate.kernel.boot.progress import Progress, open_terminal
from casemate.kernel.boot.targets import Target, choose, targets
from casemate.kernel.sys import mounts
from casemate.kernel.sys.memfd import mapped
from casemate.kernel.sys.power import Power, end_machine, ignore_keys

PLACE = Path("/installation")
IMAGE, SETTINGS, PLAN = PLACE / "disk", PLACE / "settings", PLACE / "plan.json"
LOOK_SECONDS = 2.0
"""How long disks are waited for before somebody is asked about them."""
_POLL_SECONDS = 0.2
_AGAIN, _OFF = "r", "q"


@dataclass(frozen=True, slots=True)
class Plan:
    """An unattended installation; ``disk`` is empty for the first one."""

    disk: str
    overwrite: bool
    reboot: bool


def main() -> NoReturn:
    """Install, and end the machine; stay with the reason shown where that fails."""
    screen, progress = Screen(), Progress(-1)
    try:
        mounts.proc("/proc")
        ignore_keys()
        mounts.machine_views("/sys")
        mounts.devices("/dev")
        progress = Progress(open_terminal("ttyS0"))
        screen.open()
        _run(screen, progress)
    except BaseException as error:  # noqa: BLE001 (Linux panics when its first process ends)
        refusal = named(error, "installer")
        progress.refuse(refusal)
        screen.refused(refusal)
    with suppress(BaseException):
        ask("  Press Enter to restart the machine. ")
        end_machine(Power.RESTART)
    while True:
        signal.pause()


def read_plan(path: Path) -> Plan | None:
    """Return the unattended installation; None where somebody is asked."""
    try:
        return Plan(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None


def _run(screen: Screen, progress: Progress) -> None:
    plan = read_plan(PLAN)
    progress.tell("start", uptime=float(Path("/proc/uptime").read_text().split()[0]))
    if plan is None:
        progress.tell("asking")
    screen.title(casemate.__version__)
    drivers = Drivers()
    drivers.need("efivarfs")
    with suppress(CasemateError):  # a firmware without variables
        mounts.firmware_variables("/sys")
    started = started_partition()
    target = asked(screen, drivers, started) if plan is None else planned(plan, drivers, started)
    overwrite = plan is None or plan.overwrite
    settings = SETTINGS.read_bytes() if SETTINGS.exists() else b""
    progress.tell("installing", disk=target.name)
    screen.say(f"Installing on {target}.")
    with IMAGE.open("rb") as file, mapped(file.fileno()) as view:
        install(
            SparseDisk(view),
            target.path,
            overwrite=overwrite,
            settings=settings,
            progress=screen.progress,
        )
    _start_from(target, screen)
    progress.tell("installed", disk=target.name)
    screen.say(f"Casemate is installed on {target.name}.")
    if plan is not None and plan.reboot:
        end_machine(Power.RESTART)


def found(drivers: Drivers, started: UUID | None) -> tuple[Target, ...]:
    """Return the disks of this machine, but for the one that the installer came from."""
    drivers.match(present())
    return tuple(one for one in targets() if started is None or not _holds(one.path, started))


def planned(plan: Plan, drivers: Drivers, started: UUID | None) -> Target:
    """Return the disk of an unattended installation, once it is there. Raises HostError."""
    deadline = time.monotonic() + DISK_SECONDS
    while True:
        try:
            return choose(found(drivers, started), plan.disk)
        except HostError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)


def asked(screen: Screen, drivers: Drivers, started: UUID | None) -> Target:
    """Return the disk that somebody chose, and confirmed by its name."""
    while True:
        deadline = time.monotonic() + LOOK_SECONDS
        while not (known := found(drivers, started)) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        screen.disks(known)
        answer = ask("  Install on which disk? Its number or name, r to look again, q to stop: ")
        if answer == _OFF:
            end_machine(Power.OFF)
        number = int(answer) if answer.isdecimal() and len(answer) < len("1000") else 0
        name = known[number - 1].name if 0 < number <= len(known) else answer
        target = next((one for one in known if one.name == name), None)
        if target is None:
            if answer != _AGAIN:
                screen.warn(f"There is no disk {answer!a:.40}.")
            continue
        screen.warn(f"Everything on {target} will be lost.")
        if ask(f"  Type {target.name} to install: ") == target.name:
            return target
        screen.warn("That is another name; nothing was written.")


def _holds(disk: Path, partition: UUID) -> bool:
    """Tell whether a disk's table names a partition; a medium's table has a form of its own."""
    try:
        with disk.open("rb") as stream:
            return partition.bytes_le in stream.read(2 * HEAD)
    except OSError:
        return False


def _start_from(target: Target, screen: Screen) -> None:
    """Have firmware start the disk from now on, whatever else it could start."""
    try:
        FirmwareBoot(MachineDisk(target.path, {}).options()).keep(BANKS[0])
    except (CasemateError, OSError):
        screen.warn("Firmware takes no boot order: take the medium out before the restart.")


if __name__ == "__main__":
    main()
