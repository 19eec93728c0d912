"""The keyboard of the machine's screen: what Linux keeps for itself, handed to the direct console.

With Alt, Linux takes the function keys to switch between its screens; there is only one here. So
that they can do what they do on an ESXi host, they send what xterm sends. Source: linux/kd.h;
ioctl_console(2).
"""

from __future__ import annotations

import fcntl
import struct
from typing import Final

from casemate.kernel.sys.libc import from_os_error

_BIND: Final = 0x4B47  # KDSKBENT
_WORDS: Final = 0x4B49  # KDSKBSENT
_ALT: Final = 1 << 3
_FUNCTION: Final = 1 << 8  # KT_FN
_FIRST: Final = 240
"""Numbers of strings from here on are used by no keymap."""
_KEYS: Final = ((59, "1P"), (60, "1Q"), (87, "23~"), (88, "24~"))
"""Linux's codes of F1, F2, F11 and F12, and what xterm sends for them."""


def hand_over_alt_keys(terminal: int) -> None:
    """Let Alt with F1, F2, F11 and F12 reach who reads from the screen.

    Args:
        terminal: a descriptor of the screen's terminal.

    Raises:
        HostError: it is no screen, or the caller may not.
    """
    try:
        for number, (code, end) in enumerate(_KEYS, _FIRST):
            words = f"\x1b[{end[:-1]};3{end[-1]}".encode()
            fcntl.ioctl(terminal, _WORDS, struct.pack("B512s", number, words))
            fcntl.ioctl(terminal, _BIND, struct.pack("BBH", _ALT, code, _FUNCTION | number))
    except OSError as error:
        raise from_os_error("cannot set the keyboard", error, component="screen") from error
