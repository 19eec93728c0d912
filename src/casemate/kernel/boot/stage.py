"""The loader's main program: runs from sealed b.b00 as the host's first process.

``python -I -B -c '... sys.path.insert(0, "/proc/self/fd/N") ...'`` with N the sealed copy that
the D-RTM launch hashed; ends by becoming init inside the visor root.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from casemate.errors import CasemateError
from casemate.kernel.boot.firmware import NO_FIRMWARE, Firmware
from casemate.kernel.boot.layers import VisorRoot
from casemate.kernel.boot.loader import Loaded, Loader
from casemate.kernel.boot.progress import Progress
from casemate.kernel.boot.record import BootRecord, write_record
from casemate.kernel.boot.settings import ENVIRONMENT, PYTHON, Settings, load_settings
from casemate.kernel.boot.visor import enter_visor
from casemate.kernel.home import Home
from casemate.kernel.sys import mounts
from casemate.kernel.tpm.device import Tpm
from casemate.kernel.tpm.swtpm import socket_path
from casemate.policy.measure import BANKS, BootMeasurer

INIT = (PYTHON, "-I", "-B", "-m", "casemate.kernel.start")
_LAYER_SPACE = 1 << 20  # bytes: the tmpfs that only holds mount points


def main() -> int:
    """Boot as told by the first argument. Returns only when the boot was refused."""
    settings = load_settings(sys.argv[1])
    progress = Progress(settings.progress)
    try:
        _boot(settings, progress)
    except CasemateError as error:
        progress.refuse(error)
    return 1


def _boot(settings: Settings, progress: Progress) -> None:
    home = Home(Path(settings.home))
    with Tpm.embedded(socket_path(home)) as tpm:
        booted = load(settings, home, home.run / "visor", tpm, progress)
    enter_visor(booted.root, home)
    if settings.loader >= 0:
        os.close(settings.loader)
    become(INIT, settings)


@dataclass(frozen=True, slots=True)
class Booted:
    """A bank that was loaded: its joined layers, and what was loaded into them."""

    root: Path
    loaded: Loaded


def load(
    settings: Settings,
    home: Home,
    place: Path,
    tpm: Tpm,
    progress: Progress,
    firmware: Firmware = NO_FIRMWARE,
) -> Booted:
    """Load the bank into layers below ``place``, and write the record of it into the home."""
    place.mkdir(exist_ok=True, parents=True)
    mounts.tmpfs(
        place, size=_LAYER_SPACE, mode=0o700, access=mounts.Access.NO_SUID | mounts.Access.NO_DEV
    )
    visor = VisorRoot(place)
    banks = firmware.banks or BANKS
    measurer = BootMeasurer(banks, drtm=settings.drtm)
    launch = {name: bytes.fromhex(value) for name, value in settings.launch_digests.items()}
    progress.tell("load", bank=settings.bank)
    loader = Loader(
        home.path / settings.bank,
        home.trust,
        tpm,
        measurer,
        dt.datetime.now(dt.UTC),
        progress,
        firmware,
    )
    loaded = loader.load(visor, launch)
    root = visor.join()
    _hand_over(settings, home, loaded, banks)
    progress.tell("visor", layers=len(loaded.components))
    return Booted(root, loaded)


def become(program: Sequence[str], settings: Settings) -> NoReturn:
    """Run the next program in this process; it inherits pipe and socket."""
    for descriptor in (settings.progress, settings.listener):
        if descriptor >= 0:
            os.set_inheritable(descriptor, True)
    os.execve(PYTHON, [*program, settings.dump()], ENVIRONMENT)  # noqa: S606 (no shell is the point)


def _hand_over(settings: Settings, home: Home, loaded: Loaded, banks: tuple[str, ...]) -> None:
    profile = loaded.db.profile
    record = BootRecord(
        bank=settings.bank,
        profile=profile.name,
        vendor=profile.vendor,
        build=loaded.cfg.build,
        acceptance_level=str(profile.acceptance_level),
        command_line=loaded.cfg.kernelopt,
        boot_time=settings.boot_time,
        drtm=settings.drtm,
        banks=banks,
        taints=tuple(loaded.taints),
    )
    write_record(home.boot_record, record, loaded.components, bytes(loaded.log))
