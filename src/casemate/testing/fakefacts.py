"""What the fake host is made of: its facts before anything happens."""

from __future__ import annotations

from dataclasses import dataclass, field

from casemate.calls.hardening import HardeningReply
from casemate.calls.messages import BankValues, IdentityReply
from casemate.machine.facts import (
    Allocation,
    ComponentFact,
    DatastoreFact,
    DiskSpec,
    HostFact,
    NicSpec,
    PoolFact,
    PoolUsage,
    PowerState,
    VmConfig,
    VmFact,
)
from casemate.machine.hardware import HardwareFact, HostDisk, HostNic, NumaNode, PciDevice
from casemate.policy.hardening import Weight
from casemate.policy.hardeningreport import Area, EntropyRow, Outcome, Row

BOOT_TIME = 1_700_000_000.0
GIB = 1 << 30

HOST = HostFact(
    name="fake.example",
    uuid="4c4c4544-0042-3610-8058-b4c04f4e3132",
    product_version="0.1.0",
    build="1",
    boot_time=BOOT_TIME,
    cpu_model="Fake CPU",
    cpu_vendor="fake",
    cpu_mhz=2000,
    cpu_packages=1,
    cpu_cores=2,
    cpu_threads=4,
    memory_size=8 * GIB,
    numa_nodes=1,
    acceptance_level="partner",
    image_profile="casemate-0.1.0",
    image_vendor="Casemate",
    tpm_version="2.0",
    drtm_type="none",
    accelerator="tcg",
    accelerator_reason="a fake has no KVM",
)

HARDWARE = HardwareFact(
    pci=(
        PciDevice("0000:00:1f.2", 0x8086, 0x2922, 0x1AF4, 0x1100, 0x010601, "ahci", -1, -1),
        PciDevice("0000:80:03.0", 0x1AF4, 0x1000, 0x1AF4, 0x0001, 0x020000, "virtio-pci", -1, -1),
    ),
    disks=(HostDisk("sda", "Disk 1", "Fake", "F1", 100 * GIB, 512, True, False, "0000:00:1f.2"),),
    nics=(HostNic("eth0", "52:54:00:00:00:01", "virtio", 1000, True, True, 1500, "0000:80:03.0"),),
    numa=(NumaNode(0, (0, 1, 2, 3), 8 * GIB),),
    iommu=False,
    system_vendor="Fake Systems",
    system_model="Fake 1",
    bios_version="1.0",
)

DATASTORE = DatastoreFact(
    "5f1c8b7e-0a1b2c3d-4e5f-001122334455",
    "datastore1",
    "/volumes/datastore1",
    100 * GIB,
    60 * GIB,
)


def fake_vm(number: int) -> VmFact:
    """Return a powered-off VM with a disk, a CD drive and a network card."""
    name = f"vm{number}"
    config = VmConfig(
        name=name,
        uuid=f"564d0000-0000-4000-8000-{number:012x}",
        vmx_path=f"[datastore1] {name}/{name}.vmx",
        guest_id="debian12_64Guest",
        cpus=1,
        memory_mib=256,
        firmware="efi",
        disks=(
            DiskSpec(f"{name}.vmdk", "disk", "vmdk", 4 * GIB, "scsi0", 0),
            DiskSpec("seed.iso", "cdrom", "raw", 1 << 20, "sata0", 0),
        ),
        nics=(NicSpec(f"00:50:56:00:00:{number % 256:02x}", "VM Network", "vmxnet3"),),
        extra=(("guestinfo.note", "<fake & small>"),),
    )
    return VmFact(str(number), config, PowerState.POWERED_OFF, "ha-root-pool", DATASTORE.datastore)


@dataclass(slots=True)
class Proof:
    """What the fake shows as its TPM's identity and evidence."""

    identity: IdentityReply = field(
        default_factory=lambda: IdentityReply(b"ek certificate", b"ek", b"ak", "FAKE", "1", "fake")
    )
    log: bytes = b""
    pcrs: tuple[BankValues, ...] = ()
    components: tuple[ComponentFact, ...] = ()
    boot_complete: bool = True


AUDIT = HardeningReply(
    (
        Row(Area.COMPONENTS, "/usr/bin/one", "base", "pie", Weight.REQUIRED, Outcome.PASSED),
        Row(Area.PROCESSES, "hostd (7)", "hostdDom", "wx", Weight.REQUIRED, Outcome.PASSED),
        Row(
            *(Area.PLATFORM, "cpu", "cpu", "nx", Weight.REQUIRED, Outcome.FAILED),
            *("The processor has no NX.", "Use another machine."),
        ),
    ),
    (EntropyRow("hostd", "mmap", 28, 28, 64, 64),),
    70,
    (),
)
"""What the audit of the host says."""

POOL = PoolFact(
    "ha-root-pool",
    "Resources",
    "",
    Allocation(4000, 4000, expandable=True),
    Allocation(8192, 8192, expandable=True),
    cpu_usage=PoolUsage(max_usage=4000, unreserved=4000),
    memory_usage=PoolUsage(max_usage=8 * GIB, unreserved=8 * GIB),
)
