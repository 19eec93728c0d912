"""pyVmomi, unmodified, against a host over TLS."""

from __future__ import annotations

import contextlib
import gc
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import ManagedObject

from casemate.testing.bootproof import measured_boot
from casemate.testing.fakefacts import fake_vm
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


@pytest.fixture(scope="module")
def simulator() -> Iterator[HostSimulator]:
    with HostSimulator(FakeKernel(vms=3, proof=measured_boot())).running() as running:
        yield running


@contextlib.contextmanager
def connected(simulator: HostSimulator, **more: object) -> Iterator[vim.ServiceInstance]:
    trust = ssl.create_default_context(cadata=simulator.certificate.decode())
    si = SmartConnect(
        host="127.0.0.1",
        port=simulator.port,
        user=USER,
        pwd=PASSWORD,
        sslContext=trust,
        **more,
    )
    try:
        yield si
    finally:
        Disconnect(si)
        si._stub.DropConnections()


@pytest.fixture
def si(simulator: HostSimulator) -> Iterator[vim.ServiceInstance]:
    with connected(simulator) as instance:
        yield instance


def host_of(si: vim.ServiceInstance) -> vim.HostSystem:
    return si.content.rootFolder.childEntity[0].hostFolder.childEntity[0].host[0]


def view(si: vim.ServiceInstance, *kinds: type) -> list:
    made = si.content.viewManager.CreateContainerView(si.content.rootFolder, list(kinds), True)
    try:
        return list(made.view)
    finally:
        made.Destroy()


def machine(si: vim.ServiceInstance, name: str) -> vim.VirtualMachine:
    return si.content.searchIndex.FindByInventoryPath(f"ha-datacenter/vm/{name}")


def test_connects_with_the_newest_offered_version(si: vim.ServiceInstance) -> None:
    assert si._stub.version == "vim.version.v9_1_0_0"
    about = si.content.about
    assert (about.apiType, about.productLineId) == ("HostAgent", "embeddedEsx")
    assert si.CurrentTime().tzinfo is not None


@pytest.mark.parametrize(
    "version", ["vim.version.v8_0_3_0", "vim.version.v7_0", "vim.version.version11"]
)
def test_older_clients_read_everything_they_know(simulator: HostSimulator, version: str) -> None:
    with connected(simulator, preferredApiVersions=[version]) as si:
        for vm in view(si, vim.VirtualMachine):
            assert vm.config.hardware.device
            assert vm.summary.config.name == vm.name
        assert host_of(si).summary.hardware.numCpuCores == 2


def test_wrong_password_is_invalid_login(simulator: HostSimulator) -> None:
    with pytest.raises(vim.fault.InvalidLogin):
        SmartConnect(
            host="127.0.0.1",
            port=simulator.port,
            user=USER,
            pwd="wrong",
            disableSslCertValidation=True,
        )


def test_the_inventory_can_be_walked(si: vim.ServiceInstance) -> None:
    datacenter = si.content.rootFolder.childEntity[0]
    assert [vm.name for vm in datacenter.vmFolder.childEntity[:3]] == ["vm1", "vm2", "vm3"]
    assert host_of(si).name == "fake.example"
    assert [store.summary.name for store in datacenter.datastore] == ["datastore1"]
    assert [network.name for network in datacenter.network] == ["VM Network"]
    compute = datacenter.hostFolder.childEntity[0]
    assert compute.resourcePool.name == "Resources"
    assert machine(si, "vm1").resourcePool == compute.resourcePool


def test_every_property_of_every_entity_and_manager_can_be_read(si: vim.ServiceInstance) -> None:
    refs = [si, *view(si, vim.ManagedEntity)]
    refs += [ref for ref in si.content.__dict__.values() if isinstance(ref, ManagedObject)]
    manager = host_of(si).configManager
    refs += [ref for ref in manager.__dict__.values() if isinstance(ref, ManagedObject)]
    assert len(refs) > 30
    for ref in refs:
        for declared in ref._GetPropertyList():
            getattr(ref, declared.name)


def test_container_views_filter_by_type(si: vim.ServiceInstance) -> None:
    assert [type(ref) for ref in view(si, vim.HostSystem)] == [vim.HostSystem]
    assert len(view(si, vim.VirtualMachine, vim.Datastore)) == 4
    assert len(view(si)) == len(view(si, vim.ManagedEntity))


def test_devices_have_the_shape_that_scripts_expect(si: vim.ServiceInstance) -> None:
    devices = machine(si, "vm1").config.hardware.device
    disk = next(d for d in devices if isinstance(d, vim.vm.device.VirtualDisk))
    assert disk.capacityInKB == 4 << 20
    assert disk.backing.fileName == "[datastore1] vm1/vm1.vmdk"
    assert any(d.key == disk.controllerKey for d in devices)
    nic = next(d for d in devices if isinstance(d, vim.vm.device.VirtualEthernetCard))
    assert nic.macAddress == "00:50:56:00:00:01"
    assert {d.key for d in devices if d.key in {1000, 15000}} == {1000, 15000}


