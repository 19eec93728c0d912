"""The demo VM: its cell, its life, and what pyVmomi sees of it."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim, vmodl
from tests.host.conftest import TestHost

from casemate.errors import StateError
from casemate.testing.websocket import WebSocket

pytestmark = [pytest.mark.host, pytest.mark.guest, pytest.mark.timeout(600)]


def until(value: Callable[[], Any], seconds: float = 200) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := value()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.2)
    return found


def console(host: TestHost) -> str:
    status, told = host.casemate("vm", "console", "demo")
    return told["serial"] if status == 0 else ""


def test_the_demo_guest_boots_to_its_prompt_in_a_cell_and_shuts_down(host: TestHost) -> None:
    host.up()
    (vm,) = host.casemate("status")[1]["vms"]
    until(lambda: "casemate demo ready" in console(host))
    assert "Checked W+X mappings: passed" in console(host)
    status = Path(f"/proc/{vm['pid']}/status").read_text()
    uid = int(re.search(r"^Uid:\t(\d+)", status, re.MULTILINE)[1])
    assert uid >= 64100
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert re.search(rf"^{name}:\t0+$", status, re.MULTILINE), name
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)
    maps = Path(f"/proc/{vm['pid']}/maps").read_text()
    assert not re.search(r"^\S+ .?wx", maps, re.MULTILINE)
    for kind in ("pid", "mnt", "net", "ipc", "uts", "cgroup"):
        own = Path(f"/proc/{vm['pid']}/ns/{kind}").readlink()
        assert own != Path(f"/proc/self/ns/{kind}").readlink(), kind
    assert host.casemate("vm", "shutdown", "demo")[0] == 0
    until(lambda: host.casemate("status")[1]["vms"][0]["power"] == "poweredOff")


def test_power_operations_and_what_is_refused_in_which_state(host: TestHost) -> None:
    host.up()
    assert host.casemate("vm", "reset", "demo")[0] == 0
    assert host.casemate("vm", "on", "demo")[0] == 2
    assert "power" in host.output
    assert host.casemate("vm", "unregister", "demo")[0] == 2
    assert host.casemate("vm", "off", "demo")[0] == 0
    assert host.casemate("vm", "off", "demo")[0] == 2
    assert host.casemate("vm", "unregister", "demo")[0] == 0
    assert host.casemate("status")[1]["vms"] == []
    assert host.casemate("vm", "register", "[datastore1] demo/demo.vmx")[0] == 0
    assert host.casemate("vm", "on", "demo")[0] == 0


def look_at_the_screen(vm: Any, port: int) -> None:
    ticket = vm.AcquireTicket("webmks")
    assert ticket.port == port
    assert ticket.url.endswith(f":{port}/ticket/{ticket.ticket}")
    with WebSocket(port, f"/ticket/{ticket.ticket}") as screen:
        assert screen.subprotocol == "binary"
        assert screen.take(12) == b"RFB 003.008\n"
        screen.send(b"RFB 003.008\n")
        assert screen.take(2) == b"\1\1"
        screen.send(b"\1")
        assert screen.take(4) == bytes(4)
        screen.send(b"\1")
        width, height, name = struct.unpack(">HH16xI", screen.take(24))
        screen.take(name)
        screen.send(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
        assert screen.take(4)[0] == 0
        with pytest.raises(StateError):
            WebSocket(port, f"/ticket/{ticket.ticket}")
    stroke = vim.UsbScanCodeSpec.KeyEvent(usbHidCode=0x4 << 16 | 7)
    assert vm.PutUsbScanCodes(vim.UsbScanCodeSpec(keyEvents=[stroke])) == 1
    task = vm.CreateScreenshot_Task()
    WaitForTask(task)
    assert task.info.result == "[datastore1] demo/demo-1.png"
    with pytest.raises(vmodl.fault.NotSupported):
        vm.AcquireTicket("mks")


@pytest.mark.interop
def test_pyvmomi_unmodified_lists_powers_and_reads_the_report(host: TestHost, built: Path) -> None:
    told = host.up()
    password = told["password"] or (built / "password").read_text()
    si = SmartConnect(
        host="localhost",
        port=host.port,
        user="root",
        pwd=password,
        disableSslCertValidation=True,
    )
    content = si.RetrieveContent()
    view = content.viewManager.CreateContainerView(
        content.rootFolder, [vim.VirtualMachine], recursive=True
    )
    (vm,) = view.view
    assert vm.name == "demo"
    assert vm.runtime.powerState == "poweredOn"
    assert vm.summary.config.memorySizeMB == vm.config.hardware.memoryMB
    WaitForTask(vm.PowerOffVM_Task())
    assert vm.runtime.powerState == "poweredOff"
    with pytest.raises(vim.fault.InvalidPowerState):
        WaitForTask(vm.PowerOffVM_Task())
    WaitForTask(vm.PowerOnVM_Task())
    look_at_the_screen(vm, host.port)
    system = content.rootFolder.childEntity[0].hostFolder.childEntity[0].host[0]
    report = system.QueryTpmAttestationReport()
    assert report.tpmLogReliable
    kinds = {type(entry.eventDetails).__name__.rpartition(".")[2] for entry in report.tpmEvents}
    assert {
        "TpmSoftwareComponentEventDetails",
        "TpmCommandEventDetails",
        "TpmBootSecurityOptionEventDetails",
        "TpmSignerEventDetails",
        "TpmVersionEventDetails",
        "TpmBootCompleteEventDetails",
    } <= kinds
    names = {
        entry.eventDetails.componentName
        for entry in report.tpmEvents
        if hasattr(entry.eventDetails, "componentName")
    }
    assert {"b.b00", "k.b00", "qemu.v00"} <= names
    with pytest.raises((vim.fault.VimFault, Exception), match="not supported"):
        vm.Clone(folder=vm.parent, name="x", spec=vim.vm.CloneSpec(location=vim.vm.RelocateSpec()))
    Disconnect(si)
