"""What is true about the host now, as values: the vocabulary of the kernel's event stream.

The kernel publishes facts; hostd folds them into its replica and answers every read from there.
All of them are immutable, made of plain fields, and identified by ``key``. Sizes are bytes unless
the name says otherwise; times are Unix seconds (float, UTC).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
    """The host: identity, hardware, product, boot and attestation in short."""

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
    """A disk of a VM: its file relative to the VM's directory, and how it is attached."""

    file_name: str
    kind: str
    format: str
    capacity: int
    controller: str
    unit: int


@dataclass(frozen=True, slots=True)
class NicSpec:
    """A network card of a VM."""

    mac: str
    network: str
    model: str


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


@dataclass(frozen=True, slots=True)
class VmFact:
    """A registered VM and its run-time state. ``vm`` is its id: plain digits, as hostd's are."""

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

    @property
    def key(self) -> str:
        """The managed object id."""
        return self.vm


@dataclass(frozen=True, slots=True)
class PoolFact:
    """A resource pool; the root's parent is empty."""

    pool: str
    name: str
    parent: str
    cpu: Allocation
    memory: Allocation

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
    """A task: one long operation on one object."""

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

    @property
    def key(self) -> str:
        """The managed object id."""
        return self.task


Fact = HostFact | ComponentFact | VmFact | PoolFact | DatastoreFact | TaskFact
