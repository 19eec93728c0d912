"""A cell holds what it promises, outlives its manager, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from tests.forks import forked

from casemate.errors import (
    ArgumentError,
    CasemateError,
    HostError,
    NotFoundError,
    PowerStateError,
)
from casemate.kernel.cells import runstate
from casemate.kernel.cells.cell import CellExit
from casemate.kernel.cells.memory import save
from casemate.kernel.sys.process import end_for_memory
from casemate.machine.facts import DiskSpec
from casemate.machine.planaudit import UID_BASE, UID_END
from casemate.machine.power import Operation

from .conftest import (
    alive,
    bystander,
    end,
    lines_of,
    namespaces,
    open_files,
    processes_of,
    status,
    until,
)

pytestmark = pytest.mark.host
CONFINED = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def test_a_running_cell_has_no_rights_and_sees_only_its_own(bench, run):
    async def body():
        async with bench.cells() as cells:
            state = await cells.power_on("7", bench.config(), bench.vm_dir)
            facts = status(state.pid)
            assert UID_BASE <= state.uid < UID_END
            assert facts["Uid"].split() == facts["Gid"].split() == [str(state.uid)] * 4
            assert facts["Groups"] == ""
            assert [int(facts[name], 16) for name in CONFINED] == [0] * 5
            assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
            assert facts["NSpid"].split()[1:] == ["1"]
            ours = namespaces("self")
            assert [n for n, theirs in namespaces(state.pid).items() if theirs == ours[n]] == []
            rights = [line.split()[1] for line in lines_of(state.pid, "maps")]
            assert rights
            assert [right for right in rights if "w" in right and "x" in right] == []
            assert int(lines_of(state.pid, "personality")[0], 16) == 0
            for directory in bench.cgroups.directories("7"):
                assert str(state.pid) in (directory / "cgroup.procs").read_text().split()
            smaps = lines_of(state.pid, "smaps")
            assert [line for line in smaps if line.startswith("VmFlags") and " mg" in line] == []
            await cells.power_off("7")
            assert not alive(state.pid)
        assert bench.leftovers() == []

    run(body())


def test_a_cell_does_not_inherit_how_its_host_is_treated_where_memory_is_out(bench, run):
    place = Path("/proc/self/oom_score_adj")
    before = int(place.read_text())

    async def body():
        async with bench.cells() as cells:
            state = await cells.power_on("7", bench.config(), bench.vm_dir)
            assert lines_of(state.pid, "oom_score_adj") == ["0"]

    end_for_memory(before + 5)
    try:
        run(body())
    finally:
        end_for_memory(before)


def test_the_cell_can_write_and_execute_nowhere_but_run_its_visor_root(bench, run):
    async def body():
        async with bench.cells() as cells:
            state = await cells.power_on("7", bench.config(), bench.vm_dir)
            root = Path(f"/proc/{state.pid}/root")
            mounts = [line.split() for line in lines_of(state.pid, "mountinfo")]
            options = {words[4]: set(words[5].split(",")) for words in mounts}
            assert set(options) == {"/", "/tmp", "/run", "/dev"}
            assert {"ro", "nosuid", "nodev"} <= options["/"]
            assert {"ro", "nosuid", "noexec"} <= options["/dev"]
            assert {"ro", "nosuid", "nodev", "noexec"} <= options["/run"]
            assert {"nosuid", "nodev", "noexec"} <= options["/tmp"]
            assert sorted(p.name for p in (root / "dev").iterdir()) == ["null", "urandom", "zero"]
            assert list((root / "run/vm").iterdir()) == []
            assert not (root / "proc/self").exists()
            opened = open_files(state.pid)
            files = {name for name in opened if name.startswith("/") and "memfd" not in name}
            assert files == {
                "/dev/null",
                str(bench.vm_dir / "disk.img"),
                str(bench.run_dir / "log/vm-7.log"),
            }

    run(body())


def test_limits_reach_the_control_group(bench, run):
    async def body():
        async with bench.cells() as cells:
            await cells.power_on("7", bench.config(), bench.vm_dir)
            used = cells.usage("7")
            assert used.cpu_seconds > 0
            assert used.memory_bytes > 1 << 20
            assert used.pids > 1
            with pytest.raises(NotFoundError):
                cells.usage("8")

    run(body())


def test_what_the_guest_prints_is_logged(bench, run):
    async def body():
        async with bench.cells() as cells:
            await cells.power_on("7", bench.config(), bench.vm_dir)
            log = cells.console_log("7")
            await until(lambda: log.exists() and b"ok\n" in log.read_bytes())

    run(body())


def test_reset_starts_the_guest_again(bench, run):
    async def body():
        async with bench.cells() as cells:
            await cells.power_on("7", bench.config(), bench.vm_dir)
            log = cells.console_log("7")
            await until(lambda: log.exists() and log.read_bytes().count(b"ok\n") == 1)
            await cells.reset("7")
            await until(lambda: log.read_bytes().count(b"ok\n") == 2)
            assert await cells.status("7") == "running"

    run(body())


def test_operations_follow_the_table_of_power_states(bench, run):
    async def body():
        async with bench.cells() as cells:
            for operation in (cells.power_off, cells.reset, cells.shutdown_guest):
                with pytest.raises(PowerStateError):
                    await operation("7")
            await cells.power_on("7", bench.config(), bench.vm_dir)
            with pytest.raises(PowerStateError):
                await cells.power_on("7", bench.config(), bench.vm_dir)
            for evil in ("../7", "", "7a", "1234567890"):
                with pytest.raises(ArgumentError):
                    await cells.power_on(evil, bench.config(), bench.vm_dir)

    run(body())


def test_a_killed_qemu_is_noticed_and_cleaned_up_after(bench, run):
    async def body():
        async with bench.cells() as cells:
            state = await cells.power_on("7", bench.config(), bench.vm_dir)
            end(state.pid)
            await until(lambda: bool(bench.exits))
            assert bench.exits == [CellExit("7", "killed")]
            assert cells.running() == ()
            assert bench.leftovers() == []
            again = await cells.power_on("7", bench.config(), bench.vm_dir)
            assert again.pid != state.pid

    run(body())


def test_cells_outlive_a_killed_manager_and_are_adopted(bench, run):
    async def first_life():
        cells = bench.cells()
        manager = await cells.__aenter__()
        await manager.power_on("7", bench.config(), bench.vm_dir)
        await manager.power_on("8", bench.config(disks=()), bench.vm_dir)
        os.kill(os.getpid(), signal.SIGKILL)

    pid = forked(lambda: asyncio.run(first_life()))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL

    async def second_life():
        async with bench.cells() as cells:
            before = runstate.load(bench.run_dir / "cells/8")
            assert before is not None
            end(before.pid)
            await until(lambda: not alive(before.pid))
            (adopted,) = await cells.adopt_all()
            assert adopted.vm == "7"
            assert alive(adopted.pid)
            assert bench.exits == [CellExit("8", "killed")]
            assert await cells.status("7") == "running"
            await cells.reset("7")
            await cells.power_off("7")
            assert not alive(adopted.pid)
        assert bench.leftovers() == []

    run(second_life())


@pytest.mark.parametrize("delay", [0.0, 0.004, 0.01, 0.02, 0.03, 0.05, 0.08])
def test_a_manager_killed_while_starting_leaves_nothing_that_is_not_adopted(bench, run, delay):
    async def first_life():
        manager = await bench.cells().__aenter__()
        await manager.power_on("7", bench.config(), bench.vm_dir)
        await asyncio.sleep(60)

    pid = forked(lambda: asyncio.run(first_life()))
    time.sleep(0.02 + delay)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

    async def second_life():
        async with bench.cells() as cells:
            adopted = await cells.adopt_all()
            held = {int(p) for d in bench.cgroups.directories("7") for p in processes_of(d)}
            assert held == {state.pid for state in adopted}
            if not adopted:
                await cells.power_on("7", bench.config(), bench.vm_dir)
        assert bench.leftovers() == []

    run(second_life())


def test_another_process_with_the_pid_of_a_cell_is_left_alone(bench, run):
    async def body():
        async with bench.cells() as cells:
            directory = bench.run_dir / "cells/7"
            directory.mkdir()
            with bystander() as victim:
                state = runstate.RunState(
                    "7", victim, 1, runstate.boot_id(), UID_BASE, "tcg", "d", 0.0
                )
                runstate.save(directory, state)
                assert await cells.adopt_all() == []
                assert alive(victim)
            assert bench.leftovers() == []

    run(body())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff" * 100, None])
def test_an_unreadable_state_is_cleaned_up(bench, run, content):
    async def body():
        async with bench.cells() as cells:
            directory = bench.run_dir / "cells/7"
            directory.mkdir()
            if content is not None:
                (directory / "state.json").write_bytes(content)
            assert await cells.adopt_all() == []
            assert bench.leftovers() == []

    run(body())


def test_a_qemu_that_refuses_to_start_says_why_and_leaves_nothing(bench, run):
    async def body():
        async with bench.cells() as cells:
            # A gigantic guest: QEMU cannot reserve its memory.
            with pytest.raises(HostError) as caught:
                await cells.power_on("7", bench.config(cpus=255, memory_mib=4 << 20), bench.vm_dir)
            assert caught.value.code == "qemu-start"
            assert caught.value.reason.startswith("QEMU does not work: ")
            assert cells.running() == ()
            assert bench.leftovers() == []

    run(body())


def test_a_root_without_qemu_is_reported_and_leaves_nothing(bench, run, tmp_path):
    bench.visor_root = tmp_path / "root"
    for name in ("tmp", "run", "dev"):
        (bench.visor_root / name).mkdir(parents=True)

    async def body():
        async with bench.cells() as cells:
            with pytest.raises(HostError, match="cannot run /usr/bin/qemu-system-x86_64"):
                await cells.power_on("7", bench.config(), bench.vm_dir)
            assert bench.leftovers() == []

    run(body())


def disk(name: str, kind: str = "raw") -> tuple[DiskSpec, ...]:
    return (DiskSpec(name, "disk", kind, 0, "ide0", 0),)


def test_a_datastore_user_cannot_make_the_host_open_anything_else(bench, run):
    place = bench.vm_dir
    (place / "link.img").symlink_to("/etc/shadow")
    (place / "linkdir").symlink_to("/etc")
    os.mkfifo(place / "fifo.img")
    os.mknod(place / "device.img", 0o60600, os.makedev(7, 0))
    with socket.socket(socket.AF_UNIX) as channel:
        directory = os.open(place, os.O_PATH)
        channel.bind(f"/proc/self/fd/{directory}/socket.img")
        os.close(directory)
    (place / "odd.img").write_bytes(bytes(700))
    head = '# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\ncreateType="vmfs"\n'
    (place / "out.vmdk").write_text(head + 'RW 128 VMFS "../../secret"\n')
    (place / "linked.vmdk").write_text(head + 'RW 128 VMFS "link.img"\n')
    (place / "short.vmdk").write_text(head + 'RW 9999999 VMFS "disk.img"\n')
    (place / "device.vmdk").write_text(head + 'RW 1 VMFS "device.img"\n')
    attacks = {
        disk("link.img"): "host-eloop",
        disk("linkdir/shadow"): "argument",
        disk("../vm/disk.img"): "argument",
        disk("/etc/shadow"): "argument",
        disk("fifo.img"): "disk-kind",
        disk("device.img"): "disk-kind",
        disk("socket.img"): "host-enxio",
        disk("absent.img"): "host-enoent",
        disk("odd.img"): "disk-size",
        disk("disk.img", "vmdk"): "vmdk-malformed",
        disk("out.vmdk", "vmdk"): "vmdk-path",
        disk("linked.vmdk", "vmdk"): "host-eloop",
        disk("short.vmdk", "vmdk"): "disk-short",
        disk("device.vmdk", "vmdk"): "disk-kind",
    }

    async def body():
        async with bench.cells() as cells:
            for disks, code in attacks.items():
                with pytest.raises(CasemateError) as caught:
                    await cells.power_on("7", bench.config(disks=disks), place)
                assert caught.value.code == code, disks
                assert bench.leftovers() == []

    run(body())


def test_cells_started_together_have_identities_of_their_own(bench, run):
    async def body():
        async with bench.cells() as cells:
            states = await asyncio.gather(
                *(cells.power_on(str(n), bench.config(disks=()), bench.vm_dir) for n in range(4))
            )
            assert len({state.uid for state in states}) == 4
        assert bench.leftovers() == []
        assert not any(alive(state.pid) for state in states)

    run(body())


def killed_amid(bench, life) -> None:
    """Run ``life`` with the cells of a manager that is killed at its end."""

    async def first_life():
        manager = await bench.cells().__aenter__()
        await life(manager)
        os.kill(os.getpid(), signal.SIGKILL)

    pid = forked(lambda: asyncio.run(first_life()))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_guest_never_runs_on_disks_whose_merging_a_killed_manager_left(bench, run):
    async def merging(manager):
        await manager.power_on("7", bench.config(), bench.vm_dir, run=False)

    killed_amid(bench, merging)

    async def second_life():
        async with bench.cells() as cells:
            assert await cells.adopt_all() == []
            assert bench.exits == [CellExit("7", "killed")]
            assert bench.leftovers() == []
            log = cells.console_log("7")
            assert not log.exists() or log.read_bytes() == b""

    run(second_life())


def test_a_guest_whose_saving_a_killed_manager_left_goes_on(bench, run):
    async def saving(manager):
        await manager.power_on("7", bench.config(), bench.vm_dir)
        qmp = await manager.control("7", Operation.SUSPEND)
        with (bench.vm_dir / "memory").open("wb") as file:
            await save(qmp, file.fileno(), 0, lambda _, __: None)

    killed_amid(bench, saving)

    async def second_life():
        async with bench.cells() as cells:
            assert [state.vm for state in await cells.adopt_all()] == ["7"]
            assert await cells.status("7") == "running"

    run(second_life())
