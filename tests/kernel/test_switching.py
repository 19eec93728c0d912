"""Switches are kept, cards follow VMs, and a host that cannot be wired so stays as it was."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from casemate.calls import networks as c
from casemate.errors import AbsentError, ArgumentError, HostError, InUseError
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.leasing import Leasing
from casemate.kernel.natting import Natting
from casemate.kernel.store import Store
from casemate.kernel.stream import FactStream
from casemate.kernel.switching import Switching
from casemate.kernel.sys import spawn
from casemate.kernel.sys.process import close_all_but
from casemate.kernel.sys.spawn import Child
from casemate.kernel.vmpower import _prepared
from casemate.kernel.wires import Wires
from casemate.machine.dhcp import DhcpService, load_service
from casemate.machine.facts import NicSpec, PowerState, VmConfig, VmFact
from casemate.machine.nat import Nat
from casemate.machine.networkplan import NetworkPlan, Notice
from casemate.machine.networks import (
    FIRST,
    TRUNK,
    AddressFact,
    PolicyOverride,
    SecurityPolicy,
)
from casemate.machine.shaping import Shaping
from casemate.machine.teaming import BY_ORDER, Teaming, UplinksFact

from .vmbench import Host, make


class FakeWires:
    """Wires in memory. ``broken`` refuses the next plan that has this bridge."""

    def __init__(self) -> None:
        self.plan = NetworkPlan()
        self.taps: list[str] = []
        self.broken = ""
        self.no_nat = False
        self.tags = False
        self.own: tuple[AddressFact, ...] = ()
        self.routes: frozenset[str] = frozenset()
        self.down: frozenset[str] = frozenset()
        self.told: list[tuple[str, str]] = []
        self.events: socket.socket | None = None
        self.busy: frozenset[str] = frozenset()

    async def apply(self, plan: NetworkPlan) -> None:
        if self.no_nat and plan.routers:
            raise HostError("no NAT here", code="host-enoent")
        if self.broken in {bridge.name for bridge in plan.bridges}:
            raise HostError("Linux refuses", code="host-eperm")
        self.plan = plan

    async def open_tap(self, name: str) -> int:
        self.taps.append(name)
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    async def can_tag(self) -> bool:
        return self.tags

    async def without_link(self, names: Iterable[str]) -> frozenset[str]:
        return self.down & set(names)

    async def open_watch(self) -> socket.socket:
        self.events, watch = socket.socketpair()
        watch.setblocking(False)
        return watch

    def hear(self, down: set[str]) -> None:
        """Have these uplinks without a link, and tell of it."""
        self.down = frozenset(down)
        assert self.events is not None
        self.events.send(b"something became of a link")

    async def announce(self, notices: Iterable[Notice]) -> None:
        self.told += [(notice.mac, notice.by) for notice in notices]

    async def open_listener(self, name: str) -> int:
        return await self.open_tap(name)

    async def networks(self) -> frozenset[str]:
        return self.routes

    async def part(self) -> None:
        self.plan = NetworkPlan()

    async def addresses(self) -> tuple[AddressFact, ...]:
        return self.own

    async def occupied(self) -> frozenset[str]:
        return self.busy | {address.interface for address in self.own}

    async def close(self) -> None:
        if self.events is not None:
            self.events.close()

    def port(self, name: str) -> str:
        return {port.name: port.bridge for port in self.plan.ports}.get(name, "")


class FakeServers:
    """DHCP servers that are processes of their own, and note what they are told."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []
        self.broken = False

    def start(self, _frames: int, control: int) -> Child:
        if self.broken:
            raise HostError("no program", code="host-enoent")
        end = socket.socket(fileno=os.dup(control))
        self.ends.append(end)
        pid = os.fork()
        if pid == 0:
            close_all_but({control})
            gone = select.poll()
            gone.register(control, 0)
            gone.poll()
            os._exit(0)
        return Child(pid, os.pidfd_open(pid))

    def told(self) -> DhcpService:
        """Return what the server that was started last was told last."""
        self.ends[-1].setblocking(False)
        said = []
        with contextlib.suppress(BlockingIOError):
            while data := self.ends[-1].recv(1 << 16):
                said.append(data)
        return load_service(said[-1])

    def close(self) -> None:
        for end in self.ends:
            end.close()


