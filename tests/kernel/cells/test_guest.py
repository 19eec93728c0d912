"""A Linux guest boots in its cell, sees protected memory, and obeys its power button."""

from __future__ import annotations

import shutil

import pytest

from casemate.kernel.cells.cell import CellExit

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
            await until(lambda: log.exists() and b"guest is up" in log.read_bytes(), 60)
            assert b"Checked W+X mappings: passed" in log.read_bytes()
            await cells.shutdown_guest("7")
            await until(lambda: bool(bench.exits), 30)
            assert bench.exits == [CellExit("7", "guest-shutdown")]
            assert cells.running() == ()
        assert bench.leftovers() == []

    run(body())
