"""What is true about the host now, as values: the vocabulary of the kernel's event stream.

The kernel publishes facts; hostd folds them into its replica and answers every read from there.
All of them are immutable, made of plain fields, and identified by ``key``. Sizes are bytes unless
the name says otherwise; times are Unix seconds (float, UTC).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from casemate.machine.autostart import AutoStartFact
from casemate.machine.governance import (
    AccountFact,
    LockdownFact,
    OptionFact,
    PermissionFact,
    RoleFact,
    SessionFact,
)
from casemate.machine.hardware import HardwareFact
from casemate.machine.networks import AddressFact, PortGroupFact, SwitchFact
from casemate.machine.teaming import UplinksFact


class PowerState(StrEnum):
    """Power states, in the words of vSphere."""

    POWERED_OFF = "poweredOff"
    POWERED_ON = "poweredOn"
    SUSPENDED = "suspended"


class TaskState(StrEnum):
    """Task states, in the words of vSphere."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class HostFact:
    """The host: identity, hardware, product, boot and attestation in short.

    ``name_servers``: those that the machine asks, as it was when the host was started.
    """

    name: str
    uuid: str
    product_version: str
    build: str
    boot_time: float
    cpu_model: str
    cpu_vendor: str
    cpu_mhz: int
    cpu_packages: int
    cpu_cores: int
    cpu_threads: int
    memory_size: int
    numa_nodes: int
    acceptance_level: str
    image_profile: str
    image_vendor: str
    tpm_version: str
    drtm_type: str
    accelerator: str
    accelerator_reason: str
    taints: tuple[str, ...] = ()
    in_maintenance_mode: bool = False
    state_sealed: bool = False
    state_needs_exec_installed_only: bool = False
    name_servers: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The managed object id."""
        return "ha-host"


@dataclass(frozen=True, slots=True)
class ComponentFact:
    """One measured component of the running image, in boot order."""

    file_name: str
    vib_id: str
    vib_name: str
    vib_version: str
    vib_vendor: str
    acceptance_level: str
    signer: str
    pcr: int
    drtm_pcr: int
    sha256: bytes
    sha384: bytes
    size: int

    @property
    def key(self) -> str:
        """The file's 8.3 name, unique within a boot."""
        return self.file_name


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """A disk of a VM: its file, and how it is attached.

    A file of the VM's directory has a plain name, another one is named in full:
    ``/vmfs/volumes/datastore1/shared/data.vmdk``.
    ``iops``: so many requests a second at most, ``bps``: so many bytes; -1: no limit. VMware's
    entry says one of them. ``shares`` weigh it against others' where the host's Linux does that;
    a thousand are normal. ``mode`` is one of ``machine.diskmodes``. ``uuid`` (hexadecimal digits)
    and ``thin`` are what its descriptor says. ``wanted`` is the name for one that is to be made,
    or a datastore where the host chooses one: ``[datastore1]``.
    """

    file_name: str
    kind: str
    format: str
    capacity: int
    controller: str
    unit: int
    iops: int = -1
    bps: int = -1
    mode: str = "persistent"
    uuid: str = ""
    thin: bool = True
    wanted: str = ""
    shares: int = 1000


@dataclass(frozen=True, slots=True)
class DriveSpec:
    """A CD drive without a disc."""

    controller: str
    unit: int


@dataclass(frozen=True, slots=True)
class NicSpec:
    """A network card of a VM.

    ``manual``: its address was chosen by a person. ``connected``: it is when the VM starts, and
    while it runs.
    """

    mac: str
    network: str
    model: str
    manual: bool = False
    connected: bool = True


@dataclass(frozen=True, slots=True)
class SerialSpec:
    """A serial port of a VM: what it is connected to (``machine.serialports``), and to which one.

    ``connected``: it is when the VM starts.
    """

    number: int
    kind: str
    target: str = ""
    connected: bool = True


@dataclass(frozen=True, slots=True)
class Allocation:
    """Reservation, limit (-1: none) and shares; units MHz for CPU, MiB for memory."""

    reservation: int = 0
    limit: int = -1
    shares_level: str = "normal"
    shares: int = 1000
    expandable: bool = False


@dataclass(frozen=True, slots=True)
class VmConfig:
    """What a VM is made of, as read from its .vmx file."""

    name: str
    uuid: str
    vmx_path: str
    guest_id: str
    cpus: int
    memory_mib: int
    firmware: str
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    cpu_allocation: Allocation = Allocation()
    memory_allocation: Allocation = Allocation()
    annotation: str = ""
    extra: tuple[tuple[str, str], ...] = ()
    drives: tuple[DriveSpec, ...] = ()
    serials: tuple[SerialSpec, ...] = ()

    @property
    def slots(self) -> tuple[DiskSpec | DriveSpec, ...]:
        """All that is in a slot of a controller: disks, discs in their drives, empty drives."""
        return (*self.disks, *self.drives)


