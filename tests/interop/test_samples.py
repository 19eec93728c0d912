"""What pyVmomi's community samples do, by the calls that they make."""

from __future__ import annotations

import gc
import ssl
from collections.abc import Iterator

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVim.task import WaitForTask
from pyVmomi import vim, vmodl

from casemate.testing.fakekernel import PASSWORD, USER, FakeKernel
from casemate.testing.hostsimulator import HostSimulator

pytestmark = [
    pytest.mark.interop,
    # pyVmomi leaves a connection open after a failed login.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
Collector = vmodl.query.PropertyCollector
Device = vim.vm.device
GIB_IN_KIB = 1 << 20


@pytest.fixture(scope="module")
def si(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vim.ServiceInstance]:
    volumes = tmp_path_factory.mktemp("volumes")
    place = volumes / "datastore1" / "images"
    place.mkdir(parents=True)
    (place / "debian.iso").write_bytes(b"iso")
    with HostSimulator(FakeKernel(vms=2, volumes=volumes)).running() as running:
        trust = ssl.create_default_context(cadata=running.certificate.decode())
        made = SmartConnect(
            host="127.0.0.1", port=running.port, user=USER, pwd=PASSWORD, sslContext=trust
        )
        try:
            yield made
        finally:
            Disconnect(made)
            made._stub.DropConnections()
    gc.collect()


@pytest.fixture
def datacenter(si: vim.ServiceInstance) -> vim.Datacenter:
    return si.content.rootFolder.childEntity[0]


def found(si: vim.ServiceInstance, kind: type, name: str) -> vim.ManagedEntity:
    view = si.content.viewManager.CreateContainerView(si.content.rootFolder, [kind], True)
    try:
        return next(one for one in view.view if one.name == name)
    finally:
        view.Destroy()


@pytest.fixture
def vm(si: vim.ServiceInstance) -> vim.VirtualMachine:
    return found(si, vim.VirtualMachine, "vm1")


def wait_for_tasks(si: vim.ServiceInstance, *tasks: vim.Task) -> None:
    """The samples' own: WaitForUpdates, the method of API 2.5."""
    collector = si.content.propertyCollector
    spec = Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=task) for task in tasks],
        propSet=[Collector.PropertySpec(type=vim.Task, pathSet=[], all=True)],
    )
    waiting, version = {str(task) for task in tasks}, None
    task_filter = collector.CreateFilter(spec, True)
    try:
        while waiting:
            update = collector.WaitForUpdates(version)
            version = update.version
            for change in (one for part in update.filterSet for one in part.objectSet):
                state = change.obj.info.state
                if state == vim.TaskInfo.State.error:
                    raise change.obj.info.error
                if state == vim.TaskInfo.State.success:
                    waiting.discard(str(change.obj))
    finally:
        task_filter.Destroy()


def reconfigure(
    si: vim.ServiceInstance, vm: vim.VirtualMachine, operation: str, device: object, files=None
) -> None:
    change = Device.VirtualDeviceSpec(operation=operation, fileOperation=files, device=device)
    wait_for_tasks(si, vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))


def devices(vm: vim.VirtualMachine, kind: type) -> list:
    return [one for one in vm.config.hardware.device if isinstance(one, kind)]


def test_vms_are_made_without_disks_and_found_again(
    si: vim.ServiceInstance, datacenter: vim.Datacenter
) -> None:
    pool = datacenter.hostFolder.childEntity[0].resourcePool
    tasks = []
    for name in ("Thor", "Hulk"):
        config = vim.vm.ConfigSpec(
            name=name,
            memoryMB=128,
            numCPUs=1,
            files=vim.vm.FileInfo(vmPathName=f"[datastore1] {name}"),
            guestId="dosGuest",
            version="vmx-07",
        )
        tasks.append(datacenter.vmFolder.CreateVM_Task(config=config, pool=pool))
    wait_for_tasks(si, *tasks)
    hulk = found(si, vim.VirtualMachine, "Hulk")
    assert hulk == tasks[1].info.result
    index = si.content.searchIndex
    assert index.FindByUuid(None, hulk.config.uuid, True, False) == hulk
    assert index.FindByUuid(None, hulk.config.instanceUuid, True, True) == hulk
    assert index.FindByDatastorePath(datacenter, hulk.config.files.vmPathName) == hulk
    assert index.FindChild(datacenter.vmFolder, "Hulk") == hulk


