"""VMs and pools made, changed and removed over the API."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from casemate.calls import pools, vms
from casemate.hostd import vmspec
from casemate.hostd.objects.vmdefaults import file_infos
from casemate.machine.facts import DatastoreFact, PowerState, SnapshotSpec
from casemate.machine.governance import PermissionFact, RoleFact
from casemate.machine.vmconfig import with_saved_memory
from casemate.testing.fakefacts import fake_vm
from casemate.testing.fakekernel import READER
from casemate.vim25.faults import FaultError
from casemate.vim25.values import MoRef, Obj

VM = MoRef("VirtualMachine", "1")
DISK_RIGHTS = tuple(
    f"VirtualMachine.Config.{name}" for name in ("AddNewDisk", "AddExistingDisk", "Settings")
)
FOLDER = MoRef("Folder", "ha-folder-vm")
ROOT_POOL = MoRef("ResourcePool", "ha-root-pool")
POOL = '<pool type="ResourcePool">ha-root-pool</pool>'
SPEC = (
    "<name>fresh</name><files><vmPathName>[datastore1]</vmPathName></files>"
    "<guestId>debian12_64Guest</guestId><numCPUs>2</numCPUs><memoryMB>512</memoryMB>"
    '<deviceChange><operation>add</operation><device xsi:type="VirtualLsiLogicController">'
    "<key>-201</key><busNumber>0</busNumber><sharedBus>noSharing</sharedBus></device>"
    "</deviceChange>"
    "<deviceChange><operation>add</operation><fileOperation>create</fileOperation>"
    '<device xsi:type="VirtualDisk"><key>-1</key>'
    '<backing xsi:type="VirtualDiskFlatVer2BackingInfo"><fileName></fileName>'
    "<diskMode>persistent</diskMode><thinProvisioned>true</thinProvisioned></backing>"
    "<controllerKey>-201</controllerKey><unitNumber>-1</unitNumber>"
    "<capacityInKB>1048576</capacityInKB></device></deviceChange>"
    '<deviceChange><operation>add</operation><device xsi:type="VirtualVmxnet3"><key>-2</key>'
    '<backing xsi:type="VirtualEthernetCardNetworkBackingInfo"><deviceName>VM Network'
    "</deviceName></backing></device></deviceChange>"
)


async def finished(host, reply) -> str:
    assert reply.status == 200, reply.text
    ref = MoRef("Task", re.search(r'type="Task"[^>]*>([^<]+)<', reply.text)[1])
    for _ in range(10_000):
        info = await host.root.call("Fetch", ref, "<prop>info</prop>")
        if "<state>success" in info.text or "<state>error" in info.text:
            return info.text
        await asyncio.sleep(0.005)
    raise AssertionError


def test_the_layout_names_what_a_vm_is_made_of_and_no_swap_file() -> None:
    vm = fake_vm(1)
    config = with_saved_memory(replace(vm.config, firmware="efi"), "vm1-0123.vmss")
    snapshot = SnapshotSpec(1, 0, "one", "", 0.0, memory=False)
    vm = replace(vm, config=config, snapshots=(snapshot,))
    found = file_infos(vm, "[datastore1] vm1/vm1.vmx", "[datastore1] vm1/")
    kinds = [(one.get("type"), str(one.get("name")).rpartition("/")[2]) for one in found]
    assert kinds[0] == ("config", "vm1.vmx")
    assert kinds[1] == ("diskDescriptor", "vm1.vmdk")
    assert kinds[2:] == [
        ("nvram", "vm1.nvram"),
        ("snapshotList", "vm1.vmsd"),
        ("suspend", "vm1-0123.vmss"),
    ]
    assert [one.get("key") for one in found] == list(range(len(found)))


def test_a_task_can_be_read_as_soon_as_it_is_answered(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        for name in ("PowerOnVM_Task", "ResetVM_Task", "PowerOffVM_Task", "UpgradeVM_Task"):
            reply = await host.root.call(name, VM)
            task = MoRef("Task", re.search(r'type="Task"[^>]*>([^<]+)<', reply.text)[1])
            info = await host.root.call("Fetch", task, "<prop>info</prop>")
            assert (name, info.status) == (name, 200)

    play(story)


def test_hardware_that_is_up_to_date_says_so_as_a_tasks_fault(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        for version in ("", "<version>vmx-13</version>"):
            reply = await host.root.call("UpgradeVM_Task", VM, version)
            assert 'xsi:type="AlreadyUpgraded"' in await finished(host, reply)
        reply = await host.root.call("UpgradeVM_Task", VM, "<version>vmx-99</version>")
        assert reply.fault == "NotSupported"

    play(story)


def test_a_vm_is_made_as_the_clients_say_it(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        made = await host.root.call("CreateVM_Task", FOLDER, f"<config>{SPEC}</config>{POOL}")
        info = await finished(host, made)
        key = re.search(r'<result type="VirtualMachine"[^>]*>(\d+)<', info)[1]
        config = host.kernel.vm(key).config
        assert (config.name, config.cpus, config.memory_mib) == ("fresh", 2, 512)
        [disk], [nic] = config.disks, config.nics
        assert (disk.capacity, disk.controller, disk.unit) == (1 << 30, "scsi0", 0)
        assert (nic.model, nic.network) == ("vmxnet3", "VM Network")

    play(story)


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("<files><vmPathName>[datastore1]</vmPathName></files>", "InvalidArgument"),
        ("<name>x</name>", "InvalidArgument"),
        (SPEC + "<nestedHVEnabled>true</nestedHVEnabled>", "NotSupported"),
        (SPEC.replace("VM Network", "elsewhere"), "InvalidArgument"),
        (SPEC.replace("VirtualVmxnet3", "VirtualTPM"), "NotSupported"),
        (SPEC.replace("<unitNumber>-1<", "<unitNumber>7<"), "InvalidArgument"),
        (SPEC.replace(">create<", ">replace<"), "NotSupported"),
    ],
)
def test_what_cannot_be_made_is_refused_before_the_kernel_hears_of_it(
    play: Callable[..., None], spec: str, fault: str
) -> None:
    async def story(host) -> None:
        reply = await host.root.call("CreateVM_Task", FOLDER, f"<config>{spec}</config>{POOL}")
        assert reply.fault == fault
        assert not [one for one in host.kernel.asked if isinstance(one, vms.CreateVm)]

    play(story)


def test_each_change_takes_its_own_privilege() -> None:
    config = fake_vm(1).config
    for field, value, right in (
        ("name", "other", "Rename"),
        ("annotation", "text", "Annotation"),
        ("numCPUs", 4, "CPUCount"),
        ("memoryMB", 4096, "Memory"),
        ("guestId", "otherGuest", "Settings"),
        ("firmware", "bios", "Settings"),
        ("extraConfig", (Obj("OptionValue", key="a", value="b"),), "AdvancedConfig"),
        ("cpuAllocation", Obj("ResourceAllocationInfo", reservation=100), "Resource"),
    ):
        change = vmspec.changed(Obj("VirtualMachineConfigSpec", **{field: value}), config, ())
        assert change.privileges == {f"VirtualMachine.Config.{right}"}, field
        assert change.config != config
        again = vmspec.changed(Obj("VirtualMachineConfigSpec", **{field: value}), change.config, ())
        assert not again.privileges


def disk_change(operation: str, files: str | None = None, **fields: object) -> Obj:
    device = Obj("VirtualDisk", key=2000, controllerKey=1000, unitNumber=0, **fields)
    return Obj(
        "VirtualMachineConfigSpec",
        deviceChange=(
            Obj("VirtualDeviceConfigSpec", operation=operation, fileOperation=files, device=device),
        ),
    )


def test_disks_grow_leave_and_go() -> None:
    config = fake_vm(1).config
    bigger = vmspec.changed(disk_change("edit", capacityInKB=8 << 20), config, ())
    assert bigger.config.disks[0].capacity == 8 << 30
    assert bigger.privileges == {"VirtualMachine.Config.DiskExtend"}
    before = config.disks[0].capacity
    for kib, size in ((8 << 20, before), (before >> 10, 8 << 30), (1 << 20, 8 << 30)):
        spec = disk_change("edit", capacityInKB=kib, capacityInBytes=size)
        assert vmspec.changed(spec, config, ()).config.disks[0].capacity == 8 << 30
    left = vmspec.changed(disk_change("remove"), config, ())
    assert (len(left.config.disks), left.destroy) == (1, [])
    gone = vmspec.changed(disk_change("remove", "destroy"), config, ())
    assert gone.destroy == ["vm1.vmdk"]
    with pytest.raises(FaultError, match="shrink"):
        vmspec.changed(disk_change("edit", capacityInKB=1), config, ())
    with pytest.raises(FaultError, match="No device"):
        vmspec.changed(disk_change("remove"), replace(config, disks=()), ())


def test_a_controller_is_removed_by_its_key_and_the_ide_ones_stay() -> None:
    config = fake_vm(1).config

    def removed(kind: str, key: int) -> vmspec.Change:
        device = Obj(kind, key=key, busNumber=1)
        item = Obj("VirtualDeviceConfigSpec", operation="remove", device=device)
        spec = Obj("VirtualMachineConfigSpec", deviceChange=(item,))
        return vmspec.changed(spec, config, ())

    change = removed("ParaVirtualSCSIController", 1001)
    assert (change.unplug, change.config) == (["scsi1"], config)
    assert change.privileges == {"VirtualMachine.Config.AddRemoveDevice"}
    with pytest.raises(FaultError, match="IDE"):
        removed("VirtualIDEController", 201)
    with pytest.raises(FaultError, match="controller"):
        removed("ParaVirtualSCSIController", 77)


def test_a_disk_never_sits_where_its_controller_does() -> None:
    config = replace(fake_vm(1).config, disks=())
    for number in range(8):
        spec = Obj(
            "VirtualMachineConfigSpec",
            deviceChange=(
                Obj(
                    "VirtualDeviceConfigSpec",
                    operation="add",
                    fileOperation="create",
                    device=Obj("VirtualDisk", key=-1, controllerKey=1000, capacityInKB=1024),
                ),
            ),
        )
        config = vmspec.changed(spec, config, ()).config
        assert len(config.disks) == number + 1
    assert [disk.unit for disk in config.disks] == [0, 1, 2, 3, 4, 5, 6, 8]


def test_a_role_with_one_right_changes_that_and_nothing_else(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        host.kernel.state(
            RoleFact(
                20,
                "annotator",
                (
                    "System.View",
                    "System.Read",
                    "VirtualMachine.Config.Annotation",
                    "VirtualMachine.Config.Settings",
                ),
            ),
            PermissionFact("Folder", "ha-folder-root", READER, 20, propagate=True),
        )
        inner = "<spec><annotation>hello</annotation></spec>"
        for _ in range(10_000):
            reply = await host.reader.call("ReconfigVM_Task", VM, inner)
            if reply.fault != "NoPermission":
                break
            await asyncio.sleep(0.005)
        await finished(host, reply)
        assert host.kernel.vm("1").config.annotation == "hello"
        both = "<spec><annotation>x</annotation><memoryMB>1024</memoryMB></spec>"
        reply = await host.reader.call("ReconfigVM_Task", VM, both)
        assert reply.fault == "NoPermission"
        assert "VirtualMachine.Config.Memory" in reply.text
        assert host.kernel.vm("1").config.annotation == "hello"
        assert (await host.reader.call("Destroy_Task", VM)).fault == "NoPermission"
        renamed = await host.reader.call("Rename_Task", VM, "<newName>x</newName>")
        assert renamed.fault == "NoPermission"

    play(story)


def test_snapshots_make_a_tree_that_can_be_walked(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        for name in ("first", "second"):
            inner = f"<name>{name}</name><memory>false</memory><quiesce>false</quiesce>"
            info = await finished(host, await host.root.call("CreateSnapshot_Task", VM, inner))
            assert 'type="VirtualMachineSnapshot"' in info
        got = await host.root.call("Fetch", VM, "<prop>snapshot</prop>")
        assert ">1-snapshot-2</currentSnapshot>" in got.text
        assert got.text.index("<name>first<") < got.text.index("<name>second<")
        first = MoRef("VirtualMachineSnapshot", "1-snapshot-1")
        below = await host.root.call("Fetch", first, "<prop>childSnapshot</prop>")
        assert "1-snapshot-2" in below.text
        await host.root.call("RenameSnapshot", first, "<name>renamed</name>")
        await finished(host, await host.root.call("RevertToSnapshot_Task", first))
        await finished(
            host,
            await host.root.call(
                "RemoveSnapshot_Task", first, "<removeChildren>false</removeChildren>"
            ),
        )
        gone = await host.root.call("RevertToSnapshot_Task", first)
        assert gone.fault == "ManagedObjectNotFound"
        await finished(host, await host.root.call("RemoveAllSnapshots_Task", VM))
        got = await host.root.call("Fetch", VM, "<prop>snapshot</prop>")
        assert "<returnval" not in got.text
        for strange in ("1-snapshot-x", "1", "1-snapshot-0", "99-snapshot-1", "1-snapshot-01"):
            ref = MoRef("VirtualMachineSnapshot", strange)
            assert (await host.root.call("RevertToSnapshot_Task", ref)).fault

    play(story)


def test_suspend_and_destroy_end_as_tasks(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        await finished(host, await host.root.call("SuspendVM_Task", VM))
        assert host.kernel.vm("1").power is PowerState.SUSPENDED
        await finished(host, await host.root.call("Destroy_Task", VM))
        assert host.kernel.vm("1") is None
        folder = await host.root.call("Destroy_Task", FOLDER)
        assert folder.fault == "NotSupported"

    play(story)


ALLOCATION = (
    "<reservation>100</reservation><expandableReservation>true</expandableReservation>"
    "<limit>-1</limit><shares><shares>0</shares><level>high</level></shares>"
)


def test_pools_are_made_changed_filled_and_removed(play: Callable[..., None]) -> None:
    async def story(host) -> None:
        inner = (
            f"<name>gold</name><spec><cpuAllocation>{ALLOCATION}</cpuAllocation>"
            f"<memoryAllocation>{ALLOCATION}</memoryAllocation></spec>"
        )
        made = await host.root.call("CreateResourcePool", ROOT_POOL, inner)
        pool = MoRef("ResourcePool", re.search(r">(pool\d+)<", made.text)[1])
        asked = next(one for one in host.kernel.asked if isinstance(one, pools.CreatePool))
        assert (asked.cpu.reservation, asked.cpu.shares) == (100, 8000)
        moved = await host.root.call(
            "MoveIntoResourcePool", pool, '<list type="VirtualMachine">1</list>'
        )
        assert moved.status == 200
        got = await host.root.call("Fetch", VM, "<prop>resourcePool</prop>")
        assert pool.value in got.text
        await host.root.call("UpdateConfig", pool, "<name>silver</name>")
        got = await host.root.call("Fetch", pool, "<prop>name</prop>")
        assert "silver" in got.text
        child = (
            f'<spec><entity type="VirtualMachine">1</entity><cpuAllocation>{ALLOCATION}'
            "</cpuAllocation><memoryAllocation/></spec>"
        )
        done = await host.root.call("UpdateChildResourceConfiguration", pool, child)
        assert done.status == 200, done.text
        stranger = await host.root.call("UpdateChildResourceConfiguration", ROOT_POOL, child)
        assert stranger.fault == "InvalidArgument"
        for method in ("Destroy_Task", "CreateResourcePool"):
            assert (await host.reader.call(method, pool, inner[:0])).fault == "NoPermission"
        await finished(host, await host.root.call("Destroy_Task", pool))
        assert (await host.root.call("Fetch", pool, "<prop>name</prop>")).fault

    play(story)


def test_cores_of_a_socket_are_set_shown_and_have_to_divide_the_vcpus(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        spec = "<spec><numCPUs>4</numCPUs><numCoresPerSocket>2</numCoresPerSocket></spec>"
        await finished(host, await host.root.call("ReconfigVM_Task", VM, spec))
        shown = await host.root.call("Fetch", VM, "<prop>config</prop>")
        assert "<numCoresPerSocket>2</numCoresPerSocket>" in shown.text
        bad = "<spec><numCoresPerSocket>3</numCoresPerSocket></spec>"
        assert (await host.root.call("ReconfigVM_Task", VM, bad)).fault == "InvalidArgument"
        back = "<spec><numCoresPerSocket>1</numCoresPerSocket></spec>"
        await finished(host, await host.root.call("ReconfigVM_Task", VM, back))
        shown = await host.root.call("Fetch", VM, "<prop>config</prop>")
        assert "<numCoresPerSocket>1</numCoresPerSocket>" in shown.text

    play(story)


NEW_DISK = (
    "<spec><deviceChange><operation>add</operation>{files}"
    '<device xsi:type="VirtualDisk"><key>-1</key>'
    '<backing xsi:type="VirtualDiskFlatVer2BackingInfo"><fileName>{path}</fileName>'
    "<diskMode>persistent</diskMode></backing><controllerKey>1000</controllerKey>"
    "<unitNumber>{unit}</unitNumber><capacityInKB>1024</capacityInKB></device></deviceChange></spec>"
)


def test_a_disk_lies_in_the_vm_s_directory_or_elsewhere_and_is_shown_where_it_is(
    play: Callable[..., None],
) -> None:
    async def story(host) -> None:
        host.kernel.state(DatastoreFact("second-id", "second", "/vmfs/second", 1 << 40, 1 << 39))
        create = "<fileOperation>create</fileOperation>"
        for unit, (files, path, name, wanted) in enumerate(
            (
                ("", "[datastore1] vm1/extra.vmdk", "extra.vmdk", ""),
                ("", "[second] other/extra.vmdk", "/vmfs/volumes/second/other/extra.vmdk", ""),
                (create, "[datastore1] vm1/new.vmdk", "", "new.vmdk"),
                (create, "[second] a/new.vmdk", "", "/vmfs/volumes/second/a/new.vmdk"),
                (create, "[second]", "", "[second]"),
                (create, "[datastore1]", "", ""),
            ),
            8,
        ):
            spec = NEW_DISK.format(files=files, path=path, unit=unit)
            await finished(host, await host.root.call("ReconfigVM_Task", VM, spec))
            asked = [one for one in host.kernel.asked if isinstance(one, vms.ReconfigureVm)][-1]
            made = asked.config.disks[-1]
            assert (made.file_name, made.wanted) == (name, wanted)
        shown = await host.root.call("Fetch", VM, "<prop>config</prop>")
        assert "<fileName>[second] other/extra.vmdk</fileName>" in shown.text
        assert '<datastore type="Datastore">second-id</datastore>' in shown.text
        for name in ("datastore", "storage", "layoutEx", "layout"):
            shown = await host.root.call("Fetch", VM, f"<prop>{name}</prop>")
            where = "second-id" if name in {"datastore", "storage"} else "[second] other/extra.vmdk"
            assert where in shown.text, name
        store = MoRef("Datastore", "second-id")
        assert ">1<" in (await host.root.call("Fetch", store, "<prop>vm</prop>")).text

    play(story)


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("[nothing] a/b.vmdk", "InvalidDatastore"),
        ("[second] ../b.vmdk", "InvalidDatastorePath"),
        ("[second] a/b.vmdk", "NoPermission"),
        ("[datastore1] a/b.vmdk", "NoPermission"),
    ],
)
def test_a_disk_elsewhere_takes_privileges_on_its_datastore(
    path: str, fault: str, play: Callable[..., None]
) -> None:
    async def story(host) -> None:
        host.kernel.state(
            DatastoreFact("second-id", "second", "/vmfs/second", 1 << 40, 1 << 39),
            RoleFact(20, "disks", ("System.View", "System.Read", *DISK_RIGHTS)),
            RoleFact(21, "looks", ("System.View", "System.Read", "Datastore.Browse")),
            PermissionFact("Folder", "ha-folder-root", READER, 21, propagate=True),
            PermissionFact("VirtualMachine", "1", READER, 20, propagate=True),
        )
        for files in ("", "<fileOperation>create</fileOperation>"):
            lacking = "AllocateSpace" if files else "FileManagement"
            spec = NEW_DISK.format(files=files, path=path, unit=9)
            for _ in range(10_000):
                reply = await host.reader.call("ReconfigVM_Task", VM, spec)
                if "VirtualMachine.Config" not in reply.text:
                    break
                await asyncio.sleep(0.005)
            assert reply.fault == fault
            if fault == "NoPermission":
                assert f"Datastore.{lacking}" in reply.text
        assert not [one for one in host.kernel.asked if isinstance(one, vms.ReconfigureVm)]

    play(story)


@pytest.mark.parametrize(
    ("field", "fault"),
    [
        ("<sevEnabled>false</sevEnabled>", ""),
        ("<nestedHVEnabled>false</nestedHVEnabled>", ""),
        ("<npivTemporaryDisabled>true</npivTemporaryDisabled>", ""),
        ("<sevEnabled>true</sevEnabled>", "NotSupported"),
        ("<nestedHVEnabled>true</nestedHVEnabled>", "NotSupported"),
        ("<vAppConfigRemoved>true</vAppConfigRemoved>", ""),
        ("<npivDesiredNodeWwns>1</npivDesiredNodeWwns>", "NotSupported"),
    ],
)
def test_what_is_switched_off_asks_for_nothing_and_what_is_on_is_refused(
    field: str, fault: str, play: Callable[..., None]
) -> None:
    async def story(host) -> None:
        reply = await host.root.call("ReconfigVM_Task", VM, f"<spec>{field}</spec>")
        assert reply.fault == fault

    play(story)
