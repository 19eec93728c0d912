"""The host's own devices as managed objects show them: PCI, disks and their adapters, firmware."""

from __future__ import annotations

from casemate.hostd.objects.base import Getters, Scope
from casemate.machine.hardware import HardwareFact, HostDisk, PciDevice
from casemate.vim25.values import Obj, Value

MHZ = 1_000_000

LONG_MODE = "--1-:----:----:----:----:----:----:----"
"""CPUID 0x80000001 EDX with the bit that says 64-bit (libvirt reads it); the rest is not told."""

UNTOLD = ":".join(["----"] * 8)
"""A CPUID register of which no bit is told; libvirt needs all four of them to be there."""

_LONG_MODE_LEVEL = -0x7FFFFFFF
_FEATURES = Obj(
    "HostCpuIdInfo", level=_LONG_MODE_LEVEL, eax=UNTOLD, ebx=UNTOLD, ecx=UNTOLD, edx=LONG_MODE
)
_NONE = HardwareFact((), (), (), (), iommu=False)
_CLASS_SHIFT = 8
_DISKS = "/vmfs/devices/disks/"


def devices(scope: Scope) -> HardwareFact:
    """Return the host's devices; none while the kernel has not told them."""
    return scope.world.hardware or _NONE


def maker(scope: Scope) -> tuple[str, str]:
    """Return vendor and model of the machine."""
    found = devices(scope)
    accelerator = scope.world.host.accelerator
    return found.system_vendor or "Casemate", found.system_model or f"Linux host ({accelerator})"


def system_info(scope: Scope) -> Obj:
    """Return HostSystemInfo."""
    vendor, model = maker(scope)
    return Obj("HostSystemInfo", vendor=vendor, model=model, uuid=scope.world.host.uuid)


def bios_info(scope: Scope) -> Obj:
    """Return HostBIOSInfo."""
    return Obj(
        "HostBIOSInfo",
        biosVersion=devices(scope).bios_version or None,
        vendor=devices(scope).system_vendor or None,
    )


def summary(scope: Scope) -> Obj:
    """Return HostHardwareSummary."""
    host, found = scope.world.host, devices(scope)
    vendor, model = maker(scope)
    return Obj(
        "HostHardwareSummary",
        vendor=vendor,
        model=model,
        uuid=host.uuid,
        memorySize=host.memory_size,
        cpuModel=host.cpu_model,
        cpuMhz=host.cpu_mhz,
        numCpuPkgs=host.cpu_packages,
        numCpuCores=host.cpu_cores,
        numCpuThreads=host.cpu_threads,
        numNics=len(found.nics),
        numHBAs=len(_adapters(found)),
    )


def hardware(scope: Scope, _key: str = "") -> Obj:
    """Return HostHardwareInfo."""
    host = scope.world.host
    hertz = host.cpu_mhz * MHZ
    return Obj(
        "HostHardwareInfo",
        systemInfo=system_info(scope),
        cpuInfo=Obj(
            "HostCpuInfo",
            numCpuPackages=host.cpu_packages,
            numCpuCores=host.cpu_cores,
            numCpuThreads=host.cpu_threads,
            hz=hertz,
        ),
        cpuPkg=_packages(scope, hertz),
        memorySize=host.memory_size,
        numaInfo=_numa(scope),
        smcPresent=False,
        pciDevice=pci_devices(scope),
        cpuFeature=(_FEATURES,),
        biosInfo=bios_info(scope),
    )


def _packages(scope: Scope, hertz: int) -> tuple[Obj, ...]:
    host = scope.world.host
    threads, packages = tuple(range(host.cpu_threads)), max(host.cpu_packages, 1)
    return tuple(
        Obj(
            "HostCpuPackage",
            index=index,
            vendor=host.cpu_vendor,
            hz=hertz,
            busHz=100 * MHZ,
            description=host.cpu_model,
            threadId=threads[index::packages],
            cpuFeature=(_FEATURES,),
        )
        for index in range(packages)
    )


def _numa(scope: Scope) -> Obj:
    return Obj(
        "HostNumaInfo",
        type="NUMA",
        numNodes=scope.world.host.numa_nodes,
        numaNode=tuple(
            Obj(
                "HostNumaNode",
                typeId=_signed(node.number & 0xFF, 8),
                cpuID=tuple(_signed(one & 0xFFFF, 16) for one in node.threads),
                memoryRangeBegin=0,
                memoryRangeLength=node.memory,
            )
            for node in devices(scope).numa
        ),
    )


def _signed(value: int, bits: int) -> int:
    """Return an unsigned number as the API's signed one of that size."""
    return value - (1 << bits) if value >> (bits - 1) else value


