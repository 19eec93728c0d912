"""Guests' frames on real bridges and filters, in a network namespace of each test's own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from casemate.errors import HostError
from casemate.kernel.sys.mounts import make_private
from casemate.kernel.sys.namespaces import Namespace, unshare
from casemate.kernel.sys.netlink import Links
from casemate.kernel.sys.packetfilter import PacketFilters
from casemate.kernel.sys.process import no_new_privileges
from casemate.kernel.sys.seccomp import refuse_commands
from casemate.kernel.sys.spawn import call_in_child
from casemate.kernel.sys.taps import enter_namespace
from casemate.kernel.wires import Wires
from casemate.machine.callfilters import WIRE_COMMANDS
from casemate.machine.networkplan import Card, Filter
from casemate.machine.networks import (
    FIRST,
    TRUNK,
    Networks,
    PolicyOverride,
    PortGroupFact,
)
from casemate.machine.shaping import Shaping
from casemate.machine.wiring import plan_network

pytestmark = pytest.mark.host

HEADER = bytes(10)  # struct virtio_net_hdr: no offload
KIND = b"\x88\xb5"  # for experiments: nothing of Linux's own looks so
OWN = Path("/proc/thread-self/ns/net")
EVERYBODY = "ff:ff:ff:ff:ff:ff"


def mac(number: int) -> str:
    return f"00:50:56:00:00:{number:02x}"


def octets(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def groups(*more: PortGroupFact) -> Networks:
    return replace(FIRST, groups=(*FIRST.groups, *more))


def card(number: int, group: str = "VM Network", **changes) -> Card:
    return replace(Card(str(number), 0, mac(number), group), **changes)


class Lab:
    """Cards whose guests are the test."""

    def __init__(self, wires: Wires) -> None:
        self.wires = wires
        self.networks = FIRST
        self.cards: dict[int, Card] = {}
        self.taps: dict[int, int] = {}

    async def plug(self, *cards: Card) -> None:
        for one in cards:
            number = int(one.vm)
            self.cards[number] = one
            if number not in self.taps:
                self.taps[number] = await self.wires.open_tap(one.tap)
        await self.apply()

    async def apply(self, networks: Networks | None = None) -> None:
        self.networks = networks or self.networks
        await self.wires.apply(plan_network(self.networks, self.cards.values()))

    def unplug(self, number: int) -> None:
        os.close(self.taps.pop(number))
        del self.cards[number]

    def send(
        self, number: int, to: str, source: str = "", tag: bytes = b"", text: bytes = b"hello"
    ):
        frame = octets(to) + octets(source or mac(number)) + tag + KIND + text.ljust(46, b"\0")
        os.write(self.taps[number], HEADER + frame)

    def seen(self) -> dict[int, int]:
        """Return how many frames of the tests each card got; what Linux itself sends is not."""
        found = {}
        for number, tap in self.taps.items():
            count = 0
            with contextlib.suppress(BlockingIOError):
                while frame := os.read(tap, 65536):
                    count += KIND in frame[22:30]
            if count:
                found[number] = count
        return found

    async def exchange(self, number: int, to: str, **more) -> dict[int, int]:
        """Send a frame; return who got it, once it has been everywhere."""
        self.seen()
        self.send(number, to, **more)
        # Bridges pass frames on while the sender writes them.
        await asyncio.sleep(0.01)
        return self.seen()

    async def receives(self, wanted: dict[int, int]) -> bool:
        """Wait until the cards have got so many frames, and no others; wires take a moment."""
        found: dict[int, int] = {}
        end = time.monotonic() + 60
        while found != wanted and time.monotonic() < end:
            await asyncio.sleep(0.01)
            for number, count in self.seen().items():
                found[number] = found.get(number, 0) + count
        return found == wanted


@asynccontextmanager
async def lab() -> AsyncIterator[Lab]:
    wires = Wires(None)
    made = Lab(wires)
    try:
        yield made
    finally:
        for tap in made.taps.values():
            os.close(tap)
        await wires.close()


@pytest.fixture
def on(root_only: None) -> Callable[[Callable[[Lab], Awaitable[None]]], None]:  # noqa: ARG001
    if not Path("/dev/net/tun").exists():
        pytest.skip("needs TAP interfaces: /dev/net/tun")

    def runner(body: Callable[[Lab], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with lab() as made:
                await body(made)

        asyncio.run(asyncio.wait_for(whole(), 200))

    return runner


def test_two_cards_of_a_port_group_talk_and_a_third_does_not_hear(on):
    async def body(lab: Lab) -> None:
        await lab.plug(card(1), card(2), card(3))
        assert await lab.exchange(1, mac(2)) == {2: 1}
        assert await lab.exchange(2, mac(1)) == {1: 1}
        assert await lab.exchange(1, EVERYBODY) == {2: 1, 3: 1}
        assert await lab.exchange(1, "33:33:00:00:00:fb") == {2: 1, 3: 1}

    on(body)


def test_what_cards_send_and_receive_is_counted_for_their_vms(on):
    async def body(lab: Lab) -> None:
        await lab.plug(card(1), card(2))
        before = await lab.wires.traffic()
        for _ in range(10):
            lab.send(1, mac(2))
        assert lab.seen() == {2: 10}
        after = await lab.wires.traffic()
        assert after["1"][1] - before["1"][1] == 600
        assert after["2"][0] - before["2"][0] >= 600

    on(body)


@pytest.mark.parametrize("kind", [b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x88\x63"])
def test_what_is_in_a_frame_is_the_guests_affair(on, kind):
    """A packet that is no packet is passed on: nobody but guests looks into them."""

    async def body(lab: Lab) -> None:
        await lab.plug(card(1), card(2))
        for taken in lab.taps.values():
            with contextlib.suppress(BlockingIOError):
                while os.read(taken, 65536):
                    pass
        frame = HEADER + octets(mac(2)) + octets(mac(1)) + kind + b"nonsense".ljust(60, b"\0")
        os.write(lab.taps[1], frame)
        await asyncio.sleep(0.01)
        assert os.read(lab.taps[2], 65536) == frame

    on(body)


def test_what_is_for_nobody_known_reaches_nobody(on):
    async def body(lab: Lab) -> None:
        await lab.plug(card(1), card(2))
        assert await lab.exchange(1, mac(9)) == {}

    on(body)


def test_another_vlan_hears_nothing_whatever_the_frame(on):
    async def body(lab: Lab) -> None:
        lab.networks = groups(
            PortGroupFact("ten", "vSwitch0", 10), PortGroupFact("also ten", "vSwitch0", 10)
        )
        await lab.plug(card(1), card(2, "ten"), card(3, "also ten"))
        for to in (mac(2), EVERYBODY, mac(9)):
            assert await lab.exchange(1, to) == {}
        assert await lab.exchange(2, EVERYBODY) == {3: 1}

    on(body)


@pytest.mark.parametrize("tag", [b"\x81\x00\x00\x0a", b"\x88\xa8\x00\x0a", b"\x81\x00\x00\x00"])
def test_a_guest_that_tags_its_frames_is_not_heard(on, tag):
    async def body(lab: Lab) -> None:
        lab.networks = groups(PortGroupFact("ten", "vSwitch0", 10))
        await lab.plug(card(1), card(2), card(3, "ten"))
        assert await lab.exchange(1, EVERYBODY, tag=tag) == {}
        assert await lab.exchange(1, mac(2), tag=tag) == {}

    on(body)


def test_a_spoofed_source_is_dropped_and_takes_nothing_over(on):
    async def body(lab: Lab) -> None:
        await lab.plug(card(1), card(2), card(3))
        assert await lab.exchange(1, mac(3), source=mac(2)) == {}
        assert await lab.exchange(1, EVERYBODY, source=mac(9)) == {}
        assert await lab.exchange(3, mac(2)) == {2: 1}

    on(body)


def test_forged_transmits_where_the_port_group_lets_them_still_take_nothing_over(on):
    async def body(lab: Lab) -> None:
        policy = PolicyOverride(forged_transmits=True)
        lab.networks = groups(PortGroupFact("loose", "vSwitch0", 0, policy))
        await lab.plug(card(1, "loose"), card(2), card(3))
        assert await lab.exchange(1, mac(3), source=mac(2)) == {3: 1}
        assert await lab.exchange(3, mac(2)) == {2: 1}

    on(body)


def test_an_address_that_a_guest_gave_itself_is_found_only_where_that_is_allowed(on):
    async def body(lab: Lab) -> None:
        both = PolicyOverride(mac_changes=True, forged_transmits=True)
        lab.networks = groups(PortGroupFact("loose", "vSwitch0", 0, both))
        await lab.plug(card(1, "loose"), card(2))
        await lab.exchange(1, EVERYBODY, source=mac(7))
        assert await lab.exchange(2, mac(7)) == {1: 1}
        await lab.apply(
            groups(PortGroupFact("loose", "vSwitch0", 0, replace(both, mac_changes=False)))
        )
        await lab.plug(card(3, "loose"))
        await lab.exchange(3, EVERYBODY, source=mac(8))
        assert await lab.exchange(2, mac(8)) == {}

    on(body)


def test_a_promiscuous_port_sees_the_others_once_and_nobody_sees_it(on):
    async def body(lab: Lab) -> None:
        policy = PolicyOverride(promiscuous=True)
        lab.networks = groups(
            PortGroupFact("probe", "vSwitch0", 0, policy), PortGroupFact("ten", "vSwitch0", 10)
        )
        await lab.plug(card(1), card(2), card(3, "probe"), card(4, "ten"), card(5, "ten"))
        assert await lab.exchange(1, mac(2)) == {2: 1, 3: 1}
        assert await lab.exchange(1, mac(3)) == {3: 1}
        assert await lab.exchange(1, EVERYBODY) == {2: 1, 3: 1}
        assert await lab.exchange(1, mac(9)) == {3: 1}
        assert await lab.exchange(1, mac(2), source=mac(7)) == {}
        assert await lab.exchange(4, mac(5)) == {5: 1}
        assert await lab.exchange(3, mac(1)) == {1: 1}
        await lab.apply(
            groups(PortGroupFact("probe", "vSwitch0"), PortGroupFact("ten", "vSwitch0", 10))
        )
        assert await lab.exchange(1, mac(2)) == {2: 1}

    on(body)


def test_a_guest_cannot_make_a_switch_of_itself(on):
    async def body(lab: Lab) -> None:
        await lab.plug(card(1), card(2))
        assert await lab.exchange(1, "01:80:c2:00:00:00") == {}
        assert await lab.exchange(1, "01:80:c2:00:00:0e") == {}

    on(body)


def test_a_card_moves_between_port_groups_and_is_cut_off_while_it_runs(on):
    async def body(lab: Lab) -> None:
        lab.networks = groups(PortGroupFact("ten", "vSwitch0", 10))
        await lab.plug(card(1), card(2), card(3, "ten"))
        await lab.plug(card(1, "ten"))
        assert await lab.exchange(1, EVERYBODY) == {3: 1}
        assert await lab.exchange(2, mac(1)) == {}
        await lab.plug(card(1, "ten", connected=False))
        assert await lab.exchange(3, mac(1)) == {}
        with pytest.raises(OSError, match="Input/output error"):
            lab.send(1, EVERYBODY)
        await lab.plug(card(1, "no such group"))
        assert await lab.exchange(3, EVERYBODY) == {}
        await lab.plug(card(1))
        assert await lab.exchange(1, mac(2)) == {2: 1}

    on(body)


def test_a_changed_address_is_the_only_one(on):
    async def body(lab: Lab) -> None:
        await lab.plug(card(1), card(2))
        await lab.plug(card(1, mac=mac(9)))
        assert await lab.exchange(2, mac(1)) == {}
        assert await lab.exchange(2, mac(9)) == {1: 1}
        assert await lab.exchange(1, mac(2)) == {}
        assert await lab.exchange(1, mac(2), source=mac(9)) == {2: 1}

    on(body)


def test_nothing_is_left_of_a_dead_cell_and_of_removed_switches(on):
    async def body(lab: Lab) -> None:
        await lab.plug(card(1), card(2))
        lab.unplug(1)
        await lab.apply()
        assert "t1.0" not in await lab.wires.links()
        assert await lab.wires.run(filters) == {"t2.0"}
        lab.unplug(2)
        await lab.apply(Networks())
        assert set(await lab.wires.links()) <= {"lo"}
        assert await lab.wires.run(filters) == set()

    on(body)


def filters() -> set[str]:
    with contextlib.closing(PacketFilters()) as open_filters:
        return open_filters.names()


def test_a_new_kernel_finds_the_wires_of_the_former_one(on):
    async def body(lab: Lab) -> None:
        await lab.plug(card(1), card(2))
        # It knows nothing of what the former one did, and plans the same.
        lab.wires._ports.clear()
        lab.wires._ports.clear()
        lab.wires._filters.clear()
        lab.wires._links.clear()
        lab.wires._tables = None
        await lab.apply()
        assert await lab.exchange(1, mac(2)) == {2: 1}
        assert await lab.exchange(1, mac(2), source=mac(9)) == {}

    on(body)


def test_a_namespace_that_is_held_is_entered_again_and_another_is_not(on, tmp_path):
    holder = tmp_path / "network"

    def look() -> list[bool]:
        # The thread has mounts of its own: pytest's are not touched.
        unshare(Namespace.MOUNT)
        make_private()
        enter_namespace(holder)
        first = OWN.stat().st_ino
        enter_namespace(None)
        other = OWN.stat().st_ino
        enter_namespace(holder)
        again = OWN.stat().st_ino
        holder.with_name("plain file").touch()
        enter_namespace(holder.with_name("plain file"))
        made = OWN.stat().st_ino
        return [first == again, first == other, made in {first, other}]

    async def body(lab: Lab) -> None:
        assert await lab.wires.run(look) == [True, False, False]

    on(body)


def test_a_guest_that_floods_leaves_the_host_responsive(on):
    async def body(lab: Lab) -> None:
        await lab.plug(*(card(number) for number in range(1, 6)))
        end, enough = time.monotonic() + 1.0, threading.Event()

        def flood() -> int:
            count = 0
            while not enough.is_set() or count <= 100:
                lab.send(1, EVERYBODY)
                count += 1
            return count

        task = asyncio.create_task(asyncio.to_thread(flood))
        try:
            # Answered all the while.
            for _ in range(2):
                await asyncio.wait_for(lab.wires.links(), 60)
            while time.monotonic() < end:
                await lab.wires.links()
        finally:
            enough.set()
        assert await task > 100
        # Queues are bounded: what nobody reads is dropped and takes no memory.
        assert all(count <= 1000 for count in lab.seen().values())
        assert await lab.exchange(2, mac(3)) == {3: 1}

    on(body)


def test_what_a_guest_sends_beyond_its_bandwidth_is_dropped_and_another_s_is_not(on):
    async def body(lab: Lab) -> None:
        slow = Shaping(True, 80_000, 80_000, 1)
        lab.networks = groups(PortGroupFact("slow", "vSwitch0", shaping=slow))
        await lab.plug(card(1, "slow"), card(2), card(3))
        lab.seen()
        passed = 0
        begin = time.monotonic()
        # Ten thousand bytes a second, after 141,072 at once.
        for number in (1, 2):
            for _ in range(400):
                lab.send(number, mac(3), text=bytes(986))
                passed += lab.seen().get(3, 0)
            await asyncio.sleep(0.01)
            passed += lab.seen().get(3, 0)
            if number == 1:
                taken = time.monotonic() - begin
                # Ethernet's own 14 bytes do not count.
                assert 130 <= passed <= 144 + 11 * taken
                passed = 0
        assert passed == 400

    on(body)


def test_a_trunk_carries_the_vlans_of_its_switch_and_no_other(on):
    async def body(lab: Lab) -> None:
        if not await lab.wires.can_tag():
            with pytest.raises(HostError) as caught:
                await lab.wires.run(_tag_loopback)
            assert caught.value.code.startswith("host-")
            pytest.skip("needs VLAN tags: the Linux driver 8021q")
        lab.networks = groups(
            PortGroupFact("trunk", "vSwitch0", TRUNK), PortGroupFact("ten", "vSwitch0", 10)
        )
        await lab.plug(card(1, "trunk"), card(2, "ten"), card(3))
        assert await lab.exchange(1, EVERYBODY, tag=b"\x81\x00\x00\x0a") == {2: 1}
        assert await lab.exchange(1, EVERYBODY, tag=b"\x81\x00\x00\x0b") == {}
        assert await lab.exchange(1, EVERYBODY) == {3: 1}

    on(body)


def test_a_filter_of_tags_lets_those_vlans_in_at_any_priority_and_no_other(on):
    def put() -> None:
        with contextlib.closing(PacketFilters()) as open_filters:
            open_filters.put(Filter("t1.0", mac(1), (10, 4094)), {})

    async def body(lab: Lab) -> None:
        await lab.plug(card(1), card(2))
        await lab.wires.run(put)
        # Without the driver 8021q a bridge passes tagged frames on as they are.
        for tag in (b"\x00\x0a", b"\xe0\x0a", b"\x0f\xfe"):
            assert await lab.exchange(1, mac(2), tag=b"\x81\x00" + tag) == {2: 1}, tag
        for tag in (b"\x00\x0b", b"\x00\x00", b"\x0f\xff", b"\xe0\x0b"):
            assert await lab.exchange(1, mac(2), tag=b"\x81\x00" + tag) == {}, tag
        assert await lab.exchange(1, mac(2), tag=b"\x88\xa8\x00\x0a") == {}
        assert await lab.exchange(1, mac(2)) == {2: 1}

    on(body)


def _tag_loopback() -> None:
    with Links() as links:
        links.add_bridge("b0")
        links.add_vlan("b0.1", links.index("b0"), 1)


def test_a_taken_over_qemu_cannot_change_the_host_s_end_of_its_wire(on):
    async def body(lab: Lab) -> None:
        await lab.plug(card(1), card(2), card(3))
        tap = lab.taps[1]
        victim = struct.pack("16sH6s8x", b"t1.0", 1, octets(mac(2)))

        def attack() -> bytes:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            no_new_privileges()
            refuse_commands(WIRE_COMMANDS.values())
            refused = 0
            for command in WIRE_COMMANDS.values():
                try:
                    fcntl.ioctl(tap, command, victim)
                except PermissionError:
                    refused += 1
            features = fcntl.ioctl(tap, 0x800454CF, bytes(4))
            return f"{refused} {any(features)}".encode()

        told = call_in_child(attack, what="the attack", timeout=60)
        assert told.decode() == f"{len(WIRE_COMMANDS)} True"
        assert await lab.exchange(3, mac(2)) == {2: 1}

    on(body)


def _lay_cable() -> None:
    with Links() as links:
        links._route.link("add", ifname="up0", kind="veth", peer="far0")
        links.set_up(links.index("far0"), up=True)


def _names() -> set[str]:
    with Links() as links:
        return set(links.all())


def _give_address(address: str, prefix: int) -> None:
    with Links() as links:
        links._route.addr("add", index=links.index("up0"), address=address, prefixlen=prefix)


def _occupied() -> frozenset[str]:
    with Links() as links:
        return links.occupied()


@pytest.mark.parametrize(
    ("address", "prefix"), [("192.0.2.9", 24), ("2001:db8::9", 64), ("fd00::9", 64)]
)
def test_a_card_by_which_the_machine_is_reached_is_not_taken_as_an_uplink(
    root_only,  # noqa: ARG001 (asked for its skip)
    address,
    prefix,
):
    async def story() -> str:
        unshare(Namespace.NET)
        await asyncio.to_thread(_lay_cable)
        assert await asyncio.to_thread(_occupied) == frozenset()
        async with lab() as made:
            switch = replace(FIRST.switches[0], uplinks=("up0",))
            await made.apply(replace(FIRST, switches=(switch,)))
            await made.apply(FIRST)
            await asyncio.to_thread(_give_address, address, prefix)
            assert await asyncio.to_thread(_occupied) == {"up0"}
            assert await made.wires.occupied() == {"up0"}
            with pytest.raises(HostError) as caught:
                await made.apply(replace(FIRST, switches=(switch,)))
            assert caught.value.code == "uplink-in-use"
            assert "up0" in await asyncio.to_thread(_names)
        return "done"

    assert call_in_child(lambda: told(story()), what="the machine", timeout=60) == b"done"


def told(story: Awaitable[str]) -> bytes:
    try:
        return asyncio.run(asyncio.wait_for(story, 60)).encode()
    except AssertionError as error:
        return f"failed: {error!r} {traceback.format_exc()[-800:]}".encode()


def _bridge(name: str) -> None:
    with Links() as links:
        links.add_bridge("br0")
        links.join(links.index(name), links.index("br0"))


def test_an_uplink_is_taken_in_carries_frames_both_ways_and_is_given_back(root_only):  # noqa: ARG001
    kind = int.from_bytes(KIND, "big")
    outside = "02:00:00:00:00:09"

    async def story() -> str:
        # The child's namespace stands for the machine: a cable between two of its interfaces.
        unshare(Namespace.NET)
        await asyncio.to_thread(_lay_cable)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as far:
            far.bind(("far0", kind))
            far.settimeout(60)
            async with lab() as made:
                switch = replace(FIRST.switches[0], uplinks=("up0",))
                await made.apply(replace(FIRST, switches=(switch,)))
                await made.plug(card(1), card(2))
                assert "up0" not in await asyncio.to_thread(_names)
                assert (await made.wires.links())["up0"].master
                # What is for nobody here leaves the host; what is spoofed does not.
                made.seen()
                made.send(1, outside, source=mac(9))
                made.send(1, outside)
                frame = far.recv(2048)
                assert frame[:12] == octets(outside) + octets(mac(1))
                assert made.seen() == {}
                back = octets(mac(2)) + octets(outside) + KIND + bytes(46)
                far.send(back)
                assert await made.receives({2: 1})
                far.send(octets(mac(2)) + octets(outside) + b"\x81\x00\x00\x0a" + KIND + bytes(46))
                far.send(octets(mac(7)) + octets(outside) + KIND + bytes(46))
                await asyncio.sleep(0.05)
                assert made.seen() == {}
                await made.apply(FIRST)
                assert "up0" in await asyncio.to_thread(_names)
                assert "up0" not in await made.wires.links()
                assert await made.exchange(1, mac(2)) == {2: 1}
                await asyncio.to_thread(_bridge, "up0")
                with pytest.raises(HostError) as caught:
                    await made.apply(replace(FIRST, switches=(switch,)))
                assert caught.value.code == "uplink-in-use"
                assert "up0" in await asyncio.to_thread(_names)
        return "done"

    assert call_in_child(lambda: told(story()), what="the machine", timeout=60) == b"done"


def test_an_interface_that_is_not_there_is_named(on):
    def look() -> str:
        with Links() as links, pytest.raises(HostError) as caught:
            links.index("nobody")
        return caught.value.code

    async def body(lab: Lab) -> None:
        assert await lab.wires.run(look) == "host-enodev"

    on(body)


def test_whatever_goes_wrong_in_the_network_is_one_of_our_errors(on):
    def broken() -> None:
        raise KeyError("IFLA_SOMETHING")

    async def body(lab: Lab) -> None:
        with pytest.raises(HostError) as caught:
            await lab.wires.run(broken)
        assert caught.value.code == "network"

    on(body)
