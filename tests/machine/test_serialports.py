"""Serial ports: what a vmx file says, what QEMU is told, and which files no guest gets to write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import ArgumentError
from casemate.formats.vmx import Vmx
from casemate.machine import serialports
from casemate.machine.facts import SerialSpec, VmConfig
from casemate.machine.plan import HostSide, plan_power_on
from casemate.machine.planaudit import UID_BASE
from casemate.machine.vmconfig import vm_config
from casemate.machine.vmxwrite import vmx_of

PATH = "[datastore1] one/one.vmx"


def read(*entries: tuple[str, str]) -> VmConfig:
    return vm_config(Vmx((("displayName", "one"), *entries)), PATH)


def entries(number: int, **said: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"serial{number}.present", "TRUE"),
        *((f"serial{number}.{name}", value) for name, value in said.items()),
    )


ports = st.lists(
    st.builds(
        SerialSpec,
        st.integers(0, serialports.PORTS - 1),
        st.just(serialports.FILE),
        st.from_regex(r"[a-z]{1,9}\.(txt|log|out|serial)", fullmatch=True),
        st.booleans(),
    )
    | st.builds(
        SerialSpec,
        st.integers(0, serialports.PORTS - 1),
        st.just(serialports.PIPE),
        st.sampled_from(["com1", "/tmp/pipe", "\\\\.\\pipe\\com_1"]),
        st.booleans(),
    )
    | st.builds(
        SerialSpec, st.integers(0, serialports.PORTS - 1), st.just(serialports.NONE), st.just("")
    ),
    unique_by=lambda port: port.number,
).map(lambda found: tuple(sorted(found, key=lambda port: port.number)))


@given(ports, ports)
def test_ports_are_read_back_as_they_were_written_over_any_other(before, after):
    old = vmx_of(VmConfig("one", "", PATH, "otherguest", 1, 64, "bios", serials=before), Vmx(()))
    config = vm_config(old, PATH)
    assert config.serials == before
    changed = VmConfig("one", "", PATH, "otherguest", 1, 64, "bios", serials=after)
    assert vm_config(vmx_of(changed, old), PATH).serials == after


@given(ports)
def test_the_guest_sees_each_port_at_its_own_place(serials):
    config = VmConfig("one", "", PATH, "otherguest", 1, 64, "bios", serials=serials)
    plan = plan_power_on("1", config, (), HostSide("tcg", 1000, UID_BASE))
    words = [plan.argv[at + 1] for at, word in enumerate(plan.argv) if word == "-serial"]
    assert words[0] == "chardev:console"
    numbers = {number for number, word in enumerate(words) if word != "none"}
    assert numbers == {0, *(port.number for port in serials)}
    names = {listener.name for listener in plan.listeners}
    assert len({listener.fd for listener in plan.listeners}) == len(plan.listeners)
    live = {number for number, _ in serialports.files(config)}
    assert {f"serial{n}.sock" for n in live if n} == {n for n in names if n.startswith("serial")}


@pytest.mark.parametrize(
    "name",
    [
        *("one.vmx", "one.nvram", "disk.vmdk", "disk-flat.vmdk", "one.vmsd", "one.qcow2", "kernel"),
        *("../other/x.log", "/vmfs/volumes/datastore1/one/x.log", "/dev/ttyS0", "a/b.log", ""),
    ],
)
def test_a_guest_writes_to_no_file_that_a_vm_is_made_of_and_none_elsewhere(name):
    with pytest.raises(ArgumentError, match="own directory"):
        read(*entries(0, fileType="file", fileName=name))


@pytest.mark.parametrize("kind", ["device", "network", "thinprint", ""])
def test_a_port_to_a_device_or_the_network_is_connected_to_nothing_and_stays_in_the_file(kind):
    said = entries(1, fileType=kind, fileName="telnet://:2001")
    config = read(*said)
    assert config.serials == (SerialSpec(1, serialports.NONE),)
    kept = vmx_of(config, Vmx((("displayName", "one"), *said))).lowered()
    assert kept["serial1.filetype"] == kind
    plan = plan_power_on("1", config, (), HostSide("tcg", 1000, UID_BASE))
    assert "null,id=serial1" in plan.argv
    assert not any("telnet" in word for word in plan.argv)
