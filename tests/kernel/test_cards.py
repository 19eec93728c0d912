"""Network cards are taken from running VMs where the guest lets go of them, and else stay."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.errors import HostError, TimedOutError
from casemate.kernel.cells.directory import VmDirectory
from casemate.kernel.cells.hotplug import Hotplug
from casemate.kernel.wires import Wires
from casemate.machine.facts import NicSpec
from casemate.machine.hotnotes import added
from casemate.machine.power import Operation

from .realguest import write_guest
from .vmbench import Host, RefusedTaskError, disk, make, printed

CONSENT = "casemate.kernel.cells.hotplug.CONSENT"
CARD = NicSpec("", "VM Network", "vmxnet3")


class Ports:
    """A QEMU with one card in a port, whose guest lets go of it after so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.asked = 0
        self.done: list[str] = []

    async def execute(self, command: str, **told: object) -> object:
        match command:
            case "device_del":
                self.asked += 1
                if self.asked > 1:
                    raise HostError("in the process of unplug", code="qmp-refused")
            case "qom-list":
                self.looks -= 1
                return [{"name": "type"}, *([{"name": "card-1"}] if self.looks > 0 else [])]
            case _:
                self.done.append(f"{command} {told['id']}")
        return {}


def released(place: Path, ports: Ports) -> None:
    async def body() -> None:
        with VmDirectory(place) as directory:
            await Hotplug(ports, directory, None).release_card(1)  # type: ignore[arg-type]

    asyncio.run(body())


def test_what_a_card_is_connected_to_goes_after_it(tmp_path):
    ports = Ports(looks=3)
    released(tmp_path, ports)
    assert ports.done == ["netdev_del net1"]


def test_a_card_that_its_guest_holds_keeps_its_connection_and_goes_at_the_next_try(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(CONSENT, 0.2)
    ports = Ports(looks=1_000_000)
    with pytest.raises(TimedOutError) as caught:
        released(tmp_path, ports)
    assert (caught.value.code, caught.value.component) == ("card-held", "ethernet1")
    assert ports.done == []
    ports.looks = 3
    released(tmp_path, ports)
    assert ports.done == ["netdev_del net1"]


async def change(host: Host, vm: str, **changes: object) -> None:
    before = host.vm(vm).config
    await host.ask(c.ReconfigureVm("", vm, before, replace(before, **changes)))


async def cards(host: Host, vm: str) -> set[str]:
    qmp = await host.cells.control(vm, Operation.RESET)
    found = await qmp.execute("qom-list", path="/machine/peripheral")
    assert isinstance(found, list)
    return {one["name"] for one in found if one["name"].startswith("card-")}


async def addresses(host: Host, vm: str) -> dict[str, object]:
    """Return the addresses of the cards in ports, by QEMU's names."""
    qmp = await host.cells.control(vm, Operation.RESET)
    return {
        name: await qmp.execute("qom-get", path=f"/machine/peripheral/{name}", property="mac")
        for name in await cards(host, vm)
    }


async def taps(wires: Wires, count: int) -> None:
    for _ in range(400):
        found = [name for name in await wires.links() if name.startswith("t")]
        if len(found) == count:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{found} are not {count}")


@pytest.mark.host
def test_a_guest_without_an_operating_system_keeps_its_card_and_nothing_changes(on, monkeypatch):
    monkeypatch.setattr(CONSENT, 1.0)

    async def body(host: Host) -> None:
        wires = Wires(None)
        switching = host.switching(wires)
        await switching.start({})
        vm = await make(host, nics=(CARD,))
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        before = host.vm(vm).config
        with pytest.raises(RefusedTaskError) as raised:
            await change(host, vm, nics=())
        assert (raised.value.fault.code, raised.value.fault.fault) == ("card-held", "Timedout")
        assert host.vm(vm).config == before
        assert await cards(host, vm) == {"card-0"}
        await taps(wires, 1)
        assert await host.cells.status(vm) == "running"
        await host.ask(m.PowerOff("", vm))
        await change(host, vm, nics=())
        await host.ask(m.PowerOn("", vm))
        assert not added(host.vm(vm).config).devices
        await host.ask(m.PowerOff("", vm))
        await switching.close()

    on(body)


async def up(host: Host, vm: str) -> None:
    """Wait until Linux is up, however slow the machine is."""
    for _ in range(4000):
        if b"guest is up" in host.console(vm):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"Linux is not up: {host.console(vm)[-500:]!r}")


@pytest.mark.host
@pytest.mark.guest
@pytest.mark.timeout(600)
def test_linux_lets_go_of_its_cards_and_wakes_up_without_them(vmhost, monkeypatch):
    monkeypatch.setattr(CONSENT, 300.0)

    async def body(host: Host) -> None:
        wires = Wires(None)
        switching = host.switching(wires)
        await switching.start({})
        vm = await make(host, memory_mib=256, nics=(CARD, CARD), code=b"")
        extra = (*host.vm(vm).config.extra, *write_guest(host.datastore / "one"))
        await change(host, vm, extra=extra)
        await host.ask(m.PowerOn("", vm))
        await up(host, vm)
        assert await cards(host, vm) == {"card-0", "card-1"}
        await change(host, vm, nics=(*host.vm(vm).config.nics, CARD))
        nics = host.vm(vm).config.nics
        await taps(wires, 3)
        # The first one goes, and the others stay what and where they are.
        await change(host, vm, nics=nics[1:])
        assert await addresses(host, vm) == {"card-1": nics[1].mac, "card-2": nics[2].mac}
        await taps(wires, 2)
        await host.ask(c.SuspendVm("", vm))
        await host.ask(m.PowerOn("", vm))
        assert await host.cells.status(vm) == "running"
        assert await addresses(host, vm) == {"card-1": nics[1].mac, "card-2": nics[2].mac}
        await taps(wires, 2)
        await change(host, vm, nics=nics[1:2])
        await change(host, vm, nics=())
        assert await cards(host, vm) == set()
        await change(host, vm, nics=(CARD,))
        assert await cards(host, vm) == {"card-0"}
        boot = host.vm(vm).config.disks
        await change(host, vm, disks=(*boot, disk(controller="scsi1")))
        await change(host, vm, disks=boot)
        before = host.vm(vm).config
        assert added(before).controllers == {"scsi1"}
        await host.ask(c.ReconfigureVm("", vm, before, before, unplug=("scsi1",)))
        assert added(host.vm(vm).config).devices == ("ethernet0",)
        await host.ask(c.SuspendVm("", vm))
        await host.ask(m.PowerOn("", vm))
        assert await host.cells.status(vm) == "running"
        await host.ask(m.PowerOff("", vm))
        await taps(wires, 0)
        await switching.close()

    async def whole() -> None:
        async with vmhost.up() as host:
            await body(host)

    asyncio.run(asyncio.wait_for(whole(), 590))
