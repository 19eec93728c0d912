"""A terminal on a serial port: of a guest, or of a machine that ``casemate image run`` has."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys
import termios
import tty
from collections.abc import Iterator

from casemate.calls.vmconsole import AcquireTicket, OpenConsole, TicketReply
from casemate.cli.calls import Calls
from casemate.kernel.home import Home

LEAVE = b"\x1d"
"""Ctrl-]: as telnet and virsh have it."""
_PIECE = 1 << 12


def attach(home: Home, vm: str, number: int) -> None:
    """Connect this terminal, or standard input and output, to a port until either end is gone.

    Raises:
        CasemateError: The VM does not run, or has no such port.
    """
    with Calls(home.calls_socket) as calls:
        ticket = calls.ask(AcquireTicket("", vm, "command line", number), TicketReply).ticket
    with Calls(home.calls_socket) as calls:
        attach_line(*calls.become(OpenConsole(ticket, "command line")))


def attach_line(channel: socket.socket, said: bytes) -> None:
    """Connect this terminal to a line until either end is gone; ``said`` is shown first."""
    with _raw(sys.stdin.fileno()):
        if os.isatty(sys.stdin.fileno()):
            print("Connected. Ctrl-] leaves.\r", file=sys.stderr)
        os.write(sys.stdout.fileno(), said)
        _carry(channel)


def _carry(channel: socket.socket) -> None:
    source, target = sys.stdin.fileno(), sys.stdout.fileno()
    with selectors.DefaultSelector() as ready:
        ready.register(channel, selectors.EVENT_READ)
        # A file is always ready, and no selector takes one.
        with contextlib.suppress(PermissionError):
            ready.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                data = os.read(key.fd, _PIECE)
                if key.fd != source:
                    if not data:
                        return
                    os.write(target, data)
                    continue
                typed, leave, _ = data.partition(LEAVE)
                channel.sendall(typed)
                if leave:
                    return
                if not data:
                    ready.unregister(source)


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Let every key go to the guest while this lasts."""
    if not os.isatty(terminal):
        yield
        return
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
