"""No plan lacks any hardening item, whatever the VM; a plan that does is found out."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError, CasemateError, NotSupportedError
from casemate.machine.cellplan import CellPlan, Hardening, Isolation, Limit, ShownFile
from casemate.machine.facts import Allocation, DiskSpec, NicSpec, VmConfig
from casemate.machine.plan import HostSide, cell_uid, plan_power_on
from casemate.machine.planaudit import SANDBOX, TPM_UID_END, UEFI_CODE, UID_BASE, UID_END, audit
from casemate.machine.planstorage import DiskSource
from casemate.machine.planvtpm import plan_vtpm

TEXT = st.text(max_size=30)
DISKS = st.lists(
    st.builds(
        DiskSource,
        disk=st.builds(
            DiskSpec,
            file_name=TEXT,
            kind=st.sampled_from(["disk", "cdrom"]),
            format=st.just("vmdk"),
            capacity=st.integers(0, 1 << 40),
            controller=st.sampled_from(["ide0", "sata0", "scsi0", "scsi1", "nvme0", "virtio0"]),
            unit=st.integers(0, 15),
        ),
        file_name=TEXT,
        size=st.integers(1, 1 << 40).map(lambda sectors: sectors * 512),
        offset=st.integers(0, 100).map(lambda sectors: sectors * 512),
        read_only=st.booleans(),
        format=st.sampled_from(["raw", "qcow2"]),
    ),
    max_size=6,
).map(tuple)
CONFIGS = st.builds(
    VmConfig,
    name=TEXT,
    uuid=st.uuids().map(str) | st.just(""),
    vmx_path=TEXT,
    guest_id=TEXT,
    cpus=st.integers(1, 255),
    memory_mib=st.integers(4, 1 << 20),
    firmware=st.sampled_from(["bios", "efi"]),
    nics=st.lists(
        st.builds(
            NicSpec,
            mac=st.sampled_from(["", "00:50:56:00:00:01"]),
            network=TEXT,
            model=st.sampled_from(["e1000", "e1000e", "vmxnet3", "virtio"]),
        ),
        max_size=3,
    ).map(tuple),
    cpu_allocation=st.builds(Allocation, limit=st.integers(-1, 1 << 20)),
    annotation=TEXT,
    extra=st.dictionaries(
        st.sampled_from(["casemate.kernel", "casemate.append", "guestinfo.x", "cpuid.7.ebx"]), TEXT
    ).map(lambda entries: tuple(entries.items())),
)
HOSTS = st.builds(
    HostSide,
    accelerator=st.sampled_from(["tcg", "kvm"]),
    cpu_mhz=st.integers(0, 6000),
    uid=st.integers(UID_BASE, UID_END - 1),
)
CONFIG = VmConfig("demo", "", "[d] demo/demo.vmx", "other", 1, 128, "bios")
DISK = DiskSource(
    DiskSpec("demo.vmdk", "disk", "vmdk", 1 << 30, "scsi0", 0), "demo-flat.vmdk", 1 << 30
)
HOST = HostSide("tcg", 2000, UID_BASE + 5)


def plan(config: VmConfig = CONFIG, *disks: DiskSource, host: HostSide = HOST) -> CellPlan:
    return plan_power_on("5", config, disks, host)


def unnamed(made: CellPlan) -> list[str]:
    """Return the options with every node of the block layer called alike."""
    return [re.sub(r"\bn[0-9a-f]{24}\b", "node", word) for word in made.argv]


def option(made: CellPlan, name: str) -> str:
    return made.argv[made.argv.index(name) + 1]


@given(CONFIGS, DISKS, HOSTS)
def test_no_plan_lacks_any_hardening_item(config, disks, host):
    try:
        made = plan_power_on("5", config, disks, host)
    except (ArgumentError, NotSupportedError):
        return
    assert audit(made) == ()
    assert made.isolation == set(Isolation)
    assert made.hardening == set(Hardening)
    assert option(made, "-sandbox") == SANDBOX
    assert "mem-merge=off" in option(made, "-machine")
    assert ("split-wx=on" in option(made, "-accel")) == (host.accelerator == "tcg")
    assert {limit for limit, _ in made.rlimits} == set(Limit)
    assert ("kvm" in made.devices) == (host.accelerator == "kvm")


@given(CONFIGS, DISKS)
def test_no_text_of_the_vm_becomes_an_option(config, disks):
    try:
        made = plan_power_on("5", config, disks, HOST)
    except CasemateError:
        return
    words = unnamed(made)
    if "-append" in words:
        del words[words.index("-append") + 1]
    plain = replace(config, name="x", vmx_path="x", annotation="", guest_id="x")
    others = tuple(replace(disk, file_name=f"x{at}") for at, disk in enumerate(disks))
    plain_words = unnamed(plan_power_on("5", plain, others, HOST))
    if "-append" in plain_words:
        del plain_words[plain_words.index("-append") + 1]
    assert words == plain_words


def mutations():
    made = plan(CONFIG, DISK)
    words = made.argv

    def without(name: str, values: int = 1) -> CellPlan:
        place = words.index(name)
        return replace(made, argv=words[:place] + words[place + 1 + values :])

    def changed(name: str, old: str, new: str) -> CellPlan:
        place = words.index(name) + 1
        value = words[place].replace(old, new)
        assert value != words[place]
        return replace(made, argv=(*words[:place], value, *words[place + 1 :]))

    for isolation in Isolation:
        yield f"no {isolation}", replace(made, isolation=made.isolation - {isolation})
    for item in Hardening:
        yield f"no {item}", replace(made, hardening=made.hardening - {item})
    for limit in Limit:
        kept = tuple(pair for pair in made.rlimits if pair[0] != limit)
        yield f"no {limit}", replace(made, rlimits=kept)
    yield "core dumps", replace(made, rlimits=((Limit.CORE, 1), *made.rlimits[1:]))
    yield "root", replace(made, uid=0, gid=0)
    yield "another's group", replace(made, gid=0)
    yield "no memory limit", replace(made, cgroup=replace(made.cgroup, memory_bytes=0))
    yield "kvm node", replace(made, devices=(*made.devices, "kvm"))
    yield "memory device", replace(made, devices=(*made.devices, "mem"))
    yield "no sandbox", without("-sandbox")
    yield "no -nodefaults", without("-nodefaults", 0)
    yield "no -no-user-config", without("-no-user-config", 0)
    yield "a guest that does not wait", without("-S", 0)
    yield "two sandboxes", replace(made, argv=(*words, "-sandbox", "off"))
    yield "weaker sandbox", changed("-sandbox", "spawn=deny", "spawn=allow")
    yield "writable code", changed("-accel", "split-wx=on", "split-wx=off")
    yield "merged memory", changed("-machine", "mem-merge=off", "mem-merge=on")
    yield "dumped memory", changed("-machine", ",dump-guest-core=off", "")
    yield "old cpu", changed("-cpu", "max", "qemu64")
    yield "no nx", changed("-cpu", "max", "max,-nx")
    yield "no smep", changed("-cpu", "max", "max,smep=off")
    yield "another accelerator", replace(made, accelerator="kvm")
    yield "a drive by path", replace(made, argv=(*words, "-drive", "file=/etc/shadow"))
    yield "a node by path", changed("-blockdev", "/dev/fdset/0", "/etc/shadow")
    yield "a shared directory", replace(made, argv=(*words, "-virtfs", "local,path=/"))
    yield "memory from a place", replace(made, argv=(*words, "-incoming", "exec:id"))
    yield "a word that is no option", replace(made, argv=(*words, "/etc/shadow"))


@pytest.mark.parametrize("weak", [pytest.param(p, id=name) for name, p in mutations()])
def test_a_plan_that_lacks_one_item_is_found_out(weak):
    assert audit(plan(CONFIG, DISK)) == ()
    assert audit(weak)


def test_disks_are_descriptors_with_a_stated_format():
    cd = DiskSource(DiskSpec("a.iso", "cdrom", "raw", 2048, "ide1", 0), "a.iso", 2048)
    made = plan(CONFIG, cd, DISK)
    nodes = [
        json.loads(made.argv[n + 1]) for n, word in enumerate(made.argv) if word == "-blockdev"
    ]
    assert [(node["driver"], node["read-only"], node["file"]["filename"]) for node in nodes] == [
        ("raw", True, "/dev/fdset/0"),
        ("raw", False, "/dev/fdset/1"),
    ]
    assert [(file.file_name, file.writable) for file in made.passed] == [
        ("a.iso", False),
        ("demo-flat.vmdk", True),
    ]
    assert dict(made.rlimits)[Limit.FSIZE] == 2 << 30


def test_a_delta_reads_what_lies_below_and_writes_only_itself():
    base = DiskSource(DISK.disk, "base.vmdk", 1 << 30, format="vmdk")
    made = plan(CONFIG, DiskSource(DISK.disk, "d.qcow2", 1 << 30, format="qcow2", backing=base))
    node = json.loads(option(made, "-blockdev"))
    assert node["backing"] | {"node-name": ""} == {
        "driver": "vmdk",
        "node-name": "",
        "read-only": True,
        "file": {
            "driver": "file",
            "filename": "/dev/fdset/1",
            "discard": "unmap",
            "locking": "off",
        },
        "backing": None,
    }
    assert [(file.file_name, file.writable) for file in made.passed] == [
        ("d.qcow2", True),
        ("base.vmdk", False),
    ]


def test_uefi_writes_its_own_variables_and_no_firmware():
    made = plan(replace(CONFIG, firmware="efi", extra=(("uefi.secureBoot.enabled", "TRUE"),)), DISK)
    nodes = [json.loads(made.argv[n + 1]) for n, w in enumerate(made.argv) if w == "-blockdev"]
    assert nodes[0]["file"]["filename"] == UEFI_CODE[True]
    assert nodes[0]["file"]["read-only"]
    assert nodes[1]["file"]["filename"] == "/dev/fdset/1"
    assert [file.file_name for file in made.passed] == ["demo-flat.vmdk", "demo.nvram"]
    assert "smm=on" in option(made, "-machine")


def test_the_firmware_waits_and_asks_the_drives_in_the_order_of_the_vmx():
    entries = (("bios.bootDelay", "3000"), ("bios.bootOrder", "cdrom,hdd"))
    disc = DiskSpec("c.iso", "cdrom", "raw", 0, "ide0", 1)
    made = plan(
        replace(CONFIG, extra=entries),
        DiskSource(DiskSpec("a.img", "disk", "raw", 512, "ide0", 0), "a.img", 512),
        DiskSource(disc, "c.iso", 512),
    )
    assert option(made, "-boot") == "menu=on,splash-time=3000"
    drives = [word for word in made.argv if word.startswith("ide-")]
    assert [word.rpartition("bootindex=")[2] for word in drives] == ["12", "11"]


def test_a_card_has_an_option_rom_only_where_the_vm_boots_from_it():
    cards = (NicSpec("", "a", "e1000"), NicSpec("", "b", "vmxnet3"))
    entries = (("bios.bootOrder", "hdd,ethernet1"),)
    made = plan(replace(CONFIG, nics=cards, extra=entries), DISK)
    devices = [word for word in made.argv if "netdev=net" in word]
    assert ",romfile=," in devices[0]
    assert "romfile" not in devices[1]
    assert ",bootindex=" in devices[1]


def test_two_disks_in_one_file_are_refused():
    with pytest.raises(ArgumentError, match="one file"):
        plan(CONFIG, DISK, DISK)


def test_a_qcow2_disk_never_opens_the_backing_file_that_it_names():
    made = plan(CONFIG, replace(DISK, format="qcow2"))
    assert json.loads(option(made, "-blockdev"))["backing"] is None


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("casemate.kernel", "/boot/vmlinuz"),
        ("casemate.kernel", "../vmlinuz"),
        ("casemate.initrd", "initrd"),
        ("cpuid.80000001.edx", "-----------0--------------------"),
    ],
)
def test_what_reaches_out_of_the_vm_or_weakens_it_is_refused(entry, value):
    with pytest.raises(ArgumentError):
        plan(replace(CONFIG, extra=((entry, value),)))


def test_what_the_host_does_not_offer_is_said():
    seven = [
        replace(DISK, file_name=str(n), disk=replace(DISK.disk, controller="sata0", unit=n))
        for n in range(7)
    ]
    for config, disks in (
        (CONFIG, seven),
        (CONFIG, [replace(DISK, format="vpc")]),
        (CONFIG, [replace(DISK, disk=replace(DISK.disk, controller="nvme0", kind="cdrom"))]),
    ):
        with pytest.raises(NotSupportedError):
            plan(config, *disks)


@pytest.mark.parametrize("uid", [0, 1000, UID_BASE - 1, UID_END])
def test_no_cell_runs_as_somebody_else(uid):
    with pytest.raises(ArgumentError):
        plan(host=HostSide("tcg", 2000, uid))


@given(st.integers(0), st.integers(0, 10**9).map(str))
def test_uids_of_cells_stay_in_their_range(slot, vm):
    assert UID_BASE <= cell_uid(slot, vm) < UID_END


@pytest.mark.parametrize("vm", ["", "../1", "1a", "٣", "-1"])
def test_a_vm_id_is_digits(vm):
    with pytest.raises(ArgumentError):
        cell_uid(0, vm)


def test_a_limit_in_mhz_becomes_cpu_time():
    limited = replace(CONFIG, cpu_allocation=Allocation(limit=500))
    assert plan(limited).cgroup.cpu_quota == 25_000
    assert plan().cgroup.cpu_quota == -1


def test_a_guest_s_tpm_has_its_own_identity_and_nothing_but_its_state():
    config = replace(CONFIG, extra=(("vTPM.present", "TRUE"),))
    tpm = plan_vtpm(plan(config), config)
    assert audit(tpm) == ()
    assert UID_END <= tpm.uid < TPM_UID_END
    assert (tpm.isolation, tpm.hardening) == (set(Isolation), set(Hardening))
    other = ShownFile("x", "/etc/passwd", writable=True)
    for weak in (
        replace(tpm, argv=(*tpm.argv, "--log", "file=/x")),
        replace(tpm, uid=HOST.uid, gid=HOST.uid),
        replace(tpm, shown=(*tpm.shown, other)),
        replace(tpm, domain="regularVMDom"),
        replace(plan(config), shown=(other,)),
    ):
        assert audit(weak)
