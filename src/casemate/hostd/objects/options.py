"""What a VM may be made of: EnvironmentBrowser's answers, all from what this host can run."""

from __future__ import annotations

from functools import cache

from casemate.hostd.objects.base import Scope, flags
from casemate.hostd.objects.devices import devices
from casemate.hostd.objects.guestos import family, names
from casemate.hostd.objects.inventory import MIB
from casemate.hostd.objects.vm import HARDWARE_VERSION
from casemate.hostd.wellknown import HOST, network_ref
from casemate.machine.facts import VmConfig
from casemate.vim25 import types
from casemate.vim25.shapes import Kind, TypeRef
from casemate.vim25.values import MoRef, Obj, Value

MOST_CPUS = 64
MOST_MEMORY_MIB = 1 << 20
"""Virtual CPUs and MiB that a VM may have here."""

VERSIONS = tuple(f"vmx-{number}" for number in (10, 11, 13, 14, 15, 17, 18, 19, 20, 21))
"""Versions of virtual hardware, as vSphere 8 numbers them: a VM keeps which one it is."""
_DESCRIPTION = "Casemate virtual machine"

_ZERO: dict[str, Value] = {"boolean": False, "string": "", "float": 0.0, "double": 0.0}
_CONTROLLERS = ("ParaVirtualSCSIController", "VirtualAHCIController", "VirtualIDEController")
_CARDS = ("VirtualVmxnet3", "VirtualE1000e", "VirtualE1000")


def filled(name: str, **fields: Value) -> Obj:
    """Return an object whose required fields are set: those not given, to nothing."""
    values: dict[str, Value] = {}
    for declared in types.data_type(name).fields:
        if not (declared.optional or declared.name in fields):
            values[declared.name] = () if declared.type.array else _nothing(declared.type)
    return Obj(name, **values, **fields)


def _nothing(ref: TypeRef) -> Value:
    match ref.kind:
        case Kind.DATA:
            return filled(ref.name)
        case Kind.ENUM:
            return types.enum_type(ref.name).values[0]
        case _:
            return _ZERO.get(ref.name, 0)


def _range(low: int, high: int, default: int, kind: str = "IntOption") -> Obj:
    return Obj(kind, valueIsReadonly=False, min=low, max=high, defaultValue=default)


def _guest(guest: str, label: str) -> Obj:
    return filled(
        "GuestOsDescriptor",
        id=guest,
        family=family(guest),
        fullName=label,
        supportedMaxCPUs=MOST_CPUS,
        numSupportedPhysicalSockets=MOST_CPUS,
        numSupportedCoresPerSocket=MOST_CPUS,
        supportedMinMemMB=4,
        supportedMaxMemMB=MOST_MEMORY_MIB,
        recommendedMemMB=1024,
        supportedDiskControllerList=_CONTROLLERS,
        recommendedSCSIController=_CONTROLLERS[0],
        recommendedDiskController=_CONTROLLERS[0],
        recommendedCdromController="VirtualAHCIController",
        supportedNumDisks=16,
        recommendedDiskSizeMB=16384,
        supportedEthernetCard=_CARDS,
        recommendedEthernetCard=_CARDS[0],
        supportedFirmware=("bios", "efi"),
        recommendedFirmware="efi",
        supportLevel="supported",
        supportedForCreate=True,
        supportsPvscsiControllerForBoot=True,
        vRAMSizeInKB=_range(4096, 131072, 16384),
    )


@cache
def config_option(guests: tuple[str, ...] = (), version: str = HARDWARE_VERSION) -> Obj:
    """Return VirtualMachineConfigOption of a version, for some guests or all that have a name."""
    wanted = {guest: label for guest, label in names().items() if not guests or guest in guests}
    return filled(
        "VirtualMachineConfigOption",
        version=version,
        description=_DESCRIPTION,
        guestOSDescriptor=tuple(_guest(guest, label) for guest, label in wanted.items()),
        guestOSDefaultIndex=0,
        hardwareOptions=filled(
            "VirtualHardwareOption",
            hwVersion=int(version.removeprefix("vmx-")),
            numCPU=tuple(range(1, MOST_CPUS + 1)),
            numCoresPerSocket=_range(1, MOST_CPUS, 1),
            memoryMB=_range(4, MOST_MEMORY_MIB, 1024, "LongOption"),
            numPCIControllers=_range(1, 1, 1),
            numIDEControllers=_range(0, 2, 0),
            numPS2Controllers=_range(1, 1, 1),
        ),
        capabilities=flags("VirtualMachineCapability", "bootOptionsSupported"),
        # What a VM without disks and cards has: clients look here for a controller to use.
        defaultDevice=tuple(
            device
            for device in devices(VmConfig("", "", "", "", 1, 4, "efi"), "", None)
            if device.type != "ParaVirtualSCSIController"
        ),
    )


def descriptors() -> tuple[Obj, ...]:
    """Return VirtualMachineConfigOptionDescriptor of each version, the newest last."""
    return tuple(
        Obj(
            "VirtualMachineConfigOptionDescriptor",
            key=version,
            description=_DESCRIPTION,
            host=(HOST,),
            createSupported=True,
            defaultConfigOption=version == HARDWARE_VERSION,
            runSupported=True,
            upgradeSupported=version != HARDWARE_VERSION,
        )
        for version in VERSIONS
    )


def config_target(scope: Scope) -> Obj:
    """Return ConfigTarget: the datastores and networks that a VM may use."""
    host = scope.world.host
    return Obj(
        "ConfigTarget",
        numCpus=host.cpu_threads,
        numCpuCores=host.cpu_cores,
        numNumaNodes=host.numa_nodes,
        maxCpusPerHost=MOST_CPUS,
        smcPresent=False,
        datastore=tuple(
            Obj(
                "VirtualMachineDatastoreInfo",
                name=fact.name,
                datastore=Obj(
                    "DatastoreSummary",
                    datastore=MoRef("Datastore", key),
                    name=fact.name,
                    url=f"/vmfs/volumes/{key}",
                    capacity=fact.capacity,
                    freeSpace=fact.free,
                    accessible=True,
                    type="OTHER",
                ),
                capability=flags("DatastoreCapability"),
                maxFileSize=fact.capacity,
                mode="readWrite",
            )
            for key, fact in scope.world.datastores.items()
        ),
        network=tuple(
            Obj(
                "VirtualMachineNetworkInfo",
                name=name,
                network=Obj(
                    "NetworkSummary",
                    network=network_ref(name),
                    name=name,
                    accessible=True,
                    ipPoolName="",
                ),
            )
            for name in scope.world.port_groups
        ),
        maxMemMBOptimalPerf=host.memory_size // MIB,
        supportedMaxMemMB=host.memory_size // MIB,
    )
