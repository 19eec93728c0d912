"""Verifying VIBs: ours in one process, against openssl and sha256sum on the same files.

    .venv/bin/python bench/vibs.py [--count 500] [--size 409600]

Ours takes every VIB apart and checks signature, signer, level, revocation and payload. The others
check less: ``openssl cms -verify`` the signature over the descriptor, one process a VIB, and
``sha256sum`` the payloads, all in one process. Goal: at most 1.5 times their sum.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from casemate.formats.descriptor import write_descriptor
from casemate.formats.vib import write_vib
from casemate.testing.pki import shared_pki
from casemate.testing.vibs import judge, make_descriptor


def make(place: Path, count: int, size: int) -> None:
    """Write VIBs, and beside each its descriptor, signature and payload."""
    for number in range(count):
        payloads = {"demo": os.urandom(size)}
        descriptor = write_descriptor(make_descriptor(payloads=payloads, name=f"demo-{number}"))
        signature = shared_pki().sign(descriptor, "partner")
        stem = place / f"{number:04}"
        stem.with_suffix(".vib").write_bytes(write_vib(descriptor, signature, payloads.items()))
        stem.with_suffix(".xml").write_bytes(descriptor)
        stem.with_suffix(".pem").write_bytes(signature)
        stem.with_suffix(".payload").write_bytes(payloads["demo"])


def ours(place: Path) -> None:
    """Verify every VIB completely."""
    for path in sorted(place.glob("*.vib")):
        assert judge(path.read_bytes()).signer


def openssl(place: Path) -> None:
    """Verify the signature of every descriptor."""
    anchor = place / "anchor"
    anchor.write_bytes(shared_pki().root.pem)
    for path in sorted(place.glob("*.pem")):
        subprocess.run(
            [
                *("openssl", "cms", "-verify", "-binary", "-purpose", "any", "-inform", "PEM"),
                *("-CAfile", str(anchor), "-in", str(path)),
                *("-content", str(path.with_suffix(".xml")), "-out", "/dev/null"),
            ],
            check=True,
            capture_output=True,
        )


def sha256sum(place: Path) -> None:
    """Hash every payload."""
    subprocess.run(
        ["sha256sum", *map(str, sorted(place.glob("*.payload")))], check=True, capture_output=True
    )


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--size", type=int, default=409_600, help="bytes of a payload")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        make(place, options.count, options.size)
        seconds = {}
        for work in (ours, openssl, sha256sum):
            began = time.perf_counter()
            work(place)
            seconds[work.__name__] = round(time.perf_counter() - began, 3)
    others = seconds["openssl"] + seconds["sha256sum"]
    ratio = round(seconds["ours"] / others, 3)
    print(json.dumps({"vibs": options.count, "seconds": seconds, "ratio": ratio}, indent=1))


if __name__ == "__main__":
    main()