def _place(address: str) -> tuple[int, int, int]:
    """Return bus, slot and function of ``0000:00:1f.2``."""
    try:
        _, bus, tail = address.split(":")
        slot, _, function = tail.partition(".")
        return int(bus, 16), int(slot, 16), int(function, 16)
    except ValueError:
        return 0, 0, 0


def _pci(device: PciDevice) -> Obj:
    bus, slot, function = _place(device.address)
    return Obj(
        "HostPciDevice",
        id=device.address,
        classId=_signed(device.device_class >> _CLASS_SHIFT & 0xFFFF, 16),
        bus=_signed(bus, 8),
        slot=slot,
        function=function,
        vendorId=_signed(device.vendor & 0xFFFF, 16),
        subVendorId=_signed(device.subsystem_vendor & 0xFFFF, 16),
        vendorName=f"{device.vendor:04x}",
        deviceId=_signed(device.device & 0xFFFF, 16),
        subDeviceId=_signed(device.subsystem_device & 0xFFFF, 16),
        deviceName=f"{device.device:04x}" + (f" ({device.driver})" if device.driver else ""),
    )


def pci_devices(scope: Scope) -> tuple[Obj, ...]:
    """Return the host's PCI functions; names are ids, there is no database of names here."""
    return tuple(map(_pci, devices(scope).pci))


def passthrough(scope: Scope, _key: str = "") -> tuple[Obj, ...]:
    """Return HostPciPassthruInfo of every function: none is given away."""
    found = devices(scope)
    return tuple(
        Obj(
            "HostPciPassthruInfo",
            id=one.address,
            dependentDevice=one.address,
            passthruEnabled=False,
            passthruCapable=found.iommu and one.iommu_group >= 0,
            passthruActive=False,
        )
        for one in found.pci
    )


def _adapters(found: HardwareFact) -> dict[str, str]:
    """Return the name of the adapter at each PCI address that has disks: ``vmhba0``."""
    addresses = dict.fromkeys(disk.pci_address for disk in found.disks)
    return {address: f"vmhba{number}" for number, address in enumerate(addresses)}


def _hba(name: str, address: str, found: HardwareFact) -> Obj:
    bus, _, _ = _place(address)
    driver = next((one.driver for one in found.pci if one.address == address), "")
    return Obj(
        "HostBlockHba",
        key=f"key-vim.host.BlockHba-{name}",
        device=name,
        bus=bus,
        status="online",
        model=driver or "block adapter",
        driver=driver or None,
        pci=address or None,
    )


def _lun_key(disk: HostDisk) -> str:
    return f"key-vim.host.ScsiDisk-{disk.name}"


