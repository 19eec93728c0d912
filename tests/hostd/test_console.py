"""Consoles: tickets are good once, bytes are carried both ways, strangers learn nothing."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from starlette.types import Message

from casemate.calls.vmconsole import AcquireTicket, OpenConsole, SendKeys
from casemate.hostd.console import CONSOLES, ConsoleEndpoint
from casemate.hostd.viewers import Viewer, Viewers
from casemate.machine.facts import PowerState
from casemate.machine.governance import LockdownFact, LockdownMode, PermissionFact, RoleFact
from casemate.testing.fakekernel import PASSWORD, READER, FakeKernel
from casemate.testing.fakescreen import HEIGHT, WIDTH
from casemate.testing.soapclient import SoapClient
from casemate.vim25.values import MoRef

IMPLIED = ("System.Anonymous", "System.View", "System.Read")


class Socket:
    """A WebSocket client of the endpoint, without a network."""

    def __init__(
        self, endpoint: ConsoleEndpoint, ticket: str, protocols: tuple[str, ...] = ("binary",)
    ) -> None:
        self._to: asyncio.Queue[Message] = asyncio.Queue()
        self._back: asyncio.Queue[Message] = asyncio.Queue()
        self._to.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "path": f"/ticket/{ticket}",
            "root_path": "",
            "headers": [],
            "subprotocols": list(protocols),
            "client": ("192.0.2.7", 40000),
        }
        self._buffer = b""
        self.task = asyncio.ensure_future(endpoint(scope, self._to.get, self._back.put))

    async def next(self) -> Message:
        return await asyncio.wait_for(self._back.get(), 60)

    async def take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            message = await self.next()
            assert message["type"] == "websocket.send", message
            self._buffer += message["bytes"]
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def send(self, data: bytes) -> None:
        self._to.put_nowait({"type": "websocket.receive", "bytes": data, "text": None})

    def say(self, **message: Any) -> None:
        self._to.put_nowait({"bytes": None, "text": None, **message})


VIEWER = Viewer("key", "root", "1")


async def ticket_of(kernel: FakeKernel, viewers: Viewers) -> str:
    ticket = "ab" * 32
    kernel.consoles.tickets.add(ticket)
    viewers.issued(ticket, VIEWER)
    return ticket


def test_what_the_guest_shows_and_is_told_is_carried_and_the_ticket_is_used_up() -> None:
    async def story() -> None:
        kernel = FakeKernel()
        endpoint = ConsoleEndpoint(kernel, viewers := Viewers())
        ticket = await ticket_of(kernel, viewers)
        viewer = Socket(endpoint, ticket)
        assert (await viewer.next()) == {"type": "websocket.accept", "subprotocol": "binary"}
        assert await viewer.take(12) == b"RFB 003.008\n"
        viewer.send(b"RFB 003.008\n")
        assert await viewer.take(2) == b"\1\1"
        viewer.send(b"\1")
        assert await viewer.take(4) == bytes(4)
        viewer.send(b"\1")
        assert (await viewer.take(28))[:4] == WIDTH.to_bytes(2) + HEIGHT.to_bytes(2)
        viewer.send(b"\4\1\0\0\0\0\xff\x0d")
        viewer.send(b"\3\0" + bytes(8))
        assert len(await viewer.take(16 + 4 * WIDTH * HEIGHT)) > 4 * WIDTH * HEIGHT
        assert kernel.screen.keys == [(0xFF0D, True)]
        again = Socket(endpoint, ticket)
        assert (await again.next()) == {"type": "websocket.close", "code": 1008}
        viewer.say(type="websocket.disconnect", code=1000)
        await asyncio.wait_for(viewer.task, 60)
        for _ in range(10_000):
            await asyncio.sleep(0.01)
            if not kernel.screen.viewers:
                break
        assert not kernel.screen.viewers
        assert kernel.asked[-1] == OpenConsole(ticket, "192.0.2.7")
        await kernel.close()

    asyncio.run(asyncio.wait_for(story(), 120))


@pytest.mark.parametrize(
    ("ticket", "protocols"),
    [
        ("", ("binary",)),
        ("cd" * 32, ("binary",)),
        ("ab" * 32, ("mks", "uint8utf8")),
        ("AB" * 32, ("binary",)),
        ("../" + "ab" * 32, ("binary",)),
        ("ab" * 5000, ("binary",)),
    ],
)
def test_a_stranger_is_refused_before_the_handshake(
    ticket: str, protocols: tuple[str, ...]
) -> None:
    async def story() -> None:
        kernel = FakeKernel()
        viewers = Viewers()
        await ticket_of(kernel, viewers)
        stranger = Socket(ConsoleEndpoint(kernel, viewers), ticket, protocols)
        assert (await stranger.next()) == {"type": "websocket.close", "code": 1008}
        await stranger.task
        assert not kernel.screen.viewers
        await kernel.close()

    asyncio.run(asyncio.wait_for(story(), 120))


def test_a_guest_that_goes_and_a_client_that_sends_text_end_the_console() -> None:
    async def story() -> None:
        kernel = FakeKernel()
        endpoint = ConsoleEndpoint(kernel, viewers := Viewers())
        talker = Socket(endpoint, await ticket_of(kernel, viewers))
        assert (await talker.next())["type"] == "websocket.accept"
        await talker.take(12)
        talker.say(type="websocket.receive", text="hello")
        assert (await talker.next())["code"] == 1003
        viewer = Socket(endpoint, await ticket_of(kernel, viewers))
        await viewer.next()
        await viewer.take(12)
        await kernel.screen.close()
        assert (await viewer.next()) == {"type": "websocket.close", "code": 1000}
        await asyncio.gather(talker.task, viewer.task)
        await kernel.close()

    asyncio.run(asyncio.wait_for(story(), 120))


def test_a_ticket_that_this_process_has_not_given_out_opens_nothing() -> None:
    async def story() -> None:
        kernel = FakeKernel()
        kernel.consoles.tickets.add("ab" * 32)
        stranger = Socket(ConsoleEndpoint(kernel, Viewers()), "ab" * 32)
        assert (await stranger.next()) == {"type": "websocket.close", "code": 1008}
        await stranger.task
        await kernel.close()

    asyncio.run(asyncio.wait_for(story(), 120))


async def opened(host, client, vm: MoRef) -> Socket:
    """Open a console as a client does, over the whole application."""
    made = await client.call("AcquireTicket", vm, "<ticketType>webmks</ticketType>")
    ticket = re.search(r"/ticket/([0-9a-f]{64})<", made.text)[1]
    viewer = Socket(host.root.app, ticket)
    assert (await viewer.next())["type"] == "websocket.accept"
    await viewer.take(12)
    return viewer


async def powered_on(host) -> MoRef:
    vm = MoRef("VirtualMachine", "1")
    await host.root.call("PowerOnVM_Task", vm)
    await host.until(lambda: host.kernel.vm("1").power is PowerState.POWERED_ON)
    return vm


def test_a_terminated_session_loses_its_consoles_and_a_logout_does_not(play) -> None:
    async def story(host) -> None:
        vm = await powered_on(host)
        stays = await opened(host, host.root, vm)
        other = SoapClient(host.root.app)
        assert (await other.login("root", PASSWORD)).status == 200
        goes = await opened(host, other, vm)
        waiting = await other.call("AcquireTicket", vm, "<ticketType>webmks</ticketType>")
        ticket = re.search(r"/ticket/([0-9a-f]{64})<", waiting.text)[1]
        manager = MoRef("SessionManager", "ha-sessionmgr")
        mine = await other.call("Fetch", manager, "<prop>currentSession</prop>")
        key = re.search(r"<key>([^<]*)</key>", mine.text)[1]
        ended = await host.root.call("TerminateSession", manager, f"<sessionId>{key}</sessionId>")
        assert ended.status == 200
        assert (await goes.next()) == {"type": "websocket.close", "code": 1008}
        late = Socket(host.root.app, ticket)
        assert (await late.next()) == {"type": "websocket.close", "code": 1008}
        assert (await host.root.call("Logout", manager)).status == 200
        stays.send(b"RFB 003.008\n")
        assert await stays.take(2) == b"\1\1"
        stays.say(type="websocket.disconnect", code=1000)
        await asyncio.gather(stays.task, goes.task, late.task)

    play(story)


def test_who_loses_the_right_loses_the_console(play) -> None:
    async def story(host) -> None:
        vm = await powered_on(host)
        role = RoleFact(77, "viewer", (*IMPLIED, AcquireTicket.privilege))
        root = PermissionFact("Folder", "ha-folder-root", READER, 77, propagate=True)
        for lose in (
            lambda: host.kernel.state(RoleFact(77, "viewer", IMPLIED)),
            lambda: host.kernel.retract(PermissionFact, root.key),
            lambda: host.kernel.state(LockdownFact(LockdownMode.NORMAL)),
        ):
            host.kernel.state(role, root)
            for _ in range(10_000):
                made = await host.reader.call(
                    "AcquireTicket", vm, "<ticketType>webmks</ticketType>"
                )
                if not made.fault:
                    break
                await asyncio.sleep(0.002)
            viewer = await opened(host, host.reader, vm)
            lose()
            assert (await viewer.next()) == {"type": "websocket.close", "code": 1008}
            await viewer.task

    play(story)


def test_more_consoles_than_there_may_be_are_refused() -> None:
    async def story() -> None:
        kernel = FakeKernel()
        endpoint = ConsoleEndpoint(kernel, viewers := Viewers())
        endpoint._open = CONSOLES
        late = Socket(endpoint, await ticket_of(kernel, viewers))
        assert (await late.next())["code"] == 1008
        await late.task
        assert kernel.consoles.tickets
        await kernel.close()

    asyncio.run(asyncio.wait_for(story(), 120))


def test_keys_are_usages_of_the_keyboard_page_with_their_modifiers(play) -> None:
    async def story(host) -> None:
        vm = MoRef("VirtualMachine", "1")
        off = await host.root.call("AcquireTicket", vm, "<ticketType>webmks</ticketType>")
        assert off.fault == "InvalidPowerState"
        await host.root.call("PowerOnVM_Task", vm)
        await host.until(lambda: host.kernel.vm("1").power is PowerState.POWERED_ON)

        def body(code: int) -> str:
            return (
                f"<spec><keyEvents><usbHidCode>{code}</usbHidCode><modifiers>"
                "<leftControl>true</leftControl><rightAlt>true</rightAlt></modifiers>"
                "</keyEvents></spec>"
            )

        reply = await host.root.call("PutUsbScanCodes", vm, body(0x4C0007))
        assert reply.status == 200
        assert host.kernel.asked[-1].strokes == ((0x4C, (0xE0, 0xE6)),)
        assert isinstance(host.kernel.asked[-1], SendKeys)
        for wrong in (0x4C0001, 0x4C, -1):
            reply = await host.root.call("PutUsbScanCodes", vm, body(wrong))
            assert reply.fault == "InvalidArgument"
        refused = await host.root.call("AcquireTicket", vm, "<ticketType>mks</ticketType>")
        assert refused.fault == "NotSupported"
        ticket = await host.root.call("AcquireTicket", vm, "<ticketType>webmks</ticketType>")
        assert re.search(r"<url>wss://fake\.example:443/ticket/[0-9a-f]{64}</url>", ticket.text)
        refused = await host.reader.call("AcquireTicket", vm, "<ticketType>webmks</ticketType>")
        assert refused.fault == "NoPermission"

    play(story)


def test_who_loses_the_right_while_the_kernel_is_asked_sees_nothing() -> None:
    viewers = Viewers()

    class Slow(FakeKernel):
        async def console(
            self, ticket: str, peer: str
        ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            found = await super().console(ticket, peer)
            viewers.revoke(VIEWER.key)
            return found

    async def story() -> None:
        kernel = Slow()
        late = Socket(ConsoleEndpoint(kernel, viewers), await ticket_of(kernel, viewers))
        assert (await late.next()) == {"type": "websocket.close", "code": 1008}
        await late.task
        await kernel.close()

    asyncio.run(asyncio.wait_for(story(), 120))
