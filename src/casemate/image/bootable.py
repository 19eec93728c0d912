"""Builds everything of a machine that boots by itself: VIBs, boot image, disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from casemate.image.bootreference import write_boot_reference
from casemate.image.build import RELEASED, Image, build_image
from casemate.image.debian import Packages
from casemate.image.disk import Layout, write_disk
from casemate.image.host import recipes
from casemate.image.initrd import write_initrd
from casemate.image.linux import Kernel, linux_recipes
from casemate.image.pki import initialise, initialise_secure_boot, load_boot_signer
from casemate.image.uki import BootImage, make_boot_image

BOOT_FILE: Final = "boot.efi"
REFERENCE: Final = "reference.json"
PLACE: Final = "bootable"
"""Directory in the home: bank, boot image and reference of the last build."""


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
    total = len(plan) + 4

    def report(what: str, done: int, _of: int) -> None:
        progress(what, done, total)

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
    kernel = Kernel(packages)
    initrd = write_initrd(plan, kernel, home / "trust", scratch)
    progress("first root", total - 2, total)
    boot = make_boot_image(packages, kernel, initrd, image.build, load_boot_signer(home))
    boot_file = place / BOOT_FILE
    boot_file.write_bytes(boot.data)
    write_boot_reference(home, boot_file, image.bank, place / REFERENCE, now)
    progress("boot image", total - 1, total)
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        write_disk(out, boot.data, image.bank, Path(temporary), layout)
    progress(str(out), total, total)
    return Bootable(image, boot, out)
