"""Teams of uplinks on real cables to a physical switch, which are pulled while guests send.

The machine, and the switch with the station behind it, are network namespaces of each test's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from casemate.calls import networks as c
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.kernel.leasing import Leasing
from casemate.kernel.natting import Natting
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.switching import Switching
from casemate.kernel.sys.netlink import Links
from casemate.kernel.wires import Wires
from casemate.machine.facts import NicSpec, VmConfig
from casemate.machine.networks import PolicyOverride
from casemate.machine.teaming import BY_ORDER, Teaming, announcement

from .netlab import Stack

pytestmark = pytest.mark.host

HEADER = bytes(10)
KIND = 0x88B5  # for experiments: nothing of Linux's own looks so
REVERSE_ARP = 0x8035
STATION = "02:00:00:00:00:09"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
UPLINKS = ("up0", "up1")
SECONDS = 60.0
LEGS = 10
"""More interfaces than any frame passes on its way, or a copy of it."""


def mac(number: int) -> str:
    return f"00:50:56:00:00:{number:02x}"


def octets(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def frame(to: str, source: str, text: bytes = b"hello") -> bytes:
    return octets(to) + octets(source) + KIND.to_bytes(2, "big") + text.ljust(46, b"\0")


@contextlib.contextmanager
def one_processor() -> Iterator[None]:
    """Stay on one: Linux carries what is sent there on from leg to leg in turn."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


async def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true() and time.monotonic() < end:  # noqa: ASYNC110 (Linux does it)
        await asyncio.sleep(0.02)
    assert true()


class FakeInventory:
    """No VM is registered."""

    def vms(self) -> tuple[()]:
        return ()


