"""Uplinks that change places, and what is wired after each step of that."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import pytest

from casemate.errors import HostError
from casemate.kernel import wires as module
from casemate.kernel.sys.netlink import Link
from casemate.kernel.wires import Wires
from casemate.machine.networkplan import Card, Filter
from casemate.machine.networks import Networks, PortGroupFact, SwitchFact
from casemate.machine.wiring import plan_network

CARDS = tuple(
    Card(str(number), 0, f"00:50:56:00:00:{number:02x}", group)
    for number, group in enumerate(("plain", "plain", "tagged", "tagged"), 1)
)
NICS = ("eth0", "eth1", "eth2")


@dataclass
class Interface:
    link: Link
    isolated: bool = False
    tags_of: int = 0
    vlan: int = 0
    far: str = ""


class FakeLinux:
    """Interfaces by number. It looks after each step whether an uplink leads to another."""

    def __init__(self) -> None:
        self._numbers = itertools.count(2)
        self.there: dict[int, Interface] = {1: Interface(Link("lo", 1, "", 0, False, 65536, ""))}
        self.refused = ""

    def add(self, name: str, kind: str, **more: int | str) -> None:
        assert name not in {one.link.name for one in self.there.values()}
        index = next(self._numbers)
        self.there[index] = Interface(Link(name, index, kind, 0, False, 1500, ""), **more)  # type: ignore[arg-type]

    def interfaces(self) -> dict[str, Interface]:
        return {one.link.name: one for one in self.there.values()}

    def change(self, index: int, **changes: int | bool) -> None:
        one = self.there[index]
        one.link = replace(one.link, **changes)  # type: ignore[arg-type]
        self.check()

    def tags(self) -> dict[str, tuple[str, int]]:
        """Return the NIC of each VLAN's interface, which it has wherever that is."""
        names = {index: one.link.name for index, one in self.there.items()}
        return {
            one.link.name: (names.get(one.tags_of, "given back"), one.vlan)
            for one in self.there.values()
            if one.tags_of
        }

    def _next(self, port: Interface) -> Iterator[Interface]:
        """Yield the ports that what comes in by one leaves by."""
        for one in self.there.values():
            if one.link.master != port.link.master or one is port or not one.link.up:
                continue
            if not (one.isolated and port.isolated):
                yield one

    def check(self) -> None:
        for start in self.there.values():
            if start.link.kind not in {"", "vlan"} or not (start.link.master and start.link.up):
                continue
            seen, todo = {start.link.index}, [start]
            while todo:
                for out in self._next(todo.pop()):
                    where = self.interfaces()[out.far] if out.far else out
                    assert where.link.kind not in {"", "vlan"}, (start.link, where.link)
                    if out.far and where.link.index not in seen:
                        seen.add(where.link.index)
                        if where.link.master and where.link.up:
                            todo.append(where)


class FakeLinks:
    """A connection to that Linux, with the methods of ``Links``."""

    def __init__(self, linux: FakeLinux) -> None:
        self._linux = linux

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def all(self) -> dict[str, Link]:
        return {one.link.name: self._seen(one) for one in self._linux.there.values()}

    def _seen(self, one: Interface) -> Link:
        # As IFLA_LINK is told: one in another namespace is not found.
        return replace(one.link, parent=one.tags_of if one.tags_of in self._linux.there else 0)

    def one(self, index: int) -> Link:
        return self._seen(self._linux.there[index])

    def index(self, name: str) -> int:
        return self._linux.interfaces()[name].link.index

    def add_bridge(self, name: str) -> None:
        if name == self._linux.refused:
            raise HostError("no", code="fake", component=name, remedy="none")
        self._linux.add(name, "bridge")

    def add_vlan(self, name: str, parent: int, vlan: int) -> None:
        taken = {(one.tags_of, one.vlan) for one in self._linux.there.values()}
        assert (parent, vlan) not in taken  # Linux: EEXIST
        self._linux.add(name, "vlan", tags_of=parent, vlan=vlan)

    def add_cable(self, name: str, other: str) -> None:
        self._linux.add(name, "veth", far=other)
        self._linux.add(other, "veth", far=name)

    def remove(self, index: int) -> None:
        gone = self._linux.there.pop(index)
        if gone.far:
            del self._linux.there[self._linux.interfaces()[gone.far].link.index]
        for one in self._linux.there.values():
            if one.link.master == index:
                one.link = replace(one.link, master=0)

    def give(self, index: int, _: int) -> None:
        del self._linux.there[index]
        for one in self._linux.there.values():
            if one.tags_of == index:
                one.link = replace(one.link, up=False)

    def join(self, index: int, bridge: int) -> None:
        self._linux.there[index].isolated = False
        self._linux.change(index, master=bridge)

    def set_up(self, index: int, *, up: bool) -> None:
        self._linux.change(index, up=up)

    def set_mtu(self, index: int, mtu: int) -> None:
        self._linux.change(index, mtu=mtu)

    def set_port(self, index: int, *, learning: bool, flood: bool, isolated: bool) -> None:
        del learning, flood
        self._linux.there[index].isolated = isolated

    def set_station(self, index: int, mac: str) -> None:
        pass

    def drop_station(self, index: int, mac: str) -> None:
        pass


