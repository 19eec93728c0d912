"""The first program of a machine that boots by itself: from firmware's hands to the visor root.

Firmware has verified and measured the boot image that this program came in. It finds the boot
banks on the machine's disk, chooses one, and loads it as everywhere: verified, measured into the
machine's TPM, mounted. The log goes on where firmware's ends. A bank that has another boot image
is booted by that one: the machine starts again with it. A bank that fails is marked and the
machine starts again, because only a restart gives the TPM a clean state for the other bank.

Whatever goes wrong ends in ``refuse``: if the first process ended, Linux would panic.
"""

from __future__ import annotations

import shutil
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from casemate.errors import BootError, CasemateError
from casemate.formats.bootcfg import BootState
from casemate.formats.hostsettings import HOST_NAME
from casemate.kernel.boot.ask import ask
from casemate.kernel.boot.bank import read_banks, read_images, write_states, write_tried
from casemate.kernel.boot.drivers import Drivers
from casemate.kernel.boot.firmware import Firmware, read_firmware
from casemate.kernel.boot.firmwareboot import FirmwareBoot, started_partition
from casemate.kernel.boot.handover import become
from casemate.kernel.boot.lastword import CONSOLES, named, say
from casemate.kernel.boot.load import load
from casemate.kernel.boot.machinedisk import STATE, MachineDisk, find_disk, mount_home
from casemate.kernel.boot.progress import Progress, open_terminal
from casemate.kernel.boot.settings import Settings
from casemate.kernel.boot.statedisk import Surroundings, open_state
from casemate.kernel.boot.visor import DEVICES, enter_visor
from casemate.kernel.cells.hostmemory import join_host_group
from casemate.kernel.home import INSIDE, Home
from casemate.kernel.sys import mounts
from casemate.kernel.sys.devicemapper import crypt
from casemate.kernel.sys.power import Power, end_machine, ignore_keys
from casemate.kernel.tpm.device import Tpm
from casemate.machine.processplan import TERMINALS
from casemate.policy.banks import BootPlan, ImagePlan, after_failure, plan_boot, plan_image

OWN_MACHINE = ("-I", "-B", "-m", "casemate.kernel.ownmachine")
HOME_SPACE = 256 << 20
"""Bytes of RAM that the home may take: sockets, logs, the record of the boot."""

MODULES = (
    *("loop", "overlay", "erofs", "vfat", "nls_cp437", "nls_ascii", "efivarfs"),
    *("dm_crypt", "xts", "ecb"),
)
SHOW_SECONDS = 5.0
"""How long a refusal stays on the console before the machine starts again."""

_FIRST = Path("/run/first")
_HOME = Path("/run/home")
_LAYERS = Path("/run/visor")
_TRUST = Path("/trust")
_IDENTITY = Path("/image")


@dataclass(slots=True)
class Attempt:
    """How far the boot came; what is known here decides what a failure leads to."""

    progress: Progress
    home: Home | None = None
    plan: BootPlan | None = None
    firmware: FirmwareBoot | None = None
    consoles: tuple[Path, ...] = ()


def main() -> NoReturn:
    """Boot the machine: become the next program, start again, or stay with the reason shown."""
    attempt = Attempt(Progress(-1), consoles=CONSOLES)
    try:
        _boot(attempt)
    except BaseException as error:  # noqa: BLE001 (Linux panics when its first process ends)
        refuse(attempt, named(error, "boot loader"))
    while True:
        signal.pause()


