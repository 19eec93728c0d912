"""A VM that VMware suspended is not started with a memory that QEMU cannot read."""

from __future__ import annotations

import os

import pytest

from casemate.calls import messages as m
from casemate.errors import HostError
from casemate.kernel.cells import memory
from casemate.machine.facts import PowerState

from .vmbench import Host, RefusedTaskError, make

VMSS = b"\xd2\xbe\xd2\xbe\x08\x00\x00\x00" + bytes(120)
"""How VMware's saved states begin."""


@pytest.mark.parametrize("data", [VMSS, b"", b"QEV", b"\0QEVM"])
def test_what_qemu_did_not_write_is_refused(tmp_path, data):
    (tmp_path / "x.vmss").write_bytes(data)
    handle = os.open(tmp_path / "x.vmss", os.O_RDONLY)
    try:
        with pytest.raises(HostError) as caught:
            memory.check(handle, "x.vmss")
        assert (caught.value.code, caught.value.component) == ("memory-foreign", "x.vmss")
    finally:
        os.close(handle)


@pytest.mark.host
def test_a_vm_that_vmware_suspended_stays_so_until_it_is_powered_off(on):
    async def body(host: Host) -> None:
        vm = await make(host)
        place = host.datastore / "one"
        (place / "one-1234.vmss").write_bytes(VMSS)
        with (place / "one.vmx").open("a") as file:
            file.write('checkpoint.vmState = "one-1234.vmss"\n')
        host.inventory.reread(vm)
        assert host.vm(vm).power is PowerState.SUSPENDED
        with pytest.raises(RefusedTaskError) as raised:
            await host.ask(m.PowerOn("", vm))
        assert raised.value.fault.code == "memory-foreign"
        assert host.vm(vm).power is PowerState.SUSPENDED
        assert host.cells.running() == ()
        await host.ask(m.PowerOff("", vm))
        assert host.vm(vm).power is PowerState.POWERED_OFF

    on(body)