class FakeFilters:
    """There are none."""

    def names(self) -> set[str]:
        return set()

    def put(self, one: Filter, named: dict[str, int]) -> None:
        pass

    def drop(self, name: str) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> FakeLinux:
    made = FakeLinux()
    monkeypatch.setattr(module, "Links", lambda: FakeLinks(made))
    monkeypatch.setattr(module, "PacketFilters", FakeFilters)
    monkeypatch.setattr(
        module.socket,
        "if_nameindex",
        lambda: [(index, one.link.name) for index, one in made.there.items()],
    )
    for name in NICS:
        made.add(name, "")
    for card in CARDS:
        made.add(card.tap, "tun")
    return made


@pytest.fixture
def wires() -> Iterator[Wires]:
    made = Wires(None)
    yield made
    asyncio.run(made.close())


def wire(wires: Wires, *uplinks: str) -> None:
    switch = SwitchFact("vSwitch0", 0, uplinks=uplinks)
    groups = (PortGroupFact("plain", "vSwitch0"), PortGroupFact("tagged", "vSwitch0", 5))
    wires._apply(plan_network(Networks((switch,), groups), CARDS))


def put_back(linux: FakeLinux, *uplinks: Interface) -> None:
    """Take NICs from the machine, where they are there: their numbers stay."""
    for one in uplinks:
        if one.link.index not in linux.there:
            one.link, one.isolated = replace(one.link, up=False, master=0), False
            linux.there[one.link.index] = one


ORDERS = [order for count in range(4) for order in itertools.permutations(NICS, count)]


@pytest.mark.parametrize("before", [order for order in ORDERS if len(order) > 1])
def test_while_uplinks_change_places_none_leads_to_another_and_each_keeps_its_vlan(
    linux, wires, before
):
    nics = [linux.interfaces()[name] for name in NICS]
    for after in ORDERS:
        put_back(linux, *nics)
        wire(wires, *before)
        put_back(linux, *nics)
        wire(wires, *after)
        found = linux.interfaces()
        names = {one: found[one].link.index for one in found}
        for number, nic in enumerate(after):
            end = f"u{number}" if number else ""
            assert found[nic].link.master == names[f"vs0v0{end}"]
            assert found[nic].link.up
            if number < 2:  # those that cards are bound to
                assert linux.tags()[f"up0v5{end}"] == (nic, 5)
                assert found[f"up0v5{end}"].link.master == names[f"vs0v5{end}"]
                assert found[f"up0v5{end}"].link.up
        assert len(linux.tags()) == min(len(after), 2)


def test_a_vlan_of_an_uplink_that_was_given_back_in_vain_is_switched_on_again(linux, wires):
    nic = linux.interfaces()["eth0"]
    wire(wires, "eth0")
    linux.refused = "vs0v0u1"
    with pytest.raises(HostError):
        wire(wires, "eth1", "eth2")
    assert "eth0" not in linux.interfaces()
    put_back(linux, nic)
    wire(wires, "eth0")
    assert linux.tags() == {"up0v5": ("eth0", 5)}
    assert linux.interfaces()["up0v5"].link.up
