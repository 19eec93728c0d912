"""``casemate image reference``: the values that a clean boot of an image must give."""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from casemate.cli.trust import add_common
from casemate.formats.osrelease import BOOT_IMAGE
from casemate.image.bootreference import firmware_events
from casemate.image.reference import write_reference
from casemate.image.updated import write_updated
from casemate.kernel.home import find_home


def register_reference(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``reference`` to the commands of ``casemate image``."""
    parser = actions.add_parser(
        "reference", help="compute and sign what a clean boot must measure, without booting"
    )
    parser.add_argument(
        "--bank", type=Path, help="directory of the boot bank (default: <home>/bootbank)"
    )
    parser.add_argument(
        "--vibs", type=Path, help="take the payloads from the VIB files in this directory"
    )
    parser.add_argument(
        "--update",
        type=Path,
        nargs="+",
        metavar="VIB",
        help="of what the bank becomes when these VIB files are installed on the host",
    )
    parser.add_argument(
        "--boot-image",
        type=Path,
        help="of a machine that boots by itself (default: the bank's own, where it has one)",
    )
    parser.add_argument("--out", type=Path, help="file to write (default: <home>/reference.json)")
    parser.set_defaults(func=_reference)
    add_common(parser)


def _reference(options: argparse.Namespace) -> int:
    home = find_home(options.home)
    out = options.out or home.reference
    bank = options.bank or home.banks[0]
    with ExitStack() as stack:
        if options.update:
            updated = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write_updated(bank, options.update, updated)
            bank = updated
        boot = options.boot_image or bank / BOOT_IMAGE
        given = options.boot_image is not None or boot.exists()
        manifest = write_reference(
            home.path,
            bank,
            out,
            now=datetime.now(UTC),
            vibs=options.vibs,
            firmware=firmware_events(home.path, boot) if given else (),
        )
    pcrs = {
        bank: {str(pcr): value.hex() for pcr, value in values.items()}
        for bank, values in manifest.pcrs.items()
    }
    if options.json:
        facts = {
            "file": str(out),
            "profile": manifest.profile_name,
            "build": manifest.build,
            "serial": manifest.serial,
            "events": len(manifest.events),
            "pcrs": pcrs,
        }
        print(json.dumps(facts))
        return 0
    print(f"{manifest.profile_name} {manifest.build}: {len(manifest.events)} events, signed: {out}")
    for bank, values in pcrs.items():
        for pcr, value in values.items():
            print(f"{bank:8} PCR {pcr:>2}  {value}")
    return 0
