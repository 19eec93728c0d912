"""pyVmomi, unmodified, on leases: VMs out and in disk by disk over HTTP, without a kernel."""

from __future__ import annotations

import gc
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPSConnection
from urllib.parse import urlsplit

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

from casemate.machine.facts import VmFact
from casemate.testing.fakekernel import PASSWORD, USER, FakeKernel
from casemate.testing.hostsimulator import HostSimulator

pytestmark = [
    pytest.mark.interop,
    # pyVmomi leaves a connection open after a failed login.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _what_pyvmomi_leaves() -> Iterator[None]:
    """Have it collected here, not in somebody else's test."""
    yield
    gc.collect()


@pytest.fixture
def simulator() -> Iterator[HostSimulator]:
    with HostSimulator(FakeKernel(vms=1)).running() as running:
        yield running


@contextmanager
def session(simulator: HostSimulator) -> Iterator[vim.ServiceInstance]:
    trust = ssl.create_default_context(cadata=simulator.certificate.decode())
    instance = SmartConnect(
        host="127.0.0.1", port=simulator.port, user=USER, pwd=PASSWORD, sslContext=trust
    )
    try:
        yield instance
    finally:
        Disconnect(instance)
        instance._stub.DropConnections()


@pytest.fixture
def si(simulator: HostSimulator) -> Iterator[vim.ServiceInstance]:
    with session(simulator) as instance:
        yield instance


def asked(simulator: HostSimulator, method: str, url: str, body: bytes | None = None):
    """Send to the path of a lease's URL; returns status and body."""
    trust = ssl.create_default_context(cadata=simulator.certificate.decode())
    connection = HTTPSConnection("127.0.0.1", simulator.port, context=trust, timeout=60)
    try:
        connection.request(method, urlsplit(url.replace("*", "x")).path, body)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def vms(si: vim.ServiceInstance) -> list[str]:
    folder = si.content.rootFolder.childEntity[0].vmFolder
    return [vm.name for vm in folder.childEntity]


def spec_for(si: vim.ServiceInstance, name: str) -> tuple[vim.ResourcePool, object]:
    datacenter = si.content.rootFolder.childEntity[0]
    vm = datacenter.vmFolder.childEntity[0]
    manager, pool = si.content.ovfManager, vm.resourcePool
    disk = next(d for d in vm.config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk))
    lease = vm.ExportVm()
    place = lease.info.deviceUrl[0].key
    lease.HttpNfcLeaseAbort()
    file = vim.OvfManager.OvfFile(
        deviceId=place, path="disk.vmdk", size=1000, capacity=disk.capacityInBytes
    )
    described = manager.CreateDescriptor(
        vm, vim.OvfManager.CreateDescriptorParams(name=name, ovfFiles=[file])
    )
    params = vim.OvfManager.CreateImportSpecParams(
        entityName=name, diskProvisioning="thin", locale="", deploymentOption=""
    )
    made = manager.CreateImportSpec(described.ovfDescriptor, pool, datacenter.datastore[0], params)
    assert not made.error, made.error
    return pool, made.importSpec


def test_a_vm_goes_out_and_its_disk_comes_in_again(
    si: vim.ServiceInstance, simulator: HostSimulator
) -> None:
    vm = si.content.rootFolder.childEntity[0].vmFolder.childEntity[0]
    lease = vm.ExportVm()
    assert lease.state == "ready"
    (url,) = [one.url for one in lease.info.deviceUrl]
    status, content = asked(simulator, "GET", url)
    assert (status, content[:4]) == (200, b"KDMV")
    lease.HttpNfcLeaseProgress(60)
    assert lease.transferProgress == 60
    (entry,) = lease.HttpNfcLeaseGetManifest()
    assert entry.size == len(content)
    assert asked(simulator, "PUT", url, b"x")[0] == 405
    with pytest.raises(vim.fault.TaskInProgress):
        vm.ExportVm()
    lease.HttpNfcLeaseComplete()
    assert asked(simulator, "GET", url)[0] == 404

    pool, spec = spec_for(si, "again")
    lease = pool.ImportVApp(spec)
    assert lease.info.entity.name == "again"
    (url,) = [one.url for one in lease.info.deviceUrl]
    assert asked(simulator, "POST", url, content)[0] == 201
    lease.HttpNfcLeaseComplete()
    (kept,) = simulator.kernel.leases.disks.values()
    assert kept == content
    assert sorted(vms(si)) == ["again", "vm1"]
    with pytest.raises((vim.fault.InvalidState, vmodl.fault.ManagedObjectNotFound)):
        lease.HttpNfcLeaseComplete()


def test_an_aborted_import_leaves_no_vm_and_a_lease_is_its_session_s(
    si: vim.ServiceInstance, simulator: HostSimulator
) -> None:
    pool, spec = spec_for(si, "half")
    lease = pool.ImportVApp(spec)
    (url,) = [one.url for one in lease.info.deviceUrl]
    with session(simulator) as other:
        theirs = vim.HttpNfcLease(lease._moId, other._stub)
        with pytest.raises(vmodl.fault.ManagedObjectNotFound):
            theirs.HttpNfcLeaseComplete()
    for wrong in (url.replace("disk-0", "disk-9"), url.replace("/nfc/", "/nfc/0"), "/nfc/x/y"):
        assert asked(simulator, "POST", wrong, b"x")[0] == 404
    lease.HttpNfcLeaseAbort()
    assert asked(simulator, "POST", url, b"x")[0] == 404
    assert vms(si) == ["vm1"]
    assert [one.vm for one in simulator.kernel.all(VmFact)] == ["1"]
