"""Finds the accelerator by trying it: KVM only where it runs a guest at the speed of hardware."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from casemate.errors import HostError
from casemate.kernel.sys import kvm
from casemate.kernel.sys.spawn import call_in_child

_ITERATIONS: Final = 100_000
# Seconds: hardware needs a fraction of a millisecond.
_TIMEOUT: Final = 1.0
# Millions of instructions per second: emulation reaches less than 1, hardware more than 1,000.
_FAST_ENOUGH: Final = 50.0
_RESULT: Final = struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What runs guests: ``kvm`` or ``tcg``, and why."""

    name: str
    reason: str


def probe_accelerator() -> Accelerator:
    """Try KVM in a child process and decide; never raises, TCG works everywhere."""
    if not Path("/dev/kvm").exists():
        return Accelerator("tcg", "this machine has no /dev/kvm")
    try:
        result = call_in_child(
            lambda: _RESULT.pack(kvm.measure(_ITERATIONS)), what="the KVM probe", timeout=_TIMEOUT
        )
    except HostError as error:
        return Accelerator("tcg", f"KVM is present but does not work: {error.reason}")
    (speed,) = _RESULT.unpack(result)
    if speed < _FAST_ENOUGH:
        return Accelerator("tcg", f"KVM is present but emulated{_flavour()}: {speed:.1f} MIPS")
    return Accelerator("kvm", f"KVM ran a guest at {speed:.0f} MIPS")


def _flavour() -> str:
    """Name the emulation where the kernel tells it."""
    return " (PVM)" if Path("/sys/module/kvm_pvm").exists() else ""
