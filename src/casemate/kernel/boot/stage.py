"""The loader's main program: runs from sealed b.b00 as the host's first process.

``python -I -B -c '... sys.path.insert(0, "/proc/self/fd/N") ...'`` with N the sealed copy that
the D-RTM launch hashed; ends by becoming init inside the visor root.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
from pathlib import Path

from casemate.errors import CasemateError
from casemate.kernel.boot.layers import VisorRoot
from casemate.kernel.boot.loader import Loaded, Loader
from casemate.kernel.boot.progress import Progress
from casemate.kernel.boot.record import BootRecord, write_record
from casemate.kernel.boot.settings import Settings, load_settings
from casemate.kernel.boot.visor import enter_visor
from casemate.kernel.home import Home
from casemate.kernel.sys import mounts
from casemate.kernel.tpm.device import Tpm
from casemate.kernel.tpm.swtpm import socket_path
from casemate.policy.measure import BANKS, BootMeasurer

PYTHON = "/usr/bin/casemate-python"
INIT = (PYTHON, "-I", "-B", "-m", "casemate.kernel.start")
ENVIRONMENT = {"PATH": "/usr/bin", "LANG": "C.UTF-8", "HOME": "/"}
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
    place = home.run / "visor"
    place.mkdir(exist_ok=True)
    mounts.tmpfs(
        place, size=_LAYER_SPACE, mode=0o700, access=mounts.Access.NO_SUID | mounts.Access.NO_DEV
    )
    visor = VisorRoot(place)
    measurer = BootMeasurer(BANKS, drtm=settings.drtm)
    launch = {name: bytes.fromhex(value) for name, value in settings.launch_digests.items()}
    progress.tell("load", bank=settings.bank)
    with Tpm.embedded(socket_path(home)) as tpm:
        loader = Loader(
            home.path / settings.bank,
            home.trust,
            tpm,
            measurer,
            dt.datetime.now(dt.UTC),
            progress,
        )
        loaded = loader.load(visor, launch)
    root = visor.join()
    _hand_over(settings, home, loaded)
    progress.tell("visor", layers=len(loaded.components))
    enter_visor(root, home)
    for descriptor in (settings.progress, settings.listener):
        if descriptor >= 0:
            os.set_inheritable(descriptor, True)
    if settings.loader >= 0:
        os.close(settings.loader)
    os.execve(PYTHON, [*INIT, settings.dump()], ENVIRONMENT)  # noqa: S606 (no shell is the point)


def _hand_over(settings: Settings, home: Home, loaded: Loaded) -> None:
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
        banks=BANKS,
    )
    write_record(home.boot_record, record, loaded.components, bytes(loaded.log))
