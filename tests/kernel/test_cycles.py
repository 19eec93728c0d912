"""Many power cycles leave nothing behind; hostile guests and files are contained and named.

CASEMATE_CYCLES tells how many power cycles (default 40).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.kernel.wires import Wires
from casemate.machine.facts import NicSpec, PowerState, TaskFact, TaskState

from .registering import come
from .vmbench import MIB, Host, RefusedTaskError, disk, make, printed

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]
CYCLES = int(os.environ.get("CASEMATE_CYCLES", "40"))
AT_ONCE = 20 if CYCLES >= 200 else 8
# Bytes: a leak of one object of a cell in every cycle is more over 200 of them; less is noise.
MEMORY_GROWTH = 12 * MIB
# Real mode: print "x" on the serial port, for ever, as fast as it goes.
SPAM_CODE = bytes.fromhex("ba f8 03 b0 78 ee eb fd")
# Real mode: write the first 64 sectors' worth over the whole disk by CHS, again and again, and
# print "f" after each round.
FILL_CODE = bytes.fromhex(
    "31c0 8ec0 8ed8 bb007c b90200 30f6"
    "b80103 cd13 fec1 80f93f 76f5 ba f803 b066 ee b280 30f6 b90200 ebe7"
)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def cell_processes(host: Host) -> list[str]:
    """Return the processes that hold a file of this host."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            held = [str(link.readlink()) for link in (entry / "fd").iterdir()]
        except OSError:
            continue
        if any(name.startswith(str(host.place)) for name in held):
            found.append(entry.name)
    return found


def largest_file(pid: int | None) -> int:
    """Return the limit of the size of files that a process writes."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("Max file size")]
    return int(line.split()[3])


def sector(code: bytes) -> bytes:
    return code.ljust(510, b"\0") + b"\x55\xaa"


def cell_identities(home: int) -> list[str]:
    """Return the processes that have a uid of this home's cells and have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and home <= entry.stat().st_uid < home + 0x1000:
                state = (entry / "stat").read_text().rpartition(") ")[2][0]
                found += [entry.name] if state not in "ZX" else []
    return found


