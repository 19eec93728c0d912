"""The type table, versions and property paths."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from pyVmomi import VmomiSupport

from casemate.errors import FormatError, NotFoundError
from casemate.vim25 import decode, faults, paths, types, versions
from casemate.vim25.faults import FaultError
from casemate.vim25.shapes import Kind, TypeRef
from casemate.vim25.values import MoRef, Obj


def test_the_table_has_every_method_of_pyvmomi() -> None:
    assert len(types.method_owners()) == 1169


def test_every_type_and_method_of_the_table_can_be_read() -> None:
    for name in types.data_names():
        assert types.data_type(name).name == name
    for name in types.managed_names():
        assert types.managed_type(name).name == name
    for name in types.method_owners():
        assert types.method(name).name == name


def test_methods_agree_with_the_published_table(corpus: Path) -> None:
    lines = (corpus / "vim" / "vim_methods.tsv").read_text().splitlines()[1:]
    for line in lines:
        owner, _, name, since, _, privilege, parameters = line.split("\t")[:7]
        method = types.method(name)
        assert (method.owner, method.version) == (owner, since)
        assert (method.privilege or "") == privilege.strip("-")
        given = [p.split(":")[0] for p in parameters.split("; ") if p]
        # A few parameters are of another service's types, which this API does not have.
        if "vsan" not in parameters.lower():
            assert [p.name for p in method.parameters] == given


def test_reading_the_table_makes_no_class_of_pyvmomi() -> None:
    before = len(VmomiSupport._wsdlTypeMap)
    types.data_type("ClusterConfigInfoEx")
    assert len(VmomiSupport._wsdlTypeMap) == before


@pytest.mark.parametrize("name", ["Nope", "AboutInfo", "VirtualMachinePowerState"])
def test_what_is_no_managed_type_is_refused(name: str) -> None:
    with pytest.raises(NotFoundError):
        types.managed_type(name)


@pytest.mark.parametrize(
    ("header", "version"),
    [
        ('"urn:vim25/8.0.3.0"', "vim.version.v8_0_3_0"),
        ("urn:vim25/9.1.0.0", versions.NEWEST),
        ("urn:vim25/12.0.0.0", versions.NEWEST),
        ('"urn:vim25/6.5"', "vim.version.version11"),
        ("urn:vim25", versions.OLDEST),
        ("", versions.OLDEST),
        (None, versions.OLDEST),
        ("urn:vsan/8.0", versions.OLDEST),
    ],
)
def test_versions_are_negotiated(header: str | None, version: str) -> None:
    assert versions.negotiate(header) == version


def test_the_document_lists_a_version_that_pyvmomi_prefers() -> None:
    root = ET.fromstring(versions.document())
    listed = {element.text for element in root.iter("version")}
    ranked = [VmomiSupport.versionIdMap[v] for v in VmomiSupport.GetServiceVersions("vim25")]
    assert next(release for release in ranked if release in listed) == "9.1.0.0"


def test_every_listed_release_has_a_version() -> None:
    assert set(versions._BY_RELEASE) == {*versions.RELEASES, *versions.BEFORE}


VM = "VirtualMachine"


@pytest.mark.parametrize(
    "path",
    [
        "name",
        "config.hardware.device",
        "config.hardware.device[2000].backing",
        "config.hardware.device[2000].capacityInKB",
        'config.extraConfig["a.b"].value',
        "summary.runtime.powerState",
    ],
)
def test_good_paths_are_accepted(path: str) -> None:
    assert paths.check(VM, path)


@pytest.mark.parametrize(
    "path",
    [
        *("", ".", "name.", ".name", "nope", "config.nope", "name.x", "config[1]", "config..name"),
        *("config.hardware.device.key", "config.hardware.device[", "a" * 5000, "config.hardware["),
    ],
)
def test_bad_paths_are_invalid_properties(path: str) -> None:
    with pytest.raises(FaultError) as error:
        paths.check(VM, path)
    assert error.value.object.type == "InvalidProperty"


def test_paths_reach_into_keyed_arrays() -> None:
    disk = Obj("VirtualDisk", key=2000, capacityInKB=4)
    config = Obj("VirtualMachineConfigInfo", hardware=Obj("VirtualHardware", device=(disk,)))
    ref = TypeRef(Kind.DATA, "VirtualMachineConfigInfo")
    for path, expected in (
        ("config.hardware.device[2000].capacityInKB", 4),
        ("config.hardware.device[2000]", disk),
        ("config.hardware.device[1]", None),
        ("config.name", None),
        ("config.hardware.device[2000].connectable.connected", None),
    ):
        steps = paths.check(VM, path)
        assert paths.resolve(config, ref, None, steps[1:])[0] == expected


def test_a_fault_from_text_keeps_its_details() -> None:
    this = MoRef("VirtualMachine", "1")
    details = {"requestedState": "poweredOn", "existingState": "poweredOff"}
    fault = faults.from_details("InvalidPowerState", "wrong", details, this)
    assert fault.object == Obj("InvalidPowerState", **details)


@pytest.mark.parametrize("name", ["Nope", "AboutInfo", "InvalidPowerState"])
def test_a_fault_that_cannot_be_made_becomes_a_system_error(name: str) -> None:
    fault = faults.from_details(name, "why", {"requestedState": "x"}, MoRef("Folder", "x"))
    assert fault.object == Obj("SystemError", reason="why")


def test_names_that_clients_invent_are_not_remembered() -> None:
    def remembered() -> int:
        return sum(
            found.cache_info().currsize
            for module in tuple(sys.modules.values())
            if module.__name__.startswith("casemate.vim25")
            for found in tuple(vars(module).values())
            if hasattr(found, "cache_info") and found.cache_info().maxsize is None
        )

    def ask(name: str) -> None:
        with pytest.raises(FaultError):
            paths.check("VirtualMachine", f"config.hardware.device[1].{name}")
        with pytest.raises(FormatError):
            decode.parse_envelope(f"<a xmlns='urn:vim25'><{name}/></a>".encode())

    ask("never")
    before = remembered()
    for number in range(100):
        ask(f"never{number}")
    assert remembered() == before
