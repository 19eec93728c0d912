"""Ending the machine itself; used where the host's first process is the machine's."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Final, NoReturn

from casemate.kernel.sys.libc import LIBC, check

_KEYS_OFF: Final = 0
"""LINUX_REBOOT_CMD_CAD_OFF: Ctrl-Alt-Del becomes a signal to the first process."""
_SYSRQ: Final = Path("/proc/sys/kernel/sysrq")


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


def ignore_keys() -> None:
    """Have Ctrl-Alt-Del and SysRq do nothing: a keyboard ends no machine without a login.

    For the machine's first process; what it becomes ignores them too. Raises HostError where Linux
    refuses.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    check(LIBC.reboot(ctypes.c_int(_KEYS_OFF)), "cannot switch off Ctrl-Alt-Del")
    with suppress(FileNotFoundError):  # a Linux without SysRq
        _SYSRQ.write_text("0")
