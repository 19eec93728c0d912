"""VirtualSerialPort over the API: what clients ask for, what they read back, what is refused."""

from __future__ import annotations

import pytest

from casemate.hostd.objects.devices import devices
from casemate.hostd.vmspec import changed
from casemate.machine.facts import SerialSpec, VmConfig
from casemate.vim25.faults import FaultError
from casemate.vim25.values import Obj

ONE = VmConfig("one", "", "[datastore1] one/one.vmx", "otherGuest", 1, 64, "bios")
PRIVILEGE = "VirtualMachine.Config."


def spec(operation: str, **device: object) -> Obj:
    port = Obj("VirtualSerialPort", **device)
    change = Obj("VirtualDeviceConfigSpec", operation=operation, device=port)
    return Obj("VirtualMachineConfigSpec", deviceChange=(change,))


def to_file(path: str) -> Obj:
    return Obj("VirtualSerialPortFileBackingInfo", fileName=path)


def to_pipe(name: str = "com1", endpoint: str = "server") -> Obj:
    return Obj("VirtualSerialPortPipeBackingInfo", pipeName=name, endpoint=endpoint)


@pytest.mark.parametrize(
    "path", ["[datastore1] one/said.log", "said.log", "[datastore1]one/said.log"]
)
def test_a_port_is_added_shown_changed_and_removed(path):
    change = changed(spec("add", key=-1, backing=to_file(path)), ONE, ())
    assert change.config.serials == (SerialSpec(0, "file", "said.log"),)
    assert change.privileges == {PRIVILEGE + "AddRemoveDevice"}
    shown = devices(change.config, "[datastore1] one/", None, running=True)
    (port,) = [one for one in shown if one.type == "VirtualSerialPort"]
    (controller,) = [one for one in shown if one.type == "VirtualSIOController"]
    assert controller.get("device") == (port.get("key"),)
    assert port.get("controllerKey") == controller.get("key")
    # What a client sends back as it was read changes nothing.
    same = changed(spec("edit", **port.fields), change.config, ())
    assert (same.config, same.privileges) == (change.config, set())
    piped = changed(spec("edit", key=port.get("key"), backing=to_pipe()), change.config, ())
    assert piped.config.serials == (SerialSpec(0, "pipe", "com1"),)
    assert piped.privileges == {PRIVILEGE + "EditDevice"}
    gone = changed(spec("remove", key=port.get("key")), piped.config, ())
    assert gone.config == ONE


def test_ports_take_the_first_free_place_and_are_four():
    config = ONE
    for number in range(4):
        config = changed(spec("add", key=-1, backing=to_pipe(f"p{number}")), config, ()).config
    assert [port.number for port in config.serials] == [0, 1, 2, 3]
    with pytest.raises(FaultError) as raised:
        changed(spec("add", key=-1, backing=to_pipe()), config, ())
    assert raised.value.object.type == "TooManyDevices"


@pytest.mark.parametrize(
    "backing",
    [
        Obj("VirtualSerialPortDeviceBackingInfo", deviceName="/dev/ttyS0", useAutoDetect=False),
        Obj("VirtualSerialPortURIBackingInfo", serviceURI="telnet://:2001", direction="server"),
        Obj("VirtualSerialPortThinPrintBackingInfo"),
        to_pipe(endpoint="client"),
        to_file("[datastore1] other/x.log"),
        to_file("[other] one/x.log"),
    ],
)
def test_no_device_of_the_host_no_network_and_no_other_directory_is_given(backing):
    with pytest.raises(FaultError) as raised:
        changed(spec("add", key=-1, backing=backing), ONE, ())
    assert raised.value.object.type == "NotSupported"


@pytest.mark.parametrize("name", ["one.vmx", "one.vmdk", "..", "x/../one.log", "one.nvram"])
def test_a_port_that_would_write_over_a_vms_own_files_is_refused(name):
    with pytest.raises(FaultError) as raised:
        changed(spec("add", key=-1, backing=to_file(name)), ONE, ())
    assert raised.value.object.type == "InvalidArgument"


def test_a_registered_port_without_backing_is_given_one_and_its_old_words_go():
    extra = (("serial0.fileType", "network"), ("serial0.fileName", "telnet://:1"), ("a.b", "c"))
    before = VmConfig(
        *("one", "", "[datastore1] one/one.vmx", "otherGuest", 1, 64, "bios"),
        serials=(SerialSpec(0, "none"),),
        extra=extra,
    )
    change = changed(spec("edit", key=9000, backing=to_pipe()), before, ())
    assert change.config.serials == (SerialSpec(0, "pipe", "com1"),)
    assert change.config.extra == (("a.b", "c"),)
