"""The loader's main program: runs from sealed b.b00 as the host's first process.

``python -I -B -c '... sys.path.insert(0, "/proc/self/fd/N") ...'`` with N the sealed copy that
the D-RTM launch hashed; ends by becoming init inside the visor root.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from casemate.errors import CasemateError
from casemate.kernel.boot.handover import INIT, become
from casemate.kernel.boot.load import load
from casemate.kernel.boot.progress import Progress
from casemate.kernel.boot.settings import Settings, load_settings
from casemate.kernel.boot.visor import enter_visor
from casemate.kernel.home import Home
from casemate.kernel.tpm.device import Tpm
from casemate.kernel.tpm.swtpm import socket_path


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
