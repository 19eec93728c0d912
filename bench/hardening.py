"""What memory hardening costs, each measured beside what it is compared with, in one run.

    sudo .venv/bin/python bench/hardening.py [--home HOME]

- image: judging every program of a built image, against hashing the same files (SHA-256 and
  SHA-384, as for both PCR banks). Goal: at most 10 % more.
- process: one look at a running process with as many mappings as a QEMU has, against only reading
  its list of mappings. Goal: at most 1 ms.
- launch: starting a program by a plan (walls, call filter, Landlock), against starting it bare.

What a cell costs over plain QEMU, alone and thirty at once, is in ``bench/cell_launch.py``; our ELF
reader against LIEF and pyelftools in ``bench/elf_reader.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from casemate.image.debian import Packages
from casemate.image.host import recipes
from casemate.image.tree import File
from casemate.kernel import confine
from casemate.kernel.home import DEFAULT_HOME
from casemate.kernel.processes import read_texts
from casemate.kernel.sys import spawn
from casemate.machine.processplan import APP, FileRule, ProcessPlan
from casemate.policy.levels import Level
from casemate.policy.payloads import enforce_file
from casemate.policy.processaudit import Expected, audit_process

ROUNDS = 30


def best(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the median time of some rounds, in seconds."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def image(scratch: Path) -> dict[str, float]:
    scratch.mkdir(parents=True, exist_ok=True)
    contents = [
        (f"/{path}", Level(recipe.level), recipe.name, node.read())
        for recipe in recipes(Packages(), scratch)
        for path, node in recipe.nodes.items()
        if isinstance(node, File)
    ]

    def hashing() -> None:
        for _, _, _, data in contents:
            hashlib.sha256(data).digest()
            hashlib.sha384(data).digest()

    def judging() -> int:
        return sum(
            enforce_file(path, data, level, component=name) is not None
            for path, level, name, data in contents
        )

    hashed, judged = best(hashing, 5), best(judging, 5)
    return {
        "files": len(contents),
        "programs": judging(),
        "MiB": round(sum(len(data) for *_, data in contents) / (1 << 20), 1),
        "hash ms": round(hashed * 1e3, 1),
        "judge ms": round(judged * 1e3, 1),
        "ratio": round(judged / hashed, 3),
    }


def process() -> dict[str, float]:
    argv = ("/usr/bin/qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none")
    child = spawn.spawn(spawn.Program((*argv, "-S", "-accel", "tcg,split-wx=on"), {}))
    try:
        time.sleep(1)
        expected = Expected("x", "regularVMDom", None)
        maps = Path(f"/proc/{child.pid}/maps")

        def look() -> None:
            texts = read_texts(child.pid)
            assert texts is not None
            audit_process(texts, expected)

        read, audited = best(maps.read_text, 300), best(look, 300)
        mappings = len(maps.read_text().splitlines())
    finally:
        spawn.kill(child.pidfd)
        os.waitpid(child.pid, 0)
    return {
        "mappings": mappings,
        "read maps ms": round(read * 1e3, 3),
        "audit ms": round(audited * 1e3, 3),
        "ratio": round(audited / read, 2),
    }


def launch() -> dict[str, float]:
    program = spawn.Program(("/usr/bin/true",), {})
    plan = ProcessPlan(
        "bench",
        APP.domain,
        APP.walls,
        uid=APP.uid,
        calls=APP.calls,
        files=(
            *(FileRule(path, run=True) for path in ("/usr", "/lib", "/lib64")),
            FileRule("/etc"),
            FileRule("/dev/null", change=True),
        ),
        open_files=64,
    )

    def run(start: Callable[[], spawn.Child]) -> None:
        child = start()
        os.waitpid(child.pid, 0)
        os.close(child.pidfd)

    bare = best(lambda: run(lambda: spawn.spawn(program)))
    walled = best(lambda: run(lambda: confine.start(plan, program)))
    return {
        "bare ms": round(bare * 1e3, 2),
        "by plan ms": round(walled * 1e3, 2),
        "more ms": round((walled - bare) * 1e3, 2),
        "ratio": round(walled / bare, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=DEFAULT_HOME)
    options = parser.parse_args()
    results = {
        "image": image(options.home / "cache" / "bench"),
        "process": process(),
        "launch": launch(),
    }
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
