"""Writes a boot bank: payload files, image database and boot.cfg, in one step.

The new bank is written beside the old one and synchronised before it takes its place, so that a
power cut leaves a whole bank; the other bank is not touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import filecmp
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from casemate.errors import CasemateError, HostError, NotFoundError
from casemate.formats.bootcfg import BootCfg, BootModule, BootState, parse_bootcfg, write_bootcfg
from casemate.formats.descriptor import parse_descriptor
from casemate.formats.imgdb import DbVib, ImageDb, ImageProfile, parse_imgdb, write_imgdb
from casemate.formats.osrelease import BOOT_IMAGE

LOADER: Final = "b.b00"
"""What a D-RTM launch measures; boot.cfg calls it the kernel."""
DATABASE: Final = "imgdb.tgz"
CONFIGURATION: Final = "boot.cfg"

BOOT_ORDER: Final = (
    "k.b00",
    "baselibs.v00",
    "python3.v00",
    "pylibs.v00",
    "swtpm.v00",
    "firmware.v00",
    "qemu.v00",
    "hostd.v00",
)
"""Files of our own VIBs in boot order; those of others come after them, by name."""


@dataclass(frozen=True, slots=True)
class BuiltVib:
    """A VIB that is ready to be installed.

    Args:
        descriptor: exact bytes of descriptor.xml.
        signature: exact bytes of sig.pkcs7.
        files: payload name to 8.3 boot file name.
        payloads: payload name to the file that holds its bytes.
        path: the VIB itself.
    """

    descriptor: bytes
    signature: bytes
    files: Mapping[str, str]
    payloads: Mapping[str, Path]
    path: Path


def make_profile(
    vibs: Sequence[BuiltVib], *, name: str, vendor: str, level: str, created: datetime
) -> ImageProfile:
    """Return the image profile of a set of VIBs."""
    return ImageProfile(
        name=name,
        vendor=vendor,
        acceptance_level=level,
        creation_time=created,
        vib_ids=tuple(parse_descriptor(vib.descriptor).vib_id for vib in vibs),
    )


def write_bank(
    bank: Path, vibs: Sequence[BuiltVib], profile: ImageProfile, *, build: str, kernelopt: str = ""
) -> bool:
    """Write a boot bank, unless it holds exactly this already.

    Args:
        bank: the bank's directory; replaced as a whole.
        vibs: what it shall hold.
        profile: their image profile.
        build: build identification, shown at boot.
        kernelopt: options of the kernel.

    Returns:
        Whether the bank was written.

    Raises:
        HostError: it cannot be written.
    """
    names = {name for vib in vibs for name in vib.files.values()} - {LOADER, BOOT_IMAGE}
    order = [*filter(names.__contains__, BOOT_ORDER), *sorted(names.difference(BOOT_ORDER))]
    configuration = BootCfg(
        kernel=LOADER,
        modules=tuple(BootModule(name) for name in (*order, DATABASE)),
        title=f"Casemate {build}",
        kernelopt=kernelopt,
        build=build,
        updated=_serial(bank) + 1,
        bootstate=BootState.VALID,
    )
    database = write_imgdb(
        ImageDb(
            profile=profile,
            vibs=tuple(DbVib(vib.descriptor, vib.signature, dict(vib.files)) for vib in vibs),
        )
    )
    payloads = {name: vib.payloads[part] for vib in vibs for part, name in vib.files.items()}
    if _holds(bank, configuration, database, payloads):
        return False
    fresh, old = bank.with_name(f"{bank.name}.new"), bank.with_name(f"{bank.name}.old")
    try:
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        fresh.mkdir(parents=True)
        for name, source in payloads.items():
            shutil.copyfile(source, fresh / name)
        (fresh / DATABASE).write_bytes(database)
        (fresh / CONFIGURATION).write_bytes(write_bootcfg(configuration))
        for path in (*fresh.iterdir(), fresh):
            _synchronise(path)
        if bank.exists():
            bank.rename(old)
        fresh.rename(bank)
        _synchronise(bank.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise HostError(
            f"The boot bank {bank} cannot be written: {error.strerror}.",
            code="bank-write",
            component=str(bank),
            remedy="Make room on its disk, or run as root.",
        ) from error
    return True


def read_bank(bank: Path) -> tuple[BootCfg, ImageDb]:
    """Return configuration and image database of a boot bank.

    Raises:
        NotFoundError: there is none.
        FormatError: one of them is damaged.
    """
    try:
        configuration = (bank / CONFIGURATION).read_bytes()
        database = (bank / DATABASE).read_bytes()
    except OSError as error:
        raise NotFoundError(
            f"{bank} holds no image: {error.strerror}.",
            component=str(bank),
            remedy="Build one: casemate image build.",
        ) from error
    return parse_bootcfg(configuration), parse_imgdb(database)


def _holds(
    bank: Path, configuration: BootCfg, database: bytes, payloads: Mapping[str, Path]
) -> bool:
    """Tell whether a bank is bootable and holds just these bytes; its serial number may differ."""
    try:
        present = parse_bootcfg((bank / CONFIGURATION).read_bytes())
        return (
            dataclasses.replace(present, updated=configuration.updated) == configuration
            and (bank / DATABASE).read_bytes() == database
            and all(
                filecmp.cmp(bank / name, source, shallow=False) for name, source in payloads.items()
            )
        )
    except (OSError, CasemateError):
        return False


def _serial(bank: Path) -> int:
    """Return the highest serial number of this bank and of those beside it, 0 without any."""
    found = [0]
    for configuration in bank.parent.glob(f"*/{CONFIGURATION}"):
        # A damaged bank has no say in which one is the newest.
        with contextlib.suppress(OSError, CasemateError):
            found.append(parse_bootcfg(configuration.read_bytes()).updated)
    return max(found)


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