@dataclass(frozen=True, slots=True)
class SnapshotSpec:
    """A snapshot of a VM. ``parent`` is its parent's number or 0; ``memory``: it has the RAM too.

    ``quiesced``: the guest kept its file systems still meanwhile.
    ``disks`` pairs each disk's slot (``scsi0:0``) with the file that holds its frozen state.
    """

    number: int
    parent: int
    name: str
    description: str
    created: float
    memory: bool
    disks: tuple[tuple[str, str], ...] = ()
    quiesced: bool = False


@dataclass(frozen=True, slots=True)
class VmUsage:
    """What a running VM wants and is entitled to, as of the last sample.

    ``entitlement`` follows demand; ``static`` counts reservation, limit and shares alone, with
    every VM at its most. ``ready`` is hundredths of a percent of the time of all vCPUs.
    """

    cpu_demand_mhz: int = 0
    cpu_ready: int = 0
    cpu_entitlement_mhz: int = 0
    cpu_static_mhz: int = 0
    memory_active_mib: int = 0
    memory_entitlement_mib: int = 0
    memory_static_mib: int = 0
    ballooned_mib: int = 0
    overhead_mib: int = 0


@dataclass(frozen=True, slots=True)
class GuestInterface:
    """A network interface as a guest tells it; ``addresses`` with the length of their prefix."""

    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """What a guest's agent says. Nobody vouches for it: a guest says what it likes."""

    agent: bool = False
    host_name: str = ""
    interfaces: tuple[GuestInterface, ...] = ()


@dataclass(frozen=True, slots=True)
class VmFact:
    """A registered VM and its run-time state. ``vm`` is its id: plain digits, as hostd's are.

    ``unread``: its file, or the list of its snapshots, could not be read; it may need any disk.
    """

    vm: str
    config: VmConfig
    power: PowerState
    pool: str
    datastore: str
    boot_time: float | None = None
    pid: int | None = None
    uid: int | None = None
    domain: str = "regularVMDom"
    accelerator: str = ""
    cpu_usage_mhz: int = 0
    host_memory_mib: int = 0
    guest_memory_mib: int = 0
    uptime_seconds: int = 0
    question: str = ""
    usage: VmUsage = VmUsage()
    snapshots: tuple[SnapshotSpec, ...] = ()
    current_snapshot: int = 0
    guest: GuestFacts = GuestFacts()
    unread: bool = False

    @property
    def key(self) -> str:
        """The managed object id."""
        return self.vm


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """A pool's figures of one resource, in vSphere's words; MHz for CPU, bytes for memory.

    ``max_usage`` is the least limit of the pool and those above it. ``usage``, ``demand`` and
    ``entitlement`` are sums over its running VMs as of the last sample.
    """

    reservation_used: int = 0
    reservation_used_for_vm: int = 0
    unreserved: int = 0
    max_usage: int = 0
    usage: int = 0
    demand: int = 0
    entitlement: int = 0


@dataclass(frozen=True, slots=True)
class PoolFact:
    """A resource pool; the root's parent is empty.

    ``scale_descendants``: pools below weigh as much as the VMs that run in them. ``colour`` is
    green, yellow or red.
    """

    pool: str
    name: str
    parent: str
    cpu: Allocation
    memory: Allocation
    scale_descendants: bool = False
    colour: str = "green"
    cpu_usage: PoolUsage = PoolUsage()
    memory_usage: PoolUsage = PoolUsage()

    @property
    def key(self) -> str:
        """The managed object id."""
        return self.pool


@dataclass(frozen=True, slots=True)
class DatastoreFact:
    """A datastore: a directory under volumes/."""

    datastore: str
    name: str
    path: str
    capacity: int
    free: int

    @property
    def key(self) -> str:
        """The managed object id (a volume uuid)."""
        return self.datastore


@dataclass(frozen=True, slots=True)
class FaultFact:
    """Why a task failed: the fault's vim25 name, its sentence and remedy, and named details."""

    fault: str
    code: str
    reason: str
    remedy: str
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TaskFact:
    """A task: one long operation on one object.

    ``progress`` is percent. ``cancelled``: its end was asked for; a task that has undone what it
    did then ends in the fault RequestCanceled.
    """

    task: str
    entity: str
    entity_kind: str
    operation: str
    state: TaskState
    progress: int
    queued: float
    user: str
    started: float | None = None
    completed: float | None = None
    result: str = ""
    error: FaultFact | None = None
    cancellable: bool = False
    cancelled: bool = False

    @property
    def key(self) -> str:
        """The managed object id."""
        return self.task


Fact = (
    HostFact
    | ComponentFact
    | VmFact
    | PoolFact
    | DatastoreFact
    | TaskFact
    | AccountFact
    | RoleFact
    | PermissionFact
    | SessionFact
    | OptionFact
    | HardwareFact
    | SwitchFact
    | PortGroupFact
    | AddressFact
    | UplinksFact
    | LockdownFact
    | AutoStartFact
)
