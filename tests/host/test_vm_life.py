"""A VM's whole life by the command line, on a booted host."""

from __future__ import annotations

import pytest
from tests.host.conftest import TestHost

pytestmark = [pytest.mark.host, pytest.mark.guest, pytest.mark.timeout(600)]


def test_a_vm_is_made_frozen_suspended_copied_exported_and_destroyed(host: TestHost) -> None:
    host.up("--no-demo")

    def vm(*words: str) -> dict:
        status, told = host.casemate("vm", *words)
        assert status == 0, host.output
        return told

    made = ("web", "--disk", "64M", "--firmware", "efi", "--secure-boot", "--vtpm", "--nic", "LAN")
    assert vm("create", *made)["vm"] == "1"
    vm("on", "web")
    vm("snapshot", "create", "web", "first", "--memory")
    vm("suspend", "web")
    assert vm("list")[0]["power"] == "suspended"
    vm("on", "web")
    vm("snapshot", "revert", "web")
    assert vm("list")[0]["power"] == "poweredOn"
    assert vm("snapshot", "list", "web")["current"] == 1
    vm("snapshot", "remove", "web", "--all")
    assert host.casemate("vm", "destroy", "web")[0] == 2
    vm("off", "web")
    vm("change", "web", "--cpus", "2", "--extend-disk", "web.vmdk", "128M")
    vm("clone", "web", "copy")
    vm("export", "web", "[datastore1] web.ova")
    vm("import", "[datastore1] web.ova", "--name", "again")
    assert [fact["config"]["name"] for fact in vm("list")] == ["web", "copy", "again"]
    assert {fact["config"]["disks"][0]["capacity"] for fact in vm("list")} == {128 << 20}
    for name in ("web", "copy", "again"):
        vm("destroy", name)
    left = [entry.name for entry in (host.home / "volumes" / "datastore1").iterdir()]
    assert left == ["web.ova"]
