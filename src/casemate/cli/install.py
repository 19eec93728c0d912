"""``casemate image install``: the image on a disk of this machine, asked for or unattended."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from casemate.cli.progress import steps
from casemate.cli.trust import add_common
from casemate.errors import ArgumentError, HostError
from casemate.formats.kickstart import MAX_SIZE, Kickstart, disk_name, parse_kickstart
from casemate.image.bootable import PLACE
from casemate.image.disk import MEBIBYTE
from casemate.image.install import Target, choose, install, targets
from casemate.image.vm import DISK
from casemate.kernel.home import find_home


def register_install(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``install`` to the commands of ``casemate image``."""
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
    add_common(action)


def _install(options: argparse.Namespace) -> int:
    image = options.image or find_home(options.home).path / PLACE / DISK
    if not image.exists():
        raise HostError(
            "there is no image to install",
            code="no-image",
            component=str(image),
            remedy="Build it: casemate image disk.",
        )
    found, notes = targets(), tuple[str, ...]()
    if options.script is None:
        target, overwrite = _asked(found, options), bool(options.overwrite)
    elif options.overwrite:
        raise ArgumentError("the file says what is overwritten: --overwritevmfs", argument="script")
    else:
        wanted = _script(options.script)
        target, overwrite, notes = choose(found, wanted.disk), wanted.overwrite, wanted.notes
    with steps(f"Installing on {target.name}", quiet=options.json) as progress:
        install(image, target.path, overwrite=overwrite, progress=progress)
    if options.json:
        facts = {"disk": target.name, "size": target.size, "image": str(image), "notes": notes}
        print(json.dumps(facts))
        return 0
    for note in notes:
        print(note)
    print(f"Installed on {_shown(target)}. Start the machine from it.")
    return 0


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
            print(_shown(one), file=sys.stderr)
    target = choose(found, disk_name(options.disk or _answer("Install on which disk? ")))
    if _answer(f"Install on {_shown(target)}? Type its name to confirm: ") != target.name:
        raise ArgumentError("the name typed is another one; nothing was written", argument="disk")
    return target


def _answer(question: str) -> str:
    print(question, end="", file=sys.stderr, flush=True)
    try:
        return input().strip()
    except EOFError as error:
        raise ArgumentError("nobody answers; nothing was written", argument="disk") from error


def _shown(target: Target) -> str:
    kind = ", removable" if target.removable else ""
    return f"{target.name} ({target.model or 'disk'}, {target.size // MEBIBYTE} MiB{kind})"
