"""The DHCP server of one switch with NAT: a process that reads frames and writes answers.

    casemate-python -I -B -m casemate.kernel.enter dhcp

It has two descriptors and nothing else: the interface on which it hears questions and answers
them (3), and a socket over which the kernel says whose card has which address (4). It ends when
the kernel does.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from typing import Final

from casemate.errors import FormatError
from casemate.machine.dhcp import DhcpService, answer_frame, load_service

FRAMES: Final = 3
CONTROL: Final = 4
BURST: Final = 64
WINDOW: Final = 0.25
"""Questions that are answered in so many seconds; the others wait, or are lost. A hundred guests
that start at once have their addresses in a second, and a flood costs a few percent of a core."""
_FRAME: Final = 2048
_MESSAGE: Final = 1 << 16
"""Bytes of what the kernel says: 253 cards take 10,000."""


def serve(frames: int, control: int) -> None:
    """Answer questions until the kernel is gone."""
    service: DhcpService | None = None
    waiting, both = select.poll(), select.poll()
    waiting.register(control, select.POLLIN)
    both.register(control, select.POLLIN)
    both.register(frames, select.POLLIN)
    left, until = BURST, time.monotonic() + WINDOW
    while True:
        now = time.monotonic()
        if now >= until:
            left, until = BURST, now + WINDOW
        ready = both.poll() if left else waiting.poll((until - now) * 1000)
        for descriptor, _ in ready:
            if descriptor == control:
                told = os.read(control, _MESSAGE)
                if not told:
                    return
                service = load_service(told)
            else:
                left -= 1
                _answer(frames, service)


def _answer(frames: int, service: DhcpService | None) -> None:
    """Answer one frame. An interface that is not connected (yet) gives and takes none."""
    with contextlib.suppress(OSError, FormatError):
        asked = os.read(frames, _FRAME)
        answer = answer_frame(service, asked) if service is not None else None
        if answer is not None:
            os.write(frames, answer)


def main() -> int:
    """Serve on the two descriptors."""
    serve(FRAMES, CONTROL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
