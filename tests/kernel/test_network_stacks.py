"""Linux's own network stacks as guests: they find each other, and what they may not they cannot."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from casemate.kernel.sys.netlink import Links
from casemate.kernel.sys.taps import open_tap
from casemate.kernel.wires import Wires
from casemate.machine.networkplan import Card
from casemate.machine.networks import FIRST, PolicyOverride, PortGroupFact
from casemate.machine.wiring import plan_network

from .netlab import Cables, Stack

pytestmark = pytest.mark.host

BUSYBOX = Path("/bin/busybox")
APART = PortGroupFact("apart", "vSwitch0", 20)
LOOSE = PortGroupFact("loose", "vSwitch0", 0, PolicyOverride(None, True, True))


class Guest(Stack):
    """A stack with one card."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.card = Card(str(number), 0, f"00:50:56:00:00:{number:02x}", "VM Network")
        self.own = f"10.0.0.{number}"
        self.inside = self.now(open_tap, "eth0")
        self.now(self.set_mac, self.card.mac)
        self.address("eth0", self.own, 24)

    def set_mac(self, mac: str) -> None:
        with Links() as links:
            index = links.index("eth0")
            links._route.link("set", index=index, state="down")
            links._route.link("set", index=index, address=mac)
            links.set_up(index, up=True)

    async def hears(self, other: Guest, tries: int = 30) -> bool:
        """Ping, from inside, until there is an answer."""

        def ping() -> bool:
            command = [str(BUSYBOX), "ping", "-c", "2", "-i", "0.2", "-W", "1", other.own]
            return subprocess.run(command, capture_output=True, check=False).returncode == 0

        for _ in range(tries):
            if await self.do(ping):
                return True
        return False

    def close(self) -> None:
        super().close()
        os.close(self.inside)


async def with_guests(body: Callable[..., Awaitable[None]]) -> None:
    wires, guests = Wires(None), [Guest(1), Guest(2)]
    taps = [await wires.open_tap(guest.card.tap) for guest in guests]
    cables = Cables(list(zip(taps, (guest.inside for guest in guests), strict=True)))

    async def wire() -> None:
        networks = replace(FIRST, groups=(*FIRST.groups, APART, LOOSE))
        await wires.apply(plan_network(networks, [guest.card for guest in guests]))

    try:
        await wire()
        await body(wire, *guests)
    finally:
        cables.close()
        for guest, tap in zip(guests, taps, strict=True):
            guest.close()
            os.close(tap)
        await wires.close()


def test_two_stacks_ping_each_other_until_one_is_moved_unplugged_or_takes_another_address(
    root_only,  # noqa: ARG001 (asked for its skip)
):
    if not (BUSYBOX.exists() and Path("/dev/net/tun").exists()):
        pytest.skip("needs busybox-static and TAP interfaces")

    async def body(wire: Callable[[], Awaitable[None]], one: Guest, two: Guest) -> None:
        assert await one.hears(two)
        own = two.card
        two.card = replace(own, group="apart")
        await wire()
        assert not await one.hears(two, tries=1)
        two.card = replace(own, connected=False)
        await wire()
        assert not await one.hears(two, tries=1)
        two.card = own
        await wire()
        assert await two.hears(one)
        await two.do(two.set_mac, "00:50:56:00:00:77")
        assert not await two.hears(one, tries=1)
        two.card = replace(own, group="loose")
        await wire()
        assert await two.hears(one)

    asyncio.run(asyncio.wait_for(with_guests(body), 200))
