"""Keys from usages to QEMU's names."""

from __future__ import annotations

import pytest

from casemate.errors import ArgumentError
from casemate.machine.usbkeys import STROKES_LIMIT, key_name, presses


@pytest.mark.parametrize(
    ("usage", "name"),
    # From the table of the standard, one of each row.
    [
        *((0x04, "a"), (0x1D, "z"), (0x1E, "1"), (0x27, "0"), (0x28, "ret"), (0x2C, "spc")),
        *((0x38, "slash"), (0x39, "caps_lock"), (0x3A, "f1"), (0x45, "f12"), (0x49, "insert")),
        *((0x4C, "delete"), (0x52, "up"), (0x53, "num_lock"), (0x58, "kp_enter")),
        *((0x63, "kp_decimal"), (0x64, "less"), (0x67, "kp_equals"), (0xE0, "ctrl")),
        *((0xE3, "meta_l"), (0xE6, "alt_r")),
    ],
)
def test_usages_have_the_names_of_the_standard_s_table(usage: int, name: str) -> None:
    assert key_name(usage) == name


def test_modifiers_are_held_around_their_key_and_let_go_in_turn() -> None:
    assert presses(((0x4C, (0xE0, 0xE2)),)) == (
        *(("ctrl", True), ("alt", True), ("delete", True)),
        *(("delete", False), ("alt", False), ("ctrl", False)),
    )


@pytest.mark.parametrize(
    "strokes",
    [
        ((0x00, ()),),
        ((0x68, ()),),
        ((-1, ()),),
        ((1 << 40, ()),),
        ((0x04, (0x00,)),),
        ((0x04, (0xE0,) * 9),),
        ((0x04, ()),) * (STROKES_LIMIT + 1),
    ],
)
def test_what_no_keyboard_has_is_refused(strokes) -> None:
    with pytest.raises(ArgumentError):
        presses(strokes)
