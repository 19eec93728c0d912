"""Consoles: tickets, the way to a guest's screen and keyboard, pictures of it, keys.

A screen is a connection between hostd and the cell's QEMU: the kernel redeems the ticket and
hands hostd's end over as an open descriptor. Nothing listens for it, and it has no password. Bytes
of a serial port pass the kernel, which is its other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from casemate.calls import vmconsole as c
from casemate.calls.messages import Empty, TaskReply
from casemate.errors import AccessError, CasemateError, HostError, LimitError
from casemate.kernel.accounts import Session
from casemate.kernel.cells.console import SerialPort
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.cells.qmp import Qmp
from casemate.kernel.host import Handler
from casemate.kernel.server import Transfer
from casemate.kernel.vmcontext import VmContext, stem
from casemate.machine.facts import VmFact
from casemate.machine.power import Operation
from casemate.machine.usbkeys import presses
from casemate.policy.quotas import displaced

TICKET_SECONDS: Final = 60
"""How long a ticket is good: a client opens the console at once."""
TICKETS: Final = 256
"""Tickets that wait to be redeemed; then whoever holds most gives way."""
TICKETS_OF_ONE: Final = 40
"""... of one session; its oldest goes: as many as a VM has viewers."""
VIEWERS: Final = 40
"""Viewers of one VM, as on ESXi: each takes a descriptor and memory of the cell."""
_TICKET_BYTES: Final = 32
_PICTURES: Final = 1000
# Bytes typed at once: what a serial port takes in a second or two.
_PIECE: Final = 1 << 12

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Ticket:
    vm: str
    session: Session
    until: float
    serial: int


class _Console(Transfer):
    """Gives a connection to QEMU: what comes after the reply is between its two ends."""

    def __init__(self, qmp: Qmp, name: str) -> None:
        self._qmp = qmp
        self._name = name

    async def run(
        self, _: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: Callable[..., None]
    ) -> None:
        """See ``Transfer.run``."""
        transport = writer.transport
        if isinstance(transport, asyncio.ReadTransport):
            transport.pause_reading()
        descriptor = os.dup(writer.get_extra_info("socket").fileno())
        try:
            await self._qmp.execute_with(descriptor, "getfd", fdname=self._name)
        finally:
            os.close(descriptor)
        reply(Empty())
        if transport.get_write_buffer_size():
            _log.warning("a console's asker takes no reply")
            return
        try:
            # The ticket was the proof of who it is: QEMU asks for none.
            await self._qmp.execute("add_client", protocol="vnc", fdname=self._name, skipauth=True)
        except CasemateError as error:
            _log.warning("a console could not be opened: %s", error.reason)
            with contextlib.suppress(CasemateError):
                await self._qmp.execute("closefd", fdname=self._name)


class _Serial(Transfer):
    """Carries bytes between a connection and a serial port until either end is gone."""

    def __init__(self, port: SerialPort) -> None:
        self._port = port

    async def run(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        reply: Callable[..., None],
    ) -> None:
        """See ``Transfer.run``."""
        with self._port.viewed() as said:
            reply(Empty())
            self.silent = True
            ways = [asyncio.ensure_future(way) for way in (_show(said, writer), self._type(reader))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _type(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_PIECE):
            await self._port.type(data)


async def _show(said: asyncio.Queue[bytes], writer: asyncio.StreamWriter) -> None:
    while data := await said.get():
        writer.write(data)
        await writer.drain()


class Consoles:
    """Handlers of the requests about consoles.

    ``ticks`` gives seconds that only grow; ``check`` raises where a privilege is lacking;
    ``alive`` tells whether a session is open by its key.
    """

    def __init__(
        self,
        context: VmContext,
        ticks: Callable[[], float],
        check: Callable[[Session, str, object], None],
        alive: Callable[[str], bool],
    ) -> None:
        self._context = context
        self._check = check
        self._alive = alive
        self._ticks = ticks
        self._tickets: dict[bytes, _Ticket] = {}
        self._opened = 0

    def handlers(self) -> dict[type, Handler]:
        """Return the handlers by request."""
        return {
            c.AcquireTicket: self._acquire,
            c.OpenConsole: self.open,
            c.TakeScreenshot: self._screenshot,
            c.SendKeys: self._keys,
        }

    async def open(self, request: c.OpenConsole, _: None) -> Transfer:
        """Redeem a ticket; returns what hands the asker's connection over.

        Raises:
            AccessError: The ticket is unknown, used, or too old, or its session has ended.
            PermissionDeniedError: Whose ticket it is has lost the right meanwhile.
            LimitError: There are ``VIEWERS`` of the screen already.
            CasemateError: The VM does not run any more.
        """
        found = self._tickets.pop(_digest(request.ticket), None)
        good = found is not None and found.until >= self._ticks() and self._alive(found.session.key)
        self._context.store.audit.append(
            self._context.clock(),
            found.session.user if found else "",
            "OpenConsole",
            found.vm if found else "",
            request.peer,
            "ok" if good else "refused: console-ticket",
        )
        if found is None or not good:
            raise AccessError("The ticket is not, or no longer, good.", code="console-ticket")
        self._check(found.session, c.AcquireTicket.privilege, c.AcquireTicket("", found.vm))
        self._opened += 1
        if found.serial >= 0:
            return _Serial(self._context.cells.serial_port(found.vm, found.serial))
        qmp = await self._context.cells.control(found.vm, Operation.CONSOLE)
        if await _viewers(qmp) >= VIEWERS:
            raise LimitError(f"{VIEWERS} viewers look at this VM", component=found.vm)
        return _Console(qmp, f"console-{self._opened}")

    async def _acquire(self, request: c.AcquireTicket, session: Session) -> c.TicketReply:
        fact = self._context.demand(request.vm, Operation.CONSOLE)
        if request.serial >= 0:
            self._context.cells.serial_port(fact.vm, request.serial)
        now = self._ticks()
        self._tickets = {
            digest: kept for digest, kept in self._tickets.items() if kept.until >= now
        }
        owners = {digest: kept.session.key for digest, kept in self._tickets.items()}
        old = displaced(owners, session.key, of_one=TICKETS_OF_ONE, limit=TICKETS)
        if old is not None:
            del self._tickets[old]
        ticket = secrets.token_hex(_TICKET_BYTES)
        self._tickets[_digest(ticket)] = _Ticket(
            fact.vm, session, now + TICKET_SECONDS, request.serial
        )
        return c.TicketReply(ticket, TICKET_SECONDS)

    async def _screenshot(self, request: c.TakeScreenshot, session: Session) -> TaskReply:
        fact = self._context.demand(request.vm, Operation.CREATE_SCREENSHOT)
        return self._context.start(fact, "createScreenshot", session, self.screenshot)

    async def screenshot(self, fact: VmFact) -> str:
        """Write what a VM shows to its directory and return the picture's datastore path.

        Raises:
            CasemateError: No space, no screen, or it does not run; no file stays then.
        """
        qmp = await self._context.cells.control(fact.vm, Operation.CREATE_SCREENSHOT)
        with self._context.open(fact) as directory:
            name = _free_name(directory, stem(fact.config))
            directory.make(name, ())
            try:
                await _dump(qmp, directory, name)
            except BaseException:
                directory.remove(name)
                raise
        head = fact.config.vmx_path.removesuffix(f"{stem(fact.config)}.vmx")
        return f"{head}{name}"

    async def _keys(self, request: c.SendKeys, _: Session) -> Empty:
        fact = self._context.demand(request.vm, Operation.CONSOLE)
        keys = presses(request.strokes)
        qmp = await self._context.cells.control(fact.vm, Operation.CONSOLE)
        for name, down in keys:
            key = {"type": "qcode", "data": name}
            event = {"type": "key", "data": {"down": down, "key": key}}
            await qmp.execute("input-send-event", events=[event])
        return Empty()


async def _viewers(qmp: Qmp) -> int:
    """Return how many look at a VM's screen now."""
    answer = await qmp.execute("query-vnc-servers")
    servers = answer if isinstance(answer, list) else []
    clients = [one.get("clients") for one in servers if isinstance(one, dict)]
    return sum(len(each) for each in clients if isinstance(each, list))


async def _dump(qmp: Qmp, directory: VmDirectory, name: str) -> None:
    """Let QEMU write a picture into a file that it cannot open by itself."""
    handle = directory.open_file(name, os.O_WRONLY)
    try:
        answer = await qmp.execute_with(handle, "add-fd", opaque="screen")
    finally:
        os.close(handle)
    number = answer.get("fdset-id") if isinstance(answer, dict) else None
    if not isinstance(number, int):
        raise HostError("QEMU did not take the file of the picture", code="screenshot")
    try:
        await qmp.execute("screendump", filename=f"/dev/fdset/{number}", format="png")
    finally:
        await qmp.execute("remove-fd", **{"fdset-id": number})
    if not directory.size(name):
        raise HostError("QEMU wrote no picture", code="screenshot")


def _free_name(directory: VmDirectory, beginning: str) -> str:
    for number in range(1, _PICTURES):
        name = f"{beginning}-{number}.png"
        if not directory.exists(name):
            return name
    raise HostError(
        f"there are {_PICTURES - 1} pictures of {beginning}",
        code="screenshot",
        component=beginning,
        remedy="Remove some of them from the VM's directory.",
    )


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode(errors="surrogatepass")).digest()
