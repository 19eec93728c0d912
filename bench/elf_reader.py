"""ELF facts per second: our reader, LIEF and pyelftools over the same files in the same run.

Usage: python bench/elf_reader.py [--files N] [DIRECTORY...]

Each reader gets the file's path and does all the work: open, map or read, parse, and fetch the
facts that the hardening rules need. The last line is what checking costs where the bytes are in
memory and hashed anyway (sha256 and sha384, as for both PCR banks). The page cache is warmed by one
pass before. The readers take turns file by file, so noise hits all alike.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import lief
from elftools.elf.elffile import ELFFile

from casemate.errors import FormatError
from casemate.formats.elf import ElfFacts, is_elf, parse_elf
from casemate.policy.hardening import check
from casemate.policy.levels import Level

TAG = lief.ELF.DynamicEntry.TAG
PLACES = ("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec")


def elf_files(places: list[str]) -> list[Path]:
    found = []
    for place in places:
        for directory, _, names in os.walk(place):
            for name in names:
                path = Path(directory, name)
                try:
                    if not stat.S_ISREG(path.lstat().st_mode):
                        continue
                    with path.open("rb", buffering=0) as file:
                        if is_elf(file.read(4)):
                            found.append(path)
                except OSError:
                    continue
    return sorted(found)


def ours(path: Path) -> ElfFacts:
    with path.open("rb", buffering=0) as file:
        return parse_elf(memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)))


def with_lief(path: Path) -> object:
    binary = lief.ELF.parse(str(path))
    if binary is None:
        return None
    flags = [binary.get(tag).value for tag in (TAG.FLAGS, TAG.FLAGS_1) if binary.has(tag)]
    names = {s.name for s in binary.dynamic_symbols}
    segments = [(s.type, int(s.flags)) for s in binary.segments]
    return flags, names, segments, list(binary.libraries), binary.has(TAG.RUNPATH)


def with_pyelftools(path: Path) -> object:
    with path.open("rb") as file:
        elf = ELFFile(file)
        segments = [s.header for s in elf.iter_segments()]
        return segments, [list(s.iter_tags()) for s in elf.iter_segments("PT_DYNAMIC")]


def timed(work: Callable[[Path], object], path: Path) -> float:
    started = time.perf_counter()
    work(path)
    return time.perf_counter() - started


def loadable(path: Path) -> bool:
    """Tell whether rules apply: object files, modules and refused files are left out."""
    try:
        facts = ours(path)
    except FormatError:
        return False
    return facts.is_loaded


def measure(files: list[Path]) -> dict[str, float]:
    spent = dict.fromkeys((*READERS, "hash", "facts", "rules"), 0.0)
    for path in files:
        for name, reader in READERS.items():
            spent[name] += timed(reader, path)
    for path in files:
        with path.open("rb", buffering=0) as file:
            data = file.read()
        marks = [time.perf_counter()]
        hashlib.sha256(data).digest()
        hashlib.sha384(data).digest()
        marks.append(time.perf_counter())
        facts = parse_elf(data)
        marks.append(time.perf_counter())
        check(facts, str(path), Level.PARTNER)
        marks.append(time.perf_counter())
        for name, start, end in zip(("hash", "facts", "rules"), marks, marks[1:], strict=False):
            spent[name] += end - start
    return spent


READERS = {"casemate": ours, "lief": with_lief, "pyelftools": with_pyelftools}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("places", nargs="*", default=list(PLACES))
    parser.add_argument("--files", type=int, default=1500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lief.logging.disable()
    found = [path for path in elf_files(options.places) if loadable(path)]
    files = found[:: max(1, len(found) // options.files)]
    size = sum(path.stat().st_size for path in files)
    spent = measure(files)
    result = {
        "files": len(files),
        "bytes": size,
        "files_per_second": {name: len(files) / spent[name] for name in READERS},
        "ratio_to_lief": spent["lief"] / spent["casemate"],
        "ratio_to_pyelftools": spent["pyelftools"] / spent["casemate"],
        "facts_and_rules_on_top_of_hashing": (spent["facts"] + spent["rules"]) / spent["hash"],
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{len(files)} ELF programs and libraries, {size / 1e6:.0f} MB, warm cache, one process")
    print(f"{'reader':30}{'files/s':>10}{'casemate is':>13}")
    for name, label in (
        ("casemate", "casemate (open, map, facts)"),
        ("lief", "LIEF (open, parse, facts)"),
        ("pyelftools", "pyelftools (headers, tags)"),
    ):
        rate, ratio = len(files) / spent[name], spent[name] / spent["casemate"]
        print(f"{label:30}{rate:10.0f}{ratio:12.1f}x")
    share = result["facts_and_rules_on_top_of_hashing"]
    print(f"facts and rules on top of hashing the same bytes for two banks: {share:.1%}")


if __name__ == "__main__":
    main()