def refuse(
    attempt: Attempt,
    error: CasemateError,
    end: Callable[[Power], object] = end_machine,
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Tell why the boot failed, and start the machine again where another bank can boot.

    Returns where there is nothing else to try, or where Linux does not restart the machine.
    """
    again = False
    if attempt.home is not None and attempt.plan is not None:
        try:
            _mark(attempt.home, attempt.plan, error, attempt.firmware)
            again = True
        except BaseException as nothing_left:  # noqa: BLE001 (as in main)
            error = named(nothing_left, "boot loader")
    say(error, attempt.consoles)
    attempt.progress.refuse(error)
    if again:
        with suppress(BaseException):
            wait(SHOW_SECONDS)
            end(Power.RESTART)


def _boot(attempt: Attempt) -> NoReturn:
    """Boot a bank, or start the machine again with the image of another one."""
    _first_mounts()
    attempt.progress = Progress(open_terminal("ttyS0"), open_terminal("tty1"))
    attempt.progress.tell("start", uptime=_uptime())
    drivers = Drivers()
    drivers.need(*MODULES)
    with suppress(CasemateError):  # a firmware without variables
        mounts.firmware_variables("/sys")
    disk = find_disk(drivers, started_partition())
    home = attempt.home = mount_home(disk, _HOME, _TRUST)
    attempt.firmware = _firmware_boot(disk, home)
    plan = attempt.plan = choose(home, _IDENTITY.read_text().strip(), attempt)
    write_states(home, plan.states)
    settings = Settings(
        home=str(INSIDE),
        bank=plan.bank.name,
        host_name=HOST_NAME,
        api="",
        progress=attempt.progress.descriptor,
        listener=-1,
        loader=-1,
        boot_time=time.time(),
        launch_digests={},
        drtm=False,
        own_machine=True,
    )
    firmware = read_firmware()
    with Tpm.hardware() as tpm:
        booted = load(settings, home, _LAYERS, tpm, attempt.progress, firmware)
        with suppress(CasemateError):  # a processor without AES instructions refuses it
            drivers.need("aesni_intel")
        _open_state(disk, home, tpm, firmware, attempt.progress)
    _forget_first_root()
    join_host_group()
    devices = (*DEVICES, "tpmrm0", "console", *TERMINALS)
    enter_visor(booted.root, home, devices, mounts_inside=True)
    attempt.home = Home(INSIDE)
    become(OWN_MACHINE, settings)


def _open_state(
    disk: MachineDisk, home: Home, tpm: Tpm, firmware: Firmware, progress: Progress
) -> None:
    device = disk.parts.get(STATE)
    if device is None:
        raise BootError(
            "the disk has no partition for the host's state",
            code="partition",
            component=STATE,
            remedy="Check the disk; install the image again.",
        )
    around = Surroundings(
        crypt=lambda device, key: crypt(STATE, device, key),
        mount=lambda view: mounts.disk(view, home.state, "ext4"),
        ask=ask,
    )
    open_state(device, home, tpm, firmware, progress, around)


def choose(
    home: Home, running: str, attempt: Attempt, end: Callable[[Power], object] = end_machine
) -> BootPlan:
    """Return the plan of the bank to boot; start the machine again for another boot image.

    Where firmware cannot be told to start that one, a bank that the running image boots is better
    than none. Raises BootError where there is no bank at all.
    """
    banks, images = read_banks(home), read_images(home)
    chosen = plan_image(banks, images, running)
    if not chosen.start:
        return chosen.plan
    try:
        _start_image(home, chosen, attempt)
    except CasemateError as error:
        say(error, attempt.consoles)
        return plan_boot([one for one in banks if images.get(one.name, "") in ("", running)])
    end(Power.RESTART)
    return chosen.plan


def _start_image(home: Home, chosen: ImagePlan, attempt: Attempt) -> None:
    """Have the chosen bank's boot image started next. Raises BootError, HostError."""
    for name in chosen.failed:
        attempt.progress.tell("image-failed", bank=name)
    write_states(home, [(name, BootState.INVALID) for name in chosen.failed])
    bank = chosen.plan.bank.name
    if attempt.firmware is None:
        raise BootError(
            f"{bank} is booted by another boot image, and firmware cannot be told to start it",
            code="boot-variable",
            component=bank,
            remedy=f"Choose the entry Casemate {bank} in the firmware's boot menu.",
        )
    write_tried(home, bank)
    attempt.firmware.once(bank)
    attempt.progress.tell("image", bank=bank)


def _mark(home: Home, plan: BootPlan, error: CasemateError, firmware: FirmwareBoot | None) -> None:
    """Make the other bank boot next. Raises the failure where there is no other.

    The only bank keeps its state: what made it fail (a wrong clock, a TPM that was off) may pass.
    """
    try:
        other = after_failure(plan, error.finding()).bank
    except CasemateError as nothing_left:
        if plan.bank.config is not None:
            write_states(home, [(plan.bank.name, plan.bank.config.bootstate)])
        raise _told_as_end(nothing_left, error) from error
    write_states(home, [(plan.bank.name, BootState.INVALID)])
    if firmware is not None:
        with suppress(CasemateError):  # the image that starts then finds out by itself
            firmware.once(other.name)


def _told_as_end(outer: CasemateError, inner: CasemateError) -> CasemateError:
    """Return the inner error, whose remedy is the better one, told as the end of the boot."""
    return BootError(
        f"{inner.component}: {inner.reason} {outer.reason}",
        code=inner.code,
        component=inner.component,
        remedy=inner.remedy,
    )


def _firmware_boot(disk: MachineDisk, home: Home) -> FirmwareBoot | None:
    """Return the way to tell firmware what to start; None where it has no variables for that."""
    with suppress(CasemateError, OSError):
        boot = FirmwareBoot(disk.options())
        boot.record(home)
        return boot
    return None


def _first_mounts() -> None:
    mounts.proc("/proc")
    ignore_keys()
    mounts.machine_views("/sys")
    mounts.devices("/dev")
    mounts.tmpfs("/run", size=HOME_SPACE, mode=0o755, access=mounts.Access.NO_SUID)
    _FIRST.mkdir()
    mounts.leave_first_root(_FIRST)
    socket.sethostname(HOST_NAME)


def _forget_first_root() -> None:
    """Give back the RAM of the first root: what runs of it is loaded, nothing will be again."""
    device = Path("/").stat().st_dev
    for name in ("usr", "trust"):
        place = Path("/", name)
        if place.is_dir() and place.stat().st_dev == device:
            shutil.rmtree(place, ignore_errors=True)


def _uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


if __name__ == "__main__":
    main()
