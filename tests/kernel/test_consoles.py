"""Consoles of real guests: RFB over a connection that was handed over, pictures, keys."""

from __future__ import annotations

import asyncio
import os
import struct
from contextlib import asynccontextmanager

import pytest

from casemate.calls import messages as m
from casemate.calls import vmconsole as c
from casemate.calls import vms
from casemate.errors import AccessError, ArgumentError, HostError, PowerStateError
from casemate.hostd.kernelclient import RefusedError, SocketLink
from casemate.kernel import consoles
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.kernel.consoles import TICKET_SECONDS, TICKETS_OF_ONE, Consoles
from casemate.kernel.server import CallsServer
from casemate.kernel.stream import FactStream
from casemate.machine.usbkeys import PAGE, key_name

from .vmbench import Host, make, printed

pytestmark = pytest.mark.host

# Real mode: wait for a key with the BIOS, print it on the first serial port, again and again.
ECHO_CODE = bytes.fromhex("30e4 cd16 baf803 ee b00a ee ebf3")
ECHO_SECTOR = ECHO_CODE.ljust(510, b"\0") + b"\x55\xaa"


class Bench:
    def __init__(self, host: Host) -> None:
        self.now = 100.0
        self.host = host
        self.consoles = Consoles(
            host.context, lambda: self.now, check=lambda *_: None, alive=lambda _: True
        )
        host.handlers |= self.consoles.handlers()

    async def ticket(self, vm: str) -> str:
        request = c.AcquireTicket("", vm)
        reply = await self.host.handlers[c.AcquireTicket](request, LOCAL_ROOT)
        return str(reply.ticket)

    @asynccontextmanager
    async def served(self):
        """Yield a link as hostd has it."""
        path = self.host.place / "calls.sock"
        callers = frozenset({os.geteuid()})

        async def handle(request, _caller):
            return await self.consoles.open(request, None)

        server = CallsServer(path, callers, FactStream(), handle)
        await server.start(os.getegid())
        link = SocketLink(path)
        try:
            yield link
        finally:
            await link.close()
            await server.stop()


def test_a_ticket_opens_the_screen_once_and_qemu_speaks_for_itself(on, monkeypatch):
    async def body(host: Host) -> None:
        bench = Bench(host)
        vm = await make(host)
        with pytest.raises(PowerStateError):
            await bench.ticket(vm)
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        async with bench.served() as link:
            ticket = await bench.ticket(vm)
            reader, writer = await link.console(ticket, "192.0.2.1")
            # Said before the other end has said anything: it must not be lost on the way.
            writer.write(b"RFB 003.008\n")
            assert await reader.readexactly(12) == b"RFB 003.008\n"
            assert await reader.readexactly(2) == b"\1\1"
            writer.write(b"\1")
            assert await reader.readexactly(4) == bytes(4)
            writer.write(b"\1")
            width, height, name = struct.unpack(">HH16xI", await reader.readexactly(24))
            await reader.readexactly(name)
            assert width * height > 0
            writer.write(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
            assert (await reader.readexactly(4))[0] == 0
            for wrong in (ticket, "0" * 64, ""):
                with pytest.raises(RefusedError) as raised:
                    await link.console(wrong, "192.0.2.1")
                assert raised.value.fact.fault == "SecurityError"
            # Who looks is counted, and there are not too many.
            monkeypatch.setattr(consoles, "VIEWERS", 2)
            second = await bench.ticket(vm)
            _, other = await link.console(second, "192.0.2.1")
            with pytest.raises(RefusedError, match="viewers"):
                await link.console(await bench.ticket(vm), "192.0.2.1")
            other.close()
            # The guest's end of a console goes with the guest.
            await host.ask(m.PowerOff("", vm))
            while await reader.read(1 << 16):
                pass
            writer.close()

    on(body)


def test_tickets_age_are_few_and_end_with_their_vm(on):
    async def body(host: Host) -> None:
        bench = Bench(host)
        vm = await make(host)
        await host.ask(m.PowerOn("", vm))
        late = await bench.ticket(vm)
        bench.now += TICKET_SECONDS + 1
        first = await bench.ticket(vm)
        for _ in range(TICKETS_OF_ONE):
            last = await bench.ticket(vm)
        for ticket in (late, first):
            with pytest.raises(AccessError):
                await bench.consoles.open(c.OpenConsole(ticket, ""), None)
        await host.ask(m.PowerOff("", vm))
        with pytest.raises(PowerStateError):
            await bench.consoles.open(c.OpenConsole(last, ""), None)

    on(body)


def test_a_picture_is_taken_of_what_the_guest_shows_and_keys_reach_it(on):
    async def body(host: Host) -> None:
        bench = Bench(host)
        vm = await make(host, code=ECHO_SECTOR)
        await host.ask(m.PowerOn("", vm))
        for number in (1, 2):
            path = await host.ask(c.TakeScreenshot("", vm))
            assert path == f"[datastore1] one/one-{number}.png"
            picture = (host.datastore / "one" / f"one-{number}.png").read_bytes()
            assert picture.startswith(b"\x89PNG")
            assert picture.endswith(b"IEND\xaeB`\x82")
        strokes = ((0x04, ()), (0x05, (0xE1,)), (0x28, ()))
        for _ in range(800):
            await bench.consoles._keys(c.SendKeys("", vm, strokes), LOCAL_ROOT)
            if b"a\nB\n\r\n" in host.console(vm):
                break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError(host.console(vm))
        await host.ask(m.PowerOff("", vm))
        # The pictures are the VM's, and go with it.
        await host.ask(vms.DestroyVm("", vm))
        assert host.files("one") == []

    on(body)


def test_qemu_knows_every_key_that_we_name(on):
    async def body(host: Host) -> None:
        bench = Bench(host)
        vm = await make(host)
        await host.ask(m.PowerOn("", vm))
        known = []
        for usage in range(0x100):
            try:
                key_name(usage)
            except ArgumentError:
                continue
            known.append((usage, ()))
        # All but the power key, which would end the guest.
        known.remove((0x66, ()))
        assert len(known) > 100
        await bench.consoles._keys(c.SendKeys("", vm, tuple(known)), LOCAL_ROOT)
        assert PAGE == 7
        await host.ask(m.PowerOff("", vm))

    on(body)


def test_a_vm_without_a_screen_has_no_picture_and_leaves_no_file(on):
    async def body(host: Host) -> None:
        Bench(host)
        vm = await make(host, extra=(("svga.present", "FALSE"),))
        await host.ask(m.PowerOn("", vm))
        before = host.files("one")
        with pytest.raises(Exception, match=r"screendump|console") as raised:
            await host.ask(c.TakeScreenshot("", vm))
        assert not isinstance(raised.value, HostError)
        assert host.files("one") == before
        await host.ask(m.PowerOff("", vm))

    on(body)