def _disk(disk: HostDisk) -> Obj:
    size = max(disk.block_size, 1)
    return Obj(
        "HostScsiDisk",
        key=_lun_key(disk),
        deviceName=_DISKS + disk.name,
        devicePath=_DISKS + disk.name,
        deviceType="disk",
        lunType="disk",
        uuid=disk.serial or disk.name,
        canonicalName=disk.name,
        displayName=f"Local disk ({disk.name})",
        vendor=disk.vendor,
        model=disk.model,
        serialNumber=disk.serial or None,
        operationalState=("ok",),
        capacity=Obj("HostDiskDimensionsLba", blockSize=size, block=disk.capacity // size),
        ssd=not disk.rotational,
        localDisk=True,
    )


def _paths(found: HardwareFact, names: dict[str, str]) -> Obj:
    return Obj(
        "HostMultipathInfo",
        lun=tuple(
            Obj(
                "HostMultipathInfoLogicalUnit",
                key=f"key-vim.host.MultipathInfo.LogicalUnit-{disk.name}",
                id=disk.serial or disk.name,
                lun=_lun_key(disk),
                path=(
                    Obj(
                        "HostMultipathInfoPath",
                        key=f"key-vim.host.MultipathInfo.Path-{disk.name}",
                        name=f"{names[disk.pci_address]}:C0:T{number}:L0",
                        pathState="active",
                        state="active",
                        isWorkingPath=True,
                        adapter=f"key-vim.host.BlockHba-{names[disk.pci_address]}",
                        lun=f"key-vim.host.MultipathInfo.LogicalUnit-{disk.name}",
                    ),
                ),
                policy=Obj("HostMultipathInfoLogicalUnitPolicy", policy="VMW_PSP_FIXED"),
            )
            for number, disk in enumerate(found.disks)
        ),
    )


def _topology(found: HardwareFact, names: dict[str, str]) -> Obj:
    return Obj(
        "HostScsiTopology",
        adapter=tuple(
            Obj(
                "HostScsiTopologyInterface",
                key=f"key-vim.host.ScsiTopology.Interface-{name}",
                adapter=f"key-vim.host.BlockHba-{name}",
                target=tuple(
                    Obj(
                        "HostScsiTopologyTarget",
                        key=f"key-vim.host.ScsiTopology.Target-{name}:{number}",
                        target=number,
                        lun=(
                            Obj(
                                "HostScsiTopologyLun",
                                key=f"key-vim.host.ScsiTopology.Lun-{disk.name}",
                                lun=0,
                                scsiLun=_lun_key(disk),
                            ),
                        ),
                    )
                    for number, disk in enumerate(found.disks)
                    if disk.pci_address == address
                ),
            )
            for address, name in names.items()
        ),
    )


def _plug_store(found: HardwareFact, names: dict[str, str]) -> Obj:
    paths = {disk.name: f"key-vim.host.PlugStoreTopology.Path-{disk.name}" for disk in found.disks}
    return Obj(
        "HostPlugStoreTopology",
        adapter=tuple(
            Obj(
                "HostPlugStoreTopologyAdapter",
                key=f"key-vim.host.PlugStoreTopology.Adapter-{name}",
                adapter=f"key-vim.host.BlockHba-{name}",
                path=tuple(paths[disk.name] for disk in found.disks if disk.pci_address == address),
            )
            for address, name in names.items()
        ),
        path=tuple(
            Obj(
                "HostPlugStoreTopologyPath",
                key=paths[disk.name],
                name=f"{names[disk.pci_address]}:C0:T{number}:L0",
                channelNumber=0,
                targetNumber=number,
                lunNumber=0,
            )
            for number, disk in enumerate(found.disks)
        ),
        device=tuple(
            Obj(
                "HostPlugStoreTopologyDevice",
                key=f"key-vim.host.PlugStoreTopology.Device-{disk.name}",
                lun=_lun_key(disk),
                path=(paths[disk.name],),
            )
            for disk in found.disks
        ),
    )


def storage_device(scope: Scope, _key: str = "") -> Obj:
    """Return HostStorageDeviceInfo: the machine's disks and what they hang on."""
    found = devices(scope)
    names = _adapters(found)
    return Obj(
        "HostStorageDeviceInfo",
        hostBusAdapter=tuple(_hba(name, address, found) for address, name in names.items()),
        scsiLun=tuple(map(_disk, found.disks)),
        scsiTopology=_topology(found, names),
        multipathInfo=_paths(found, names),
        plugStoreTopology=_plug_store(found, names),
        softwareInternetScsiEnabled=False,
    )


def volumes(scope: Scope, _key: str = "") -> Obj:
    """Return HostFileSystemVolumeInfo: the datastores, directories of a Linux file system each."""
    return Obj(
        "HostFileSystemVolumeInfo",
        volumeTypeList=("OTHER",),
        mountInfo=tuple(
            Obj(
                "HostFileSystemMountInfo",
                mountInfo=Obj(
                    "HostMountInfo",
                    path=f"/vmfs/volumes/{fact.datastore}",
                    accessMode="readWrite",
                    mounted=True,
                    accessible=True,
                ),
                volume=Obj(
                    "HostLocalFileSystemVolume",
                    type="OTHER",
                    name=fact.name,
                    capacity=fact.capacity,
                    device=f"/vmfs/volumes/{fact.datastore}",
                ),
            )
            for fact in scope.world.datastores.values()
        ),
    )


def path_states(scope: Scope, _key: str = "") -> Obj:
    """Return HostMultipathStateInfo."""
    found = devices(scope)
    names = _adapters(found)
    return Obj(
        "HostMultipathStateInfo",
        path=tuple(
            Obj(
                "HostMultipathStateInfoPath",
                name=f"{names[disk.pci_address]}:C0:T{number}:L0",
                pathState="active",
            )
            for number, disk in enumerate(found.disks)
        ),
    )


def _health(_scope: Scope, _key: str) -> Value:
    return Obj(
        "HealthSystemRuntime",
        systemHealthInfo=Obj("HostSystemHealthInfo", numericSensorInfo=()),
        hardwareStatusInfo=Obj("HostHardwareStatusInfo"),
    )


HARDWARE_GETTERS: dict[str, Getters] = {
    "HostStorageSystem": {
        "storageDeviceInfo": storage_device,
        "fileSystemVolumeInfo": volumes,
        "multipathStateInfo": path_states,
    },
    "HostPciPassthruSystem": {"pciPassthruInfo": passthrough},
    "HostHealthStatusSystem": {"runtime": _health},
}
