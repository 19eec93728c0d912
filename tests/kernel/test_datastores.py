"""Files of a datastore beside VMs that run."""

from __future__ import annotations

import pytest

from casemate.calls import files as f
from casemate.calls import vms as c
from casemate.calls.messages import PowerOff, PowerOn
from casemate.errors import FileLockedError
from casemate.kernel.accounts import LOCAL_ROOT
from casemate.kernel.datastores import Datastores

from .vmbench import Host, RefusedTaskError, disk, make

pytestmark = pytest.mark.host
IMAGE = "/vmfs/volumes/datastore1/iso/tools.iso"


def test_the_image_of_a_cd_lies_elsewhere_and_is_locked_while_the_vm_runs(on):
    async def body(host: Host) -> None:
        (host.datastore / "iso").mkdir()
        (host.datastore / "iso/tools.iso").write_bytes(bytes(4096))
        cd = disk(0, "ide1", 0, file_name=IMAGE, kind="cdrom", format="raw")
        vm = await make(host, disks=(disk(), cd))
        store = host.vm(vm).datastore
        await host.ask(PowerOn("", vm))
        for held in ("iso/tools.iso", "iso", "one"):
            with pytest.raises(FileLockedError):
                await host.ask(f.DeleteFile("", store, held))
        with pytest.raises(FileLockedError):
            await host.ask(f.MoveFile("", store, "iso", store, "one/one.vmdk"))
        with pytest.raises(RefusedTaskError, match="file-locked"):
            await host.ask(f.CopyFile("", store, "one/one-flat.vmdk", store, "copy.vmdk"))
        await host.ask(PowerOff("", vm))
        await host.ask(f.CopyFile("", store, "one/one-flat.vmdk", store, "copy.vmdk"))
        await host.ask(c.CloneVm("", vm, "two"))
        assert "tools.iso" not in host.files("two")
        await host.ask(f.DeleteFile("", store, "iso"))
        with pytest.raises(RefusedTaskError, match=r"tools\.iso"):
            await host.ask(PowerOn("", vm))
        assert (host.datastore / "copy.vmdk").stat().st_size == 8 << 20

    on(body)


def test_a_vm_that_is_registered_while_a_change_waits_for_its_turn_keeps_its_files(on):
    async def body(host: Host) -> None:
        vm = await make(host, disks=(disk(),))
        fact = host.vm(vm)
        for request in (
            f.DeleteFile("", fact.datastore, "one"),
            f.MoveFile("", fact.datastore, "one", fact.datastore, "two"),
        ):
            host.inventory.unregister(vm)
            handler = Datastores(host.inventory, host.tasks, lambda *_: None).handlers()[
                type(request)
            ]
            task = (await handler(request, LOCAL_ROOT)).task
            host.inventory.update(fact)
            with pytest.raises(RefusedTaskError, match="file-locked"):
                await host.ended(task)
        assert "one.vmx" in host.files("one")

    on(body)


def test_a_descriptor_that_names_a_vm_s_disk_takes_nothing_away_from_the_vm(on):
    async def body(host: Host) -> None:
        vm = await make(host, disks=(disk(),))
        store, place = host.vm(vm).datastore, host.datastore / "one"
        (place / "evil.vmdk").write_bytes((place / "one.vmdk").read_bytes())
        before = host.files("one")
        for request in (
            f.MoveDisk("", store, "one/evil.vmdk", store, "stolen.vmdk"),
            f.ExtendDisk("", store, "one/evil.vmdk", 16 << 20),
            f.DeleteDisk("", store, "one/evil.vmdk"),
        ):
            with pytest.raises(RefusedTaskError, match="file-locked"):
                await host.ask(request)
        assert host.files("one") == before
        assert (place / "one-flat.vmdk").stat().st_size == 8 << 20

    on(body)
