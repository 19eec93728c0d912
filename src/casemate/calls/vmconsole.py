"""Requests about what a guest shows and is told: its screen and its keyboard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from casemate.calls.messages import Empty, TaskReply


@dataclass(frozen=True, slots=True)
class TicketReply:
    """A ticket for a console: it is good once, and for so many ``seconds``."""

    ticket: str
    seconds: int


@dataclass(frozen=True, slots=True)
class AcquireTicket:
    """Make a one-time ticket for the screen and keyboard of a running VM, or for a serial port.

    ``serial``: the number of the port, 0 the first; -1: the screen.
    """

    session: str
    vm: str
    why: str = ""
    serial: int = -1
    reply: ClassVar = TicketReply
    privilege: ClassVar[str] = "VirtualMachine.Interact.ConsoleInteract"


@dataclass(frozen=True, slots=True)
class OpenConsole:
    """Turn this connection into the console that the ticket is for.

    The ticket is the right. What follows the reply on the connection is RFB, spoken by QEMU itself
    without passing the kernel, or the plain bytes of a serial port.
    """

    ticket: str
    peer: str
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "System.Anonymous"
    # Written into the audit log with the user of the ticket.
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class TakeScreenshot:
    """Write a running VM's screen to its directory; the task's result is the picture's path."""

    session: str
    vm: str
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VirtualMachine.Interact.CreateScreenshot"


@dataclass(frozen=True, slots=True)
class SendKeys:
    """Press and let go of keys, one after the other.

    Each of ``strokes`` is a usage of the keyboard page of USB's HID usage tables, and the usages
    that are held meanwhile.
    """

    session: str
    vm: str
    strokes: tuple[tuple[int, tuple[int, ...]], ...]
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "VirtualMachine.Interact.PutUsbScanCodes"


REQUESTS: tuple[type, ...] = (AcquireTicket, OpenConsole, SendKeys, TakeScreenshot)
