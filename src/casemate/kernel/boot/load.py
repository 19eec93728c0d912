"""From a chosen bank to a visor root: load its layers, write the record of it.

Shared by the loader of an installed Linux and by the one that firmware starts.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from casemate.kernel.boot.firmware import NO_FIRMWARE, Firmware
from casemate.kernel.boot.layers import VisorRoot
from casemate.kernel.boot.loader import Loaded, Loader
from casemate.kernel.boot.progress import Progress
from casemate.kernel.boot.record import BootRecord, write_record
from casemate.kernel.boot.settings import Settings
from casemate.kernel.home import Home
from casemate.kernel.sys import mounts
from casemate.kernel.tpm.device import Tpm
from casemate.policy.measure import BANKS, BootMeasurer

_LAYER_SPACE = 1 << 20  # bytes: the tmpfs that only holds mount points


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
    _hand_over(settings, home, loaded, banks, visor)
    progress.tell("visor", layers=len(loaded.components))
    return Booted(root, loaded)


def _hand_over(
    settings: Settings, home: Home, loaded: Loaded, banks: tuple[str, ...], visor: VisorRoot
) -> None:
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
        layers=tuple(visor.devices),
        trees=tuple(visor.trees),
    )
    write_record(home.boot_record, record, loaded.components, bytes(loaded.log))
