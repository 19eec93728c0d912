"""A Linux guest boots in its cell, sees protected memory, and obeys its power button."""

from __future__ import annotations

import shutil

import pytest

from casemate.errors import HostError
from casemate.formats import vmx
from casemate.image.demo import READY, write_demo
from casemate.kernel.cells.agent import Agent, listens
from casemate.kernel.cells.cell import CellExit
from casemate.machine import guestagent
from casemate.machine.facts import GuestInterface
from casemate.machine.power import Operation
from casemate.machine.vmconfig import vm_config

from .conftest import until

pytestmark = [pytest.mark.host, pytest.mark.guest]


def test_a_linux_guest_boots_and_shuts_down_when_asked(bench, run, small_linux):
    for name in ("kernel", "initrd"):
        shutil.copy(small_linux / name, bench.vm_dir)
    config = bench.config(
        memory_mib=256,
        disks=(),
        extra=(
            ("casemate.kernel", "kernel"),
            ("casemate.initrd", "initrd"),
            ("casemate.append", "console=ttyS0 panic=10 loglevel=6"),
        ),
    )

    async def body():
        async with bench.cells() as cells:
            await cells.power_on("7", config, bench.vm_dir)
            log = cells.console_log("7")
            await until(lambda: log.exists() and b"guest is up" in log.read_bytes(), 150)
            assert b"Checked W+X mappings: passed" in log.read_bytes()
            assert await listens(await cells.control("7", Operation.REBOOT_GUEST))
            for _ in range(2):
                async with Agent(cells.agent_socket("7")) as agent:
                    name = guestagent.host_name(await agent.ask("guest-get-host-name"))
                    told = await agent.ask("guest-network-get-interfaces")
                assert name == "small"
                found = GuestInterface("00:50:56:00:00:09", ("192.0.2.9/24",))
                assert guestagent.interfaces(told) == (found,)
            await cells.shutdown_guest("7")
            await until(lambda: bool(bench.exits))
            assert bench.exits == [CellExit("7", "guest-shutdown")]
            assert cells.running() == ()
        assert bench.leftovers() == []

    run(body())


def test_the_demo_guest_boots_from_its_disk_as_configured_by_its_vmx(bench, run):
    try:
        demo = write_demo(bench.vm_dir)
    except HostError as error:
        pytest.skip(f"needs what the demo guest is made of: {error.reason}")
    config = vm_config(vmx.parse(demo.vmx.read_bytes()), "[datastore1] demo/demo.vmx")

    async def body():
        async with bench.cells() as cells:
            await cells.power_on("7", config, bench.vm_dir)
            log = cells.console_log("7")
            await until(lambda: log.exists() and READY.encode() in log.read_bytes(), 150)
            await cells.shutdown_guest("7")
            await until(lambda: bool(bench.exits))
        assert bench.exits == [CellExit("7", "guest-shutdown")]
        assert bench.leftovers() == []

    run(body())
