"""Logs stay bounded, group limits are converted faithfully, the accelerator is found by trying."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import HostError
from casemate.kernel.cells import cgroups, console, diskweight
from casemate.kernel.cells.probe import probe_accelerator
from casemate.machine.cellplan import CgroupTargets

V2_FILES = ("cpu.weight", "cpu.max", "memory.max", "pids.max")


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_a_flooded_console_log_keeps_the_end_within_two_limits(tmp_path_factory, chunks):
    log = tmp_path_factory.mktemp("log") / "console.log"
    for chunk in chunks:
        console.append_bounded(log, chunk, 500)
    old = log.with_name("console.log.1")
    kept = (old.read_bytes() if old.exists() else b"") + (log.read_bytes() if log.exists() else b"")
    assert len(kept) <= 2 * (500 + 300)
    assert b"".join(chunks).endswith(kept)
    assert not chunks or len(kept) >= min(500, sum(map(len, chunks)))


def test_the_last_line_of_a_log_is_printable_whatever_is_in_it(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"first\n\x1b[31m\xff evil \x07\n\n")
    assert console.last_line(log).isprintable()
    assert console.last_line(tmp_path / "absent") == ""


@given(st.integers(-5, 10**7), st.integers(-5, 10**7))
def test_more_shares_never_mean_less_weight(one, other):
    low, high = sorted((one, other))
    assert 1 <= cgroups.weight_of_shares(low) <= cgroups.weight_of_shares(high) <= 10_000


def mountinfo(tmp_path, *lines):
    path = tmp_path / "mountinfo"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_unified_groups_are_preferred_where_they_have_the_controllers(tmp_path):
    unified = tmp_path / "unified"
    unified.mkdir()
    (unified / "cgroup.controllers").write_text("cpuset cpu io memory pids")
    info = mountinfo(tmp_path, f"30 20 0:26 / {unified} rw - cgroup2 cgroup2 rw")
    groups = cgroups.detect("home", info)
    assert groups.version == 2
    made = unified / "casemate-home/7"
    made.mkdir(parents=True)
    groups.set_targets("7", CgroupTargets(1000, 25_000, 1 << 28, 97))
    assert [(made / name).read_text() for name in V2_FILES] == [
        "39",
        "25000 100000",
        str(1 << 28),
        "97",
    ]


def test_hybrid_groups_fall_back_to_version_1(tmp_path):
    unified = tmp_path / "unified"
    unified.mkdir()
    (unified / "cgroup.controllers").write_text("hugetlb")
    legacy = [
        f"3{n} 20 0:3{n} / {tmp_path}/{name} rw - cgroup cgroup rw,{name}"
        for n, name in enumerate(("cpu,cpuacct", "memory", "pids"))
    ]
    info = mountinfo(tmp_path, f"30 20 0:26 / {unified} rw - cgroup2 cgroup2 rw", *legacy)
    assert cgroups.detect("home", info).version == 1


def test_a_machine_without_the_controllers_is_told_so(tmp_path):
    with pytest.raises(HostError) as caught:
        cgroups.detect("home", mountinfo(tmp_path, "1 1 0:1 / /proc rw - proc proc rw"))
    assert caught.value.code == "cgroups"


@pytest.mark.host
def test_the_accelerator_is_decided_by_running_a_guest():
    found = probe_accelerator()
    assert found.name in {"kvm", "tcg"}
    assert found.reason


def test_a_vm_weighs_at_the_hosts_disks_as_its_shares_say_where_linux_has_a_weight(tmp_path):
    for name in ("io.bfq.weight", "io.weight"):
        (tmp_path / name).write_text("default 100")
    diskweight.write((tmp_path,), 3500)
    assert (tmp_path / "io.bfq.weight").read_text() == "350"
    assert (tmp_path / "io.weight").read_text() == "350"
    diskweight.write((tmp_path,), 1_000_000)
    assert (tmp_path / "io.bfq.weight").read_text() == "1000"
    assert (tmp_path / "io.weight").read_text() == "10000"
    bare = tmp_path / "bare"
    bare.mkdir()
    diskweight.write((bare,), 3500)
    assert list(bare.iterdir()) == []


@given(st.integers(1, 10**7), st.integers(1, 10**7))
def test_more_shares_of_disks_never_mean_less_weight(one, other):
    low, high = sorted((one, other))
    assert 1 <= diskweight.weight_of(low, 1000) <= diskweight.weight_of(high, 1000) <= 1000


@pytest.mark.parametrize(
    ("scheduler", "file", "cost", "found"),
    [
        ("mq-deadline [bfq] none", "io.bfq.weight", "", diskweight.BFQ),
        ("mq-deadline [bfq] none", "blkio.bfq.weight", "", diskweight.BFQ),
        ("[mq-deadline] bfq none", "io.bfq.weight", "", ""),
        ("[mq-deadline] bfq none", "io.weight", "{} enable=1 ctrl=auto", diskweight.COST),
        ("[mq-deadline] bfq none", "io.weight", "{} enable=0 ctrl=auto", ""),
        ("[mq-deadline] bfq none", "io.weight", "999:999 enable=1", ""),
        ("mq-deadline [bfq] none", "pids.max", "", ""),
    ],
)
@pytest.mark.parametrize("partition", [False, True])
def test_what_weighs_a_disk_is_found_by_looking(tmp_path, scheduler, file, cost, found, partition):
    number = tmp_path.stat().st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    disk = tmp_path / "sys/sda"
    (disk / "queue").mkdir(parents=True)
    (disk / "queue/scheduler").write_text(scheduler)
    place, whole = disk, name
    if partition:
        place, whole = disk / "sda1", "8:0"
        place.mkdir()
        (place / "partition").write_text("1")
        (disk / "dev").write_text("8:0\n")
    devices = tmp_path / "devices"
    devices.mkdir()
    (devices / name).symlink_to(place)
    group = tmp_path / "cgroup/home/7"
    group.mkdir(parents=True)
    (group / file).write_text("")
    (tmp_path / "cgroup/io.cost.qos").write_text(cost.format(whole))
    assert diskweight.weigher((group,), tmp_path, devices) == found
    assert diskweight.weigher((group,), tmp_path, tmp_path / "nowhere") == ""