def test_power_on_and_off_are_tasks_that_finish(si: vim.ServiceInstance) -> None:
    vm = machine(si, "vm2")
    task = vm.PowerOnVM_Task()
    assert WaitForTask(task) == "success"
    assert vm.runtime.powerState == "poweredOn"
    assert vm.runtime.bootTime is not None
    assert task.info.entity == vm
    assert task.info.descriptionId == "VirtualMachine.powerOn"
    assert WaitForTask(vm.ResetVM_Task()) == "success"
    assert WaitForTask(vm.PowerOffVM_Task()) == "success"
    assert vm.summary.runtime.powerState == "poweredOff"


def test_a_task_that_fails_raises_its_typed_fault(si: vim.ServiceInstance) -> None:
    with pytest.raises(vim.fault.InvalidPowerState) as error:
        WaitForTask(machine(si, "vm1").PowerOffVM_Task())
    assert error.value.existingState == "poweredOff"


def test_shutdown_guest_of_a_stopped_machine_is_refused(si: vim.ServiceInstance) -> None:
    with pytest.raises(vim.fault.InvalidPowerState):
        machine(si, "vm1").ShutdownGuest()


def test_a_machine_is_registered_and_unregistered(si: vim.ServiceInstance) -> None:
    datacenter = si.content.rootFolder.childEntity[0]
    pool = datacenter.hostFolder.childEntity[0].resourcePool
    task = datacenter.vmFolder.RegisterVM_Task(
        path="[datastore1] new/new.vmx", asTemplate=False, pool=pool
    )
    assert WaitForTask(task) == "success"
    vm = task.info.result
    assert vm.summary.config.vmPathName == "[datastore1] new/new.vmx"
    vm.UnregisterVM()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = vm.name


def test_a_host_without_kvm_says_that_emulation_is_no_isolation(si: vim.ServiceInstance) -> None:
    (issue,) = host_of(si).configIssue
    assert isinstance(issue, vim.event.GeneralHostWarningEvent)
    assert "no isolation" in issue.message
    assert issue.host.host == host_of(si)


def test_what_a_host_does_not_do_faults_as_on_esxi(si: vim.ServiceInstance) -> None:
    vm = machine(si, "vm1")
    spec = vim.vm.CloneSpec(location=vim.vm.RelocateSpec(), powerOn=False, template=False)
    with pytest.raises(vmodl.fault.NotSupported):
        vm.CloneVM_Task(vm.parent, "copy", spec)
    with pytest.raises(vmodl.fault.MethodNotFound):
        vm.MountToolsInstaller()


def test_changes_arrive_while_waiting(si: vim.ServiceInstance, simulator: HostSimulator) -> None:
    vm = machine(si, "vm3")
    query = vmodl.query.PropertyCollector
    spec = query.FilterSpec(
        objectSet=[query.ObjectSpec(obj=vm)],
        propSet=[query.PropertySpec(type=vim.VirtualMachine, pathSet=["name", "summary.config"])],
    )
    collector = si.content.propertyCollector
    one = collector.CreateFilter(spec, True)
    first = collector.WaitForUpdatesEx("", query.WaitOptions(maxWaitSeconds=5))
    assert first.filterSet[0].objectSet[0].kind == "enter"
    fact = fake_vm(3)
    renamed = replace(fact, config=replace(fact.config, name="renamed"))
    timer = threading.Timer(
        0.1, lambda: simulator.run_in_kernel_loop(lambda: simulator.kernel.state(renamed))
    )
    timer.start()
    update = collector.WaitForUpdatesEx(first.version, query.WaitOptions(maxWaitSeconds=5))
    timer.join()
    changes = {c.name: c.val for c in update.filterSet[0].objectSet[0].changeSet}
    assert changes["name"] == "renamed"
    one.Destroy()
    simulator.run_in_kernel_loop(lambda: simulator.kernel.state(fact))


def test_the_attestation_report_is_typed_and_reliable(si: vim.ServiceInstance) -> None:
    report = host_of(si).QueryTpmAttestationReport()
    assert report.tpmLogReliable
    assert [value.pcrNumber for value in report.tpmPcrValues] == list(range(24))
    assert all(len(value.digestValue) == 32 for value in report.tpmPcrValues)
    shown = {type(event.eventDetails).__name__.rpartition(".")[2] for event in report.tpmEvents}
    assert shown == {
        *("TpmSoftwareComponentEventDetails", "TpmCommandEventDetails", "TpmSignerEventDetails"),
        *("TpmBootSecurityOptionEventDetails", "TpmVersionEventDetails"),
        *("TpmOptionEventDetails", "TpmSystemVersionEventDetails", "TpmBootCompleteEventDetails"),
    }
    kernel = [
        event.eventDetails
        for event in report.tpmEvents
        if getattr(event.eventDetails, "componentName", "") == "k.b00"
    ]
    assert {event.vibName for event in kernel} == {"casemate-kernel"}
    assert host_of(si).runtime.tpmPcrValues[12].digestValue == report.tpmPcrValues[12].digestValue


def test_the_attestation_report_of_an_older_client_has_what_it_knows(
    simulator: HostSimulator,
) -> None:
    with connected(simulator, preferredApiVersions=["vim.version.version11"]) as si:
        report = host_of(si).QueryTpmAttestationReport()
        assert report.tpmLogReliable
        assert len(report.tpmEvents) > 10
