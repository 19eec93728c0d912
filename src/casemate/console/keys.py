"""Keys as terminals send them: bytes to names, whatever pieces they come in.

Linux's console, xterm and VT220 differ in the function keys; all of them are known. On a serial
line without function keys, Escape and a digit does the same (as ESXi's console has it): Esc 2 is
F2, Esc 1 F11, Esc 0 F12. Alt with a function key comes as xterm writes it, or behind an Escape.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final


def _with_alt(name: str, *sequences: bytes) -> dict[bytes, str]:
    """Return what terminals send for a key with Alt: Escape before it, or ";3" in it."""
    prefixed = {b"\x1b" + sequence: name for sequence in sequences}
    return prefixed | {one[:-1] + b";3" + one[-1:]: name for one in sequences if one[2:3].isdigit()}


SEQUENCES: Final = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b[5~": "pageup",
    b"\x1b[6~": "pagedown",
    b"\x1b[H": "home",
    b"\x1bOH": "home",
    b"\x1b[1~": "home",
    b"\x1b[F": "end",
    b"\x1bOF": "end",
    b"\x1b[4~": "end",
    b"\x1bOQ": "f2",
    b"\x1b[[B": "f2",
    b"\x1b[12~": "f2",
    b"\x1b2": "f2",
    b"\x1b[23~": "f11",
    b"\x1b1": "f11",
    b"\x1b[24~": "f12",
    b"\x1b0": "f12",
    **_with_alt("alt-f1", b"\x1bOP", b"\x1b[[A", b"\x1b[11~", b"\x1b[1P"),
    **_with_alt("alt-f2", b"\x1bOQ", b"\x1b[[B", b"\x1b[12~", b"\x1b[1Q"),
    **_with_alt("alt-f11", b"\x1b[23~"),
    **_with_alt("alt-f12", b"\x1b[24~"),
}
CONTROLS: Final = {
    b"\r": "enter",
    b"\n": "enter",
    b"\t": "tab",
    b"\x7f": "backspace",
    b"\x08": "backspace",
}
LONGEST: Final = max(map(len, SEQUENCES))
ESCAPE: Final = b"\x1b"


class Keys:
    """Turns bytes into keys. An Escape may begin a sequence: ``idle`` says that none followed."""

    def __init__(self) -> None:
        self._waiting = b""

    @property
    def undecided(self) -> bool:
        """Tell whether a sequence has begun and not ended."""
        return bool(self._waiting)

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the keys that are complete."""
        self._waiting += data
        while self._waiting:
            used, key = self._first()
            if not used:
                return
            self._waiting = self._waiting[used:]
            if key:
                yield key

    def idle(self) -> Iterator[str]:
        """Yield what the bytes so far mean when nothing more comes."""
        while self._waiting:
            alone, self._waiting = self._waiting[:1], self._waiting[1:]
            if alone == ESCAPE:
                yield "escape"
                if self._waiting[:1] in {b"[", b"O"}:
                    self._waiting = b""  # the rest of a sequence that nobody knows
            else:
                yield from Keys().feed(alone)

    def _first(self) -> tuple[int, str]:
        """Return how many bytes the first key takes (0: more are needed), and its name."""
        data = self._waiting
        if not data.startswith(ESCAPE):
            known = CONTROLS.get(data[:1])
            return 1, known or (chr(data[0]) if 0x20 <= data[0] < 0x7F else "")  # noqa: PLR2004 (ASCII)
        for size in range(2, min(len(data), LONGEST) + 1):
            if data[:size] in SEQUENCES and not _longer(data[:size], data):
                return size, SEQUENCES[data[:size]]
        if any(sequence.startswith(data) for sequence in SEQUENCES):
            return 0, ""
        if data[1:2] in {b"[", b"O"}:
            end = next((n for n in range(2, len(data)) if 0x40 <= data[n] <= 0x7E), 0)  # noqa: PLR2004
            return (end + 1, "") if end else (0, "") if len(data) < 2 * LONGEST else (len(data), "")
        return 1, "escape"


def _longer(known: bytes, data: bytes) -> bool:
    return any(len(one) > len(known) and data.startswith(one) for one in SEQUENCES)
