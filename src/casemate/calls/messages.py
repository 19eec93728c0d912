"""The closed list: everything that can be asked of the kernel, and everything it can answer.

One class a request; its ``reply`` names the class that answers it. A request that is not in
``REQUESTS`` does not exist. ``session`` is the opaque handle given by ``Login``; the kernel checks
the handle and the privilege (``privilege``) again at every call, and writes every call into the
audit log but those that only read (``audited`` is False). A caller that connects as root
(peer credentials) may send an empty handle and acts as the local administrator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from casemate.machine.facts import Fact, FaultFact
from casemate.policy.auditheads import LogHead


@dataclass(frozen=True, slots=True)
class Empty:
    """Done; nothing to say."""


@dataclass(frozen=True, slots=True)
class SessionReply:
    """A session: ``handle`` is the secret, ``key`` the public name."""

    handle: str
    key: str
    user: str
    full_name: str
    privileges: tuple[str, ...]
    login_time: float


@dataclass(frozen=True, slots=True)
class TaskReply:
    """The id of the task that was started."""

    task: str


@dataclass(frozen=True, slots=True)
class IdentityReply:
    """The TPM's identity: EK certificate (DER), TPMT_PUBLIC of EK and AK, and what made it."""

    ek_certificate: bytes
    ek_public: bytes
    ak_public: bytes
    manufacturer: str
    firmware_version: str
    kind: str


@dataclass(frozen=True, slots=True)
class ActivationReply:
    """The secret out of a credential challenge."""

    secret: bytes


@dataclass(frozen=True, slots=True)
class BankValues:
    """The PCR values of one bank: pairs of index and value, ascending."""

    algorithm: str
    values: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class EvidenceReply:
    """What proves the host's state: TPMS_ATTEST, TPMT_SIGNATURE, PCR values and the raw log.

    ``quotes`` holds (TPMS_ATTEST, TPMT_SIGNATURE) pairs that together cover the banks asked for;
    one TPM2_Quote may cover all. ``log`` is a TCG crypto-agile event log. ``accelerator`` is what
    runs the VMs (kvm, tcg; empty where there are none): said, not proven. ``heads`` are of the
    audit log, said as well: the present one, then the entry that was asked for.
    ``measurements`` is the binary IMA list of a plain Linux host, taken after the quotes; empty
    where there is none.
    """

    quotes: tuple[tuple[bytes, bytes], ...]
    pcrs: tuple[BankValues, ...]
    log: bytes
    components: tuple[Fact, ...]
    boot_complete: bool
    taken: float
    heads: tuple[LogHead, ...] = ()
    accelerator: str = ""
    measurements: bytes = b""


@dataclass(frozen=True, slots=True)
class StatusReply:
    """The host in short, for the command line."""

    state: str
    home: str
    api: str
    version: str
    boot_bank: str
    boot_time: float
    tpm: str
    findings: tuple[tuple[str, str, str, str], ...]
    processes: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True, slots=True)
class FactReply:
    """One entry of the event stream: a fact that is now true, or (``gone``) no longer is.

    ``sequence`` counts up without gaps within one life of the kernel (``epoch``).
    """

    epoch: str
    sequence: int
    kind: str
    key: str
    fact: Fact | None
    gone: bool = False


@dataclass(frozen=True, slots=True)
class SnapshotReply:
    """All present facts."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused request: the fault it becomes, and why."""

    fault: FaultFact


@dataclass(frozen=True, slots=True)
class Login:
    """Open a session. ``peer`` is the client's address, for the audit log."""

    user: str
    password: str
    peer: str
    reply: ClassVar = SessionReply
    privilege: ClassVar[str] = "System.Anonymous"


@dataclass(frozen=True, slots=True)
class Logout:
    """End the session."""

    session: str
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "System.View"


