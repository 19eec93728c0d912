"""``casemate image drtm``: the configuration of a dynamic launch, and what it will measure."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from casemate.cli.trust import add_common
from casemate.formats.osrelease import BOOT_IMAGE
from casemate.image.bootable import PLACE
from casemate.image.drtm import MENU, ROOM, SECURE_LAUNCH_MENU, write_launch
from casemate.kernel.home import find_home


def register_drtm(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``drtm`` to the commands of ``casemate image``."""
    parser = actions.add_parser(
        "drtm", help="write what a launch of the image by tboot or Secure Launch needs"
    )
    parser.add_argument("--boot-image", type=Path, help="(default: that of image disk)")
    parser.add_argument("--out", type=Path, help="directory (default: <home>/bootable/drtm)")
    parser.set_defaults(func=_drtm)
    add_common(parser)


def _drtm(options: argparse.Namespace) -> int:
    place = find_home(options.home).path / PLACE
    launch = write_launch(
        options.boot_image or place / "bank" / BOOT_IMAGE, options.out or place / "drtm"
    )
    digests = {str(pcr): digest.hex() for pcr, digest in launch.digests.items()}
    if options.json:
        files = [str(path) for path in launch.files]
        print(json.dumps({"files": files, "commandLine": launch.command_line, "extends": digests}))
        return 0
    for path in launch.files:
        print(path)
    for pcr, digest in digests.items():
        print(f"tboot extends PCR {pcr} by {digest} (SHA-256)")
    print(
        f"Copy them to {ROOM}, with what starts first. For {MENU}: tboot.gz and Intel's module for"
    )
    print(
        f"the processor as SINIT.bin. For {SECURE_LAUNCH_MENU}: SINIT.bin, or on AMD TrenchBoot's"
    )
    print("Secure Kernel Loader as skl.bin; it needs a GRUB and a Linux that know Secure Launch.")
    return 0
