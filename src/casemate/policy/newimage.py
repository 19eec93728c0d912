"""The image that a change of software leads to: boot.cfg, image database, and a name for each file.

Files of VIBs that stay keep their names and places; new ones get an 8.3 name of their own after
the others and before the image database. What a VIB without a checked signature taints stands in
the kernel's options, so it is measured as part of the command line.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from casemate.errors import LimitError, StateError
from casemate.formats.bootcfg import BootCfg, BootModule
from casemate.formats.descriptor import Descriptor, VibType
from casemate.formats.imgdb import DbVib, ImageDb, ImageProfile
from casemate.formats.osrelease import BOOT_IMAGE

DATABASE: Final = "imgdb.tgz"
BOOT_VIB: Final = "boot-image"
BOOT_PAYLOAD: Final = "boot"
"""VIB and payload of a bank's boot image: firmware starts it, so boot.cfg does not list it."""
UNCHECKED: Final = "noSigCheck"
"""Kernel option: descriptors whose signature may be missing or bad, each as 16 hex digits."""
MEASURED_APART: Final = frozenset({"b", "k", "s", "sb", "esxupdt"})
"""Base names that are measured into the PCRs of the core; no other VIB's file may have one."""
UPDATED: Final = "(Updated) "

_MAX_PROFILE_NAME: Final = 80


@dataclass(frozen=True, slots=True)
class NewVib:
    """A VIB of the new image: exact descriptor and signature, and whether it goes unchecked."""

    descriptor: Descriptor
    descriptor_bytes: bytes
    signature: bytes
    unchecked: bool = False


def mark_of(descriptor_bytes: bytes) -> str:
    """Return what names a descriptor in the kernel's options: 16 hex digits."""
    return hashlib.sha256(descriptor_bytes).hexdigest()[:16]


def unchecked_marks(kernelopt: str) -> frozenset[str]:
    """Return the descriptors whose signature the kernel's options leave unchecked."""
    words = dict(word.partition("=")[::2] for word in kernelopt.split())
    return frozenset(filter(None, words.get(UNCHECKED, "").split(",")))


def taint_of(vib_id: str) -> str:
    """Return the sentence by which the host shows that it runs such a VIB."""
    return f"{vib_id} was installed without checking its signature (--no-sig-check)."


def new_image(
    config: BootCfg,
    database: ImageDb,
    vibs: Sequence[NewVib],
    *,
    level: str | None = None,
    profile: ImageProfile | None = None,
) -> tuple[BootCfg, ImageDb]:
    """Return boot.cfg and image database of the new image; state and serial number are not set.

    They follow from the image before and the VIBs alone, the profile's date too (that of its
    newest VIB), so that what the new image measures is known before it is installed.

    Args:
        config: boot.cfg of the present image.
        database: Its image database.
        vibs: All VIBs of the new image, in order.
        level: The new acceptance level; None keeps the present one.
        profile: The profile that is installed as a whole; None where VIBs were changed.

    Raises:
        LimitError: More files than names can be given to.
        StateError: The loader is missing.
    """
    listed = tuple(
        DbVib(vib.descriptor_bytes, vib.signature, files)
        for vib, files in zip(vibs, _named(database, [vib.descriptor for vib in vibs]), strict=True)
    )
    ids = tuple(vib.descriptor.vib_id for vib in listed)
    before = profile or database.profile
    name = before.name
    if profile is None and not name.startswith(UPDATED) and ids != database.profile.vib_ids:
        name = f"{UPDATED}{name}"[:_MAX_PROFILE_NAME].rstrip()
    new_profile = replace(
        before,
        name=name,
        acceptance_level=level or database.profile.acceptance_level,
        creation_time=(
            profile.creation_time
            if profile is not None
            else max(vib.descriptor.release_date for vib in vibs)
        ),
        vib_ids=ids,
    )
    files = (file for vib in listed for file in vib.files.values())
    names = [name for name in files if name != BOOT_IMAGE]
    return _config(config, names, listed, vibs), ImageDb(new_profile, listed)


def _config(
    config: BootCfg, names: list[str], listed: Sequence[DbVib], vibs: Iterable[NewVib]
) -> BootCfg:
    if config.kernel not in names:
        raise StateError(
            f"No VIB of the new image brings {config.kernel}, which the host boots with.",
            code="base-missing",
            component=config.kernel,
        )
    kept = [module for module in config.modules if module.name in names]
    known = {config.kernel, *(module.name for module in kept)}
    added = [BootModule(name) for name in names if name not in known]
    last = [module for module in config.modules if module.name == DATABASE]
    marks = sorted(mark_of(vib.descriptor_bytes) for vib in vibs if vib.unchecked)
    words = [word for word in config.kernelopt.split() if not word.startswith(f"{UNCHECKED}=")]
    if marks:
        words.append(f"{UNCHECKED}={','.join(marks)}")
    together = hashlib.sha256()
    for vib in listed:
        together.update(hashlib.sha256(vib.descriptor_bytes).digest())
    build = f"{config.build.partition('-')[0]}-{together.hexdigest()[:8]}"
    return replace(
        config,
        title=f"Casemate {build}",
        build=build,
        kernelopt=" ".join(words),
        modules=(*kept, *added, *(last or [BootModule(DATABASE)])),
    )


def _named(database: ImageDb, vibs: Sequence[Descriptor]) -> Iterator[Mapping[str, str]]:
    """Yield the files of each VIB: the names that its namesake has, else names nobody has."""
    present = {vib.descriptor.name: vib.files for vib in database.vibs}
    taken = {name for one in vibs for name in present.get(one.name, {}).values()} | {DATABASE}
    for one in vibs:
        files: dict[str, str] = {}
        if one.type is VibType.BOOTBANK:
            for payload in one.payloads:
                known = present.get(one.name, {}).get(payload.name)
                if one.name == BOOT_VIB and payload.name == BOOT_PAYLOAD:
                    known = BOOT_IMAGE
                files[payload.name] = known or _free(payload.name, taken)
                taken.add(files[payload.name])
        yield files


def _free(payload: str, taken: set[str]) -> str:
    stem = re.sub(r"[^0-9a-z]", "", payload.lower())[:8] or "payload"
    if stem in MEASURED_APART:
        stem = f"{stem}x"
    for number in range(100):
        name = f"{stem}.v{number:02}"
        if name not in taken:
            return name
    raise LimitError(f"There are too many payloads named {payload}.", code="boot-file-name")
