"""Builds everything of a machine that boots by itself: VIBs, boot image, disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import casemate
from casemate.formats.osrelease import BOOT_IMAGE
from casemate.image.bootreference import write_boot_reference
from casemate.image.build import RELEASED, Image, build_image
from casemate.image.debian import VERSION_LENGTH, Packages
from casemate.image.disk import Layout, write_disk
from casemate.image.host import recipes
from casemate.image.initrd import write_initrd
from casemate.image.linux import Kernel, linux_recipes
from casemate.image.modulekeys import keys_of, trust_keys
from casemate.image.pki import initialise, initialise_secure_boot, load_boot_signer
from casemate.image.uki import COMMAND_LINE, BootImage, boot_recipe, make_boot_image, read_stub

REFERENCE: Final = "reference.json"
PLACE: Final = "bootable"
"""Directory in the home: bank and reference of the last build."""


@dataclass(frozen=True, slots=True)
class Bootable:
    """A built machine: the image's VIBs and bank, the boot image, and the disk."""

    image: Image
    boot: BootImage
    disk: Path


def build_bootable(
    home: Path,
    out: Path,
    *,
    now: datetime,
    released: datetime = RELEASED,
    layout: Layout | None = None,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _of: None,
) -> Bootable:
    """Build the disk of a machine that boots by itself.

    Args:
        home: holds the PKI, the cache, and the bank that goes on the disk.
        out: the disk, a raw image.
        now: for certificates that have to be made.
        released: release date in the descriptors.
        layout: sizes of the partitions.
        progress: told about every step.

    Raises:
        HostError: the machine lacks a package or a program, or something cannot be written.
    """
    packages = Packages()
    initialise(home, now=now)
    initialise_secure_boot(home, now=now)
    scratch = home / "cache" / "image"
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    place = home / PLACE
    place.mkdir(parents=True, exist_ok=True)
    plan = (*recipes(packages, scratch), *linux_recipes(packages))
    total = len(plan) + 5

    def report(what: str, done: int, _of: int) -> None:
        progress(what, done + 2, total)

    kernel = Kernel(packages)
    trust_keys(home / "trust", keys_of(kernel.image(), kernel.release))
    options = " ".join(COMMAND_LINE).encode()
    first = write_initrd(plan, kernel, home / "trust", scratch, options + read_stub(packages))
    progress("first root", 1, total)
    boot = make_boot_image(packages, kernel, first, casemate.__version__, load_boot_signer(home))
    progress("boot image", 2, total)
    version = f"{casemate.__version__}-{kernel.version.replace('-', '.')}"[:VERSION_LENGTH]
    plan = (*plan, boot_recipe(boot, version, first.identity))
    image = build_image(
        home,
        place / "vibs",
        now=now,
        released=released,
        packages=packages,
        plan=plan,
        bank=place / "bank",
        progress=report,
    )
    write_boot_reference(home, image.bank / BOOT_IMAGE, image.bank, place / REFERENCE, now)
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        write_disk(out, boot.data, image.bank, Path(temporary), layout)
    progress(str(out), total, total)
    return Bootable(image, boot, out)
