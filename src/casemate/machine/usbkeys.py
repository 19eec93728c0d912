"""Keys by their usages on the keyboard page of USB's HID usage tables, in QEMU's names.

Sources: "HID Usage Tables 1.4" (USB-IF), chapter 10; QEMU's QKeyCode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from casemate.errors import ArgumentError

PAGE: Final = 0x07
"""The keyboard page."""
STROKES_LIMIT: Final = 256
"""Strokes of one request: a line of text, or a long password."""
MODIFIERS: Final = {
    "leftControl": 0xE0,
    "leftShift": 0xE1,
    "leftAlt": 0xE2,
    "leftGui": 0xE3,
    "rightControl": 0xE4,
    "rightShift": 0xE5,
    "rightAlt": 0xE6,
    "rightGui": 0xE7,
}
"""Modifiers by their names in the vSphere API."""

_FIRST: Final = 0x04
# From usage 4 on, without a gap.
_ROW: Final = (
    "a b c d e f g h i j k l m n o p q r s t u v w x y z 1 2 3 4 5 6 7 8 9 0 "
    "ret esc backspace tab spc minus equal bracket_left bracket_right backslash backslash "
    "semicolon apostrophe grave_accent comma dot slash caps_lock "
    "f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 f11 f12 print scroll_lock pause "
    "insert home pgup delete end pgdn right left down up num_lock "
    "kp_divide kp_multiply kp_subtract kp_add kp_enter "
    "kp_1 kp_2 kp_3 kp_4 kp_5 kp_6 kp_7 kp_8 kp_9 kp_0 kp_decimal less compose power kp_equals"
)
_HELD: Final = ("ctrl", "shift", "alt", "meta_l", "ctrl_r", "shift_r", "alt_r", "meta_r")
_NAMES: Final = {
    **{_FIRST + place: name for place, name in enumerate(_ROW.split())},
    **{0xE0 + place: name for place, name in enumerate(_HELD)},
}


def key_name(usage: int) -> str:
    """Return QEMU's name of a key. Raises ArgumentError."""
    try:
        return _NAMES[usage]
    except KeyError:
        raise ArgumentError(
            f"there is no key with the usage {usage:#x}", argument="keyEvents.usbHidCode"
        ) from None


def presses(strokes: Sequence[tuple[int, tuple[int, ...]]]) -> tuple[tuple[str, bool], ...]:
    """Return what happens to which key: name, and whether it goes down.

    Raises:
        ArgumentError: A key that there is not, or too many strokes.
    """
    if len(strokes) > STROKES_LIMIT:
        raise ArgumentError(f"more than {STROKES_LIMIT} strokes", argument="keyEvents")
    made: list[tuple[str, bool]] = []
    for usage, held in strokes:
        if len(held) > len(_HELD):
            raise ArgumentError("more modifiers than a keyboard has", argument="keyEvents")
        names = [key_name(one) for one in held]
        made += [(name, True) for name in names]
        made += [(key_name(usage), True), (key_name(usage), False)]
        made += [(name, False) for name in reversed(names)]
    return tuple(made)