def own_memory() -> int:
    """Return the bytes that no other process has with this one."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


async def taps_are(wires: Wires, count: int) -> None:
    """Wait until what is cleaned up beside everything else leaves so many interfaces of cards."""
    taps: list[str] = []
    for _ in range(2000):
        taps = [name for name in await wires.links() if name.startswith("t")]
        if len(taps) == count:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{taps} are not {count}")


@contextlib.asynccontextmanager
async def wired(vmhost: Host, wires: Wires, *, keep: bool = False) -> AsyncIterator[Host]:
    """Live as a kernel does, with real wires that outlive it."""
    async with vmhost.up(keep=keep) as host:
        switching = host.switching(wires)
        for state in await host.cells.adopt_all():
            host.adopted(state)
        ran = {fact.vm: fact.config for fact in host.inventory.vms() if fact.pid}
        await switching.start(ran)
        yield host
        await host.tasks.drain()


def test_power_cycles_with_restarts_of_the_kernel_in_between_leak_nothing(vmhost):
    wires = Wires(None)
    card = NicSpec("", "VM Network", "vmxnet3")
    identities: set[int] = set()

    async def cycle(host: Host, vm: str) -> None:
        await host.ask(m.PowerOn("", vm))
        identities.add(host.vm(vm).uid or 0)
        await host.ask(m.PowerOff("", vm))

    async def life(number: int, vms: list[str]) -> list[str]:
        """Run one life of the kernel: adopt, cycle all, leave half of them running."""
        async with wired(vmhost, wires, keep=True) as host:
            if not vms:
                vms = [await make(host, f"vm{at}", nics=(card,)) for at in range(AT_ONCE)]
            running = [v for v in vms if host.vm(v).power is PowerState.POWERED_ON]
            assert len(running) == (AT_ONCE // 2 if number else 0)
            await asyncio.gather(*(host.ask(m.PowerOff("", vm)) for vm in running))
            await asyncio.gather(*(cycle(host, vm) for vm in vms))
            await asyncio.gather(*(host.ask(m.PowerOn("", vm)) for vm in vms[: AT_ONCE // 2]))
            tasks = [fact for fact in host.stream.facts() if isinstance(fact, TaskFact)]
            assert all(fact.state is TaskState.SUCCESS for fact in tasks)
            await taps_are(wires, AT_ONCE // 2)
        return vms

    async def end(vms: list[str]) -> None:
        async with wired(vmhost, wires) as host:
            await asyncio.gather(*(host.ask(m.PowerOff("", vm)) for vm in vms[: AT_ONCE // 2]))
            await asyncio.gather(*(host.ask(c.DestroyVm("", vm)) for vm in vms))
            await taps_are(wires, 0)

    vms = asyncio.run(life(0, []))
    gc.collect()
    before, memory = open_files(), own_memory()
    # Each life has cycles of its own, and those that it leaves running end in the next.
    lives = max(1, CYCLES // (AT_ONCE + AT_ONCE // 2))
    for number in range(1, lives + 1):
        asyncio.run(life(number, vms))
    gc.collect()
    assert open_files() <= before
    assert own_memory() - memory < MEMORY_GROWTH
    asyncio.run(end(vms))
    asyncio.run(wires.close())
    assert cell_processes(vmhost) == []
    assert len(identities) <= AT_ONCE
    assert cell_identities(min(identities) & ~0xFFF) == []
    assert list(vmhost.datastore.iterdir()) == []
    assert vmhost.left_behind() == []


def test_a_guest_that_floods_its_serial_port_fills_no_disk_and_delays_nobody(on):
    async def body(host: Host) -> None:
        loud = await make(host, "loud", code=sector(SPAM_CODE))
        quiet = await make(host, "quiet")
        await host.ask(m.PowerOn("", loud))
        await printed(host, loud, b"x" * 1000)
        await host.ask(m.PowerOn("", quiet))
        await printed(host, quiet)
        slowest = 0.0
        for _ in range(40):
            begin = time.perf_counter()
            assert await host.cells.status(quiet) == "running"
            slowest = max(slowest, time.perf_counter() - begin)
        assert slowest < 30
        log = host.cells.console_log(loud)
        kept = sum(path.stat().st_size for path in log.parent.glob(f"{log.name}*"))
        assert kept <= 3 * MIB
        await host.ask(m.PowerOff("", loud))

    on(body)


def test_a_guest_that_writes_all_it_can_fills_its_own_disk_only(on):
    async def body(host: Host) -> None:
        vm = await make(host, code=sector(FILL_CODE))
        await host.ask(m.PowerOn("", vm))
        await printed(host, vm, b"ff")
        flat = host.datastore / "one/one-flat.vmdk"
        assert flat.stat().st_size == 8 * MIB
        assert largest_file(host.vm(vm).pid) <= 1 << 30
        await host.ask(m.PowerOff("", vm))

    on(body)


@pytest.mark.parametrize(
    "descriptor",
    [
        'RW 16 FLAT "/etc/shadow" 0',
        'RW 16 FLAT "../../casemate.db" 0',
        'RW 16 FLAT "/dev/sda" 0',
        'RW 16 FLAT "one.vmx" 0\nparentFileNameHint="/etc/shadow"',
        'RW 99999999 FLAT "one-flat.vmdk" 0',
        "RW 16 FLAT",
        "\0\1\2",
        "x" * 100_000,
    ],
)
def test_a_disk_descriptor_of_an_attacker_starts_nothing(on, descriptor):
    async def body(host: Host) -> None:
        vm = await make(host)
        head = '# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"\n'
        (host.datastore / "one/one.vmdk").write_text(head + descriptor)
        with pytest.raises(RefusedTaskError) as caught:
            await host.ask(m.PowerOn("", vm))
        assert caught.value.fault.remedy
        assert host.cells.running() == ()
        assert host.vm(vm).power is PowerState.POWERED_OFF

    on(body)


def test_disks_made_by_other_tools_boot_as_they_are(on):
    qemu_img = Path("/usr/bin/qemu-img")
    if not qemu_img.exists():
        pytest.skip("needs qemu-img: qemu-utils")

    async def body(host: Host) -> None:
        for kind in ("monolithicSparse", "streamOptimized"):
            vm = await make(host, kind)
            place = host.datastore / kind
            source, made = place / f"{kind}-flat.vmdk", place / f"{kind}.vmdk"
            made.unlink()
            process = await asyncio.create_subprocess_exec(
                *(str(qemu_img), "convert", "-f", "raw", "-O", "vmdk"),
                *("-o", f"subformat={kind}", str(source), str(made)),
            )
            assert await process.wait() == 0
            source.unlink()
            original = made.read_bytes()
            host.inventory.unregister(vm)
            vm = await come(host.inventory, f"[datastore1] {kind}/{kind}.vmx")
            assert host.vm(vm).config.disks[0].capacity == disk().capacity
            await host.ask(m.PowerOn("", vm))
            await printed(host, vm)
            await host.ask(m.PowerOff("", vm))
            if kind == "streamOptimized":
                assert made.read_bytes() == original

    on(body)
