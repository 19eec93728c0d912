"""Verify + measure (two banks) + seal + mount a whole image, against openssl hashing the files.

Usage, as root: python bench/boot.py [--home DIR] [--runs N]; builds an image when there is none.

Both sides handle the same files with warm caches, in turn. Ours does more: it copies into sealed
memory, checks every signature, extends a TPM in two layouts, writes the log and mounts.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from casemate.image.build import build_image
from casemate.kernel.boot.layers import VisorRoot
from casemate.kernel.boot.loader import Loader
from casemate.kernel.boot.progress import Progress
from casemate.kernel.home import Home
from casemate.kernel.sys import mounts
from casemate.kernel.sys.namespaces import Namespace, unshare
from casemate.kernel.tpm import swtpm
from casemate.kernel.tpm.device import Tpm
from casemate.policy.measure import BANKS, BootMeasurer


class NoTpm:
    """Takes extends and forgets them."""

    def extend(self, pcr: int, digests: Mapping[str, bytes], locality: int = 0) -> None:
        """Do nothing."""


def ours(home: Home, *, tpm: bool) -> float:
    """Return the seconds of one pass, in a child with namespaces of its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        unshare(Namespace.MOUNT)
        mounts.make_private()
        place = Path(tempfile.mkdtemp(dir=home.run))
        mounts.tmpfs(place, size=1 << 20, mode=0o700, access=mounts.Access.NO_SUID)
        chip = Tpm.embedded(swtpm.socket_path(home)) if tpm else NoTpm()
        measurer = BootMeasurer(BANKS, drtm=False)
        began = time.perf_counter()
        loader = Loader(
            home.path / "bootbank",
            home.trust,
            chip,
            measurer,
            dt.datetime.now(dt.UTC),
            Progress(-1),
        )
        visor = VisorRoot(place)
        loader.load(visor, {})
        visor.join()
        os.write(writer, f"{time.perf_counter() - began}".encode())
        os._exit(0)
    os.close(writer)
    text = os.read(reader, 64)
    os.close(reader)
    os.waitpid(pid, 0)
    return float(text)


def openssl(files: list[str]) -> float:
    """Return the seconds of openssl dgst -sha256 plus -sha384 over the same files."""
    began = time.perf_counter()
    for name in ("-sha256", "-sha384"):
        subprocess.run(["openssl", "dgst", name, *files], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", default=None)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = Home(Path(options.home or scratch))
        home.create()
        if not (home.path / "bootbank" / "boot.cfg").exists():
            build_image(home.path, home.path / "vibs", now=dt.datetime.now(dt.UTC))
        bank = home.path / "bootbank"
        files = [str(f) for f in sorted(bank.iterdir()) if f.name != "boot.cfg"]
        size = sum(os.path.getsize(f) for f in files)  # noqa: PTH202  (strings for openssl)
        swtpm.manufacture(home)
        chip = swtpm.start(home)
        rows: dict[str, list[float]] = {"ours": [], "ours, with swtpm": [], "openssl": []}
        try:
            for _ in range(options.runs):
                rows["ours"].append(ours(home, tpm=False))
                rows["openssl"].append(openssl(files))
                rows["ours, with swtpm"].append(ours(home, tpm=True))
        finally:
            chip.stop()
    print(f"{len(files)} files, {size / 1e6:.1f} MB, {options.runs} runs in turn")
    print(f"{'':<20}{'min ms':>10}{'median ms':>12}{'max ms':>10}{'MB/s':>8}{'ratio':>8}")
    peer = statistics.median(rows["openssl"])
    for name, taken in rows.items():
        middle = statistics.median(taken)
        print(
            f"{name:<20}{min(taken) * 1e3:>10.1f}{middle * 1e3:>12.1f}{max(taken) * 1e3:>10.1f}"
            f"{size / 1e6 / middle:>8.0f}{middle / peer:>8.2f}"
        )
    print("ratio: to openssl's sum; the goal is 1 or less")


if __name__ == "__main__":
    main()