def test_a_card_comes_changes_its_network_is_cut_and_goes(
    si: vim.ServiceInstance, datacenter: vim.Datacenter, vm: vim.VirtualMachine
) -> None:
    before = len(devices(vm, Device.VirtualEthernetCard))
    backing = Device.VirtualEthernetCard.NetworkBackingInfo(
        useAutoDetect=False, deviceName="VM Network", network=datacenter.network[0]
    )
    card = Device.VirtualE1000(
        deviceInfo=vim.Description(label="", summary="a test"),
        backing=backing,
        connectable=Device.VirtualDevice.ConnectInfo(
            startConnected=True, allowGuestControl=True, connected=False, status="untried"
        ),
        wakeOnLanEnabled=True,
        addressType="assigned",
    )
    reconfigure(si, vm, "add", card)
    assert len(devices(vm, Device.VirtualEthernetCard)) == before + 1
    card = devices(vm, Device.VirtualEthernetCard)[-1]
    card.backing = backing
    card.connectable = Device.VirtualDevice.ConnectInfo(
        startConnected=False, allowGuestControl=True, connected=False
    )
    reconfigure(si, vm, "edit", card)
    card = devices(vm, Device.VirtualEthernetCard)[-1]
    assert card.connectable.startConnected is False
    reconfigure(si, vm, "remove", card)
    assert len(devices(vm, Device.VirtualEthernetCard)) == before


def test_a_disk_comes_grows_and_goes(si: vim.ServiceInstance, vm: vim.VirtualMachine) -> None:
    taken = {one.unitNumber for one in devices(vm, Device.VirtualDisk)}
    unit = next(number for number in range(16) if number not in {*taken, 7})
    controller = devices(vm, Device.VirtualSCSIController)[0]
    disk = Device.VirtualDisk(
        backing=Device.VirtualDisk.FlatVer2BackingInfo(thinProvisioned=True, diskMode="persistent"),
        unitNumber=unit,
        capacityInKB=GIB_IN_KIB,
        controllerKey=controller.key,
    )
    reconfigure(si, vm, "add", disk, "create")
    disk = next(one for one in devices(vm, Device.VirtualDisk) if one.unitNumber == unit)
    disk.capacityInKB = 2 * GIB_IN_KIB
    reconfigure(si, vm, "edit", disk)
    disk = next(one for one in devices(vm, Device.VirtualDisk) if one.unitNumber == unit)
    assert disk.capacityInBytes == 2 << 30
    disk.backing.diskMode = "independent_persistent"
    reconfigure(si, vm, "edit", disk)
    disk = next(one for one in devices(vm, Device.VirtualDisk) if one.unitNumber == unit)
    assert disk.backing.diskMode == "independent_persistent"
    disk.backing.diskMode = "append"
    with pytest.raises(vmodl.fault.NotSupported):
        reconfigure(si, vm, "edit", disk)
    reconfigure(si, vm, "remove", disk, "destroy")
    assert unit not in {one.unitNumber for one in devices(vm, Device.VirtualDisk)}


def test_a_disc_is_put_into_a_new_drive_and_taken_out(
    si: vim.ServiceInstance, vm: vim.VirtualMachine
) -> None:
    before = {one.key for one in devices(vm, Device.VirtualCdrom)}
    controller = next(
        one for one in devices(vm, Device.VirtualIDEController) if len(one.device) < 2
    )
    drive = Device.VirtualCdrom(
        controllerKey=controller.key,
        key=-1,
        connectable=Device.VirtualDevice.ConnectInfo(
            startConnected=True, allowGuestControl=True, connected=False
        ),
        backing=Device.VirtualCdrom.RemotePassthroughBackingInfo(deviceName="", exclusive=False),
    )
    reconfigure(si, vm, "add", drive)
    drive = next(one for one in devices(vm, Device.VirtualCdrom) if one.key not in before)
    image = "[datastore1] images/debian.iso"
    drive.backing = Device.VirtualCdrom.IsoBackingInfo(fileName=image)
    drive.connectable.startConnected = True
    reconfigure(si, vm, "edit", drive)
    drive = next(one for one in devices(vm, Device.VirtualCdrom) if one.key not in before)
    assert drive.backing.fileName == image
    reconfigure(si, vm, "remove", drive)
    assert {one.key for one in devices(vm, Device.VirtualCdrom)} == before


