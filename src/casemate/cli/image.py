"""``casemate image``: builds the host's image and says what a boot bank holds."""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from casemate.cli.drtm import register_drtm
from casemate.cli.install import register_install
from casemate.cli.machine import register_machine
from casemate.cli.progress import steps
from casemate.cli.reference import register_reference
from casemate.cli.releasedate import released
from casemate.cli.terminal import PlainConsole
from casemate.cli.trust import add_common
from casemate.formats.descriptor import parse_descriptor
from casemate.image.build import Image, build_image
from casemate.image.profile import read_bank
from casemate.image.reference import write_reference
from casemate.kernel.home import find_home

MEBIBYTE = 1 << 20


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``image`` with its commands."""
    parser = commands.add_parser("image", help="build the host's image and look at it")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    build = actions.add_parser("build", help="build all VIBs, sign them, fill the boot bank")
    build.add_argument("--out", type=Path, help="where the VIBs go (default: <home>/vibs)")
    build.set_defaults(func=_build)
    profile = actions.add_parser("profile", help="show the image profile of a boot bank")
    profile.add_argument("--bank", choices=("bootbank", "altbootbank"), default="bootbank")
    profile.set_defaults(func=_profile)
    register_reference(actions)
    register_machine(actions)
    register_install(actions)
    register_drtm(actions)
    for action in (build, profile):
        add_common(action)


def _build(options: argparse.Namespace) -> int:
    home = find_home(options.home).path
    began = time.monotonic()
    with steps("Building the image", quiet=options.json) as progress:
        image = build_image(
            home,
            options.out or home / "vibs",
            now=datetime.now(UTC),
            released=released(),
            progress=progress,
        )
    reference = home / "reference.json"
    write_reference(home, image.bank, reference, now=datetime.now(UTC))
    seconds = time.monotonic() - began
    if options.json:
        print(json.dumps(_facts(image, seconds)))
        return 0
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title, justify in (("VIB", "left"), ("Level", "left"), ("File", "left"), ("MiB", "right")):
        table.add_column(title, justify="right" if justify == "right" else "left")
    for recipe, payload in image.payloads:
        name = f"{recipe.name} {recipe.version}"
        size = f"{payload.size / MEBIBYTE:.1f}"
        table.add_row(name, recipe.level, recipe.boot_name, size)
    PlainConsole().print(table)
    print(f"Image {image.build} in {image.bank}, reference {reference}, {seconds:.1f} s")
    return 0


def _facts(image: Image, seconds: float) -> dict[str, object]:
    return {
        "build": image.build,
        "bank": str(image.bank),
        "written": image.written,
        "seconds": round(seconds, 2),
        "vibs": [
            {
                "name": recipe.name,
                "version": recipe.version,
                "level": recipe.level,
                "file": recipe.boot_name,
                "size": payload.size,
                "sha256": payload.sha256,
                "cached": payload.cached,
                "depends": sorted(recipe.requires),
            }
            for recipe, payload in image.payloads
        ],
    }


def _profile(options: argparse.Namespace) -> int:
    home = find_home(options.home).path
    configuration, database = read_bank(home / options.bank)
    profile = database.profile
    rows = []
    for vib in database.vibs:
        known = parse_descriptor(vib.descriptor_bytes)
        files = ", ".join(vib.files.values())
        rows.append(
            {
                "name": known.name,
                "version": known.version,
                "vendor": known.vendor,
                "level": known.acceptance_level,
                "file": files,
            }
        )
    if options.json:
        facts = {
            "name": profile.name,
            "vendor": profile.vendor,
            "level": str(profile.acceptance_level),
            "created": profile.creation_time.isoformat(),
            "build": configuration.build,
            "bootstate": configuration.bootstate.name,
            "vibs": rows,
        }
        print(json.dumps(facts))
        return 0
    state = configuration.bootstate.name
    print(f"{profile.name} ({profile.vendor}), {profile.acceptance_level}, bank {state}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("Name", "Version", "Vendor", "Level", "File"):
        table.add_column(title)
    for row in rows:
        table.add_row(*row.values())
    PlainConsole().print(table)
    return 0