@dataclass(frozen=True, slots=True)
class ResumeSession:
    """Ask whether the handle is still good (hostd does after a restart)."""

    session: str
    reply: ClassVar = SessionReply
    privilege: ClassVar[str] = "System.View"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class CloneSession:
    """Open another session of the same user, for another program of theirs at ``peer``."""

    session: str
    peer: str
    reply: ClassVar = SessionReply
    privilege: ClassVar[str] = "System.View"


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Turn this connection into the event stream: the present facts, then each change.

    The kernel answers with ``FactReply`` entries without end; reads use nothing else. The stream
    holds no secrets, and only hostd's own uid and root may open it.
    """

    reply: ClassVar = FactReply
    privilege: ClassVar[str] = "System.Read"


@dataclass(frozen=True, slots=True)
class PowerOn:
    """Start a VM."""

    session: str
    vm: str
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VirtualMachine.Interact.PowerOn"


@dataclass(frozen=True, slots=True)
class PowerOff:
    """Stop a VM at once, as pulling the plug."""

    session: str
    vm: str
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VirtualMachine.Interact.PowerOff"


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset a running VM."""

    session: str
    vm: str
    why: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VirtualMachine.Interact.Reset"


@dataclass(frozen=True, slots=True)
class ShutdownGuest:
    """Ask the guest to shut down, by its agent or its power button; returns when it was asked."""

    session: str
    vm: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "VirtualMachine.Interact.PowerOff"


@dataclass(frozen=True, slots=True)
class RegisterVm:
    """Register a VM by the datastore path of its .vmx: ``[datastore1] demo/demo.vmx``.

    ``into`` is the pool that it comes into (Resource.AssignVMToPool there), empty: the root pool.
    """

    session: str
    path: str
    why: str = ""
    into: str = ""
    reply: ClassVar = TaskReply
    privilege: ClassVar[str] = "VirtualMachine.Inventory.Register"


@dataclass(frozen=True, slots=True)
class UnregisterVm:
    """Forget a powered-off VM; its files stay."""

    session: str
    vm: str
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "VirtualMachine.Inventory.Unregister"


@dataclass(frozen=True, slots=True)
class Identity:
    """The TPM's identity, for a verifier."""

    reply: ClassVar = IdentityReply
    privilege: ClassVar[str] = "System.Anonymous"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class ActivateCredential:
    """Answer a verifier's credential challenge (TPM2_ActivateCredential)."""

    credential_blob: bytes
    encrypted_secret: bytes
    reply: ClassVar = ActivationReply
    privilege: ClassVar[str] = "System.Anonymous"


@dataclass(frozen=True, slots=True)
class Quote:
    """Fresh evidence: quote over ``pcrs`` of each bank with this nonce, values, and the log.

    ``entry`` is the number of the entry of the audit log that the asker knows; 0: of none.
    """

    nonce: bytes
    banks: tuple[str, ...]
    pcrs: tuple[int, ...]
    entry: int = 0
    reply: ClassVar = EvidenceReply
    privilege: ClassVar[str] = "System.Anonymous"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class CancelTask:
    """Ask a running task to undo what it did and end; another user's takes Global.CancelTask.

    ``vm`` is the VM that the task works on; empty where it works on something else.
    """

    session: str
    task: str
    vm: str = ""
    why: str = ""
    reply: ClassVar = Empty
    privilege: ClassVar[str] = "System.View"


@dataclass(frozen=True, slots=True)
class Status:
    """The host in short."""

    session: str = ""
    reply: ClassVar = StatusReply
    privilege: ClassVar[str] = "System.Read"
    audited: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All present facts at once, for the local command line."""

    session: str = ""
    reply: ClassVar = SnapshotReply
    privilege: ClassVar[str] = "System.Read"
    audited: ClassVar[bool] = False


REQUESTS: tuple[type, ...] = (
    ActivateCredential,
    CancelTask,
    CloneSession,
    Identity,
    Login,
    Logout,
    PowerOff,
    PowerOn,
    Quote,
    RegisterVm,
    Reset,
    ResumeSession,
    ShutdownGuest,
    Snapshot,
    Status,
    Subscribe,
    UnregisterVm,
)