def test_the_boot_order_is_set_and_read_back(vm: vim.VirtualMachine) -> None:
    key = devices(vm, Device.VirtualDisk)[0].key
    order = [
        vim.vm.BootOptions.BootableCdromDevice(),
        vim.vm.BootOptions.BootableDiskDevice(deviceKey=key),
    ]
    options = vim.vm.BootOptions(bootDelay=2000, bootOrder=order)
    WaitForTask(vm.ReconfigVM_Task(vim.vm.ConfigSpec(bootOptions=options)))
    shown = vm.config.bootOptions
    assert (shown.bootDelay, shown.bootOrder[1].deviceKey) == (2000, key)
    assert isinstance(shown.bootOrder[0], vim.vm.BootOptions.BootableCdromDevice)


def test_snapshots_come_are_renamed_returned_to_and_go(
    si: vim.ServiceInstance, vm: vim.VirtualMachine
) -> None:
    wait_for_tasks(
        si, vm.CreateSnapshot_Task(name="s", description="d", memory=False, quiesce=False)
    )
    snapshot = vm.snapshot.rootSnapshotList[0].snapshot
    snapshot.RenameSnapshot(name="t")
    wait_for_tasks(si, snapshot.RevertToSnapshot_Task())
    assert vm.snapshot.rootSnapshotList[0].name == "t"
    wait_for_tasks(si, vm.RemoveAllSnapshots_Task())
    assert vm.snapshot is None


def test_the_methods_of_the_first_property_collector_still_answer(
    si: vim.ServiceInstance,
) -> None:
    view = si.content.viewManager.CreateContainerView(
        si.content.rootFolder, [vim.VirtualMachine], True
    )
    walk = Collector.TraversalSpec(name="view", path="view", skip=False, type=type(view))
    spec = Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=view, skip=True, selectSet=[walk])],
        propSet=[
            Collector.PropertySpec(
                type=vim.VirtualMachine, pathSet=["name", "config.hardware.device", "guest.net"]
            )
        ],
    )
    names = {one.name for one in view.view}
    for method in (
        si.content.propertyCollector.RetrieveProperties,
        si.content.propertyCollector.RetrieveContents,
    ):
        read = method([spec])
        assert {p.val for one in read for p in one.propSet if p.name == "name"} == names
    own = si.content.propertyCollector.CreatePropertyCollector()
    own.CreateFilter(spec, False)
    update = own.CheckForUpdates("")
    assert len(update.filterSet[0].objectSet) == len(names)
    assert own.CheckForUpdates(update.version) is None
    own.CancelWaitForUpdates()
    own.Destroy()
    view.Destroy()


def test_counters_are_found_by_name_and_asked(
    si: vim.ServiceInstance, vm: vim.VirtualMachine
) -> None:
    manager = si.content.perfManager
    names = {
        f"{one.groupInfo.key}.{one.nameInfo.key}.{one.rollupType}": one.key
        for one in manager.perfCounter
    }
    offered = {one.counterId for one in manager.QueryAvailablePerfMetric(entity=vm)}
    assert names["cpu.usage.average"] in offered
    wanted = [vim.PerformanceManager.MetricId(counterId=key, instance="*") for key in offered]
    spec = vim.PerformanceManager.QuerySpec(maxSample=1, entity=vm, metricId=wanted)
    assert manager.QueryPerf(querySpec=[spec])[0].entity == vm


def test_services_of_the_host_s_cards_are_asked_by_name(datacenter: vim.Datacenter) -> None:
    host = datacenter.hostFolder.childEntity[0].host[0]
    cards = host.configManager.virtualNicManager
    for service in vim.host.VirtualNicManager.NicType.values:
        assert cards.QueryNetConfig(service).nicType == service


def test_what_this_host_does_not_do_is_a_fault_that_samples_catch(
    si: vim.ServiceInstance, datacenter: vim.Datacenter, vm: vim.VirtualMachine
) -> None:
    clone = vim.vm.CloneSpec(location=vim.vm.RelocateSpec(), powerOn=False)
    with pytest.raises(vmodl.fault.NotSupported):
        vm.Clone(folder=datacenter.vmFolder, name="copy", spec=clone)
    port = Device.VirtualSerialPort(
        yieldOnPoll=True,
        backing=Device.VirtualSerialPort.URIBackingInfo(
            serviceURI="telnet://:1000", direction="server"
        ),
    )
    with pytest.raises(vmodl.fault.NotSupported):
        reconfigure(si, vm, "add", port)
    processes = si.content.guestOperationsManager.processManager
    who = vim.vm.guest.NamePasswordAuthentication(username="a", password="b")
    program = vim.vm.guest.ProcessManager.ProgramSpec(programPath="/bin/ls", arguments="")
    with pytest.raises(vmodl.fault.MethodNotFound):
        processes.StartProgramInGuest(vm, who, program)


