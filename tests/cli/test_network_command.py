"""casemate network: what is typed arrives at the switches, and what they are is shown."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Self

import pytest

from casemate.calls.messages import Snapshot, SnapshotReply
from casemate.cli import vmedit
from casemate.cli.main import main
from casemate.errors import ArgumentError
from casemate.kernel.home import Home
from casemate.kernel.server import Caller, CallsServer
from casemate.kernel.stream import FactStream
from casemate.machine.facts import NicSpec
from casemate.machine.networks import FIRST, PolicyOverride, PortGroupFact, SecurityPolicy
from casemate.machine.shaping import INHERITED
from casemate.machine.teaming import AS_ABOVE, BY_ORDER, Teaming
from casemate.testing.fakenetworks import FakeNetworks


class Kernel:
    """Switches behind a real calls socket."""

    def __init__(self, home: Home) -> None:
        self.stream = FactStream()
        for fact in (*FIRST.switches, *FIRST.groups):
            self.stream.publish(fact)
        self._answers = FakeNetworks(self).answers()
        self._home = home
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def state(self, *facts) -> None:
        for fact in facts:
            self.stream.publish(fact)

    def retract(self, kind: type, key: str) -> None:
        self.stream.retract(kind, key)

    def machines(self) -> tuple:
        return ()

    async def _handle(self, request: object, _: Caller) -> object:
        if isinstance(request, Snapshot):
            return SnapshotReply(self.stream.facts())
        return self._answers[type(request)](request)

    async def _serve(self) -> None:
        allowed = frozenset({os.getuid()})
        server = CallsServer(self._home.calls_socket, allowed, self.stream, self._handle)
        await server.start(0)
        self._ready.set()
        await self._ended.wait()
        await server.stop()

    def __enter__(self) -> Self:
        self._home.create()
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def typed(root_only: None, tmp_path: Path, capsys) -> Iterator[Callable[[str], str]]:  # noqa: ARG001
    home = Home(tmp_path / "home")
    with Kernel(home):

        def run(line: str) -> str:
            status = main(["--home", str(home.path), "network", *line.split()])
            shown = capsys.readouterr()
            assert status == 0, shown.err
            return str(shown.out)

        yield run


@pytest.mark.host
def test_what_is_typed_is_what_is_listed(typed: Callable[[str], str]) -> None:
    assert typed("add-switch s1 --mtu 9000 --promiscuous accept --uplink eth9") == "s1 is made\n"
    typed("set-switch s1 --ports 64 --forged-transmits accept")
    typed("add-group web --switch s1 --vlan 7 --promiscuous reject")
    typed("set-group web --vlan 8 --mac-changes accept --promiscuous inherit")
    told = json.loads(typed("list --json"))
    (switch,) = [one for one in told["switches"] if one["name"] == "s1"]
    assert (switch["ports"], switch["mtu"], switch["uplinks"]) == (64, 9000, ["eth9"])
    assert SecurityPolicy(**switch["security"]) == SecurityPolicy(True, False, True)
    (group,) = [one for one in told["groups"] if one["name"] == "web"]
    assert group.pop("cards") == []
    wanted = PortGroupFact("web", "s1", 8, PolicyOverride(mac_changes=True))
    assert group == {
        **{name: getattr(wanted, name) for name in ("name", "switch", "vlan")},
        "security": {"promiscuous": None, "mac_changes": True, "forged_transmits": None},
        "shaping": asdict(INHERITED),
        "teaming": asdict(AS_ABOVE),
    }
    shown = typed("list")
    assert "MTU 9000, eth9" in shown
    assert shown.splitlines()[-1].split() == ["web", "8", "accept", "accept", "accept", "-"]
    typed("set-group web --name www")
    typed("set-switch s1 --uplink=")
    typed("remove-group www")
    typed("remove-switch s1")
    assert [one["name"] for one in json.loads(typed("list --json"))["switches"]] == ["vSwitch0"]


@pytest.mark.host
def test_a_team_is_said_and_shown(typed: Callable[[str], str]) -> None:
    typed("set-switch vSwitch0 --uplink eth7 --uplink eth8 --uplink eth9")
    assert "vSwitch0  MTU 1500, eth7, eth8, eth9" in typed("list")
    typed("set-switch vSwitch0 --balance order --active eth9 --standby eth7 --failback no")
    assert "vSwitch0  MTU 1500, eth9, eth7 (standby), eth8 (unused)" in typed("list")
    typed("add-group web --switch vSwitch0 --active eth8 --notify no")

    def said() -> list[dict[str, object]]:
        told = json.loads(typed("list --json"))
        (group,) = [one for one in told["groups"] if one["name"] == "web"]
        return [told["switches"][0]["teaming"], group["teaming"]]

    switch = Teaming(BY_ORDER, None, False, ("eth9",), ("eth7",))
    group = Teaming(notify=False, active=("eth8",), standby=("eth7",))
    assert said() == json.loads(json.dumps([asdict(switch), asdict(group)]))
    typed("set-group web --standby eth9")
    assert said()[1]["active"] == ["eth8"]
    # What is not said of stays, in the switch as well.
    typed("set-switch vSwitch0 --active eth8")
    assert "vSwitch0  MTU 1500, eth8, eth7 (standby), eth9 (unused)" in typed("list")
    typed("set-group web --team-inherit --failback yes")
    assert said()[1] == asdict(Teaming(failback=True))
    typed("remove-group web")
    typed("set-switch vSwitch0 --uplink eth7")
    typed("add-switch s2 --uplink eth8 --uplink eth9 --standby eth8")
    assert "s2  MTU 1500, eth9, eth8 (standby)" in typed("list")


@pytest.mark.host
def test_nat_is_switched_on_shown_and_switched_off(typed: Callable[[str], str]) -> None:
    assert "vSwitch0  MTU 1500, no uplink" in typed("list")
    assert typed("set-nat vSwitch0 on --network 10.9.0.0/24") == (
        "vSwitch0 leads outside by NAT; its guests are in 10.9.0.0/24\n"
    )
    assert "vSwitch0  MTU 1500, NAT of 10.9.0.0/24" in typed("list")
    (switch,) = json.loads(typed("list --json"))["switches"]
    assert switch["nat"] == {"network": "10.9.0.0/24", "reach_host": False, "name_servers": []}
    told = json.loads(typed("set-nat vSwitch0 on --network 10.9.0.0/24 --machine accept --json"))
    assert told["network"] == "10.9.0.0/24"
    assert "the machine's own addresses" in typed("list")
    assert typed("set-nat vSwitch0 off") == "vSwitch0 leads nowhere\n"
    assert "vSwitch0  MTU 1500, no uplink" in typed("list")


CARDS = (NicSpec("m0", "a", "vmxnet3"), NicSpec("m1", "b", "e1000", connected=False))


def cards(line: str) -> tuple[NicSpec, ...]:
    parser = argparse.ArgumentParser()
    vmedit.add_parsers(parser.add_subparsers())
    return vmedit._changed_nics(parser.parse_args(["change", "v", *line.split()]), CARDS)


def test_the_cards_of_a_vm_are_moved_plugged_removed_and_added() -> None:
    assert cards("") == CARDS
    assert [nic.network for nic in cards("--move-nic 1 lab")] == ["a", "lab"]
    assert [nic.connected for nic in cards("--plug-nic 1 --unplug-nic 0")] == [False, True]
    assert cards("--remove-nic 0") == CARDS[1:]
    assert cards("--nic lab") == (*CARDS, NicSpec("", "lab", "vmxnet3"))
    for wrong in ("--remove-nic 2", "--move-nic x lab", "--plug-nic -1"):
        with pytest.raises(ArgumentError):
            cards(wrong)
