"""What firmware does as it was told: its setup, once, and a network card that asks to be served."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from casemate.calls import messages as m
from casemate.calls import vms as c
from casemate.kernel.wires import Wires
from casemate.machine.bootorder import forces_setup
from casemate.machine.facts import NicSpec
from casemate.machine.planfirmware import nvram_name

from .vmbench import Host, RefusedTaskError, config, make, printed

pytestmark = [pytest.mark.host, pytest.mark.guest]
SETUP = ("bios.forceSetupOnce", "TRUE")


def test_uefi_goes_to_its_setup_once_and_a_bios_says_that_it_has_none(on):
    if not Path("/usr/share/OVMF/OVMF_VARS_4M.fd").exists():
        pytest.skip("needs the Debian package ovmf")

    async def body(host: Host) -> None:
        plain = await make(host, "plain", extra=(SETUP,))
        with pytest.raises(RefusedTaskError) as raised:
            await host.ask(m.PowerOn("", plain))
        assert raised.value.fault.fault == "NotSupported"
        vm = await make(host, memory_mib=128, firmware="efi", extra=(SETUP,))
        await host.ask(m.PowerOn("", vm))
        entries = {name.lower(): value for name, value in host.vm(vm).config.extra}
        assert not forces_setup(entries)
        # The pages of the setup, and none of what is shown on the way to a disk or to the shell.
        await printed(host, vm, b"Select Language")
        nvram = host.datastore / "one" / nvram_name(host.vm(vm).config)
        assert "OsIndications".encode("utf-16-le") in nvram.read_bytes()
        await host.ask(m.PowerOff("", vm))

    on(body)


@pytest.mark.parametrize("model", ["e1000", "vmxnet3"])
def test_a_vm_that_boots_from_its_card_asks_the_network_for_a_program(on, model):
    async def body(host: Host) -> None:
        wires = Wires(None)
        switching = host.switching(wires)
        await switching.start({})
        card = NicSpec("", "VM Network", model)
        wanted = config(nics=(card,), disks=(), memory_mib=64)
        quiet = await host.ask(c.CreateVm("", replace(wanted, name="quiet")))
        asking = replace(wanted, name="asking", extra=(("bios.bootOrder", "ethernet0"),))
        vm = await host.ask(c.CreateVm("", asking))
        await host.ask(m.PowerOn("", quiet))
        await host.ask(m.PowerOn("", vm))
        for _ in range(1500):
            sent = {name: told[1] for name, told in (await wires.traffic()).items()}
            if sent.get(vm, 0):
                break
            await asyncio.sleep(0.1)
        # What asks is the option ROM: a guest there is not.
        assert sent.get(vm, 0)
        assert not sent.get(quiet, 0)
        for each in (vm, quiet):
            await host.ask(m.PowerOff("", each))
        await switching.close()

    on(body)