def test_settings_are_read_back_as_they_were_written(
    si: vim.ServiceInstance, vm: vim.VirtualMachine
) -> None:
    own = "52aaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
    spec = vim.vm.ConfigSpec(
        changeVersion=vm.config.changeVersion,
        instanceUuid=own,
        version="vmx-19",
        alternateGuestName="Some system",
        maxMksConnections=5,
        memoryReservationLockedToMax=True,
        latencySensitivity=vim.LatencySensitivity(level="high"),
        flags=vim.vm.FlagInfo(diskUuidEnabled=True, enableLogging=False, vvtdEnabled=False),
        tools=vim.vm.ToolsConfigInfo(syncTimeWithHost=True, afterPowerOn=True),
        powerOpInfo=vim.vm.DefaultPowerOpInfo(powerOffType="hard"),
        extraConfig=[vim.option.OptionValue(key="guestinfo.a", value="b")],
        managedBy=vim.ext.ManagedByInfo(extensionKey="org.example", type="appliance"),
    )
    before = vm.config.changeVersion
    WaitForTask(vm.ReconfigVM_Task(spec))
    shown = vm.config
    assert (shown.instanceUuid, vm.summary.config.instanceUuid) == (own, own)
    assert (shown.version, shown.guestFullName) == ("vmx-19", "Some system")
    assert (shown.maxMksConnections, shown.latencySensitivity.level) == (5, "high")
    assert shown.memoryAllocation.reservation == shown.hardware.memoryMB
    assert shown.flags.diskUuidEnabled
    assert not shown.flags.enableLogging
    assert shown.tools.syncTimeWithHost
    assert shown.tools.afterPowerOn
    ways = shown.defaultPowerOps
    assert (ways.powerOffType, ways.defaultPowerOffType) == ("hard", "hard")
    keys = {one.key for one in shown.extraConfig}
    assert "guestinfo.a" in keys
    assert shown.managedBy.type == "appliance"
    assert vm.summary.config.managedBy.extensionKey == "org.example"
    assert not keys & {"vc.uuid", "virtualHW.version", "powerType.powerOff", "sched.mem.pin"}
    index = si.content.searchIndex
    assert index.FindByUuid(None, own, True, True) == vm
    assert index.FindByUuid(None, own, True, False) is None
    WaitForTask(vm.UpgradeVM_Task("vmx-20"))
    assert vm.config.version == "vmx-20"
    with pytest.raises(vim.fault.ConcurrentAccess):
        vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeVersion=before))


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({"guestId": "noSuchGuest"}, vmodl.fault.InvalidArgument),
        ({"uuid": "zz"}, vmodl.fault.InvalidArgument),
        ({"instanceUuid": "zz"}, vmodl.fault.InvalidArgument),
        ({"maxMksConnections": 41}, vmodl.fault.InvalidArgument),
        ({"version": "vmx-99"}, vmodl.fault.NotSupported),
        ({"flags": vim.vm.FlagInfo(vbsEnabled=True)}, vmodl.fault.NotSupported),
        ({"flags": vim.vm.FlagInfo(virtualExecUsage="hvOff")}, vmodl.fault.NotSupported),
        ({"swapPlacement": "hostLocal"}, vmodl.fault.NotSupported),
        ({"virtualSMCPresent": True}, vmodl.fault.NotSupported),
        ({"files": vim.vm.FileInfo(snapshotDirectory="[datastore1] x")}, vmodl.fault.NotSupported),
        (
            {"extraConfig": [vim.option.OptionValue(key="templateVM", value="TRUE")]},
            vmodl.fault.InvalidArgument,
        ),
    ],
)
def test_a_setting_that_this_host_cannot_keep_is_refused(
    vm: vim.VirtualMachine, spec: dict[str, object], fault: type[Exception]
) -> None:
    before = vm.config.changeVersion
    with pytest.raises(fault):
        vm.ReconfigVM_Task(vim.vm.ConfigSpec(**spec))
    assert vm.config.changeVersion == before


