"""The keyboard of the screen: a terminal without one is refused, not half set."""

from __future__ import annotations

import os
import pty

import pytest

from casemate.errors import HostError
from casemate.kernel.sys.keyboard import hand_over_alt_keys


def test_a_terminal_without_a_keyboard_of_linux_is_refused() -> None:
    near, far = pty.openpty()
    try:
        with pytest.raises(HostError, match="keyboard"):
            hand_over_alt_keys(far)
    finally:
        os.close(near)
        os.close(far)
