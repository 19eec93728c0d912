"""VMs are made, changed, copied and destroyed; what is not theirs is never touched."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.errors import (
    ArgumentError,
    CasemateError,
    DuplicateNameError,
    HostError,
    PowerStateError,
    StateError,
)
from casemate.kernel.vmcontext import NoNetwork
from casemate.machine.facts import NicSpec, PowerState, VmConfig
from casemate.machine.planvtpm import TPM_UID_OFFSET
from casemate.machine.vmconfig import (
    INSTANCE_UUID,
    TEMPLATE,
    entry,
    is_template,
    saved_memory,
    with_saved_memory,
)

from .registering import come
from .vmbench import MIB, Host, RefusedTaskError, config, disk, make, printed

pytestmark = pytest.mark.host


def members(host: Host, vm: str) -> set[int]:
    """Return the processes of a VM."""
    (group, *_) = host.cgroups.directories(vm)
    return {int(pid) for pid in (group / "cgroup.procs").read_text().split()}


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def alive(pid: int) -> bool:
    try:
        return status(pid)["State"][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def namespaces(pid: int) -> set[str]:
    names = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
    return {str(Path(f"/proc/{pid}/ns/{name}").readlink()) for name in names}


def test_a_vm_is_made_runs_and_is_destroyed_with_its_files(on):
    async def body(host: Host) -> None:
        nics = (NicSpec("", "VM Network", "vmxnet3"), NicSpec("", "VM Network", "e1000"))
        vm = await make(host, "web: 1/2", nics=nics)
        fact = host.vm(vm)
        assert fact.config.vmx_path == "[datastore1] web_ 1_2/web_ 1_2.vmx"
        assert fact.config.uuid.startswith("564d")
        assert fact.config.disks[0].capacity == 8 * MIB
        assert len({nic.mac for nic in fact.config.nics}) == 2
        names = ["web_ 1_2-flat.vmdk", "web_ 1_2.vmdk", "web_ 1_2.vmx"]
        assert host.files("web_ 1_2") == names
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        with pytest.raises(PowerStateError):
            await host.ask(c.DestroyVm("", vm))
        await host.ask(m.PowerOff("", vm))
        await host.ask(c.DestroyVm("", vm))
        assert host.inventory.vms() == ()
        assert list(host.datastore.iterdir()) == []

    on(body)


def test_of_two_vms_made_at_once_with_one_name_one_comes_and_nothing_of_the_other_stays(on):
    async def body(host: Host) -> None:
        made = await asyncio.gather(make(host), make(host), return_exceptions=True)
        assert sorted(isinstance(one, str) for one in made) == [False, True]
        (refused,) = (one for one in made if not isinstance(one, str))
        assert isinstance(refused, RefusedTaskError)
        assert refused.fault.fault == "DuplicateName"
        assert len(list(host.datastore.iterdir())) == 1
        other = await make(host, "two")
        fact = host.vm(other)
        wanted = replace(fact.config, name="one")
        with pytest.raises(DuplicateNameError):
            await host.ask(c.ReconfigureVm("", other, fact.config, wanted))
        with pytest.raises(DuplicateNameError):
            await host.ask(c.CloneVm("", other, "one"))

    on(body)


def test_a_template_does_not_run_until_it_is_a_vm_again_and_copies_of_it_are_vms(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        before = host.vm(vm).config
        template = replace(before, extra=(*before.extra, (TEMPLATE, "TRUE")))
        await host.ask(c.ReconfigureVm("", vm, before, template))
        assert is_template(host.vm(vm).config)
        with pytest.raises(RefusedTaskError, match="not-supported"):
            await host.ask(m.PowerOn("", vm))
        await host.ask(c.CloneVm("", vm, "copy"))
        copy = next(fact for fact in host.inventory.vms() if fact.config.name == "copy")
        assert not is_template(copy.config)
        identities = {entry(one, INSTANCE_UUID) for one in (copy.config, host.vm(vm).config)}
        assert len(identities) == 2

    on(body)


def test_a_new_disk_has_the_name_and_the_kind_that_were_asked_for(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        before = host.vm(vm).config
        first = before.disks[0]
        blank = replace(first, file_name="", uuid="", controller="scsi0")
        more = (
            replace(blank, unit=1, wanted="data.vmdk", thin=False),
            replace(blank, unit=2),
        )
        wanted = replace(before, disks=(first, *more))
        await host.ask(c.ReconfigureVm("", vm, before, wanted))
        found = {one.file_name: one.thin for one in host.vm(vm).config.disks}
        assert found == {"one.vmdk": True, "data.vmdk": False, "one_1.vmdk": True}
        assert len({one.uuid for one in host.vm(vm).config.disks}) == 3
        now = host.vm(vm).config
        again = replace(more[0], unit=3)
        with pytest.raises(RefusedTaskError) as refused:
            await host.ask(c.ReconfigureVm("", vm, now, replace(now, disks=(*now.disks, again))))
        assert refused.value.fault.fault == "FileAlreadyExists"
        for name in ("../x.vmdk", "x.iso", "a-flat.vmdk"):
            bad = replace(now, disks=(*now.disks, replace(again, wanted=name)))
            with pytest.raises(ArgumentError):
                await host.ask(c.ReconfigureVm("", vm, now, bad))

    on(body)


def test_a_vm_is_not_made_among_the_files_of_another(on):
    async def body(host: Host) -> None:
        await make(host)
        before = host.files("one")
        with pytest.raises((CasemateError, RefusedTaskError), match="another VM"):
            await host.ask(c.CreateVm("", config(name="two", vmx_path="[datastore1] one/two.vmx")))
        assert host.files("one") == before

    on(body)


@pytest.mark.parametrize(
    "changes",
    [
        {"vmx_path": "[datastore2]"},
        {"vmx_path": "[datastore1] ../out/x.vmx"},
        {"vmx_path": "/etc/x.vmx"},
        {"name": ""},
        {"memory_mib": 3},
        {"disks": (disk(), disk())},
        {"disks": (disk(capacity=1),)},
        {"disks": (disk(capacity=63 << 40),)},
        {"disks": (disk(controller="scsi9"),)},
        {"disks": (disk(file_name="../../casemate.db"),)},
        {"disks": (disk(kind="cdrom"),)},
        {"firmware": "coreboot"},
    ],
)
def test_a_vm_that_cannot_be_leaves_nothing_behind(on, changes):
    async def body(host: Host) -> None:
        with pytest.raises((CasemateError, RefusedTaskError)):
            await host.ask(c.CreateVm("", config(**changes)))
        assert list(host.datastore.iterdir()) == []
        assert host.inventory.vms() == ()

    on(body)


def test_what_is_not_the_vm_s_own_stays_when_it_is_destroyed(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        place = host.datastore / "one"
        (place / "notes.txt").write_text("mine")
        outside = host.place / "outside"
        outside.write_text("secret")
        flat = place / "one-flat.vmdk"
        flat.unlink()
        flat.symlink_to(outside)
        shared = (place / "one.vmx").read_text().replace("one", "two").replace("two.vmdk", "s.vmdk")
        shared, changed = re.subn(r'(uuid\.bios = "[^"]{45})..', r"\g<1>00", shared)
        assert changed == 1
        (place / "two.vmx").write_text(shared)
        (place / "s.vmdk").write_text((place / "one.vmdk").read_text())
        await come(host.inventory, "[datastore1] one/two.vmx")
        await host.ask(c.DestroyVm("", vm))
        assert outside.read_text() == "secret"
        assert {"notes.txt", "two.vmx", "s.vmdk"} <= set(host.files("one"))

    on(body)


def test_hardware_changes_while_off_and_disks_come_grow_and_go(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        before = host.vm(vm).config
        wanted = replace(
            before,
            name="renamed",
            cpus=2,
            memory_mib=32,
            annotation="two\nlines",
            disks=(
                replace(before.disks[0], capacity=16 * MIB),
                disk(controller="scsi0", unit=1),
                disk(controller="sata0", unit=0, format="qcow2", capacity=1 << 30),
            ),
            extra=(*before.extra, ("scsi0.virtualDev", "pvscsi"), ("guestinfo.a", "b")),
        )
        await host.ask(c.ReconfigureVm("", vm, before, wanted))
        after = host.vm(vm).config
        assert (after.name, after.cpus, after.memory_mib) == ("renamed", 2, 32)
        assert after.annotation == "two\nlines"
        sizes = {spec.file_name: spec.capacity for spec in after.disks}
        assert sizes == {"one.vmdk": 16 * MIB, "one_1.vmdk": 8 * MIB, "one.qcow2": 1 << 30}
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        await host.ask(m.PowerOff("", vm))
        with pytest.raises(StateError, match="changed meanwhile"):
            await host.ask(c.ReconfigureVm("", vm, before, before))
        fewer = replace(after, disks=after.disks[:1])
        await host.ask(c.ReconfigureVm("", vm, after, fewer, destroy=("one_1.vmdk",)))
        assert {"one_1.vmdk", "one_1-flat.vmdk"}.isdisjoint(host.files("one"))
        assert "one.qcow2" in host.files("one")

    on(body)


def test_a_running_guest_gets_a_larger_disk_and_no_other_hardware(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        await host.ask(m.PowerOn("", vm))
        before = host.vm(vm).config
        larger = replace(before, disks=(replace(before.disks[0], capacity=12 * MIB),))
        await host.ask(c.ReconfigureVm("", vm, before, larger))
        assert host.vm(vm).config.disks[0].capacity == 12 * MIB
        assert (host.datastore / "one/one-flat.vmdk").stat().st_size == 12 * MIB
        renamed = replace(host.vm(vm).config, name="x", annotation="y")
        await host.ask(c.ReconfigureVm("", vm, host.vm(vm).config, renamed))
        assert host.vm(vm).config.name == "x"
        assert host.vm(vm).power is PowerState.POWERED_ON
        with pytest.raises(PowerStateError):
            await host.ask(c.ReconfigureVm("", vm, renamed, replace(renamed, cpus=2)))
        smaller = replace(renamed, disks=(replace(renamed.disks[0], capacity=4 * MIB),))
        with pytest.raises(RefusedTaskError, match="cannot get"):
            await host.ask(c.ReconfigureVm("", vm, host.vm(vm).config, smaller))

    on(body)


def test_a_clone_has_the_same_disk_and_its_own_identity(on):
    async def body(host: Host) -> None:
        vm = await make(host, nics=(NicSpec("", "VM Network", "e1000"),))
        copy = await host.ask(c.CloneVm("", vm, "two"))
        one, two = host.vm(vm).config, host.vm(copy).config
        assert (two.name, two.vmx_path) == ("two", "[datastore1] two/two.vmx")
        assert one.uuid != two.uuid
        assert one.nics[0].mac != two.nics[0].mac
        flat = "one-flat.vmdk"
        originals = (host.datastore / "one" / flat).read_bytes()
        assert (host.datastore / "two" / flat).read_bytes() == originals
        await host.ask(m.PowerOn("", copy))
        await printed(host, copy)
        with pytest.raises(ArgumentError):
            await host.ask(c.CloneVm("", vm, ""))

    on(body)


def test_a_suspended_guest_goes_on_where_it_was(on):
    async def body(host: Host) -> None:
        usb = ("usb.present", "ehci.present", "usb_xhci.present")
        entries = (*((name, "TRUE") for name in usb), ("svga.vramSize", str(32 << 20)))
        vm = await make(host, extra=entries)
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        await host.ask(c.SuspendVm("", vm))
        assert host.vm(vm).power is PowerState.SUSPENDED
        assert [name for name in host.files("one") if name.endswith(".vmss")] != []
        lines = host.console(vm).count(b"ok\n")
        host.inventory.reread(vm)
        assert host.vm(vm).power is PowerState.SUSPENDED
        await host.ask(m.PowerOn("", vm))
        assert host.vm(vm).power is PowerState.POWERED_ON
        assert await host.cells.status(vm) == "running"
        assert host.console(vm).count(b"ok\n") == lines
        assert [name for name in host.files("one") if name.endswith(".vmss")] == []

    on(body)


def test_powering_off_a_suspended_vm_discards_its_memory(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        await host.ask(m.PowerOn("", vm))
        await host.ask(c.SuspendVm("", vm))
        with pytest.raises(PowerStateError):
            await host.ask(c.CloneVm("", vm, "two"))
        await host.ask(m.PowerOff("", vm))
        assert host.vm(vm).power is PowerState.POWERED_OFF
        assert host.files("one") == ["one-flat.vmdk", "one.vmdk", "one.vmx"]

    on(body)


def test_a_saved_memory_that_was_damaged_is_named_and_the_vm_stays_suspended(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        await host.ask(m.PowerOn("", vm))
        await host.ask(c.SuspendVm("", vm))
        (saved,) = (host.datastore / "one").glob("*.vmss")
        saved.write_bytes(b"QEVM" + bytes(4096))
        with pytest.raises(RefusedTaskError):
            await host.ask(m.PowerOn("", vm))
        assert host.vm(vm).power is PowerState.SUSPENDED
        assert host.cells.running() == ()
        await host.ask(c.DestroyVm("", vm))
        assert list(host.datastore.iterdir()) == []

    on(body)


class LostNetwork(NoNetwork):
    """A network that refuses what was plugged in."""

    def live(self, config: VmConfig) -> tuple[bool, ...]:
        raise HostError(f"the network of {config.name} is gone")


def test_a_guest_that_woke_up_never_wakes_up_again_from_the_same_memory(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        await host.ask(m.PowerOn("", vm))
        await host.ask(c.SuspendVm("", vm))
        host.rewire(LostNetwork())
        with pytest.raises(RefusedTaskError, match="the network of one is gone"):
            await host.ask(m.PowerOn("", vm))
        assert host.vm(vm).power is PowerState.POWERED_ON
        assert [name for name in host.files("one") if name.endswith(".vmss")] == []
        await host.ask(m.PowerOff("", vm))
        assert host.vm(vm).power is PowerState.POWERED_OFF

    on(body)


def test_a_kernel_killed_after_a_guest_woke_up_leaves_no_memory_to_wake_up_from(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        await host.ask(m.PowerOn("", vm))
        (state,) = host.cells.running()
        fact = host.vm(vm)
        (host.datastore / "one" / "old.vmss").write_bytes(b"memory")
        with host.context.open(fact) as directory:
            host.context.rewrite(directory, fact, with_saved_memory(fact.config, "old.vmss"))
        host.adopted(state)
        assert saved_memory(host.vm(vm).config) == ""
        assert "old.vmss" not in host.files("one")
        await host.ask(m.PowerOff("", vm))
        assert host.vm(vm).power is PowerState.POWERED_OFF
        assert host.cells.running() == ()

    on(body)


@pytest.mark.parametrize("secure", ["TRUE", "FALSE"])
def test_a_uefi_machine_has_its_own_variables(on, secure):
    async def body(host: Host) -> None:
        vm = await make(host, firmware="efi", extra=(("uefi.secureBoot.enabled", secure),))
        await host.ask(m.PowerOn("", vm))
        assert await host.cells.status(vm) == "running"
        assert "one.nvram" in host.files("one")
        await host.ask(m.PowerOff("", vm))
        await host.ask(c.DestroyVm("", vm))
        assert list(host.datastore.iterdir()) == []

    on(body)


def test_a_disk_is_written_by_one_vm_only(on):
    async def body(host: Host) -> None:
        first = await make(host)
        second = await make(host, "two")
        place = host.datastore / "two"
        (place / "two-flat.vmdk").unlink()
        (place / "two-flat.vmdk").hardlink_to(host.datastore / "one/one-flat.vmdk")
        await host.ask(m.PowerOn("", first))
        with pytest.raises(RefusedTaskError, match="file-locked"):
            await host.ask(m.PowerOn("", second))
        await host.ask(m.PowerOff("", first))
        await host.ask(m.PowerOn("", second))

    on(body)


def test_a_guest_s_tpm_lives_in_a_cell_of_its_own_and_ends_with_the_vm(on):
    async def body(host: Host) -> None:
        vm = await make(host, extra=(("vtpm.present", "TRUE"),))
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm)
        pids = members(host, vm)
        assert len(pids) == 2
        (tpm,) = pids - {host.vm(vm).pid}
        facts = status(tpm)
        assert facts["Uid"].split() == [str(host.vm(vm).uid + TPM_UID_OFFSET)] * 4
        assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
        assert int(facts["CapBnd"], 16) == 0
        assert namespaces(tpm).isdisjoint(namespaces(os.getpid()))
        await host.ask(c.SuspendVm("", vm))
        for _ in range(2000):
            if not alive(tpm):
                break
            await asyncio.sleep(0.05)
        assert not alive(tpm)
        assert (host.datastore / "one/one.vtpm").stat().st_size > 0
        await host.ask(m.PowerOn("", vm))
        assert await host.cells.status(vm) == "running"
        await host.ask(m.PowerOff("", vm))
        await host.ask(c.DestroyVm("", vm))
        assert list(host.datastore.iterdir()) == []

    on(body)
