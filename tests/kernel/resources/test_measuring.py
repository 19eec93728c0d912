"""What is measured and written: hostile answers, vanished groups, and no write too many."""

from __future__ import annotations

import asyncio
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.kernel.resources.fakes import FakeGroups, FakeQmp

from casemate.errors import ArgumentError, CasemateError, NotFoundError
from casemate.kernel.ballooning import Balloons
from casemate.kernel.devices import read_devices
from casemate.kernel.groups import Groups
from casemate.kernel.history import History
from casemate.kernel.metering import Meter
from casemate.machine.counters import BY_PATH, COUNTERS, ROLLED, SAMPLES
from casemate.machine.hardware import HardwareFact, HostNic, PciDevice
from casemate.machine.passthrough import plan_passthrough
from casemate.sched.targets import CpuTarget, MemoryTarget

MIB = 1 << 20


def thread(proc: Path, pid: int, run: float, wait: float) -> None:
    place = proc / str(pid) / "task" / str(pid)
    place.mkdir(parents=True, exist_ok=True)
    (place / "schedstat").write_text(f"{int(run * 1e9)} {int(wait * 1e9)} 7\n")


def metered(tmp_path: Path, *, cpu: float, wait: float, throttled: float = 0.0) -> Any:
    groups = FakeGroups(tmp_path / "groups")
    groups.make("1")
    meter = Meter(groups, tmp_path / "proc")
    thread(tmp_path / "proc", 5, 0, 0)
    groups.use("1", pids="5")
    assert meter.read({"1": 1}, lambda: 10.0)["1"].load is None
    thread(tmp_path / "proc", 5, cpu, wait)
    groups.use("1", cpu=cpu, held=7 * MIB, throttled=throttled, pids="5")
    return meter.read({"1": 1}, lambda: 11.0)["1"]


def test_a_guest_that_waits_for_a_processor_wants_it(tmp_path: Path) -> None:
    found = metered(tmp_path, cpu=0.5, wait=0.5)
    assert found.load.used == pytest.approx(0.5)
    assert found.load.demand == pytest.approx(1.0)
    assert found.load.ready == pytest.approx(0.5)
    assert found.totals.memory == 7 * MIB
    assert found.totals.ready == 500_000_000


def test_time_under_a_limit_is_demand_and_not_time_ready(tmp_path: Path) -> None:
    found = metered(tmp_path, cpu=0.25, wait=0.75, throttled=0.75)
    assert found.load.demand == pytest.approx(1.0)
    assert found.load.ready == 0.0


def test_a_guest_that_rests_wants_little_more_than_it_uses(tmp_path: Path) -> None:
    found = metered(tmp_path, cpu=0.1, wait=0.1)
    assert 0.1 < found.load.demand < 0.12


def test_a_look_that_comes_late_counts_no_more_than_there_was(tmp_path: Path) -> None:
    groups = FakeGroups(tmp_path / "groups")
    groups.make("1")
    meter = Meter(groups, tmp_path / "proc")
    groups.use("1", pids="5")
    moments = iter((10.0, 15.0))
    meter.read({"1": 1}, lambda: next(moments))
    groups.use("1", cpu=5.0, pids="5")
    found = meter.read({"1": 1}, lambda: next(moments))["1"]
    assert (found.time, found.load and found.load.used) == (15.0, pytest.approx(1.0))


def test_a_group_that_is_gone_is_left_out(tmp_path: Path) -> None:
    meter = Meter(FakeGroups(tmp_path), tmp_path)
    assert meter.read({"1": 1}, lambda: 0.0) == {}


@pytest.mark.parametrize("version", [1, 2])
def test_only_what_changed_is_written(tmp_path: Path, version: int) -> None:
    fake = FakeGroups(tmp_path, version)
    group = fake.make("1")
    groups = Groups(fake, 2)
    weight = group / ("cpu.shares" if version == 1 else "cpu.weight")
    quota = group / ("cpu.cfs_quota_us" if version == 1 else "cpu.max")
    assert groups.set_cpu("1", CpuTarget(5000, None))
    assert weight.read_text() == "5000"
    assert quota.read_text().split()[0] in ("-1", "max")
    host = (tmp_path / weight.name).read_text()
    assert int(host) == (1024 if version == 1 else 100) * 40
    weight.write_text("untouched")
    assert not groups.set_cpu("1", CpuTarget(5050, None))
    assert weight.read_text() == "untouched"
    assert groups.set_cpu("1", CpuTarget(5050, 25_000))
    assert quota.read_text().split()[0] == "25000"
    groups.forget({})
    assert groups.target("1") is None


