"""Measures how random addresses really are: the host's own programs, launched many times."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from casemate.errors import HostError
from casemate.kernel import confine
from casemate.kernel.processes import read_texts
from casemate.kernel.sys import spawn
from casemate.machine.planaudit import SANDBOX
from casemate.machine.processplan import APP, HOSTD, KERNEL, ProcessPlan
from casemate.policy.entropy import WANTED, measure
from casemate.policy.hardeningreport import EntropyRow
from casemate.policy.processaudit import bases, parse_auxv, parse_maps

AT_ONCE: Final = 2
START_SECONDS: Final = 30.0
"""Until a program has mapped its libraries: some milliseconds, where nothing else is to do."""
LAUNCH_LIMIT: Final = 1024
_PAUSE: Final = 0.0005
_CONTROL: Final = 3
_PYTHON: Final = ("/usr/bin/casemate-python", "-I", "-B", "-S", "-c", "import time; time.sleep(60)")
_QEMU: Final = (
    *("/usr/bin/qemu-system-x86_64", "-machine", "none", "-nodefaults", "-no-user-config"),
    *("-display", "none", "-S", "-accel", "tcg,split-wx=on", "-sandbox", SANDBOX),
)
_SWTPM: Final = (
    *("/usr/bin/swtpm", "socket", "--tpm2", "--tpmstate", "dir=/tmp"),
    *("--ctrl", f"type=unixio,fd={_CONTROL}", "--seccomp", "action=kill"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A program of the host: the plan it is started by, and how it stays idle."""

    name: str
    plan: ProcessPlan
    argv: tuple[str, ...]


SAMPLES: Final = (
    Sample("kernel", KERNEL, _PYTHON),
    Sample("hostd", HOSTD, _PYTHON),
    Sample("qemu", APP, _QEMU),
    Sample("swtpm", APP, _SWTPM),
)


def measure_entropy(
    launches: int, probes: set[int], samples: Sequence[Sample] = SAMPLES
) -> tuple[EntropyRow, ...]:
    """Launch each program so many times and estimate the bits of its regions.

    Args:
        launches: of each program.
        probes: holds the pids of those that run, for whoever would take them for intruders.
        samples: the programs.

    Raises:
        HostError: a program does not start.
    """
    rows: list[EntropyRow] = []
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="entropy") as pool:
        for sample in samples:
            seen = list(pool.map(lambda _, s=sample: _launch(s, probes), range(launches)))
            rows += measure(sample.name, seen)
    return tuple(rows)


def _launch(sample: Sample, probes: set[int]) -> Mapping[str, int]:
    with socket.socket(socket.AF_UNIX) as control:
        control.bind("")  # an abstract name that Linux chooses
        control.listen(1)
        child = confine.start(
            sample.plan,
            spawn.Program(sample.argv, {}, {_CONTROL: control.fileno()}, "/tmp"),  # noqa: S108
        )
    probes.add(child.pid)
    try:
        return _bases(child, sample.name)
    finally:
        spawn.kill(child.pidfd)
        os.waitpid(child.pid, 0)
        probes.discard(child.pid)
        os.close(child.pidfd)


def _bases(child: spawn.Child, name: str) -> Mapping[str, int]:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        texts = read_texts(child.pid)
        if texts is None:
            break
        if "[heap]" in texts.maps and "/libc.so" in texts.maps:
            found = bases(parse_maps(texts.maps), parse_auxv(texts.auxv))
            if WANTED.keys() <= found.keys():
                return found
        time.sleep(_PAUSE)
    raise HostError(f"{name} did not come up to be measured", code="entropy-launch", component=name)
