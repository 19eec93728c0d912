"""``casemate image drtm``: the configuration of a dynamic launch, and what it will measure."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from casemate.cli.trust import add_common
from casemate.formats.osrelease import BOOT_IMAGE
from casemate.image.bootable import PLACE
from casemate.image.drtm import ROOM, write_launch
from casemate.kernel.home import find_home


def register_drtm(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``drtm`` to the commands of ``casemate image``."""
    parser = actions.add_parser(
        "drtm", help="write what a machine with Intel TXT needs to launch the image by tboot"
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
        print(f"PCR {pcr} is extended by {digest} (SHA-256)")
    print(f"Copy them to {ROOM}, with tboot.gz and the processor's SINIT module as SINIT.bin.")
    return 0
