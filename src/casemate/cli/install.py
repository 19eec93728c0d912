"""``casemate image install`` and ``iso``: the image on a disk of a machine, asked or unattended."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from casemate.cli.progress import steps
from casemate.cli.trust import add_common
from casemate.errors import ArgumentError, HostError
from casemate.formats.cms import sign_detached
from casemate.formats.hostsettings import FirstSettings, write_first
from casemate.formats.kickstart import MAX_SIZE, Kickstart, disk_name, parse_kickstart
from casemate.image.bootable import PLACE
from casemate.image.debian import Packages
from casemate.image.installer import Unattended, build_installer, write_iso
from casemate.image.pki import load_boot_signer, load_signer
from casemate.image.vm import DISK
from casemate.kernel.accounts import hash_password
from casemate.kernel.boot.install import image_source, install
from casemate.kernel.boot.targets import Target, choose, targets
from casemate.kernel.home import Home, find_home
from casemate.policy.passwords import check_password
from casemate.policy.references import REFERENCE_LEVEL
from casemate.policy.signedtext import join_signed

ISO = "casemate.iso"


def register_install(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``install`` and ``iso`` to the commands of ``casemate image``."""
    action = actions.add_parser(
        "install", help="put the built disk on a disk of this machine, which boots it from then on"
    )
    action.add_argument("--image", type=Path, help="the disk (default: <home>/bootable/disk.img)")
    how = action.add_mutually_exclusive_group()
    how.add_argument("--script", type=Path, help="unattended: a file in kickstart's words")
    how.add_argument("--disk", help="its name, as in /dev (asked for when absent)")
    action.add_argument(
        "--overwrite", action="store_true", help="also a disk that holds something (with --disk)"
    )
    action.set_defaults(func=_install)
    iso = actions.add_parser(
        "iso", help="write an ISO that firmware boots, and that installs the built disk"
    )
    iso.add_argument("--script", type=Path, help="unattended: a file in kickstart's words")
    iso.add_argument(
        "-o", "--out", type=Path, help=f"the ISO (default: <home>/bootable/{ISO})", metavar="FILE"
    )
    iso.set_defaults(func=_iso)
    for one in (action, iso):
        add_common(one)


def make_iso(home: Home, out: Path, script: Kickstart | None = None) -> None:
    """Write the ISO that installs the built disk of a home. Raises our errors."""
    place = home.path / PLACE
    unattended = None
    if script is not None:
        settings = signed_settings(home, script)
        unattended = Unattended(script.disk, script.overwrite, script.reboot, settings)
    signer, packages = load_boot_signer(home.path), Packages()
    program = build_installer(
        home.path, place / "bank", _built(place / DISK), signer, packages, unattended
    )
    write_iso(out, program)


def signed_settings(home: Home, script: Kickstart) -> bytes:
    """Return what the first start shall use, signed by this home; empty where that is nothing.

    Raises:
        ArgumentError: the password is not good enough.
        NotFoundError: the home has no keys.
    """
    hashed = script.password_hash
    if script.password:
        check_password("root", script.password)
        hashed = hash_password(script.password)
    chosen = FirstSettings(script.network, hashed)
    if chosen == FirstSettings():
        return b""
    body = write_first(chosen)
    signer = load_signer(home.path, REFERENCE_LEVEL)
    now = datetime.now(UTC)
    signature = sign_detached(body, signer.certificate, signer.key, signer.chain, signing_time=now)
    return join_signed(body, signature)


def _iso(options: argparse.Namespace) -> int:
    home = find_home(options.home)
    out = options.out or home.path / PLACE / ISO
    script = None if options.script is None else _script(options.script)
    began = time.monotonic()
    with steps("Building the installer", quiet=options.json) as progress:
        progress(str(out), 0, 1)
        make_iso(home, out, script)
        progress(str(out), 1, 1)
    notes = script.notes if script else ()
    facts = {
        "iso": str(out),
        "size": out.stat().st_size,
        "unattended": script is not None,
        "notes": notes,
        "seconds": round(time.monotonic() - began, 2),
    }
    if options.json:
        print(json.dumps(facts))
        return 0
    for note in notes:
        print(note)
    print(f"ISO {out}: {out.stat().st_size >> 20} MiB, {facts['seconds']} s")
    print("Firmware with the keys of this home boots it: as a CD, or copied to a stick or disk.")
    return 0


def _install(options: argparse.Namespace) -> int:
    home = find_home(options.home)
    image = _built(options.image or home.path / PLACE / DISK)
    found, notes, settings = targets(), tuple[str, ...](), b""
    if options.script is None:
        target, overwrite = _asked(found, options), bool(options.overwrite)
    elif options.overwrite:
        raise ArgumentError("the file says what is overwritten: --overwritevmfs", argument="script")
    else:
        wanted = _script(options.script)
        target, overwrite = choose(found, wanted.disk), wanted.overwrite
        settings = signed_settings(home, wanted)
        ignored = ("reboot: ignored, start the machine from its new disk yourself",)
        notes = (*wanted.notes, *(ignored if wanted.reboot else ()))
    with (
        image_source(image) as source,
        steps(f"Installing on {target.name}", quiet=options.json) as progress,
    ):
        install(source, target.path, overwrite=overwrite, settings=settings, progress=progress)
    if options.json:
        facts = {"disk": target.name, "size": target.size, "image": str(image), "notes": notes}
        print(json.dumps(facts))
        return 0
    for note in notes:
        print(note)
    print(f"Installed on {target}. Start the machine from it.")
    return 0


def _built(image: Path) -> Path:
    if not image.exists():
        raise HostError(
            "there is no image to install",
            code="no-image",
            component=str(image),
            remedy="Build it: casemate image disk.",
        )
    return image


def _script(path: Path) -> Kickstart:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_SIZE + 1)
    except OSError as error:
        raise HostError(
            f"the file cannot be read: {error.strerror}", component=str(path)
        ) from error
    return parse_kickstart(data)


def _asked(found: tuple[Target, ...], options: argparse.Namespace) -> Target:
    """Return the disk that a person chose, and confirmed by its name."""
    if options.disk is None:
        for one in found:
            print(one, file=sys.stderr)
    target = choose(found, disk_name(options.disk or _answer("Install on which disk? ")))
    if _answer(f"Install on {target}? Type its name to confirm: ") != target.name:
        raise ArgumentError("the name typed is another one; nothing was written", argument="disk")
    return target


def _answer(question: str) -> str:
    print(question, end="", file=sys.stderr, flush=True)
    try:
        return input().strip()
    except EOFError as error:
        raise ArgumentError("nobody answers; nothing was written", argument="disk") from error