def test_a_template_has_no_pool_and_becomes_a_vm_again(
    datacenter: vim.Datacenter, vm: vim.VirtualMachine
) -> None:
    pool = vm.resourcePool
    vm.MarkAsTemplate()
    assert vm.summary.config.template
    assert vm.config.template
    assert vm.resourcePool is None
    with pytest.raises(vmodl.fault.NotSupported):
        vm.MarkAsTemplate()
    vm.MarkAsVirtualMachine(pool, datacenter.hostFolder.childEntity[0].host[0])
    assert not vm.config.template
    assert vm.resourcePool == pool
    with pytest.raises(vmodl.fault.NotSupported):
        vm.MarkAsVirtualMachine(pool)
    WaitForTask(vm.PowerOnVM_Task())
    with pytest.raises(vim.fault.InvalidPowerState):
        vm.MarkAsTemplate()
    WaitForTask(vm.PowerOffVM_Task())


def test_every_version_of_hardware_has_its_options(
    datacenter: vim.Datacenter, vm: vim.VirtualMachine
) -> None:
    browser = datacenter.hostFolder.childEntity[0].environmentBrowser
    keys = [one.key for one in browser.QueryConfigOptionDescriptor()]
    assert keys[-1] == "vmx-21"
    for key in keys:
        assert browser.QueryConfigOption(key, None).version == key
    with pytest.raises(vmodl.fault.InvalidArgument):
        browser.QueryConfigOption("vmx-99", None)
    guests = browser.QueryConfigOption(None, None).guestOSDescriptor
    names = {one.id: one.fullName for one in guests}
    assert names["rhel9_64Guest"] == "Red Hat Enterprise Linux 9 (64-bit)"
    assert vm.config.guestId in names


def test_devices_are_sent_back_as_they_were_read_and_nothing_changes(
    si: vim.ServiceInstance, vm: vim.VirtualMachine
) -> None:
    before = {one.key: one.deviceInfo.summary for one in vm.config.hardware.device}
    for device in vm.config.hardware.device:
        reconfigure(si, vm, "edit", device)
    assert {one.key: one.deviceInfo.summary for one in vm.config.hardware.device} == before
    card = devices(vm, Device.VirtualVideoCard)[0]
    card.enable3DSupport = True
    with pytest.raises(vmodl.fault.NotSupported):
        reconfigure(si, vm, "edit", card)


def test_a_vm_is_made_in_a_pool(si: vim.ServiceInstance, datacenter: vim.Datacenter) -> None:
    root = datacenter.hostFolder.childEntity[0].resourcePool
    half = vim.ResourceAllocationInfo(
        reservation=0,
        limit=-1,
        expandableReservation=True,
        shares=vim.SharesInfo(level="normal", shares=0),
    )
    pool = root.CreateResourcePool(
        "inner", vim.ResourceConfigSpec(cpuAllocation=half, memoryAllocation=half)
    )
    config = vim.vm.ConfigSpec(
        name="pooled", memoryMB=64, files=vim.vm.FileInfo(vmPathName="[datastore1]")
    )
    task = datacenter.vmFolder.CreateVM_Task(config=config, pool=pool)
    wait_for_tasks(si, task)
    assert task.info.result.resourcePool == pool


def test_counters_that_nothing_here_has_are_known_by_name_and_never_offered(
    si: vim.ServiceInstance, vm: vim.VirtualMachine
) -> None:
    manager = si.content.perfManager
    known = {
        f"{one.groupInfo.key}.{one.nameInfo.key}.{one.rollupType}": one.key
        for one in manager.QueryPerfCounterByLevel(1)
    }
    offered = {one.counterId for one in manager.QueryAvailablePerfMetric(entity=vm)}
    assert known["cpu.ready.summation"] in offered
    for name in ("cpu.idle.summation", "disk.maxTotalLatency.latest", "power.power.average"):
        assert known[name] not in offered
        metric = vim.PerformanceManager.MetricId(counterId=known[name], instance="")
        spec = vim.PerformanceManager.QuerySpec(entity=vm, metricId=[metric], intervalId=20)
        assert manager.QueryPerf([spec])[0].value == []