def test_the_order_in_which_vms_end_is_written_to_all_their_processes(tmp_path: Path) -> None:
    fake = FakeGroups(tmp_path)
    fake.make("1")
    groups = Groups(fake, 1)
    with Popen(["/bin/sleep", "999"]) as one, Popen(["/bin/sleep", "999"]) as two:
        try:
            fake.use("1", pids=f"{one.pid}\n{two.pid}\n")

            def scores() -> list[int]:
                places = (Path(f"/proc/{it.pid}/oom_score_adj") for it in (one, two))
                return [int(place.read_text()) for place in places]

            # Positive ones need no privilege.
            groups.order_ends({"1": 7, "gone": 9})
            assert scores() == [7, 7]
            groups.order_ends({"1": 9})
            assert scores() == [7, 7], "no write for next to nothing"
            groups.forget({})
            groups.order_ends({"1": 9})
            assert scores() == [9, 9]
            Groups(fake, 1).order_ends({"1": 2})
            assert scores() == [2, 2], "a new kernel does not know what the last one wrote"
        finally:
            one.kill()
            two.kill()


def test_memory_is_protected_where_the_kernel_can(tmp_path: Path) -> None:
    fake = FakeGroups(tmp_path)
    fake.make("1")
    fake.make("2")
    groups = Groups(fake, 1)
    targets = {"1": MemoryTarget(10, 20, None), "2": MemoryTarget(1, 2, None)}
    assert groups.set_memory(targets) == ["1", "2"]
    assert (tmp_path / "1/memory.min").read_text() == "10"
    assert (tmp_path / "memory.min").read_text() == "11"
    assert (tmp_path / "memory.low").read_text() == "22"
    assert (tmp_path / "1/memory.max").read_text() == "", "the net stays where it is"
    assert groups.set_memory(targets) == []
    assert Groups(FakeGroups(tmp_path, 1), 1).set_memory(targets) == []


def test_a_group_that_is_gone_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(CasemateError):
        Groups(FakeGroups(tmp_path), 1).set_cpu("9", CpuTarget(1, None))


def looked(qmp: FakeQmp, *, size: int = 1 << 30) -> Any:
    async def control(_: str) -> FakeQmp:
        return qmp

    return asyncio.run(Balloons(control).look({"1": size}, 0.0)).get("1")


HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["actual", "stats", "last-update", "stat-total-memory", "name", "type"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(HOSTILE, HOSTILE, HOSTILE)
def test_whatever_a_taken_over_qemu_says_the_numbers_stay_sane(
    actual: object, stats: object, listed: object
) -> None:
    qmp = FakeQmp()
    qmp.answers |= {"query-balloon": actual, "qom-get": stats}
    found = looked(qmp)
    assert 0 < found.balloon.actual <= found.balloon.size
    assert found.active is None or 0 <= found.active <= found.balloon.size
    qmp.answers["qom-list"] = listed
    looked(qmp)


def test_a_guest_that_says_nothing_is_known_to_say_nothing() -> None:
    unknown = {"stat-total-memory": (1 << 64) - 1, "stat-available-memory": (1 << 64) - 1}
    qmp = FakeQmp()
    qmp.answers["qom-get"] = {"stats": unknown, "last-update": 0}
    found = looked(qmp)
    assert found.active is None
    assert not found.balloon.driver


def test_what_the_balloon_holds_is_not_in_use() -> None:
    qmp = FakeQmp()
    qmp.answers["query-balloon"] = {"actual": 600 * MIB}
    stats = {"stat-total-memory": 1000 * MIB, "stat-available-memory": 300 * MIB}
    qmp.answers["qom-get"] = {"stats": stats, "last-update": 17}
    assert looked(qmp).active == 1000 * MIB - 300 * MIB - 424 * MIB


def test_history_is_bounded_and_rolled_up() -> None:
    history = History()
    for number in range(SAMPLES * 3):
        values = {"cpu.usagemhz.average": number, "cpu.ready.summation": 2}
        history.add("1", 6000.0 + 20 * number, values)
    times, values = history.read("1", ("cpu.usagemhz.average",), 20, (0.0, 0.0))
    assert len(times) == SAMPLES
    assert list(values) == ["cpu.usagemhz.average"]
    assert values["cpu.usagemhz.average"][-1] == SAMPLES * 3 - 1
    rolled, values = history.read("1", (), 300, (0.0, 0.0))
    assert rolled[:2] == [6300.0, 6600.0]
    assert values["cpu.usagemhz.average"][:2] == [7, 22]
    assert values["cpu.ready.summation"][0] == 30
    assert values["disk.read.average"][0] == -1, "what was not measured is not zero"
    assert len(rolled) <= ROLLED
    assert history.read("1", (), 20, (times[-2], 0.0))[0] == times[-1:]
    assert history.read("2", (), 20, (0.0, 0.0))[0] == []
    history.keep([])
    assert history.read("1", (), 20, (0.0, 0.0))[0] == []


def test_counters_and_intervals_that_are_not_kept_are_refused() -> None:
    with pytest.raises(NotFoundError):
        History().read("1", ("cpu.love.average",), 20, (0.0, 0.0))
    with pytest.raises(ArgumentError):
        History().read("1", (), 21, (0.0, 0.0))


def test_counters_have_names_and_numbers_of_their_own() -> None:
    assert len(BY_PATH) == len(COUNTERS)
    assert [counter.key for counter in COUNTERS] == list(range(1, len(COUNTERS) + 1))


def test_devices_of_a_machine_that_tells_little(tmp_path: Path) -> None:
    pci = tmp_path / "bus/pci/devices/0000:00:03.0"
    pci.mkdir(parents=True)
    (pci / "vendor").write_text("0x8086\n")
    (pci / "class").write_text("rubbish\n")
    block = tmp_path / "block/sda/device"
    block.mkdir(parents=True)
    (tmp_path / "block/loop0").mkdir()
    (tmp_path / "block/sda/size").write_text("2048\n")
    node = tmp_path / "devices/system/node/node0"
    node.mkdir(parents=True)
    (node / "cpulist").write_text("0-2,8\n")
    (node / "meminfo").write_text("Node 0 MemTotal:  1024 kB\n")
    found = read_devices(tmp_path)
    assert found.pci[0].vendor == 0x8086
    assert found.pci[0].iommu_group == -1
    assert [disk.name for disk in found.disks] == ["sda"]
    assert found.disks[0].capacity == MIB
    assert found.numa[0].threads == (0, 1, 2, 8)
    assert found.numa[0].memory == MIB
    assert not found.iommu
    assert read_devices(tmp_path / "nothing").pci == ()


def hardware(*, iommu: bool, nics: tuple[HostNic, ...] = ()) -> HardwareFact:
    def device(address: str, kind: int, group: int) -> PciDevice:
        return PciDevice(address, 1, 2, 0, 0, kind, "nic", group if iommu else -1, 0)

    pci = (
        device("0000:00:01.0", 0x060400, 3),
        device("0000:01:00.0", 0x020000, 3),
        device("0000:01:00.1", 0x020000, 3),
    )
    return HardwareFact(pci, (), nics, (), iommu)


def test_without_an_iommu_no_device_is_given_away() -> None:
    with pytest.raises(CasemateError) as refused:
        plan_passthrough("0000:01:00.0", hardware(iommu=False))
    assert refused.value.code == "no-iommu"
    assert "intel_iommu=on" in refused.value.remedy


def test_a_device_takes_its_whole_group_along_but_not_what_the_host_uses() -> None:
    plan = plan_passthrough("0000:01:00.0", hardware(iommu=True))
    assert plan.group == 3
    assert [address for address, _ in plan.rebind] == ["0000:01:00.0", "0000:01:00.1"]
    nic = HostNic("eth1", "", "nic", 0, False, True, 1500, "0000:01:00.1")
    for address, nics in (("0000:01:00.0", (nic,)), ("0000:00:01.0", ())):
        with pytest.raises(CasemateError) as refused:
            plan_passthrough(address, hardware(iommu=True, nics=nics))
        assert refused.value.code == "device-busy"
    with pytest.raises(NotFoundError):
        plan_passthrough("0000:09:00.0", hardware(iommu=True))
