"""Guests behind NAT: real frames through a machine that is a network namespace of the tests' own.

The machine has an interface to the outside, where a server of the test is; loopback, a service of
a cloud and addresses of its own, where listeners wait for what must never come.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

import pytest

from casemate.errors import HostError
from casemate.formats.dhcp import Kind, parse_reply, write_request
from casemate.formats.udp import Datagram, End, checksum, parse_frame, write_frame
from casemate.kernel import routing
from casemate.kernel.leasing import Leasing
from casemate.kernel.sys.netlink import Links
from casemate.kernel.sys.nftables import IPV4, Nftables
from casemate.kernel.sys.packetfilter import DHCP_BURST, DHCP_RATE
from casemate.kernel.sys.spawn import Child, Program, reap, spawn, wait_gone
from casemate.kernel.sys.taps import open_tap
from casemate.kernel.wires import Wires
from casemate.machine.nat import Nat, give_addresses
from casemate.machine.networkplan import Card, NetworkPlan
from casemate.machine.networks import FIRST, Networks, PolicyOverride, PortGroupFact
from casemate.machine.wiring import plan_network

from .netlab import Cables, Stack

pytestmark = pytest.mark.host

T = TypeVar("T")
BUSYBOX = Path("/bin/busybox")
HEADER = bytes(10)  # struct virtio_net_hdr: no offload
MACHINE, OUTSIDE = "203.0.113.1", "203.0.113.2"
CLOUD = "169.254.169.254"
PORT = 4000
EVERYBODY = b"\xff" * 6


def octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def switch_of(nat: Nat, *groups: PortGroupFact) -> Networks:
    return replace(
        FIRST, switches=(replace(FIRST.switches[0], nat=nat),), groups=(*FIRST.groups, *groups)
    )


def start_plain(frames: int, control: int) -> Child:
    """Start the real server, without the walls that need a visor root."""
    argv = (sys.executable, "-I", "-m", "casemate.kernel.dhcpd")
    return spawn(Program(argv, {}, {2: 2, 3: frames, 4: control}))


class House:
    """A home whose guests are the test; ``name`` tells it from others."""

    def __init__(self, machine: Stack, name: str, nat: Nat) -> None:
        self.name = name
        self.networks = switch_of(nat)
        self.wires = machine.now(Wires, None, name)
        self.leasing = Leasing(self.wires.open_listener, start_plain)
        self.cards: dict[int, Card] = {}
        self.taps: dict[int, int] = {}
        self.plan = NetworkPlan()

    @property
    def nat(self) -> Nat:
        found = self.networks.switches[0].nat
        assert found is not None
        return found

    async def plug(self, *numbers: int, group: str = "VM Network") -> None:
        for number in numbers:
            card = Card(str(number), 0, f"00:50:56:00:00:{number:02x}", group)
            self.cards[number] = card
            self.taps[number] = await self.wires.open_tap(card.tap)
        await self.apply()
        if self.plan.routers and group == "VM Network":
            await self.ready(numbers[0])

    async def apply(self, networks: Networks | None = None) -> None:
        self.networks = networks or self.networks
        given = {
            name: dict(give_addresses(nat, {}, [card.mac for card in self.cards.values()]))
            for name, nat in self.networks.with_nat().items()
        }
        self.plan = plan_network(self.networks, self.cards.values(), given)
        await self.leasing.listen(self.plan.routers)
        await self.wires.apply(self.plan)
        await self.leasing.tell(self.plan.routers, ("192.0.2.53",))

    async def ready(self, number: int) -> None:
        """Wait until the gateway answers who it is: Linux takes a moment to open a new cable."""
        own = self.end(number)
        whole = (
            *(EVERYBODY, own.hardware, b"\x08\x06", bytes.fromhex("0001080006040001")),
            *(own.hardware, own.address.packed, bytes(6), self.nat.gateway.packed),
        )

        def answered() -> bool:
            self.send(number, b"".join(whole))
            return any(frame[12:14] == b"\x08\x06" for frame in self.frames(number))

        assert await some(answered)

    def own(self, number: int) -> str:
        return dict(self.plan.routers[0].cards)[self.cards[number].mac]

    def end(self, number: int, source: str = "", port: int = 5000) -> End:
        return End(octets(self.cards[number].mac), IPv4Address(source or self.own(number)), port)

    def say(self, number: int, to: str, data: bytes = b"hello", **more: str) -> None:
        """Send a datagram by way of the gateway, made by hand."""
        source = more.get("source", "")
        target = End(octets(self.plan.routers[0].mac), IPv4Address(to), PORT)
        frame = write_frame(Datagram(self.end(number, source), target, data))
        self.send(number, frame)

    def send(self, number: int, frame: bytes) -> None:
        os.write(self.taps[number], HEADER + frame)

    def frames(self, number: int) -> list[bytes]:
        found = []
        with suppress(BlockingIOError):
            while frame := os.read(self.taps[number], 65536):
                found.append(frame[len(HEADER) :])
        return found

    async def leases(self, number: int, seconds: float = 50.0) -> list[tuple[str, str]]:
        """Ask for an address until there is an answer; return each as (kind, address), once."""
        card = octets(self.cards[number].mac)
        found: list[tuple[str, str]] = []
        end = time.monotonic() + seconds
        while not found and time.monotonic() < end:
            ask(self, number, card, card)
            until = time.monotonic() + 0.5
            while not found and time.monotonic() < until:
                await asyncio.sleep(0.01)
                for frame in self.frames(number):
                    with suppress(Exception):
                        reply = parse_reply(parse_frame(frame).data, 7, card)
                        # A server that is slow answers a question that was asked again twice.
                        if (
                            reply is not None
                            and (answer := (reply.kind.name, str(reply.address))) not in found
                        ):
                            found.append(answer)
        return found

    async def close(self) -> None:
        await self.leasing.close()
        for tap in self.taps.values():
            os.close(tap)
        await self.wires.close()


def ask(house: House, number: int, source: bytes, card: bytes) -> None:
    """Send a DHCP question of a card, in a frame from an address."""
    ends = End(source, IPv4Address(0), 68), End(EVERYBODY, IPv4Address("255.255.255.255"), 67)
    house.send(number, write_frame(Datagram(*ends, write_request(7, card, "x"))))


class World:
    """The machine, the outside, and listeners on both."""

    def __init__(self) -> None:
        self.machine, self.outside = Stack(), Stack()
        self.machine.cable("wan0", self.outside, "lan0")
        self.machine.address("wan0", MACHINE, 24)
        self.machine.address("lo", CLOUD, 32)
        self.machine.route(OUTSIDE)
        self.outside.address("lan0", OUTSIDE, 24)
        self.houses: list[House] = []
        self.traps = [self.machine.now(listener, kind) for kind in ("udp", "tcp")]
        self.server = self.outside.now(listener, "udp")

    async def house(self, name: str = "0badcafe", **nat: bool) -> House:
        network = f"10.77.{len(self.houses)}.0/24"
        made = House(self.machine, name, Nat(network, **nat))
        self.houses.append(made)
        return made

    async def heard(self, sock: socket.socket, seconds: float = 50.0) -> list[tuple[bytes, str]]:
        """Return the datagrams that came, with their senders; waits for a first one."""
        end = time.monotonic() + seconds
        found: list[tuple[bytes, str]] = []
        while True:
            with suppress(BlockingIOError):
                while True:
                    data, (peer, _) = sock.recvfrom(2048)
                    found.append((data, peer))
            if found or time.monotonic() > end:
                return found
            await asyncio.sleep(0.01)

    def trapped(self) -> list[object]:
        """Return what reached the machine itself."""
        found: list[object] = []
        udp, tcp = self.traps
        with suppress(BlockingIOError):
            while True:
                found.append(udp.recvfrom(2048))
        with suppress(BlockingIOError):
            while True:
                connection, peer = tcp.accept()
                connection.close()
                found.append(peer)
        return found

    def forwarding(self, name: str = "wan0") -> bool:
        place = Path(f"/proc/sys/net/ipv4/conf/{name}/forwarding")
        return bool(self.machine.now(place.read_text).strip() == "1")

    def tables(self) -> set[str]:
        return set(self.machine.now(tables))

    def interfaces(self) -> set[str]:
        return set(self.machine.now(interfaces))

    async def close(self) -> None:
        for house in self.houses:
            await house.close()
        for one in (*self.traps, self.server):
            one.close()
        self.machine.close()
        self.outside.close()


async def some(look: Callable[[], T]) -> T:
    """Return what a look shows as soon as that is something."""
    end = time.monotonic() + 50
    while not (found := look()) and time.monotonic() < end:  # noqa: ASYNC110 (frames come)
        await asyncio.sleep(0.01)
    return found


def tables() -> set[str]:
    with closing(Nftables(IPV4)) as open_tables:
        return open_tables.tables()


def interfaces() -> set[str]:
    with Links() as links:
        return set(links.all())


def listener(kind: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("0.0.0.0", PORT))
    if kind == "tcp":
        made.listen(64)
    made.setblocking(False)
    return made


@asynccontextmanager
async def a_world() -> AsyncIterator[World]:
    made = World()
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
def on(root_only: None) -> Callable[[Callable[[World], Awaitable[None]]], None]:  # noqa: ARG001
    if not Path("/dev/net/tun").exists():
        pytest.skip("needs TAP interfaces: /dev/net/tun")

    def runner(body: Callable[[World], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with a_world() as made:
                await body(made)

        asyncio.run(asyncio.wait_for(whole(), 250))

    return runner


def syn(house: House, number: int, to: str) -> bytes:
    """Return a frame with the beginning of a TCP connection."""
    source = house.end(number)
    target = IPv4Address(to)
    tcp = bytearray(20)
    tcp[0:2], tcp[2:4] = (5000).to_bytes(2, "big"), PORT.to_bytes(2, "big")
    tcp[12], tcp[13], tcp[14:16] = 0x50, 0x02, b"\xff\xff"
    ends = source.address.packed + target.packed
    tcp[16:18] = checksum(ends + b"\0\x06" + len(tcp).to_bytes(2, "big") + bytes(tcp)).to_bytes(
        2, "big"
    )
    header = bytearray(bytes.fromhex("4500002800000000400600000000000000000000"))
    header[12:20] = ends
    header[10:12] = checksum(bytes(header)).to_bytes(2, "big")
    gateway = octets(house.plan.routers[0].mac)
    return gateway + source.hardware + b"\x08\x00" + bytes(header) + bytes(tcp)


def test_a_guest_reaches_the_outside_as_the_machine_and_gets_the_answer(on):
    async def body(world: World) -> None:
        house = await world.house()
        await house.plug(1)
        assert await house.leases(1) == [("OFFER", f"{house.own(1)}/24")]
        house.say(1, OUTSIDE)
        (heard,) = await world.heard(world.server)
        assert heard == (b"hello", MACHINE)
        house.frames(1)
        world.server.sendto(b"answer", (MACHINE, 5000))
        (found,) = await some(lambda: [one for one in house.frames(1) if b"answer" in one])
        answer = parse_frame(found)
        assert (answer.data, str(answer.source.address)) == (b"answer", OUTSIDE)
        assert answer.target == house.end(1)

    on(body)


def test_a_whole_guest_asks_by_dhcp_and_pulls_a_page(on, tmp_path):
    if not BUSYBOX.exists():
        pytest.skip("needs busybox-static")
    script = tmp_path / "bound"
    script.write_text(
        f'#!{BUSYBOX} sh\n[ "$1" = bound ] || exit 0\n'
        f"{BUSYBOX} ip addr add $ip/$mask dev $interface\n"
        f"{BUSYBOX} ip route add default via $router\n"
        f"echo $ip $dns $router >{tmp_path}/told\n"
    )
    script.chmod(0o755)

    def boot(mac: str) -> int:
        inside = open_tap("eth0")
        with Links() as links:
            links.set_mac(links.index("eth0"), mac)
            links.set_up(links.index("eth0"), up=True)
        return inside

    def run(*command: str) -> str:
        ran = subprocess.run(
            [str(BUSYBOX), *command], capture_output=True, check=False, text=True, timeout=100
        )
        return ran.stdout + ran.stderr

    def fetch(host: str, seconds: float) -> bytes:
        with closing(http.client.HTTPConnection(host, PORT, timeout=seconds)) as client:
            try:
                client.request("GET", "/")
            except OSError:
                return b""
            return client.getresponse().read()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nthe outside\n")
        await writer.drain()
        writer.close()

    async def body(world: World) -> None:
        house = await world.house()
        await house.plug(1)
        guest = Stack()
        inside = guest.now(boot, house.cards[1].mac)
        cables = Cables([(house.taps[1], inside)])
        web = world.outside.now(listener, "tcp")
        server = await asyncio.start_server(serve, sock=web)
        try:
            udhcpc = ("udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "10", "-s", str(script))
            said = await guest.do(run, *udhcpc)
            assert (tmp_path / "told").exists(), said
            assert (tmp_path / "told").read_text().split() == [
                house.own(1),
                "192.0.2.53",
                str(house.nat.gateway),
            ]
            assert await guest.do(fetch, OUTSIDE, 60.0) == b"the outside\n"
            for own in (MACHINE, str(house.nat.gateway), CLOUD):
                assert await guest.do(fetch, own, 0.5) == b""
            assert world.trapped() == []
        finally:
            server.close()
            await server.wait_closed()
            cables.close()
            guest.close()
            os.close(inside)

    on(body)


INSIDE_OF_THE_MACHINE = (
    *("127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0", "0.0.0.1"),
    *(CLOUD, MACHINE, "10.77.0.1", "224.0.0.1", "255.255.255.255", "10.77.0.255", "203.0.113.255"),
)


def test_frames_made_by_hand_reach_neither_loopback_nor_the_machine(on):
    async def body(world: World) -> None:
        house = await world.house()
        await house.plug(1)
        for to in INSIDE_OF_THE_MACHINE:
            house.say(1, to)
            house.send(1, syn(house, 1, to))
            # A frame for everybody that holds a packet for one.
            target = End(EVERYBODY, IPv4Address(to), PORT)
            house.send(1, write_frame(Datagram(house.end(1), target, b"x")))
        # What is well meant comes through, so that nothing was lost on the way.
        house.say(1, OUTSIDE)
        assert await world.heard(world.server) == [(b"hello", MACHINE)]
        await asyncio.sleep(0.1)
        assert world.trapped() == []

    on(body)


def test_loopback_and_the_clouds_credentials_stay_shut_where_the_machines_filters_are_emptied(on):
    async def body(world: World) -> None:
        house = await world.house()
        await house.plug(1)

        def empty() -> None:
            with closing(Nftables(IPV4)) as open_tables:
                open_tables.put([(IPV4, "cm-0badcafe", ())], "test")

        world.machine.now(empty)
        for to in INSIDE_OF_THE_MACHINE:
            if to not in {MACHINE, "10.77.0.1", "10.77.0.255", "203.0.113.255"}:
                house.say(1, to)
                house.send(1, syn(house, 1, to))
        house.say(1, MACHINE, b"its own")
        found = await some(world.trapped)
        assert [one[0] for one in found] == [b"its own"]

    on(body)


def test_the_machines_own_addresses_open_only_where_its_operator_wants_it(on):
    async def body(world: World) -> None:
        house = await world.house(reach_host=True)
        await house.plug(1)
        for to in INSIDE_OF_THE_MACHINE:
            if to not in {MACHINE, "10.77.0.1", "10.77.0.255", "203.0.113.255"}:
                house.say(1, to)
                house.send(1, syn(house, 1, to))
        house.say(1, MACHINE, b"allowed")
        found = await some(world.trapped)
        assert [one[0] for one in found] == [b"allowed"]
        await house.apply(switch_of(replace(house.nat, reach_host=False)))
        house.say(1, MACHINE, b"not any more")
        house.say(1, OUTSIDE)
        assert await world.heard(world.server)
        # What has begun may go on: it is told apart by its connection. Something new may not.
        world.trapped()
        house.send(1, syn(house, 1, MACHINE))
        await asyncio.sleep(0.1)
        assert world.trapped() == []

    on(body)


def test_a_spoofed_source_gets_nowhere(on):
    async def body(world: World) -> None:
        house = await world.house()
        await house.plug(1, 2)
        for source in (house.own(2), "10.77.0.200", "8.8.8.8", MACHINE, OUTSIDE, "127.0.0.1"):
            house.say(1, OUTSIDE, b"spoofed", source=source)
        gateway = End(octets(house.plan.routers[0].mac), house.nat.gateway, PORT)
        # As the gateway, to another guest; and from another's card address.
        for source in (gateway, house.end(2)):
            target = End(octets(house.cards[2].mac), IPv4Address(house.own(2)), PORT)
            house.send(1, write_frame(Datagram(source, target, b"spoofed")))
        house.say(1, OUTSIDE, b"honest")
        assert await world.heard(world.server) == [(b"honest", MACHINE)]
        assert not [one for one in house.frames(2) if b"spoofed" in one]

    on(body)


def test_a_guest_cannot_speak_in_what_the_machine_began_with_another(on):
    async def body(world: World) -> None:
        house = await world.house()
        await house.plug(1, 2)
        own = world.machine.now(listener_without_port)
        with closing(own):
            own.setblocking(False)
            own.sendto(b"hello", (house.own(2), PORT))
            port = own.getsockname()[1]
            gateway = octets(house.plan.routers[0].mac)
            for number, hardware, data in (
                (2, gateway, b"answer"),
                (1, EVERYBODY, b"evil"),
                (1, gateway, b"evil"),
            ):
                source = End(octets(house.cards[number].mac), IPv4Address(house.own(2)), PORT)
                target = End(hardware, house.nat.gateway, port)
                house.send(number, write_frame(Datagram(source, target, data)))
            house.say(2, OUTSIDE)
            assert await world.heard(world.server)
            assert await world.heard(own) == [(b"answer", house.own(2))]

    on(body)


def test_a_guest_that_may_forge_addresses_is_still_neither_the_gateway_nor_a_dhcp_server(on):
    async def body(world: World) -> None:
        house = await world.house()
        loose = PortGroupFact("loose", "vSwitch0", 0, PolicyOverride(True, True, True))
        house.networks = switch_of(house.nat, loose)
        await house.plug(1, group="loose")
        await house.plug(2)
        router = house.plan.routers[0]
        gateway = End(octets(router.mac), house.nat.gateway, 67)
        target = End(octets(house.cards[2].mac), IPv4Address(house.own(2)), 68)
        house.frames(2)
        house.send(1, write_frame(Datagram(gateway, target, b"evil")))
        house.send(1, write_frame(Datagram(replace(house.end(1), port=67), target, b"evil")))
        claim = (
            *(EVERYBODY, house.end(1).hardware, b"\x08\x06", bytes.fromhex("0001080006040002")),
            *(house.end(1).hardware, house.nat.gateway.packed, bytes(10)),
        )
        house.send(1, b"".join(claim))
        # Another's addresses, both of them: the port, not the frame, says who speaks.
        frame = Datagram(house.end(2), End(octets(router.mac), IPv4Address(OUTSIDE), PORT), b"evil")
        house.send(1, write_frame(frame))
        house.say(2, OUTSIDE, b"honest")
        assert await world.heard(world.server) == [(b"honest", MACHINE)]
        assert not [one for one in house.frames(2) if b"evil" in one or one[12:14] == b"\x08\x06"]

    on(body)


def test_nobody_outside_begins_anything_with_a_guest_and_the_machine_routes_for_no_stranger(on):
    async def body(world: World) -> None:
        house = await world.house()
        await house.plug(1)
        other = Stack()
        world.machine.cable("wan1", other, "lan1")
        world.machine.address("wan1", "198.51.100.1", 24)
        other.address("lan1", "198.51.100.2", 24)
        other.route("198.51.100.1")
        strangers = other.now(listener, "udp")
        world.outside.route(MACHINE, "198.51.100.0/24")
        world.outside.route(MACHINE, "10.77.0.0/24")
        assert world.forwarding()
        with closing(world.outside.now(listener_without_port)) as from_outside:
            from_outside.sendto(b"knock", (house.own(1), PORT))
            from_outside.sendto(b"knock", ("198.51.100.2", PORT))
        await asyncio.sleep(0.2)
        assert not [one for one in house.frames(1) if b"knock" in one]
        assert await world.heard(strangers, 0.1) == []
        strangers.close()
        other.close()

    on(body)


def listener_without_port() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def test_two_homes_are_apart_and_one_that_goes_leaves_the_other_what_it_needs(on):
    async def body(world: World) -> None:
        one, two = await world.house("aaaaaaaa"), await world.house("bbbbbbbb")
        assert not world.forwarding()
        await one.plug(1)
        await two.plug(2)
        for house, number in ((one, 1), (two, 2)):
            assert await house.leases(number) == [("OFFER", f"{house.own(number)}/24")]
            house.say(number, OUTSIDE)
            assert await world.heard(world.server) == [(b"hello", MACHINE)]
        two.frames(2)
        one.say(1, two.own(2), b"across")
        one.say(1, "10.77.1.1", b"across")
        one.say(1, OUTSIDE)
        assert await world.heard(world.server)
        assert not [frame for frame in two.frames(2) if b"across" in frame]
        assert world.trapped() == []
        assert world.tables() == {"cm-aaaaaaaa", "cm-bbbbbbbb"}
        await one.wires.part()
        assert world.tables() == {"cm-bbbbbbbb"}
        assert world.forwarding()
        two.say(2, OUTSIDE, b"still")
        assert await world.heard(world.server) == [(b"still", MACHINE)]
        await two.apply(FIRST)
        assert world.tables() == set()
        assert not world.forwarding()
        assert world.interfaces() == {"lo", "wan0"}

    on(body)


def test_a_machine_that_was_a_router_stays_one(on):
    async def body(world: World) -> None:
        place = Path("/proc/sys/net/ipv4/conf/wan0/forwarding")
        world.machine.now(place.write_text, "1")
        house = await world.house()
        await house.plug(1)
        house.say(1, OUTSIDE)
        assert await world.heard(world.server)
        await house.apply(FIRST)
        assert world.forwarding()

    on(body)


def test_what_a_killed_home_left_is_taken_over_by_its_next_life_or_taken_away(on):
    async def body(world: World) -> None:
        first = await world.house()
        await first.plug(1)
        # Killed: its network ends, and with it the cable; table and switch stay.
        world.houses.clear()
        await first.close()
        assert await some(lambda: world.interfaces() == {"lo", "wan0"})
        assert world.tables() == {"cm-0badcafe"}
        assert world.forwarding()
        second = await world.house()
        await second.plug(1)
        second.say(1, OUTSIDE)
        assert await world.heard(world.server) == [(b"hello", MACHINE)]
        world.houses.clear()
        await second.close()
        world.machine.now(routing.remove, "0badcafe")
        assert world.tables() == set()
        assert not world.forwarding()
        world.machine.now(routing.remove, "0badcafe")

    on(body)


def test_what_somebody_took_away_in_the_machine_is_mended(on):
    async def body(world: World) -> None:
        house = await world.house()
        await house.plug(1)

        def flush() -> None:
            with closing(Nftables(IPV4)) as open_tables:
                open_tables.put([(IPV4, "cm-0badcafe", ())], "test")
            with Links() as links:
                links.remove(links.index("cm-0badcafe-0"))

        world.machine.now(flush)
        await house.apply()
        house.say(1, OUTSIDE)
        assert await world.heard(world.server) == [(b"hello", MACHINE)]
        assert await house.leases(1) == [("OFFER", f"{house.own(1)}/24")]

    on(body)


def test_a_network_that_the_machine_is_in_itself_is_refused(on):
    async def body(world: World) -> None:
        house = await world.house()
        house.networks = switch_of(Nat("10.77.0.0/24"))
        world.machine.address("wan0", "10.77.0.9", 16)
        with pytest.raises(HostError) as caught:
            await house.plug(1)
        assert caught.value.code == "nat-network"

    on(body)


def test_a_flood_of_questions_takes_neither_addresses_nor_the_servers_time(on):
    async def body(world: World) -> None:
        house = await world.house()
        await house.plug(1, 2, 3)
        stop = threading.Event()
        begin = time.monotonic()

        def flood() -> int:
            count = 0
            own = octets(house.cards[1].mac)
            while not stop.is_set() or count < 200:
                count += 1
                name = bytes([0, 0x50, 0x56, 1, *(count & 0xFFFF).to_bytes(2, "big")])
                ask(house, 1, own, name if count % 2 else own)
            return count

        task = asyncio.create_task(asyncio.to_thread(flood))
        assert await house.leases(2) == [("OFFER", f"{house.own(2)}/24")]
        stop.set()
        assert await task >= 200
        most = DHCP_BURST + DHCP_RATE * (time.monotonic() - begin) + 1
        answers = [frame for frame in house.frames(1) if frame[34:36] == b"\x00\x43"]
        # Its own address alone, and no more often than it may ask.
        assert {
            parse_reply(parse_frame(one).data, 7, octets(house.cards[1].mac)).kind
            for one in answers
        } <= {Kind.OFFER}
        assert 1 <= len(answers) <= most
        assert await house.leases(3) == [("OFFER", f"{house.own(3)}/24")]

    on(body)


def test_a_flood_of_connections_fills_no_more_than_the_guests_part(on):
    async def body(world: World) -> None:
        house = await world.house()
        await house.plug(1, 2)
        gateway = octets(house.plan.routers[0].mac)
        for port in range(1024, 6024):
            target = End(gateway, IPv4Address(OUTSIDE), port)
            house.send(1, write_frame(Datagram(house.end(1, port=port), target, b"flood")))
        count = Path("/proc/sys/net/netfilter/nf_conntrack_count")
        assert int(world.machine.now(count.read_text)) <= 1024 + 50
        house.say(2, OUTSIDE, b"honest")
        heard: list[tuple[bytes, str]] = []
        while (b"honest", MACHINE) not in heard:
            heard = await world.heard(world.server)
            assert heard

    on(body)


def test_the_server_of_a_kernel_that_died_gives_its_interface_to_the_next_one(on):
    async def body(world: World) -> None:
        house = await world.house()
        await house.plug(1)
        assert await house.leases(1)
        # Killed: all its descriptors are closed, and nobody ends its server.
        orphan = house.leasing._servers.pop("d0")
        asyncio.get_running_loop().remove_reader(orphan.child.pidfd)
        orphan.control.close()
        os.close(orphan.frames)
        house.leasing = Leasing(house.wires.open_listener, start_plain)
        await house.apply()
        assert await house.leases(1) == [("OFFER", f"{house.own(1)}/24")]
        assert await asyncio.to_thread(wait_gone, orphan.child.pidfd, 60.0)
        reap([orphan.child.pid])
        os.close(orphan.child.pidfd)

    on(body)


def test_a_switch_without_nat_and_another_vlan_lead_nowhere(on):
    async def body(world: World) -> None:
        house = await world.house()
        house.networks = switch_of(house.nat, PortGroupFact("ten", "vSwitch0", 10))
        await house.plug(1)
        await house.plug(2, group="ten")
        target = End(octets(house.plan.routers[0].mac), IPv4Address(OUTSIDE), PORT)
        source = End(octets(house.cards[2].mac), IPv4Address("10.77.0.9"), PORT)
        house.send(2, write_frame(Datagram(source, target, b"x")))
        assert await house.leases(2, 0.3) == []
        assert await world.heard(world.server, 0.2) == []
        mac = re.escape(house.cards[2].mac)
        assert not re.search(mac, str(house.plan.routers[0].cards))

    on(body)
