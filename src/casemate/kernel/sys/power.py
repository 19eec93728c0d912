"""Ending the machine itself; used where the host's first process is the machine's."""

from __future__ import annotations

import ctypes
import os
import signal
from enum import IntEnum
from typing import NoReturn

from casemate.kernel.sys.libc import LIBC, check


class Power(IntEnum):
    """What comes next; the values are those of reboot(2)."""

    RESTART = 0x01234567
    OFF = 0x4321FEDC


def end_machine(how: Power) -> NoReturn:
    """Write everything to disk and end the machine. Raises HostError where Linux refuses."""
    os.sync()
    check(
        LIBC.reboot(ctypes.c_int(int(how) - (1 << 32 if how >> 31 else 0))),
        "cannot end the machine",
    )
    while True:  # Linux ends the machine from under us
        signal.pause()