class FakeInventory:
    """Registered VMs."""

    def __init__(self) -> None:
        self.facts: list[VmFact] = []

    def vms(self) -> tuple[VmFact, ...]:
        return tuple(self.facts)


class Desk:
    """A Switching, and all that it works with."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.wires = FakeWires()
        self.inventory = FakeInventory()
        self.stream = FactStream()
        self.servers = FakeServers()

    @asynccontextmanager
    async def up(self, running: dict[str, VmConfig] | None = None) -> AsyncIterator[Desk]:
        store = Store(self.place / "casemate.db")
        self.switching = Switching(
            store,
            self.stream,
            self.inventory,  # type: ignore[arg-type]
            self.wires,  # type: ignore[arg-type]
            lambda: frozenset({"eth0", "eth1"}),
            Natting(
                store,
                Leasing(self.wires.open_listener, self.servers.start),
                "0badcafe",
                lambda: ("192.0.2.53",),
            ),
        )
        try:
            await self.switching.start(running or {})
            yield self
        finally:
            await self.switching.close()
            self.servers.close()
            store.close()

    async def ask(self, request: Any) -> None:
        await self.switching.handlers()[type(request)](request, LOCAL_ROOT)


def machine(*nics: NicSpec) -> VmConfig:
    return VmConfig("v", "", "[datastore1] v/v.vmx", "other", 1, 32, "bios", nics=nics)


def nic(number: int, network: str = "VM Network", **more: Any) -> NicSpec:
    return NicSpec(f"00:50:56:00:00:{number:02x}", network, "vmxnet3", **more)


def play(place: Path, body: Callable[[Desk], Any]) -> None:
    async def whole() -> None:
        async with Desk(place).up() as desk:
            await body(desk)

    asyncio.run(asyncio.wait_for(whole(), 100))


def test_a_new_host_has_what_a_new_esxi_has(tmp_path):
    async def body(desk: Desk) -> None:
        assert desk.switching.networks == FIRST
        assert set(desk.stream.facts()) == {*FIRST.switches, *FIRST.groups}
        assert [bridge.name for bridge in desk.wires.plan.bridges] == ["vs0v0"]
        assert desk.switching.findings() == ()

    play(tmp_path, body)


def test_switches_and_port_groups_are_there_after_a_restart(tmp_path):
    async def body(desk: Desk) -> None:
        await desk.ask(c.AddSwitch("", "s1", 16, 9000, (), SecurityPolicy(True, False, True)))
        await desk.ask(c.AddPortGroup("", "web", "s1", 7, PolicyOverride(mac_changes=True)))
        await desk.ask(c.UpdatePortGroup("", "VM Network", vlan=3))
        await desk.ask(c.UpdateSwitch("", "vSwitch0", ports=8))
        await desk.ask(c.UpdateSwitch("", "s1", shaping=Shaping(True)))
        await desk.ask(c.UpdatePortGroup("", "web", shaping=Shaping(False, burst=7)))
        await desk.ask(c.UpdateSwitch("", "s1", teaming=Teaming(BY_ORDER, False, True, (), ())))
        await desk.ask(c.UpdatePortGroup("", "web", teaming=Teaming(failback=False)))
        before = desk.switching.networks
        async with Desk(desk.place).up() as again:
            assert again.switching.networks == before
            assert set(again.stream.facts()) == {*before.switches, *before.groups}

    play(tmp_path, body)


def test_what_linux_refuses_is_neither_kept_nor_told_nor_wired(tmp_path):
    async def body(desk: Desk) -> None:
        wired = desk.wires.plan
        desk.wires.broken = "vs0v7"
        with pytest.raises(HostError):
            await desk.ask(c.AddPortGroup("", "web", "vSwitch0", 7))
        assert desk.wires.plan == wired
        assert desk.switching.networks == FIRST
        assert desk.stream.fact("PortGroupFact", "web") is None

    play(tmp_path, body)


def test_tags_are_refused_where_linux_knows_none(tmp_path):
    async def body(desk: Desk) -> None:
        with pytest.raises(HostError) as caught:
            await desk.ask(c.AddPortGroup("", "trunk", "vSwitch0", TRUNK))
        assert caught.value.code == "vlan-tags"
        # VLANs among the VMs of a host need no tags.
        await desk.ask(c.AddPortGroup("", "ten", "vSwitch0", 10))
        with pytest.raises(HostError):
            await desk.ask(c.UpdateSwitch("", "vSwitch0", uplinks=("eth0",)))
        desk.wires.tags = True
        await desk.ask(c.UpdateSwitch("", "vSwitch0", uplinks=("eth0",)))
        assert desk.wires.plan.uplinks == ("eth0",)

    play(tmp_path, body)


def test_cards_move_when_links_go_and_come_and_switches_are_told(tmp_path):
    async def body(desk: Desk) -> None:
        loop = asyncio.create_task(desk.switching.run())

        async def until(true: Callable[[], bool]) -> None:
            end = time.monotonic() + 60
            while not true() and time.monotonic() < end:  # noqa: ASYNC110 (others do it)
                await asyncio.sleep(0.01)
            assert true()

        async def bridge_is(wanted: str) -> None:
            await until(lambda: desk.wires.port("t1.0") == wanted)

        try:
            await desk.ask(c.UpdateSwitch("", "vSwitch0", uplinks=("eth0", "eth1")))
            async with desk.switching.connect("1", machine(nic(1))):
                pass
            assert desk.wires.port("t1.0") == "vs0v0u1"
            assert desk.wires.told == [(nic(1).mac, "eth1")]
            desk.wires.hear({"eth1"})
            await bridge_is("vs0v0")
            assert desk.stream.fact("UplinksFact", "uplinks") == UplinksFact(("eth1",), ("eth1",))
            (found,) = desk.switching.findings()
            assert (found.code, found.component) == ("uplink-down", "eth1")
            assert "vSwitch0 has lost redundancy" in found.reason
            desk.wires.hear({"eth0", "eth1"})
            await until(lambda: len(desk.switching.findings()) == 2)
            assert all("no connection" in one.reason for one in desk.switching.findings())
            desk.wires.hear(set())
            await until(lambda: not desk.switching.findings())
            await bridge_is("vs0v0u1")
            assert [by for _, by in desk.wires.told][-1] == "eth1"
            await desk.ask(c.UpdateSwitch("", "vSwitch0", uplinks=("eth0",)))
            assert desk.wires.port("t1.0") == "vs0v0"
            assert desk.stream.fact("UplinksFact", "uplinks") is None
        finally:
            loop.cancel()
            await asyncio.wait([loop])

    play(tmp_path, body)


def test_the_card_by_which_the_host_is_reached_is_no_uplink(tmp_path):
    async def whole() -> None:
        desk = Desk(tmp_path)
        desk.wires.tags = True
        desk.wires.own = (AddressFact("eth0", "192.0.2.2", 24),)
        async with desk.up():
            assert desk.stream.fact("AddressFact", "eth0:192.0.2.2") == desk.wires.own[0]
            with pytest.raises(ArgumentError):
                await desk.ask(c.UpdateSwitch("", "vSwitch0", uplinks=("eth0",)))

    asyncio.run(whole())


def test_a_card_that_got_its_address_after_the_start_is_no_uplink(tmp_path):
    async def body(desk: Desk) -> None:
        desk.wires.tags = True
        desk.wires.own = (AddressFact("eth0", "192.0.2.2", 24),)
        with pytest.raises(ArgumentError):
            await desk.ask(c.UpdateSwitch("", "vSwitch0", uplinks=("eth0",)))

    play(tmp_path, body)


def test_a_card_without_an_ipv4_address_that_the_machine_uses_is_no_uplink(tmp_path):
    async def body(desk: Desk) -> None:
        desk.wires.busy = frozenset({"eth0"})
        with pytest.raises(ArgumentError):
            await desk.ask(c.UpdateSwitch("", "vSwitch0", uplinks=("eth0",)))

    play(tmp_path, body)


def test_an_address_that_the_machine_has_no_more_is_told_no_more(tmp_path):
    async def body(desk: Desk) -> None:
        first, second = AddressFact("eth0", "192.0.2.2", 24), AddressFact("eth0", "192.0.2.3", 24)
        desk.wires.own = (first, second)
        await desk.ask(c.AddSwitch("", "s1"))
        assert desk.stream.fact("AddressFact", first.key) == first
        desk.wires.own = (second,)
        await desk.ask(c.AddSwitch("", "s2"))
        assert desk.stream.fact("AddressFact", first.key) is None
        assert desk.stream.fact("AddressFact", second.key) == second

    play(tmp_path, body)


def test_cards_are_wired_before_a_vm_starts_and_cut_when_it_ends(tmp_path):
    async def body(desk: Desk) -> None:
        config = machine(nic(1), nic(2, "none"), nic(3, connected=False))
        async with desk.switching.connect("5", config) as taps:
            assert set(taps) == {0, 1, 2}
            assert desk.wires.taps == ["t5.0", "t5.1", "t5.2"]
            assert desk.wires.port("t5.0") == "vs0v0"
            assert desk.wires.port("t5.1") == ""
            assert not next(p for p in desk.wires.plan.ports if p.name == "t5.2").up
            held = tuple(taps.values())
        for tap in held:
            with pytest.raises(OSError, match="Bad file"):
                os.fstat(tap)
        assert desk.switching.live(config) == (True, False, False)
        desk.switching.ended("5")
        await desk.switching.close()
        assert desk.wires.plan.ports == ()

    play(tmp_path, body)


def test_a_card_comes_alive_with_the_port_group_that_it_waits_for(tmp_path):
    async def body(desk: Desk) -> None:
        told: list[str] = []

        async def note(vm: str) -> None:
            told.append(vm)
            raise HostError("QEMU does not answer", code="qmp")

        desk.switching.follow(note)
        async with desk.switching.connect("5", machine(nic(1, "later"))):
            pass
        async with desk.switching.connect("6", machine(nic(2))):
            pass
        await desk.ask(c.AddPortGroup("", "other", "vSwitch0"))
        await desk.ask(c.AddPortGroup("", "later", "vSwitch0", 3))
        assert desk.wires.port("t5.0") == "vs0v3"
        assert desk.switching.live(machine(nic(1, "later"))) == (True,)
        await desk.switching.close()
        assert told == ["5"]

    play(tmp_path, body)


def test_a_vm_that_does_not_start_leaves_nothing_wired(tmp_path):
    async def body(desk: Desk) -> None:
        with pytest.raises(ArgumentError):
            async with desk.switching.connect("5", machine(nic(1))):
                raise ArgumentError("QEMU does not start", argument="x")
        await desk.switching.close()
        assert desk.wires.plan.ports == ()

    play(tmp_path, body)


def test_a_file_that_names_no_address_gets_one_before_its_vm_starts(tmp_path):
    cards = (nic(1), NicSpec("", "VM Network", "e1000"), NicSpec("", "VM Network", "e1000"))
    config = replace(machine(*cards), uuid="564d0000-0000-4000-8000-000000000001")
    with VmDirectory(tmp_path) as directory:
        made = _prepared(directory, config)
        assert made.nics[0] == cards[0]
        assert len({card.mac for card in made.nics}) == 3
        assert all(card.mac.startswith("00:0c:29:") for card in made.nics[1:])
        assert _prepared(directory, made) == made


def test_two_running_vms_never_have_one_address(tmp_path):
    async def body(desk: Desk) -> None:
        async with desk.switching.connect("5", machine(nic(1))):
            pass
        with pytest.raises(InUseError):
            async with desk.switching.connect("6", machine(nic(1))):
                pass
        async with desk.switching.connect("6", machine(nic(2))):
            pass
        with pytest.raises(InUseError):
            await desk.switching.changed("6", machine(nic(1)))
        desk.switching.ended("5")
        await desk.switching.changed("6", machine(nic(1)))
        assert desk.wires.plan.ports[0].mac == nic(1).mac

    play(tmp_path, body)


def test_cards_of_running_vms_follow_their_port_groups_and_are_in_their_way(tmp_path):
    async def body(desk: Desk) -> None:
        await desk.ask(c.AddPortGroup("", "ten", "vSwitch0", 10))
        config = machine(nic(1))
        async with desk.switching.connect("5", config):
            pass
        desk.inventory.facts.append(VmFact("5", config, PowerState.POWERED_ON, "", ""))
        await desk.ask(c.UpdatePortGroup("", "VM Network", vlan=10))
        assert desk.wires.port("t5.0") == "vs0v10"
        for request in (
            c.RemovePortGroup("", "VM Network"),
            c.RemoveSwitch("", "vSwitch0"),
            c.UpdatePortGroup("", "VM Network", "other"),
        ):
            with pytest.raises(InUseError):
                await desk.ask(request)
        with pytest.raises(AbsentError):
            await desk.ask(c.RemovePortGroup("", "none"))
        desk.inventory.facts.clear()
        await desk.ask(c.RemoveSwitch("", "vSwitch0"))
        assert desk.stream.facts() == ()

    play(tmp_path, body)


def test_a_host_without_bridges_runs_vms_unplugged_and_says_so(tmp_path):
    async def whole() -> None:
        desk = Desk(tmp_path)
        desk.wires.broken = "vs0v0"
        async with desk.up():
            assert [found.code for found in desk.switching.findings()] == ["network-lost"]
            async with desk.switching.connect("5", machine(nic(1))) as taps:
                assert taps == {}
            assert desk.switching.live(machine(nic(1))) == (False,)
            with pytest.raises(HostError):
                await desk.ask(c.AddSwitch("", "s1"))

    asyncio.run(whole())


@pytest.mark.host
def test_a_real_vm_has_its_cards_over_restarts_of_the_kernel_and_leaves_none(vmhost: Host):
    async def whole() -> None:
        wires = Wires(None)

        def switched(host: Host) -> Switching:
            found = Switching(
                host.store,
                host.stream,
                host.inventory,
                wires,
                frozenset,
                Natting(host.store, Leasing(wires.open_listener), "0badcafe", tuple),
            )
            host.cells.wire(found.connect)
            return found

        async with vmhost.up(keep=True) as host:
            switching = switched(host)
            await switching.start({})
            vm = await make(host, nics=(NicSpec("", "VM Network", "vmxnet3"),))
            await host.cells.power_on(
                vm, host.inventory.vm(vm).config, host.inventory.directory(host.inventory.vm(vm))
            )
            links = await wires.links()
            assert links[f"t{vm}.0"].master == links["vs0v0"].index
        async with vmhost.up() as host:
            switching = switched(host)
            states = await host.cells.adopt_all()
            assert [state.vm for state in states] == [vm]
            await switching.start({vm: host.inventory.vm(vm).config})
            assert (await wires.links())[f"t{vm}.0"].up
            await host.cells.power_off(vm)
            switching.ended(vm)
            assert f"t{vm}.0" not in await wires.links()
            await switching.close()

    asyncio.run(asyncio.wait_for(whole(), 90))


def test_the_end_of_a_vm_that_was_never_connected_is_nothing(tmp_path):
    async def body(desk: Desk) -> None:
        desk.switching.ended("7")
        await desk.switching.changed("7", machine(nic(1)))
        assert desk.wires.plan.ports == ()

    play(tmp_path, body)


async def soon(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 (what is waited for is another process)
            await asyncio.sleep(0.01)


def test_nat_is_off_until_it_is_switched_on_and_is_there_after_a_restart(tmp_path):
    async def first(desk: Desk) -> None:
        assert desk.wires.plan.routers == ()
        await desk.ask(c.SetNat("", "vSwitch0", on=True, network="10.1.2.0/24"))
        async with desk.switching.connect("5", machine(nic(1))):
            pass
        (router,) = desk.wires.plan.routers
        assert router.cards == ((nic(1).mac, "10.1.2.2"),)
        assert desk.servers.told() == DhcpService(
            "10.1.2.0/24", "10.1.2.1", router.mac, ("192.0.2.53",), 1500, dict(router.cards)
        )
        assert desk.stream.fact("SwitchFact", "vSwitch0").nat == Nat("10.1.2.0/24")

    async def again(desk: Desk) -> None:
        async with desk.switching.connect("6", machine(nic(2))):
            pass
        async with desk.switching.connect("5", machine(nic(1))):
            pass
        assert dict(desk.wires.plan.routers[0].cards) == {
            nic(1).mac: "10.1.2.2",
            nic(2).mac: "10.1.2.3",
        }
        await desk.ask(c.SetNat("", "vSwitch0", on=False))
        assert desk.wires.plan.routers == ()
        assert desk.switching._natting._leasing._servers == {}

    play(tmp_path, first)
    play(tmp_path, again)


def test_a_network_is_chosen_that_neither_the_machine_nor_another_switch_has(tmp_path):
    async def body(desk: Desk) -> None:
        await desk.ask(c.SetNat("", "vSwitch0", on=True))
        first = desk.switching.networks.switch("vSwitch0").nat.network
        await desk.ask(c.SetNat("", "vSwitch0", on=False))
        desk.wires.routes = frozenset({first})
        await desk.ask(c.SetNat("", "vSwitch0", on=True))
        second = desk.switching.networks.switch("vSwitch0").nat.network
        await desk.ask(c.AddSwitch("", "s1"))
        await desk.ask(c.SetNat("", "s1", on=True))
        assert len({first, second, desk.switching.networks.switch("s1").nat.network}) == 3
        with pytest.raises(InUseError):
            await desk.ask(c.SetNat("", "s1", on=True, network=second))

    play(tmp_path, body)


def test_a_switch_has_nat_or_an_uplink(tmp_path):
    async def body(desk: Desk) -> None:
        desk.wires.tags = True
        await desk.ask(c.SetNat("", "vSwitch0", on=True))
        with pytest.raises(ArgumentError):
            await desk.ask(c.UpdateSwitch("", "vSwitch0", uplinks=("eth0",)))
        await desk.ask(c.SetNat("", "vSwitch0", on=False))
        await desk.ask(c.UpdateSwitch("", "vSwitch0", uplinks=("eth0",)))
        with pytest.raises(ArgumentError):
            await desk.ask(c.SetNat("", "vSwitch0", on=True))

    play(tmp_path, body)


def test_where_nat_cannot_be_had_it_is_refused_and_later_told_and_vms_run_without(tmp_path):
    async def body(desk: Desk) -> None:
        desk.wires.no_nat = True
        with pytest.raises(HostError):
            await desk.ask(c.SetNat("", "vSwitch0", on=True))
        assert desk.switching.networks.with_nat() == {}
        desk.wires.no_nat = False
        await desk.ask(c.SetNat("", "vSwitch0", on=True))
        desk.wires.no_nat = True
        async with desk.switching.connect("5", machine(nic(1))):
            pass
        assert desk.wires.plan.routers == ()
        assert desk.wires.port("t5.0") == "vs0v0"
        assert [found.code for found in desk.switching.findings()] == ["nat-lost"]
        await desk.ask(c.AddPortGroup("", "ten", "vSwitch0", 10))
        desk.wires.no_nat = False
        await desk.ask(c.AddPortGroup("", "eleven", "vSwitch0", 11))
        assert desk.switching.findings() == ()
        assert desk.wires.plan.routers[0].cards

    play(tmp_path, body)


def test_a_server_that_ends_is_started_again_and_told_what_holds(tmp_path):
    async def body(desk: Desk) -> None:
        await desk.ask(c.SetNat("", "vSwitch0", on=True, network="10.1.2.0/24"))
        server = desk.switching._natting._leasing._servers["d0"]
        spawn.kill(server.child.pidfd, signal.SIGKILL)
        await soon(lambda: bool(desk.switching.findings()))
        assert [found.code for found in desk.switching.findings()] == ["dhcp-lost"]
        await soon(lambda: len(desk.servers.ends) == 2 and not desk.switching.findings())
        assert desk.servers.told().network == "10.1.2.0/24"

    play(tmp_path, body)


def test_a_server_that_cannot_be_started_is_told_and_keeps_nothing_from_running(tmp_path):
    async def body(desk: Desk) -> None:
        desk.servers.broken = True
        await desk.ask(c.SetNat("", "vSwitch0", on=True))
        assert [found.code for found in desk.switching.findings()] == ["dhcp-lost"]
        async with desk.switching.connect("5", machine(nic(1))):
            pass
        desk.servers.broken = False
        await soon(lambda: not desk.switching.findings())

    play(tmp_path, body)


def test_a_vm_that_ends_while_a_card_comes_keeps_no_address(tmp_path):
    async def body(desk: Desk) -> None:
        async with desk.switching.connect("1", machine(nic(1))):
            pass

        async def end() -> None:
            async with desk.switching.more("1", machine(nic(1), nic(2))):
                desk.switching.ended("1")
                raise HostError("it has ended")

        with pytest.raises(HostError, match="it has ended"):
            await end()
        async with desk.switching.connect("2", machine(nic(1))):
            pass

    play(tmp_path, body)


def test_a_vm_that_ends_while_its_cards_wait_to_change_is_no_defect(tmp_path):
    async def body(desk: Desk) -> None:
        async with desk.switching.connect("1", machine(nic(1))):
            pass
        async with desk.switching._changing:
            change = asyncio.ensure_future(desk.switching.changed("1", machine(nic(2))))
            await asyncio.sleep(0)
            desk.switching.ended("1")
        await change
        async with desk.switching.connect("2", machine(nic(2))):
            pass

    play(tmp_path, body)
