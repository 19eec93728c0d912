"""Hardware of running VMs: disks come and go, discs are changed, vCPUs come; or nothing changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.errors import NotSupportedError, PowerStateError, StateError
from casemate.kernel.wires import Wires
from casemate.machine.facts import DiskSpec, DriveSpec, NicSpec, PowerState
from casemate.machine.hotnotes import added
from casemate.machine.power import Operation

from .vmbench import MIB, Host, RefusedTaskError, disk, make, printed

pytestmark = pytest.mark.host

ISO = DiskSpec("a.iso", "cdrom", "raw", 0, "ide1", 0)


async def change(host: Host, vm: str, destroy: tuple[str, ...] = (), **changes) -> None:
    before = host.vm(vm).config
    await host.ask(c.ReconfigureVm("", vm, before, replace(before, **changes), destroy))


async def asked(host: Host, vm: str, command: str):
    return await (await host.cells.control(vm, Operation.RESET)).execute(command)


async def drives(host: Host, vm: str) -> set[str]:
    return {one["qdev"].split("/")[-1] for one in await asked(host, vm, "query-block")}


async def nodes(host: Host, vm: str) -> int:
    return len(await asked(host, vm, "query-named-block-nodes"))


@pytest.mark.parametrize("model", ["lsilogic", "pvscsi"])
def test_a_disk_comes_to_a_running_vm_and_goes_with_its_file(on, model):
    async def body(host: Host) -> None:
        extra = (("scsi0.virtualDev", model),)
        vm = await make(host, disks=(disk(controller="scsi0"),), extra=extra)
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        before, files = host.vm(vm).config.disks, host.files("one")
        known, sets = await nodes(host, vm), len(await asked(host, vm, "query-fdsets"))
        for _ in range(2):
            await change(host, vm, disks=(*before, disk(controller="scsi0", unit=1)))
            assert "scsi0-1" in await drives(host, vm)
            (_, new) = host.vm(vm).config.disks
            assert new.capacity == 8 * MIB
            await change(host, vm, (new.file_name,), disks=before)
            assert await drives(host, vm) == {"scsi0-0"}
            assert host.files("one") == files
            assert await nodes(host, vm) == known
            assert len(await asked(host, vm, "query-fdsets")) == sets
        assert await host.cells.status(vm) == "running"
        await change(host, vm, disks=(*before, disk(controller="scsi0", unit=1)))
        assert await host.ask(c.CreateSnapshot("", vm, "now", memory=True)) == "1"
        await host.ask(c.SuspendVm("", vm))
        await host.ask(m.PowerOn("", vm))
        assert await host.cells.status(vm) == "running"
        await host.ask(m.PowerOff("", vm))

    on(body)


def test_another_disc_is_put_into_the_drive(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        place = host.datastore / "one"
        for name, size in (("a.iso", 4), ("b.iso", 8)):
            (place / name).write_bytes(bytes(size * MIB))
        boot = host.vm(vm).config.disks
        await change(host, vm, disks=(*boot, ISO))
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        known = await nodes(host, vm)
        for name in ("b.iso", "a.iso", "b.iso"):
            await change(host, vm, disks=(*boot, replace(ISO, file_name=name)))
            found = [one for one in await asked(host, vm, "query-block") if "ide1-0" in one["qdev"]]
            size = found[0]["inserted"]["image"]["virtual-size"]
            assert size == {"a.iso": 4, "b.iso": 8}[name] * MIB
            assert await nodes(host, vm) == known
        empty = (DriveSpec("ide1", 0),)
        for _ in range(2):
            await change(host, vm, disks=boot, drives=empty)
            found = [one for one in await asked(host, vm, "query-block") if "ide1-0" in one["qdev"]]
            assert "inserted" not in found[0]
            assert await nodes(host, vm) < known
            await change(host, vm, disks=(*boot, replace(ISO, file_name="b.iso")), drives=())
            assert await nodes(host, vm) == known
        with pytest.raises((RefusedTaskError, Exception), match=r"nothing\.iso"):
            await change(host, vm, disks=(*boot, replace(ISO, file_name="nothing.iso")))
        assert host.vm(vm).config.disks[1].file_name == "b.iso"
        assert await nodes(host, vm) == known
        await change(host, vm, disks=boot, drives=empty)
        await host.ask(m.PowerOff("", vm))
        await host.ask(m.PowerOn("", vm))
        assert host.vm(vm).config.drives == empty
        assert "ide1-0" in await drives(host, vm)
        await change(host, vm, disks=(*boot, ISO), drives=())
        await host.ask(m.PowerOff("", vm))

    on(body)


def test_vcpus_come_up_to_a_limit_and_the_vm_wakes_up_with_them(on):
    async def body(host: Host) -> None:
        vm = await make(host, extra=(("vcpu.hotadd", "TRUE"),))
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        for count in (2, 4):
            await change(host, vm, cpus=count)
            assert len(await asked(host, vm, "query-cpus-fast")) == count
        for wrong in (3, 17):
            with pytest.raises(PowerStateError):
                await change(host, vm, cpus=wrong)
        await host.ask(c.SuspendVm("", vm))
        await host.ask(m.PowerOn("", vm))
        assert len(await asked(host, vm, "query-cpus-fast")) == 4
        assert await host.cells.status(vm) == "running"
        await host.ask(m.PowerOff("", vm))
        plain = await make(host, "two")
        await host.ask(m.PowerOn("", plain))
        for wanted in ({"extra": (("vcpu.hotadd", "TRUE"),)}, {"cpus": 2}):
            with pytest.raises(PowerStateError):
                await change(host, plain, **wanted)
        assert host.vm(plain).config.cpus == 1
        await host.ask(m.PowerOff("", plain))

    on(body)


def test_where_memory_is_refused_no_vcpu_comes_either(on):
    async def body(host: Host) -> None:
        vcpus = ("vcpu.hotadd", "TRUE")
        vm = await make(host, memory_mib=256, extra=(vcpus,))
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        for wanted in (
            {"extra": (vcpus, ("mem.hotadd", "TRUE"))},
            {"cpus": 2, "memory_mib": 512},
        ):
            with pytest.raises(PowerStateError):
                await change(host, vm, **wanted)
        assert len(await asked(host, vm, "query-cpus-fast")) == 1
        await host.ask(m.PowerOff("", vm))

    on(body)


def test_memory_comes_with_room_in_the_cell_and_stays_through_sleep_and_snapshots(on):
    async def body(host: Host) -> None:
        allowed = (("mem.hotadd", "TRUE"),)
        vm = await make(host, memory_mib=256, extra=allowed)
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        before = limit(host, vm)
        await change(host, vm, memory_mib=512)
        told = await asked(host, vm, "query-memory-size-summary")
        assert told == {"base-memory": 256 * MIB, "plugged-memory": 256 * MIB}
        assert limit(host, vm) == before + 256 * MIB
        await host.ask(c.CreateSnapshot("", vm, "now", memory=True))
        await change(host, vm, memory_mib=640)

        async def sleeps_and_has(mib: int) -> None:
            await host.ask(c.SuspendVm("", vm))
            await host.ask(m.PowerOn("", vm))
            assert await host.cells.status(vm) == "running"
            told = await asked(host, vm, "query-memory-size-summary")
            assert told == {"base-memory": 256 * MIB, "plugged-memory": mib * MIB}

        await sleeps_and_has(384)
        await sleeps_and_has(384)
        await host.ask(c.RevertToSnapshot("", vm))
        await sleeps_and_has(256)
        # The note of it is nobody's to take away while it counts.
        await change(host, vm, extra=allowed)
        await sleeps_and_has(256)
        with pytest.raises(PowerStateError):
            await change(host, vm, memory_mib=520)
        await host.ask(m.PowerOff("", vm))
        await host.ask(m.PowerOn("", vm))
        told = await asked(host, vm, "query-memory-size-summary")
        assert told == {"base-memory": 512 * MIB, "plugged-memory": 0}
        await host.ask(c.SuspendVm("", vm))
        await host.ask(m.PowerOff("", vm))

    on(body)


def limit(host: Host, vm: str) -> int:
    for place in host.cgroups.directories(vm):
        for name in ("memory.limit_in_bytes", "memory.max"):
            if (place / name).exists():
                return int((place / name).read_text())
    raise AssertionError("no limit of memory")


def test_a_disk_takes_no_more_requests_a_second_than_it_may(on):
    async def body(host: Host) -> None:
        vm = await make(host, disks=(disk(controller="scsi0", iops=100),))

        async def limits() -> list[int]:
            return [one["inserted"]["iops"] for one in await asked(host, vm, "query-block")]

        await host.ask(m.PowerOn("", vm))
        assert await limits() == [100]
        (boot,) = host.vm(vm).config.disks
        more = disk(controller="scsi0", unit=1, iops=50)
        await change(host, vm, disks=(replace(boot, iops=200), more))
        assert sorted(await limits()) == [50, 200]
        (boot, more) = host.vm(vm).config.disks
        assert (boot.iops, more.iops) == (200, 50)
        await change(host, vm, disks=(replace(boot, iops=-1), more))
        assert sorted(await limits()) == [0, 50]
        await host.ask(c.SuspendVm("", vm))
        await host.ask(m.PowerOn("", vm))
        assert sorted(await limits()) == [0, 50]
        await host.ask(m.PowerOff("", vm))

    on(body)


def test_a_change_that_fails_half_way_is_undone(on):
    async def body(host: Host) -> None:
        vm = await make(host, disks=(disk(controller="scsi0"),))
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        before, files = host.vm(vm).config, host.files("one")
        known = await nodes(host, vm)
        missing = DiskSpec("gone.vmdk", "disk", "vmdk", 0, "scsi0", 2)
        with pytest.raises((RefusedTaskError, Exception), match="gone"):
            await change(host, vm, disks=(*before.disks, disk(controller="scsi0", unit=1), missing))
        assert host.vm(vm).config == before
        assert host.files("one") == files
        assert await nodes(host, vm) == known
        assert await drives(host, vm) == {"scsi0-0"}
        assert host.vm(vm).power is PowerState.POWERED_ON
        await host.ask(m.PowerOff("", vm))

    on(body)


def test_cards_and_controllers_come_to_a_running_vm_and_stay_through_sleep(on):
    async def body(host: Host) -> None:
        wires = Wires(None)
        switching = host.switching(wires)
        await switching.start({})
        vm = await make(host, extra=(("scsi1.virtualDev", "pvscsi"),))
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        boot = host.vm(vm).config.disks
        card = NicSpec("", "VM Network", "vmxnet3")
        data = disk(controller="scsi1")
        await change(host, vm, nics=(card, replace(card, connected=False)), disks=(*boot, data))
        assert [name for name in await wires.links() if name.startswith("t")]
        for _ in range(2):
            assert "scsi1-0" in await drives(host, vm)
            (board,) = await asked(host, vm, "query-pci")
            ports = [one["pci_bridge"] for one in board["devices"] if "pci_bridge" in one]
            taken = [one for port in ports for one in port.get("devices", ())]
            assert len(ports) == 6
            assert [one["class_info"]["class"] >> 8 for one in taken] == [1, 2, 2]
            await host.ask(c.SuspendVm("", vm))
            await host.ask(m.PowerOn("", vm))
            assert await host.cells.status(vm) == "running"
        # Two of six ports are taken by cards, and one by the controller.
        with pytest.raises(PowerStateError):
            await change(host, vm, nics=(*host.vm(vm).config.nics, *[card] * 4))
        await host.ask(m.PowerOff("", vm))
        await host.ask(m.PowerOn("", vm))
        assert added(host.vm(vm).config).devices == ("ethernet0", "ethernet1")
        await host.ask(m.PowerOff("", vm))
        await switching.close()

    on(body)


def test_a_vm_wakes_up_with_controllers_that_no_disk_is_on_any_more(on, monkeypatch):
    monkeypatch.setattr("casemate.kernel.cells.hotplug.CONSENT", 1.0)

    async def body(host: Host) -> None:
        disks = (disk(), disk(controller="scsi0"))
        vm = await make(host, disks=disks, extra=(("scsi1.virtualDev", "pvscsi"),))
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        boot, data = host.vm(vm).config.disks
        await change(host, vm, disks=(boot, data, disk(controller="scsi1")))
        await change(host, vm, disks=(boot,))
        assert added(host.vm(vm).config).controllers == {"scsi0", "scsi1"}
        for _ in range(2):
            await host.ask(c.SuspendVm("", vm))
            await host.ask(m.PowerOn("", vm))
            assert await host.cells.status(vm) == "running"
        await change(host, vm, disks=(boot, data))
        assert await drives(host, vm) == {"ide0-0", "scsi0-0"}
        assert added(host.vm(vm).config).kept == ()
        before = host.vm(vm).config
        for name, error in (("scsi0", StateError), ("scsi2", NotSupportedError)):
            with pytest.raises(error):
                await host.ask(c.ReconfigureVm("", vm, before, before, unplug=(name,)))
        # Nobody lets go of anything in a guest without an operating system.
        with pytest.raises(RefusedTaskError) as raised:
            await host.ask(c.ReconfigureVm("", vm, before, before, unplug=("scsi1",)))
        assert raised.value.fault.fault == "Timedout"
        assert host.vm(vm).config == before
        await host.ask(m.PowerOff("", vm))
        await host.ask(c.ReconfigureVm("", vm, before, before, unplug=("scsi1",)))
        await host.ask(m.PowerOn("", vm))
        assert added(host.vm(vm).config).controllers == frozenset()
        await host.ask(m.PowerOff("", vm))

    on(body)