class Rack:
    """A host with two network cards, cabled to a switch that one station is behind."""

    def __init__(self, place: Path) -> None:
        self.machine, self.switch = Stack(), Stack()
        self._open: list[socket.socket] = []
        self.taps: dict[int, int] = {}
        self.clock = self.latest = 0
        self.store = Store(place / "casemate.db")
        try:
            for number, name in enumerate(UPLINKS):
                self.machine.cable(name, self.switch, f"far{number}")
            self.switch.now(_cable_switch)
            self.station = self._listen(KIND)
            self.told = self._listen(REVERSE_ARP)
            self.wires = self.machine.now(Wires, None, "0badcafe")
        except BaseException:
            self._close()
            raise
        self.switching = Switching(
            self.store,
            FactStream(),
            FakeInventory(),  # type: ignore[arg-type]
            self.wires,
            lambda: frozenset(UPLINKS),
            Natting(self.store, Leasing(self.wires.open_listener), "0badcafe", tuple),
        )

    def _listen(self, kind: int) -> socket.socket:
        def there() -> socket.socket:
            found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
            found.bind(("st1", kind))
            return found

        found: socket.socket = self.switch.now(there)
        self._open.append(found)
        return found

    async def ask(self, request: Any) -> None:
        await self.switching.handlers()[type(request)](request, LOCAL_ROOT)

    async def plug(self, stack: AsyncExitStack, number: int, group: str = "VM Network") -> None:
        nic = NicSpec(mac(number), group, "vmxnet3")
        config = VmConfig("v", "", "[d] v/v.vmx", "other", 1, 32, "bios", nics=(nic,))
        taps = await stack.enter_async_context(self.switching.connect(str(number), config))
        self.taps[number] = taps[0]

    def pull(self, number: int, *, back: bool = False) -> None:
        """Take a cable out of the switch, or put it in again."""

        def there() -> None:
            with Links() as links:
                links.set_up(links.index(f"far{number}"), up=back)

        self.switch.now(there)

    def counted(self, number: int) -> int:
        """Return how many packets the switch has got by a cable."""

        def there() -> int:
            for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name.strip() == f"far{number}":
                    return int(rest.split()[1])
            raise AssertionError(number)

        found: int = self.switch.now(there)
        return found

    def got(self) -> dict[str, int]:
        """Return how many frames of the tests the station and the cards have got."""
        found = {"station": 0, **dict.fromkeys(map(str, self.taps), 0)}
        with contextlib.suppress(BlockingIOError):
            while data := self.station.recv(2048):
                found["station"] += self._counts(data)
        for number, tap in self.taps.items():
            with contextlib.suppress(BlockingIOError):
                while data := os.read(tap, 65536):
                    found[str(number)] += self._counts(data[len(HEADER) :])
        return {name: count for name, count in found.items() if count}

    def _counts(self, data: bytes) -> bool:
        """Tell whether this is a frame of the tests, but for those that only tell the time."""
        text = data[14:].rstrip(b"\0")
        if data[12:14] != KIND.to_bytes(2, "big"):
            return False
        if text == b"hello":
            return True
        self.latest = max(self.latest, int(text))
        return False

    def send(self, number: int, to: str, source: str = "", text: bytes = b"hello") -> None:
        """Have a card send; number 0 is the station."""
        with one_processor():
            if number:
                os.write(self.taps[number], HEADER + frame(to, source or mac(number), text))
            else:
                self.station.send(frame(to, source or STATION, text))

    async def settled(self, number: int) -> dict[str, int]:
        """Wait until all that was sent has come; return how many more frames everybody has got.

        Frames go on in the order in which they came to a leg: while a later one gets through, an
        earlier one goes one leg further at least.
        """
        found: dict[str, int] = {}
        for _ in range(LEGS):
            self.clock += 1
            self.send(number, EVERYBODY, text=str(self.clock).encode())
            end = time.monotonic() + SECONDS
            while self.latest < self.clock:
                for name, count in self.got().items():
                    found[name] = found.get(name, 0) + count
                assert time.monotonic() < end
                await asyncio.sleep(0)
        return found

    async def receives(
        self, number: int, to: str, wanted: dict[str, int], source: str = ""
    ) -> None:
        """Have a frame sent ten times: each is got so often by each, and never more."""
        self.got()
        for _ in range(10):
            self.send(number, to, source)
        found: dict[str, int] = {}
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            await asyncio.sleep(0.01)
            for name, count in self.got().items():
                found[name] = found.get(name, 0) + count
            if all(found.get(name, 0) >= 10 * count for name, count in wanted.items()):
                break
        for name, count in (await self.settled(number)).items():  # copies that come after
            found[name] = found.get(name, 0) + count
        assert found == {name: 10 * count for name, count in wanted.items() if count}

    async def announced(self, number: int) -> None:
        """Wait until the switch was told of a card."""
        wanted, end = announcement(mac(number)), time.monotonic() + SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                while data := self.told.recv(2048):
                    if data == wanted:
                        return
            await asyncio.sleep(0.02)
        raise AssertionError(number)

    def forget(self) -> None:
        """Forget what was announced."""
        with contextlib.suppress(BlockingIOError):
            while self.told.recv(2048):
                pass

    async def at(self, number: int, bridge: str) -> None:
        """Wait until a card is in a bridge."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            links = await self.wires.links()
            if bridge in links and links[f"t{number}.0"].master == links[bridge].index:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(bridge)

    def _close(self) -> None:
        for one in self._open:
            one.close()
        self.machine.close()
        self.switch.close()
        self.store.close()

    async def close(self) -> None:
        await self.switching.close()
        self._close()


def _cable_switch() -> None:
    with Links() as links:
        links.add_bridge("sw0")
        links.add_cable("st0", "st1")
        for name in ("far0", "far1", "st0"):
            links.join(links.index(name), links.index("sw0"))
        for name in ("sw0", "far0", "far1", "st0", "st1"):
            links.set_up(links.index(name), up=True)


@asynccontextmanager
async def rack(place: Path, teaming: Teaming, *groups: c.AddPortGroup) -> AsyncIterator[Rack]:
    made = Rack(place)
    try:
        await made.switching.start({})
        loop = asyncio.create_task(made.switching.run())
        try:
            for group in groups:
                await made.ask(group)
            await made.ask(c.UpdateSwitch("", "vSwitch0", uplinks=UPLINKS, teaming=teaming))
            # The cards come to the home's network without a link, and get it one after the other.
            await until(lambda: made.switching.findings() == ())
            yield made
        finally:
            loop.cancel()
            await asyncio.wait([loop])
    finally:
        await made.close()


@pytest.fixture
def on(root_only: None, tmp_path: Path) -> Callable[..., None]:  # noqa: ARG001
    if not Path("/dev/net/tun").exists():
        pytest.skip("needs TAP interfaces: /dev/net/tun")

    def runner(body: Any, teaming: Teaming, *groups: c.AddPortGroup) -> None:
        async def whole() -> None:
            async with rack(tmp_path, teaming, *groups) as made, AsyncExitStack() as stack:
                await body(made, stack)

        asyncio.run(asyncio.wait_for(whole(), 250))

    return runner


def test_cards_of_a_team_go_on_over_the_other_cable_when_one_is_pulled(on):
    async def body(rack: Rack, stack: AsyncExitStack) -> None:
        await rack.plug(stack, 1)
        await rack.plug(stack, 2)
        # Each by its own uplink, whose number its VM's decides.
        await rack.at(1, "vs0v0u1")
        await rack.at(2, "vs0v0")
        await rack.announced(2)
        await everything_comes_once(rack)
        before = rack.counted(0), rack.counted(1)
        for _ in range(100):
            rack.send(1, STATION)
        await until(lambda: rack.counted(1) >= before[1] + 100)
        assert rack.counted(0) < before[0] + 50
        # The cable is pulled; the switch is told where the card is now, before it sends.
        rack.forget()
        rack.pull(1)
        await rack.announced(1)
        await rack.at(1, "vs0v0")
        assert [found.code for found in rack.switching.findings()] == ["uplink-down"]
        await everything_comes_once(rack)
        # And back.
        rack.forget()
        rack.pull(1, back=True)
        await rack.announced(1)
        await rack.at(1, "vs0v0u1")
        assert rack.switching.findings() == ()
        await everything_comes_once(rack)
        # Without any cable guests still have each other.
        rack.pull(0)
        rack.pull(1)
        await until(lambda: len(rack.switching.findings()) == 2)
        await rack.at(1, "vs0v0u1")
        await rack.at(2, "vs0v0")
        await rack.receives(1, mac(2), {"2": 1})
        await rack.receives(1, EVERYBODY, {"2": 1})

    on(body, Teaming())


async def everything_comes_once(rack: Rack) -> None:
    """Frames of every kind, from cards and from outside: no copy, no loop, nothing lost."""
    for one, other in ((1, 2), (2, 1)):
        await rack.receives(one, STATION, {"station": 1})
        await rack.receives(one, mac(other), {str(other): 1})
        await rack.receives(one, EVERYBODY, {str(other): 1, "station": 1})
        await rack.receives(0, mac(one), {str(one): 1})
    await rack.receives(0, EVERYBODY, {"1": 1, "2": 1})
    # From outside in a card's name: it does not draw that card's frames away.
    await rack.receives(0, "02:00:00:00:00:77", {}, source=mac(1))
    await rack.receives(2, mac(1), {"1": 1})


def test_the_order_decides_and_an_uplink_that_is_back_waits_where_it_is_told_to(on):
    async def body(rack: Rack, stack: AsyncExitStack) -> None:
        await rack.plug(stack, 1)
        await rack.plug(stack, 2)
        await rack.at(1, "vs0v0u1")
        await rack.at(2, "vs0v0u1")
        await everything_comes_once(rack)
        rack.pull(1)
        await rack.at(1, "vs0v0")
        await rack.at(2, "vs0v0")
        rack.pull(1, back=True)
        await until(lambda: not rack.switching.findings())
        await rack.at(1, "vs0v0")
        await everything_comes_once(rack)
        rack.pull(0)
        await rack.at(1, "vs0v0u1")

    on(body, Teaming(BY_ORDER, None, False, ("up1",), ("up0",)))


def test_a_port_group_has_its_own_order_and_strangers_behind_a_card_are_heard_once(on):
    async def body(rack: Rack, stack: AsyncExitStack) -> None:
        order = Teaming(active=("up1",), standby=("up0",))
        await rack.ask(c.UpdatePortGroup("", "own", teaming=order))
        await rack.ask(c.UpdatePortGroup("", "none", teaming=Teaming(active=(), standby=())))
        await rack.plug(stack, 1)
        await rack.plug(stack, 2, "own")
        await rack.plug(stack, 3, "none")
        await rack.at(1, "vs0v0")
        await rack.at(2, "vs0v0u1")
        await rack.at(3, "vs0v0u9")
        # Whoever is on no uplink still has the others, and nothing of the outside.
        await rack.receives(1, EVERYBODY, {"2": 1, "3": 1, "station": 1})
        await rack.receives(3, EVERYBODY, {"1": 1, "2": 1})
        await rack.receives(3, mac(2), {"2": 1})
        await rack.receives(0, EVERYBODY, {"1": 1, "2": 1})
        await rack.receives(0, mac(3), {})
        # A guest that passes others' frames on (its group lets it).
        stranger = "00:50:56:00:00:77"
        await rack.receives(2, EVERYBODY, {"1": 1, "3": 1, "station": 1}, source=stranger)
        await rack.receives(2, mac(1), {"1": 1}, source=stranger)
        await rack.receives(1, stranger, {"2": 1})
        await rack.receives(0, stranger, {"2": 1})

    loose = PolicyOverride(mac_changes=True, forged_transmits=True)
    on(
        body,
        Teaming(BY_ORDER),
        c.AddPortGroup("", "own", "vSwitch0", security=loose),
        c.AddPortGroup("", "none", "vSwitch0"),
    )


def test_what_is_taken_from_a_team_is_given_back_and_nothing_is_left_of_it(on):
    async def body(rack: Rack, stack: AsyncExitStack) -> None:
        await rack.plug(stack, 1)
        await rack.plug(stack, 2)
        await rack.at(1, "vs0v0u1")
        await rack.ask(c.UpdateSwitch("", "vSwitch0", uplinks=("up1", "up0")))
        links = await rack.wires.links()
        assert links["up1"].master == links["vs0v0"].index
        assert links["up0"].master == links["vs0v0u1"].index
        await everything_comes_once(rack)
        await rack.ask(c.UpdateSwitch("", "vSwitch0", uplinks=("up1",)))
        names = set(await rack.wires.links())
        assert {"vs0v0", "up1"} <= names
        assert not {"up0", "vs0v0u1", "p0v0u01", "p0v0u10"} & names
        assert rack.switching.findings() == ()
        await rack.receives(1, EVERYBODY, {"2": 1, "station": 1})
        await rack.ask(c.UpdateSwitch("", "vSwitch0", uplinks=()))
        assert {"up0", "up1"} <= set(rack.machine.now(_names))
        await rack.receives(1, EVERYBODY, {"2": 1})

    on(body, Teaming())


def test_a_new_kernel_finds_a_team_as_the_former_one_left_it(on):
    async def body(rack: Rack, stack: AsyncExitStack) -> None:
        await rack.plug(stack, 1)
        await rack.plug(stack, 2)
        # It knows nothing of what the former one did, and plans the same.
        for known in (rack.wires._ports, rack.wires._filters, rack.wires._links):
            known.clear()
        rack.wires._tables = None
        await rack.ask(c.UpdateSwitch("", "vSwitch0", ports=64))
        await rack.at(1, "vs0v0u1")
        await everything_comes_once(rack)

    on(body, Teaming())


def _names() -> set[str]:
    with Links() as links:
        return set(links.all())
